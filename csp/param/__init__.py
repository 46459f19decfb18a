"""Parameters: typed named values of a node, their table, wire format, server and client.

`types.py` says which types and masks exist, `table.py` holds the values in memory shared with
forked children, `msgpack.py`, `codec.py` and `entry.py` are the byte formats, `server.py` answers
pulls, pushes and list downloads, `client.py` asks for them, `format.py` is what an operator types
and reads. Source: csp.md 9 to 11.
"""
