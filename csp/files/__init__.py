"""Bring files (modules, models) to a node in passes, on port 9, whatever breaks in between.

`wire`, `delta`, `forms`, `stagelog` and `transfer` are pure: messages, the binary delta, the forms
content may travel in, the staged file, and the plan of an upload. `store` keeps the files of a node
through crashes, `server` and `client` are the two ends, `archive` is the ground's memory of what it
has sent. Source: dipp.md 12 and 14.5, design.md 9.
"""
