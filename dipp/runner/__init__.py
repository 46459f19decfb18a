"""Executes module chains in their own processes: forge, pipeline hosts, one-shot module children.

`values` and `protocol` are what travels between the processes (pure), `verdict` and `validate`
judge what came back (pure). `forge`, `host`, `stage` and `child` are the processes from the top
down, `loader` and `native` bring module files into them, `channel`, `wait` and `arena` wrap the
system calls. The node uses `executor` only.
"""
