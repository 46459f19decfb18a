"""The soak: a real node under load while faults strike in random combinations, for as long as told.

`strikes` is the table of faults, `field` the node with its load, `history` the invariants that the
log must keep, `samples` memory, descriptors and processes over time, `page` the report. `cli` is
the command `dipp soak`.
"""
