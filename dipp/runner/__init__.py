"""Executes module chains in their own processes: forge, pipeline hosts, one-shot module children.

`values`, `frames` and `birth` are what travels between the processes and `protocol` how (pure),
`verdict` and `validate` judge what came back (pure). `forge`, `host`, `nursery` and `child` are the
processes from the top down; `chain`, `stage`, `pool` and `execution` are a host's work on a batch,
`segments` is how a child finds it; `rehearsal`, `warm` and `placement` make it quick. `loader` and
`native` bring module files in; `channel`, `wait`, `forking`, `arena` and `hugefiles` wrap system
calls. The node uses `executor` only; `limits` is what it may set.
"""
