"""Let pass what a trusted key signed, each only as long as nothing newer has passed. Pure.

What is signed, and what a refusal means, is the business of who asks (`dipp.signedslot`,
`dish.seals`).
"""

from __future__ import annotations

from collections.abc import Callable

from csp.errors import DecodeError, PeerError
from csp.ledger import Ledger
from csp.signing import Seal, Trust, decode_seal

# What was signed, for the counter that the seal names.
Statement = Callable[[int], bytes]


class SignatureError(PeerError):
    """Nobody who is trusted signed this, or something newer has passed already."""


class Gate:
    """Checks seals against the keys and the ledger of one node."""

    def __init__(self, trust: Trust, ledger: Ledger) -> None:
        self._trust = trust
        self._ledger = ledger

    def check(self, data: bytes, statement: Statement) -> Seal:
        """Return the seal in these bytes if it is good. Raises SignatureError."""
        try:
            seal = decode_seal(data)
        except DecodeError as error:
            raise SignatureError("has no signature") from error
        if not self._trust.is_signed(statement(seal.counter), seal.signature):
            raise SignatureError("is not signed with a key this node trusts")
        return seal

    def admit(self, subject: str, data: bytes, statement: Statement, content: bytes) -> Seal:
        """Check a seal that arrives with its content, and remember its counter.

        Raises SignatureError; MisuseError if the counter cannot be stored: then it did not pass.
        """
        seal = self.check(data, statement)
        if not self._ledger.allows(subject, seal.counter, content):
            raise SignatureError(f"counter {seal.counter} was used before")
        self._ledger.record(subject, seal.counter, content)
        return seal
