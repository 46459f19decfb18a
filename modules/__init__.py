"""Processing modules: one file each, loaded by path into a process of its own.

Nothing here is imported by the product; see docs/modules.md for how to write one.
"""
