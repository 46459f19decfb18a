"""Signed configurations: a 188-byte slot with its own seal in the bytes the flown format ignores.

Theory of operation: the flown format uses 1 + n bytes and does not care about the rest, so a seal
(counter, signature) fills the last 68 bytes; a stream may then have at most 119 bytes. A stock DIPP
reads the same slot, and a stock csh sends it as any other value. Everything before the seal is
signed, with the node and the parameter the slot is for: a pipeline cannot be pushed as another one.
An all-zero slot means "not configured"; to push that, it is signed as well. Pure.
Source: dipp.md 5, issue 6.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial

from csp.errors import MisuseError as CspMisuseError
from csp.gate import Gate, SignatureError
from csp.ledger import Ledger
from csp.signing import SEAL_BYTES, Seal, Signer, Trust, check_counter
from dipp.config.codec import SLOT_SIZE_BYTES
from dipp.errors import Code, ContentError, MisuseError

SIGNED_BYTES = SLOT_SIZE_BYTES - SEAL_BYTES
_STATEMENT = struct.Struct("<HHI")  # node, parameter id, counter
_PURPOSE = b"payload slot 1\0"


def slot_statement(node: int, parameter_id: int, slot: bytes, counter: int) -> bytes:
    """Return what is signed: the slot without its seal, and what it is for."""
    return _PURPOSE + _STATEMENT.pack(node, parameter_id, counter) + slot[:SIGNED_BYTES]


def sign_slot(slot: bytes, signer: Signer, *, node: int, parameter_id: int, counter: int) -> bytes:
    """Return the slot with its seal. Raises MisuseError (518) if it has no room for one."""
    if any(slot[SIGNED_BYTES:]):
        raise MisuseError(
            f"configuration of {slot[0] + 1} bytes leaves no room for a signature:"
            f" at most {SIGNED_BYTES} of {SLOT_SIZE_BYTES}",
            Code.CONFIG_INVALID,
        )
    check_counter(counter)
    body = slot[:SIGNED_BYTES].ljust(SIGNED_BYTES, b"\0")
    signature = signer.sign(slot_statement(node, parameter_id, body, counter))
    return body + Seal(counter=counter, signature=signature).encode()


class SlotGate:
    """Lets signed slots pass to one node. `trust` None lets everything pass."""

    def __init__(
        self,
        node: int,
        trust: Trust | None = None,
        ledger: Ledger | None = None,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        """`refused` is told of each slot that may not pass."""
        self._node = node
        self._gate = Gate(trust, ledger) if trust is not None and ledger is not None else None
        self._refused = refused

    def admit(self, parameter_id: int, slot: bytes) -> bytes:
        """Return the slot to decode of a value that was pushed, and remember its counter.

        Raises ContentError (519; 308 if the counter cannot be stored): the slot must not be used.
        """
        if self._gate is None:
            return slot
        statement = partial(slot_statement, self._node, parameter_id, slot)
        subject = f"slot {self._node} {parameter_id}"
        try:
            self._gate.admit(subject, slot[SIGNED_BYTES:], statement, slot)
        except SignatureError as error:
            raise self._refusal(error) from error
        except CspMisuseError as error:
            raise ContentError(str(error), Code.STORE_FAILED) from error
        return slot[:SIGNED_BYTES]

    def recall(self, parameter_id: int, slot: bytes) -> bytes:
        """Return the slot to decode of a stored value: signed, but no newer than the newest.

        After a power cut the stored one may be the version before. Raises ContentError (519).
        """
        if self._gate is None or not any(slot):
            return slot
        statement = partial(slot_statement, self._node, parameter_id, slot)
        try:
            self._gate.check(slot[SIGNED_BYTES:], statement)
        except SignatureError as error:
            raise self._refusal(error) from error
        return slot[:SIGNED_BYTES]

    def _refusal(self, error: SignatureError) -> ContentError:
        self._refused()
        return ContentError(f"configuration {error}", Code.SIGNATURE)
