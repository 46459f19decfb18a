"""Links: the drivers that carry frames between stacks.

Each link class has `name`, `open(loop, on_frame)`, `send(frame)` and `close()`; see
`csp.links.base.Link`. `memory` and `shaper` also work with a bare scheduler in virtual time; `zmq`,
`udp`, `kiss` and `can` need an event loop. A link knows nothing of CSP beyond the header's size.
"""
