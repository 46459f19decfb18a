"""Name everything that can go wrong in `csp`: one base, two branches.

`MisuseError` is the caller's own fault and should be fixed in the code. `PeerError` is what came
(or did not come) over the wire and has to be expected at any time.
"""

from __future__ import annotations


class CspError(Exception):
    """Base of all errors of this package."""


class MisuseError(CspError):
    """The local caller asked for something that cannot be done."""


class PeerError(CspError):
    """The peer, the link or the content is at fault.

    `offset` is the byte where it showed, `expected` and `actual` what was wanted and found; each
    is None where it has no meaning.
    """

    def __init__(
        self,
        message: str,
        *,
        offset: int | None = None,
        expected: object = None,
        actual: object = None,
    ) -> None:
        super().__init__(message)
        self.offset = offset
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        details = [
            f"{name} {value}"
            for name, value in (
                ("at byte", self.offset),
                ("expected", self.expected),
                ("found", self.actual),
            )
            if value is not None
        ]
        text = super().__str__()
        return f"{text} ({', '.join(details)})" if details else text


class DecodeError(PeerError):
    """Received bytes do not have the form the specification demands."""


class NoResponse(PeerError):
    """The peer did not answer before the deadline."""


class Refused(PeerError):
    """The peer answered that it will not do it, or ended the connection early."""
