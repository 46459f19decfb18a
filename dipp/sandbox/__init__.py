"""What keeps a module from harming anything but itself.

Three layers. The forge gives a host namespaces and a control group. A host puts on an `enclosure`
before it loads foreign code, and makes `gear` ready. Each module child climbs the `ladder` before
it runs foreign code: limits, capabilities, Landlock, a filter for system calls (`syscalls` is the
table, `bpf` the assembler, `seccomp` the driver). `trial` finds out which rungs hold here, `rungs`
names them. A rung the platform lacks is reported as missing and never stops a batch.
"""
