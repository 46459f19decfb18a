"""The ladder of restrictions that a module child climbs before it runs foreign code.

`ladder` is the table of rungs and the climb; `limits` holds the basic rungs that every Linux has.
A rung the platform lacks is reported as missing and never stops a batch.
"""
