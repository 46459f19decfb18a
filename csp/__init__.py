"""CSP: transport, services and parameters of the CubeSat Space Protocol, as csh speaks it.

Pure cores (`packet`, `rdp`, `sfp`, `hmac`, `cmp`, `services`, `framing`), the stack that joins
them (`stack`, `connection`, `client`) over a `sched.Scheduler`, and drivers (`loop`, `links`,
`hub`, `node`). Knows nothing of images or flight plans, and imports nothing of ours.
"""
