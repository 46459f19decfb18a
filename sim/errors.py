"""The errors of the simulated spacecraft: one base, two branches."""

from __future__ import annotations


class SimError(Exception):
    """Base of everything the `sim` package raises on purpose."""


class ConfigError(SimError):
    """What the caller or the configuration file says makes no sense."""


class ContentError(SimError):
    """Data from a file or a peer is broken: an element set, a ring image, a reply."""
