"""The plan language: a small structured language compiled to standard procedures.

All pure. `tokens` and `parser` read text into `syntax`; `check` resolves names and types into
`tree`; `lower` turns that into sequences of `ir`; `simplify` joins them, `flow` and `allocate` give
every value a register, `layout` cuts them into slots and keeps the source map. `compile` is the
front door, `oracle` executes a checked plan directly. The language: docs/plan-language.md.
"""
