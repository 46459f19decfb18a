"""Rows of group K: single bits flip in what is stored, sent and loaded. Driver.

Detected or contained; what must never come of it is a batch that silently goes another way.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from random import Random

import posix_ipc

from csp.faultrow import Case, FaultRow, require
from csp.packet import decode_frame
from dipp.errors import ContentError
from dipp.faults.world import NODE, World
from dipp.journal import Journal
from dipp.message import BatchMessage, decode_message, encode_message
from dipp.metadata import Metadata
from dipp.records import FILE_MAGIC, Fate, Kind, Record, encode_record
from dipp.rig import GEOMETRY, Camera, Rig, unique
from dipp.ring import open_ring
from dipp.runner.executor import Failed
from dipp.testing import IDENTITY, Harness, make_chain

_SEGMENT_FLIPS, _FILE_FLIPS, _MODULE_FLIPS, _RING_FLIPS = 30, 60, 6, 60


def flip(data: bytes, bit: int) -> bytes:
    """Return the bytes with one bit changed."""
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def flip_file(path: Path, random: Random, limit_bytes: int = 1 << 30) -> int:
    """Change one bit of a file, within its first bytes; return which."""
    data = path.read_bytes()
    bit = random.randrange(8 * min(len(data), limit_bytes))
    path.write_bytes(flip(data, bit))
    return bit


def _message(case: Case) -> str:
    message = BatchMessage(
        num_images=case.random.randrange(1, 99), batch_size=case.random.randrange(1, 1 << 30),
        pipeline_id=case.random.randrange(1, 7), segment=unique("/seg_"),
    )  # fmt: skip
    body = encode_message(message)
    for bit in range(8 * len(body)):
        try:
            decode_message(flip(body, bit))
        except ContentError:
            continue
        require(False, f"bit {bit} of a queue message went unnoticed")
    return f"each of {8 * len(body)} bits of a queue message noticed"


def _segment(case: Case) -> str:
    camera = Camera(unique())
    case.cleanup.callback(camera.clean)
    rig = Rig(case.directory / "state", camera.queue)
    case.cleanup.callback(rig.close)
    for turn in range(_SEGMENT_FLIPS):
        pixels = case.random.randbytes(64)
        name = camera.shoot(pixels, obid=turn)
        segment = posix_ipc.SharedMemory(name)
        with open(segment.fd, "r+b") as file:
            data = file.read()
            bit = case.random.randrange(8 * len(data))
            file.seek(0)
            file.write(flip(data, bit))
        before = rig.fates
        rig.run(1)
        gained = [late - early for late, early in zip(rig.fates, before, strict=True)]
        require(gained[0] == sum(gained[1:]) == 1, f"bit {bit}: fates {before} to {rig.fates}")
        # One bit in the pixels is one bit in the pixels, nothing else.
        in_pixels = bit // 8 >= len(data) - len(pixels)
        if in_pixels:
            require(gained[1] == 1, f"bit {bit} of the pixels: not delivered")
            changed = sum(a != b for a, b in zip(rig.images[-1], pixels, strict=True))
            require(changed == 1, f"bit {bit} changed {changed} pixels")
    jobs = {job.chain.pipeline_id for job in rig.runner.jobs}
    require(jobs <= {1}, f"batches went to pipelines {jobs}")
    _, delivered, quarantined, dropped = rig.fates
    return (
        f"{_SEGMENT_FLIPS} bits of images and metadata: {delivered} delivered,"
        f" {quarantined} quarantined, {dropped} dropped"
    )


def _metadata(case: Case) -> str:
    golden = Metadata(
        size=6, width=3, height=1, channels=1, timestamp=1, bits_pixel=12, obid=7, camera="rgb",
        items=(("enc", "jxl"), ("x", 1.5), ("ok", True)),
    ).encode()  # fmt: skip
    values = 0
    for bit in range(8 * len(golden)):
        try:
            Metadata.decode(flip(golden, bit))
        except ContentError:
            continue
        values += 1
    return f"{8 * len(golden)} bits of metadata: {values} another value, the others a named error"


def _stores(case: Case) -> str:
    ring_path, journal_path = case.directory / "images.vmem", case.directory / "journal"
    ring, _ = open_ring(ring_path, GEOMETRY, durable=False)
    ring.append([b"a" * 100, b"b" * 100])
    ring.close()
    intact = ring_path.read_bytes()
    aside = 0
    for _ in range(_RING_FLIPS):
        ring_path.write_bytes(flip(intact, case.random.randrange(8 * 16)))
        ring, was_damaged = open_ring(ring_path, GEOMETRY, durable=False)
        aside += was_damaged
        for position in range(min(ring.count, 64)):
            element = ring.element(position)
            if element is not None:
                require(len(ring.read(element, 0, 1 << 20)) == element.size, "a short element")
        ring.append([b"c" * 50])
        newest = ring.element(-1)
        require(newest is not None and ring.read(newest, 0, 99) == b"c" * 50, "the next is lost")
        ring.close()
    lost, torn = 0, 0
    records = [
        record
        for batch in range(1, 5)
        for record in (
            Record(kind=Kind.TAKEN, batch=batch, message=b"m"),
            Record(kind=Kind.FATE, batch=batch, fate=Fate.DELIVERED, images=1),
            Record(kind=Kind.CLEANED, batch=batch),
        )
    ]
    for _ in range(_FILE_FLIPS):
        journal_path.unlink(missing_ok=True)
        journal = Journal(journal_path, durable=False)
        for record in records:
            journal.append(record)
        written = len(FILE_MAGIC) + sum(map(len, map(encode_record, records)))
        journal.close()
        flip_file(journal_path, case.random, written)
        journal = Journal(journal_path, durable=False)
        totals = journal.state.totals
        require(totals.delivered <= totals.taken <= 4, f"made-up batches: {totals}")
        lost += journal.damaged_bytes > 0
        # The last record cannot be told from one that a kill cut off.
        torn += not journal.damaged_bytes and list(journal.state.open) == [4]
        journal.append(Record(kind=Kind.TAKEN, batch=9, message=b"m"))
        journal.close()
    unnoticed = _FILE_FLIPS - lost - torn
    require(not unnoticed, f"{unnoticed} flips of the journal went unnoticed")
    return (
        f"{_RING_FLIPS} bits of the ring's head, {aside} put aside; {_FILE_FLIPS} of the journal,"
        f" {lost} noticed, {torn} in its last record"
    )


def _module(case: Case) -> str:
    path = case.directory / "module.py"
    path.write_text(IDENTITY + "# " + "x" * 200 + "\n")
    intact = path.read_bytes()
    sha = hashlib.sha256(intact).hexdigest()
    with Harness() as harness:
        for generation in range(1, _MODULE_FLIPS + 1):
            path.write_bytes(flip(intact, case.random.randrange(8 * len(intact))))
            chain = make_chain(path, generation=generation)
            outcome = harness.run(replace(chain, steps=(replace(chain.steps[0], sha256=sha),)))
            require(isinstance(outcome, Failed) and outcome.code == 501, "a changed module ran")
            outcome.close()
        path.write_bytes(intact)
        chain = make_chain(path, generation=99)
        harness.run_images(replace(chain, steps=(replace(chain.steps[0], sha256=sha),)))
    return f"{_MODULE_FLIPS} bits of a module file: 501, the intact one runs"


def _push(case: Case) -> str:
    frames: list[bytes] = []
    with World(case.directory) as world:
        world.configure(2, "negate")
        spy = world.bus.link("SPY")
        spy.open(world.loop, frames.append)
        world.configure(1, "negate")
        spy.close()
        golden = max((frame for frame in frames if decode_frame(frame).dst == NODE), key=len)
        stack = world.node.csp.stack
        world.configure(1)
        before = world.get("pipeline_config_1")
        for bit in range(48, 8 * len(golden)):
            stack.receive(stack.interfaces[0], flip(golden, bit))
            require(world.node.slots.chain(1).steps == (), f"bit {bit} of a push took effect")
        require(world.get("pipeline_config_1") == before, "a damaged push took effect")
        stack.receive(stack.interfaces[0], golden)
        names = [step.name for step in world.node.slots.chain(1).steps]
        require(names == ["negate"], f"the intact push gave {names}: nothing was injected")
    return f"{8 * len(golden) - 48} bits of a pushed pipeline refused, the intact one taken"


ROWS: tuple[FaultRow, ...] = (
    FaultRow(
        id=95, name="bits-of-queue-messages", inject=_message,
        injected="each bit of a queue message", expected="every one noticed",
    ),
    FaultRow(
        id=95, name="bits-of-images-in-memory", inject=_segment,
        injected=f"{_SEGMENT_FLIPS} bits of segments between camera and node, one batch each",
        expected="one fate; a bit in the pixels stays one bit; no other pipeline",
    ),
    FaultRow(
        id=95, name="bits-of-metadata", inject=_metadata,
        injected="each bit of a metadata message", expected="another value or a named error",
    ),
    FaultRow(
        id=95, name="bits-of-pushed-pipelines", inject=_push,
        injected="each bit behind the header of the frame that pushes a pipeline",
        expected="dropped; the intact frame is taken",
    ),
    FaultRow(
        id=95, name="bits-of-ring-and-journal", inject=_stores,
        injected=f"{_RING_FLIPS} bits of the ring's head, {_FILE_FLIPS} of the journal",
        expected="opened all the same, no made-up batch, the next append works",
    ),
    FaultRow(
        id=95, name="bits-of-module-files", inject=_module,
        injected=f"{_MODULE_FLIPS} bits of a module file whose hash is configured",
        expected="501 before any of it runs; the intact file runs",
    ),
)  # fmt: skip
