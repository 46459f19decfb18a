"""Decide how to upload: in which form, with which RDP timers, in how many passes. Pure.

Theory of operation: what a node lists under a name says which versions and which half-received
upload it has. Each form the content could travel in is made and weighed by what is still to send;
the cheapest wins, so an upload that was interrupted goes on unless another form would now be
cheaper than the rest of it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from csp.crc import crc32c
from csp.errors import MisuseError
from csp.files.forms import Form, encode_form
from csp.files.wire import (
    DATA_MAX_BYTES,
    DIGEST_BYTES,
    Entry,
    Offer,
    StageState,
    VersionKind,
    check_name,
)
from csp.packet import CRC_BYTES, HEADER_BYTES
from csp.rdp_wire import TRAILER_BYTES, RdpOptions

_FRAME_BYTES = HEADER_BYTES[2] + TRAILER_BYTES + CRC_BYTES
_SYN_BYTES = _FRAME_BYTES + 24
_DATA_FRAME_BYTES = _FRAME_BYTES + 1 + DATA_MAX_BYTES
# A window covers the round trip and this much more, so that a delayed acknowledgement or one
# repetition does not leave the link idle.
_SLACK_S = 0.5
_WINDOWS = range(8, 33)
# A lost pass is noticed after this silence; shorter would end connections that only had bad luck.
_MIN_SILENCE_S = 20.0
# Above this, acknowledging every packet is work for nothing.
_FAST_BPS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkBudget:
    """The uplink an upload has to pass: rate, one-way delay, and how long a pass lasts."""

    rate_bps: float = 9600.0
    delay_s: float = 0.25
    pass_s: float = 480.0

    def __post_init__(self) -> None:
        if self.rate_bps <= 0 or self.delay_s < 0 or self.pass_s <= 0:
            raise MisuseError("a link needs a rate and a pass a length, and no delay is negative")

    def options(self) -> RdpOptions:
        """Return timers under which nothing is sent twice unless it was lost.

        The window keeps the link busy for a round trip; the packet timeout lets a whole window,
        its way and its acknowledgement pass.
        """
        frame_s = _DATA_FRAME_BYTES * 8 / self.rate_bps
        wanted = math.ceil((2 * self.delay_s + _SLACK_S) / frame_s) + 1
        window = min(max(wanted, _WINDOWS[0]), _WINDOWS[-1])
        packet_s = window * frame_s + 2 * self.delay_s + 1.0
        return RdpOptions(
            window=window,
            conn_timeout_ms=int(1000 * max(_MIN_SILENCE_S, 5 * packet_s)),
            packet_timeout_ms=int(1000 * packet_s),
            delayed_acks=self.rate_bps > _FAST_BPS,
            ack_timeout_ms=100,
        )

    def uplink_bytes(self, wire_size: int, name_bytes: int = 16) -> int:
        """Return what an upload in one pass puts on the uplink, headers and handshake included."""
        frames = -(-wire_size // DATA_MAX_BYTES)
        return self._setup_bytes(name_bytes) + wire_size + frames * (_FRAME_BYTES + 1)

    def seconds(self, wire_size: int) -> float:
        """Return how long an upload in one pass takes, without losses."""
        return 8 * self.uplink_bytes(wire_size) / self.rate_bps + self._setup_s()

    def passes(self, wire_size: int) -> int:
        """Return in how many passes an upload fits, each with its own handshake."""
        if not wire_size:
            return 1
        setup_s = 8 * self._setup_bytes(16) / self.rate_bps + self._setup_s()
        usable = (self.pass_s - setup_s) * self.rate_bps / 8
        share = usable * DATA_MAX_BYTES / _DATA_FRAME_BYTES
        if share < DATA_MAX_BYTES:
            raise MisuseError(f"a pass of {self.pass_s:g} s is too short to send anything")
        return math.ceil(wire_size / share)

    def _setup_bytes(self, name_bytes: int) -> int:
        # SYN, ACK, offer, acknowledgement of the reply, close.
        return _SYN_BYTES + 4 * _FRAME_BYTES + 87 + name_bytes

    def _setup_s(self) -> float:
        # Handshake, offer and its answer, the last data and the verdict: a round trip each.
        return 6 * self.delay_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An upload decided on. `offer` None means that the node has this content already.

    `received` is how much of `stream` is on board; `sizes` what each possible form would need.
    """

    name: str
    content_size: int
    content_sha256: bytes
    sizes: tuple[tuple[Form, int], ...]
    offer: Offer | None
    stream: bytes
    received: int
    budget: LinkBudget

    @property
    def remaining(self) -> int:
        """Bytes of the stream that are still to send."""
        return len(self.stream) - self.received

    @property
    def uplink_bytes(self) -> int:
        """Bytes the rest puts on the uplink, overhead included; 0 if there is nothing to do."""
        return self.budget.uplink_bytes(self.remaining, len(self.name)) if self.offer else 0

    @property
    def seconds(self) -> float:
        """How long the rest takes at the rate of the link, without losses."""
        return self.budget.seconds(self.remaining) if self.offer else 0.0

    @property
    def passes(self) -> int:
        """How many passes the rest takes."""
        return self.budget.passes(self.remaining) if self.offer else 0

    def size_of(self, form: Form) -> int | None:
        """Return the bytes a form would need, None if it is not possible."""
        return dict(self.sizes).get(form)


