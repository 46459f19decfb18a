"""Signed procedures: a seal goes ahead of the push, in a parameter. Pure.

Theory of operation: nothing changes on port 14, where a signature would take 68 of 250 bytes. The
seal (counter, signature) is written to the parameter `proc_seal`, then the procedure is pushed as
ever, by any csh. A node without that parameter, as the flown one, does not answer the write and
takes the push. A node with keys refuses a push that the seal does not fit with the error answer.
What is signed names node and slot, so a procedure can be put nowhere else. The seals of what is
stored are kept by slot and checked again at boot. Source: dish.md 2, issue 6.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial

from csp.errors import MisuseError as CspMisuseError
from csp.gate import Gate, SignatureError
from csp.signing import SEAL_BYTES, Seal, Signer, check_counter
from csp.vmem.area import Area
from dish.errors import ContentError, StoreError
from dish.program import MAX_SLOT, Procedure, encode

SEALS_BYTES = (MAX_SLOT + 1) * SEAL_BYTES
_STATEMENT = struct.Struct("<HBI")  # node, slot, counter
_PURPOSE = b"payload procedure 1\0"


def procedure_statement(node: int, slot: int, raw: bytes, counter: int) -> bytes:
    """Return what is signed: the encoded procedure, and where it goes."""
    return _PURPOSE + _STATEMENT.pack(node, slot, counter) + raw


def seal_procedure(
    procedure: Procedure, signer: Signer, *, node: int, slot: int, counter: int
) -> bytes:
    """Return the value of `proc_seal` for one push. Raises csp's MisuseError for the counter."""
    check_counter(counter)
    statement = procedure_statement(node, slot, encode(procedure), counter)
    return Seal(counter=counter, signature=signer.sign(statement)).encode()


class Unsigned(ContentError):
    """A procedure may not be used: it has no good signature."""


class ProcedureGate:
    """Lets signed procedures into the slots of one node.

    `offered` returns the seal that came last, `kept` holds `SEALS_BYTES`, `refused` is told of each
    procedure that may not pass.
    """

    def __init__(
        self,
        node: int,
        gate: Gate,
        kept: Area,
        *,
        offered: Callable[[], bytes],
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._node = node
        self._gate = gate
        self._kept = kept
        self._offered = offered
        self._refused = refused

    def admit(self, slot: int, procedure: Procedure) -> None:
        """Pass if the seal offered last is for this push, and keep it for the next boot.

        Raises Unsigned, StoreError if counter or seal cannot be stored.
        """
        raw = encode(procedure)
        data = self._offered()
        statement = partial(procedure_statement, self._node, slot, raw)
        try:
            self._gate.admit(f"procedure {self._node} {slot}", data, statement, raw)
            # Before the procedure itself: a seal without its procedure opens nothing.
            self._kept.write(slot * SEAL_BYTES, data)
            self._kept.flush()
        except SignatureError as error:
            raise self._refusal(slot, error) from error
        except CspMisuseError as error:
            raise StoreError(str(error)) from error

    def recall(self, slot: int, procedure: Procedure) -> None:
        """Pass if a stored procedure still has a good seal. Raises Unsigned."""
        data = self._kept.read(slot * SEAL_BYTES, SEAL_BYTES)
        statement = partial(procedure_statement, self._node, slot, encode(procedure))
        try:
            self._gate.check(data, statement)
        except SignatureError as error:
            raise self._refusal(slot, error) from error

    def _refusal(self, slot: int, error: SignatureError) -> Unsigned:
        self._refused()
        return Unsigned(f"procedure for slot {slot} {error}")
