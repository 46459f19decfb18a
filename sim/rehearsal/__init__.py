"""Rehearsal: a plan flown in virtual time against a model of the whole spacecraft.

`craft` is the spacecraft, `flight` drives the DISH machine through it, `faults` says what can go
wrong, `record` is what a rehearsal leaves behind, `page` draws it, `cli` is `dish rehearse`. The
machine, the parameter tables, orbit, power, GNSS and A53 are those of the nodes; camera, DIPP and
radio are stated durations. No packets: what a procedure asks for is answered from the tables.
"""
