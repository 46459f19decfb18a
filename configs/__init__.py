"""Example missions as package data: payload configuration, orbits, pipelines and flight plans."""
