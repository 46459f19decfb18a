"""Executes module chains in their own processes: forge, pipeline hosts, one-shot module children.

`values` and `protocol` are what travels between the processes (pure), `verdict` and `validate`
judge what came back (pure). `forge`, `host`, `stage` and `child` are the processes from the top
down; `chain`, `pool` and `execution` are a host's work on a batch; `rehearsal`, `warm` and
`placement` make it quick. `loader` and `native` bring module files in; `channel`, `wait`, `arena`
wrap system calls. The node uses `executor` only; `limits` is what it may set.
"""
