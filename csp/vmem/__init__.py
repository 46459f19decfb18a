"""Virtual memory areas: bytes with an address that ground can list, read, write and check.

`area.py` says what an area is, `file.py` keeps one on disk through crashes and bit flips,
`binding.py` keeps parameters in areas, `wire.py` is the byte format, `server.py` and `client.py`
are the two ends of port 14, `testing.py` makes file operations fail. Source: csp.md 12.
"""
