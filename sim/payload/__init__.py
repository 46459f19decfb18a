"""The `payload` command: the whole emulated spacecraft as processes, and the scripted mission.

`fleet` is the payload's init process: it forks every node from one small pre-imported process and
ends them all together. `mission` flies the demo through the shell's own code path, `record` is
what it saw, `report` turns that into one self-contained HTML page and a summary.
"""
