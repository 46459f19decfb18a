"""DISH: flight plans as stored procedures, and the node that runs them.

Pure core: `isa` (the instruction table), `program` (wire form), `asm` (text form), `values`
(arithmetic), `machine` (the interpreter), `compiler` (the same semantics as Python source), `store`
(slots), `server` (port 14). Drivers: `forge` and `child` (one process per running procedure),
`runs` (their supervision), `node` (composition root), `cli`, `shell`. Imports `csp` only.
"""