def make_plan(
    name: str,
    content: bytes,
    entry: Entry | None,
    bases: Mapping[bytes, bytes],
    budget: LinkBudget,
) -> Plan:
    """Weigh the forms of an upload. Raises FilesError if the node would not take the name.

    `entry` is what the node has under the name; `bases` the contents the ground knows, by SHA-256.
    """
    check_name(name)
    sha256 = hashlib.sha256(content).digest()
    active = entry.version(VersionKind.ACTIVE) if entry is not None else None
    candidates = [] if active and active.sha256 == sha256 else _candidates(content, entry, bases)
    best: tuple[int, Offer | None, bytes, int] | None = None
    sizes: dict[Form, int] = {}
    for form, base_sha256, stream in candidates:
        sizes[form] = min(len(stream), sizes.get(form, len(stream)))
        offer = Offer(
            name=name,
            form=form,
            content_size=len(content),
            content_crc=crc32c(content),
            content_sha256=sha256,
            wire_size=len(stream),
            wire_digest=hashlib.sha256(stream).digest()[:DIGEST_BYTES],
            base_sha256=base_sha256,
        )
        received = _received(offer, entry.stage if entry is not None else None)
        if best is None or len(stream) - received < best[0]:
            best = len(stream) - received, offer, stream, received
    _, chosen, stream, received = best if best is not None else (0, None, b"", 0)
    return Plan(
        name=name,
        content_size=len(content),
        content_sha256=sha256,
        sizes=tuple(sizes.items()),
        offer=chosen,
        stream=stream,
        received=received,
        budget=budget,
    )


def _candidates(
    content: bytes, entry: Entry | None, bases: Mapping[bytes, bytes]
) -> Iterable[tuple[Form, bytes | None, bytes]]:
    yield Form.PLAIN, None, content
    yield Form.BROTLI, None, encode_form(Form.BROTLI, content)
    on_board = {each.sha256 for each in entry.versions} if entry is not None else set()
    for sha256 in sorted(on_board):
        base = bases.get(sha256)
        if base is not None:
            yield Form.DELTA, sha256, encode_form(Form.DELTA, content, base)


def _received(offer: Offer, stage: StageState | None) -> int:
    """Return how much of an offer is on board already."""
    if stage is None:
        return 0
    same = (
        stage.form is offer.form
        and stage.content_sha256 == offer.content_sha256
        and stage.wire_size == offer.wire_size
        and stage.wire_digest == offer.wire_digest
    )
    return stage.received if same else 0
