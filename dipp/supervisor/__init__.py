"""Decides, in the node, what happens to pipeline hosts: when to start, feed, retire and kill them.

`table` is the whole behaviour of one host as states times events (pure), `policy` says when to
stop trying (pure), `driver` carries actions out on real processes.
"""
