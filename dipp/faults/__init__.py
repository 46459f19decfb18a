"""The fault campaign: every id of the fault catalogue, injected and judged on this machine.

`catalogue` is the one table of all 95 ids and names what injects each: rows of `dipp.hostile`, run
in the real process tree by `injection`, and tests of the parts that a fault belongs to. `cli` is
the command `dipp faults`.
"""
