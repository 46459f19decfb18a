"""Rows of group G: queue, shared memory, disk, system calls and forks that fail. Driver.

A shortage is real where the kernel lets us make one (a small disk, a full queue), otherwise the
kernel is told to answer with it (`dipp.faults.sabotage`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from functools import partial

import posix_ipc

from csp.errors import PeerError
from csp.faultrow import Case, FaultRow, require
from csp.testing import Faults, Network
from csp.vmem.client import VmemClient
from csp.vmem.server import VmemServer
from csp.vmem.wire import VMEM_PORT
from dipp.batch import encode_batch
from dipp.faults.sabotage import (
    BROKEN,
    CHANGES,
    KILL,
    RESOURCES,
    Ending,
    Strike,
    Switch,
    every_call,
    run_sabotaged,
)
from dipp.faults.smalldisk import fill, on_small_disk
from dipp.faults.world import World
from dipp.intake import Intake
from dipp.metadata import Metadata
from dipp.rig import Camera, Rig, unique
from dipp.ring import open_ring
from dipp.ringarea import RingArea, RingService
from dipp.ringindex import RingGeometry

_BURSTS, _BURST = 1000, 10
_RANDOM_CALLS = 8
_FORKS = ("fork", "vfork", "clone", "clone3")
_SEGMENTS = ("memfd_create", "ftruncate", "shmget")
_CODES = (errno.EIO, errno.ENOSPC, errno.EMFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN)


def _queue(case: Case) -> str:
    no_queue = Rig(case.directory / "none", "/not/a/queue/name")
    no_queue.run(2)
    require(no_queue.log_status == 200000, f"no queue: status {no_queue.log_status}")
    no_queue.close()

    camera = Camera(unique())
    case.cleanup.callback(camera.clean)
    rig = Rig(case.directory / "full", camera.queue)
    case.cleanup.callback(rig.close)
    for number in range(_BURST):
        camera.shoot(bytes([number + 1]))
    refused = False
    try:
        camera.shoot(b"one too many")
    except posix_ipc.BusyError:
        refused = True
    require(refused, "the eleventh message was not refused at once")
    rig.run(2)
    require(len(rig.images) == _BURST, f"{len(rig.images)} of {_BURST} batches of a full queue")

    posix_ipc.unlink_message_queue(camera.queue)
    rig.write_mode(4)
    rig.until(lambda: rig.intake.recreated > 0)
    rig.until(lambda: rig.worker.is_busy)
    camera.shoot(b"again")
    rig.until(lambda: rig.images[-1] == b"again")
    rig.write_mode(0)
    rig.until_idle()

    queue = posix_ipc.MessageQueue(camera.queue)
    case.cleanup.callback(queue.close)
    sizes = (0, 4, 24, 40, 127, 128)
    for _ in range(_BURSTS):
        for _ in range(_BURST):
            queue.send(case.random.randbytes(case.random.choice(sizes)), timeout=0)
        rig.run(2)
    bad = rig.telemetry.get("bad_messages") + rig.fates[2] + rig.fates[3]
    require(bad == _BURSTS * _BURST, f"{bad} of {_BURSTS * _BURST} foreign messages counted")
    camera.shoot(b"good")
    rig.run(1)
    require(rig.images[-1] == b"good", "the next good batch does not pass")
    return f"full, unlinked and absent queue; {bad} foreign messages in bursts counted"


def _small_messages(case: Case) -> str:
    camera = Camera(unique())
    case.cleanup.callback(camera.clean)
    size = case.random.randrange(24, 100)
    foreign = posix_ipc.MessageQueue(camera.queue, posix_ipc.O_CREX, max_message_size=size)
    foreign.send(b"x" * 24)
    foreign.close()
    rig = Rig(case.directory / "state", camera.queue)
    case.cleanup.callback(rig.close)
    rig.run(2)
    rig.run(2)
    require(rig.intake.recreated, "a queue of too small messages was kept")
    camera.shoot(b"good")
    rig.run(1)
    require(rig.images == [b"good"], "no good batch passes through the new queue")
    return f"a queue of {size}-byte messages was read empty and made anew"


def _struck_batch(
    case: Case, name: str, rule: Strike, switch: Switch, watch: Iterable[str]
) -> Ending:
    """Run a node in which calls fail while a batch is processed; then a batch without that."""

    def operation() -> None:
        with World(case.directory / name) as world:
            world.good_batch()
            world.configure(1, "negate", "add_one")
            world.camera.shoot(b"\x01", pipeline=1)
            switch.set(True)
            world.process()
            switch.set(False)
            world.good_batch()
            totals = world.node.journal.state.totals
            fates = totals.delivered + totals.quarantined + totals.dropped
            require((totals.taken, fates) == (3, 3), f"fates after call {rule.seen}: {totals}")
            require(world.node.journal.state.open == {}, "a batch is still open")

    switch.set(False)
    ending = run_sabotaged(operation, watch, rule)
    require(ending.status == 0, f"{name}: ended with {ending.status} after {ending.struck}")
    return ending


def _every_struck(case: Case, watch: Iterable[str], codes: tuple[int, ...]) -> int:
    """Strike each call of a batch in the whole process tree; return how many there were."""
    switch, number, watched = Switch(), 0, tuple(watch)
    while True:
        number += 1
        code = case.random.choice(codes)
        rule = Strike(number, code, when=switch)
        name = f"call {number}, {errno.errorcode[code]}"
        if _struck_batch(case, name, rule, switch, watched).struck is None:
            return number - 1


def _shared_memory(case: Case) -> str:
    struck = _every_struck(case, _SEGMENTS, (errno.ENOSPC, errno.ENOMEM, errno.EMFILE))
    require(struck, "no memory was asked for")
    return f"each of {struck} segments refused in turn; one fate each, the next batch passes"


def _fork_fails(case: Case) -> str:
    struck = _every_struck(case, _FORKS, (errno.EAGAIN, errno.ENOMEM))
    require(struck, "nothing was forked")
    return f"each of {struck} forks refused in turn; one fate each, the next batch passes"


def _disk_full(case: Case) -> str:
    place = case.directory / "disk"
    place.mkdir()

    def inside() -> str:
        with World(place) as world:
            for kind in ("ring", "quarantine"):
                pipeline = 1 if kind == "ring" else 2
                world.configure(1, "negate")
                world.configure(2, "crashes")
                filler = fill(place)
                world.camera.shoot(case.random.randbytes(40_000), pipeline=pipeline)
                world.set("pipeline_run", 2)
                for _ in range(80):
                    world.loop.tick(0.01)
                filler.unlink()
                world.until(lambda: world.get("pipeline_run") == 0, f"{kind}: work resumes")
                world.good_batch()
            totals = world.node.journal.state.totals
            fates = totals.delivered + totals.quarantined + totals.dropped
            require((totals.taken, fates) == (4, 4), f"fates: {totals}")
            require(world.node.telemetry.get("storage_errors"), "the full disk went unnoticed")
            parts = list((place / "state" / "quarantine").glob("*.part"))
            require(not parts, f"partial files are visible: {parts}")
            return (
                f"ENOSPC twice: {totals.delivered} delivered, {totals.quarantined} quarantined,"
                f" {totals.dropped} dropped, work went on by itself"
            )

    return on_small_disk(place, 3 << 20, inside)


def _nth_call_of_the_stores(case: Case) -> str:
    camera = Camera(unique())
    case.cleanup.callback(camera.clean)
    intake = Intake(camera.queue, case.directory / "unused")
    case.cleanup.callback(intake.close)
    runs = 0

    def operation_in(name: str, fails: bool) -> Callable[[], None]:
        state = case.directory / name

        def operation() -> None:
            rig = Rig(state, camera.queue)
            if fails:
                rig.runner.behaviour = rig.runner.failing()
            rig.boot()
            rig.run(2)
            rig.close()

        return operation

    for fails in (False, True):
        code = case.random.choice(_CODES)

        def prepare(fails: bool = fails) -> Callable[[], None]:
            nonlocal runs
            runs += 1
            intake.ensure()
            camera.shoot(b"abc", b"def")
            return operation_in(f"{runs}", fails)

        for ending in every_call(prepare, CHANGES, code):
            _one_fate(case, camera, f"{runs}", ending, errno.errorcode[code])
    return f"each call of the stores failed in turn: {runs} runs, one fate each"


def _one_fate(case: Case, camera: Camera, name: str, ending: Ending, code: str) -> None:
    what = f"run {name}, {code} at {ending.struck.name if ending.struck else 'no call'}"
    require(ending.status != BROKEN, f"{what}: an unexpected exception")
    rig = Rig(case.directory / name, camera.queue)
    rig.boot()
    rig.run(2)
    camera.shoot(b"next")
    rig.run(2)
    taken, *fates = rig.fates
    require((taken, sum(fates)) == (2, 2), f"{what}: {taken} taken, fates {fates}")
    require(rig.images[-1] == b"next", f"{what}: the next batch is not in the ring")
    require(rig.quarantine.count == fates[1], f"{what}: quarantine and journal differ")
    # What could never be opened is not known to be ours, and an unlink that fails is final.
    excused = ending.struck is not None and ending.struck.name in ("openat", "unlink")
    left = [name for name in camera.segments if camera.exists(name)]
    require(excused or not left, f"{what}: a segment is left")
    for each in left:
        posix_ipc.unlink_shared_memory(each)
    rig.close()


def _nth_call_of_the_tree(case: Case) -> str:
    switch = Switch()
    rule = Strike(0, errno.EIO, when=switch)
    _struck_batch(case, "undisturbed", rule, switch, RESOURCES)
    numbers = case.random.sample(range(1, rule.seen + 1), min(_RANDOM_CALLS, rule.seen))
    for number in sorted(numbers):
        code = case.random.choice((errno.EMFILE, errno.ENOMEM, errno.EAGAIN))
        _struck_batch(case, f"{number}", Strike(number, code, when=switch), switch, RESOURCES)
    return f"{len(numbers)} of {rule.seen} calls of a batch's process tree failed, one fate each"


def _killed_in_the_tree(case: Case) -> str:
    switch, watch = Switch(), (*RESOURCES, "write", "recvmsg", "close")
    rule = Strike(0, KILL, when=switch, spares_owner=True)
    _struck_batch(case, "undisturbed", rule, switch, watch)
    numbers = sorted(case.random.sample(range(1, rule.seen + 1), min(_RANDOM_CALLS, rule.seen)))
    struck = []
    for number in numbers:
        rule = Strike(number, KILL, when=switch, spares_owner=True)
        ending = _struck_batch(case, f"{number}", rule, switch, watch)
        struck.append(ending.struck.name if ending.struck else "none")
    return f"killed at {len(numbers)} of {rule.seen} calls ({', '.join(struck)}), one fate each"


def _ring_wraps(case: Case) -> str:
    geometry = RingGeometry(entries=16, data_bytes=60_000)
    ring, _ = open_ring(case.directory / "images.vmem", geometry, durable=False)
    case.cleanup.callback(ring.close)
    network = Network(faults=Faults(rate_bps=100_000, delay_s=0.02), seed=case.random.randrange(99))
    node = network.add(162)
    server = VmemServer([RingArea(ring)])
    RingService(ring, network.scheduler, lambda error: None).register(server)
    node.bind(VMEM_PORT, server.handle)
    node.listen(VMEM_PORT, server.serve)
    client = VmemClient(network.add(20))
    whole = broken = 0
    for turn in range(8):
        block = encode_batch([(Metadata(obid=turn), case.random.randbytes(25_000))], 1)
        ring.append([block])
        others = case.random.choice((0, 3))
        for number in range(others):
            append = partial(ring.append, [bytes([number]) * 20_000])
            network.scheduler.call_later(case.random.uniform(0.1, 1.5), append)
        try:
            found = network.run(client.ring_download(162, "images", -1), 300)
        except PeerError:
            broken += 1
        else:
            require(found == block, f"download {turn}: {len(found)} bytes that are not the element")
            whole += 1
        network.wait(2)
    network.wait(60)
    require(len(node.connections) == 0, "a connection is left")
    require(whole and broken, f"{whole} downloads whole, {broken} cut: nothing was injected")
    return f"{whole} downloads byte-exact, {broken} overwritten meanwhile ended with an error"


ROWS: tuple[FaultRow, ...] = (
    FaultRow(
        id=61, name="queue-full-absent-unlinked-foreign", inject=_queue,
        injected="no queue, 11 batches for 10 places, a queue unlinked while it is waited for,"
        " 10 000 random messages in bursts of 10",
        expected="named status, sender refused at once, queue made anew, all counted",
    ),
    FaultRow(
        id=61, name="queue-of-small-messages", inject=_small_messages,
        injected="a queue that somebody made with messages too small for a batch",
        expected="read empty, made anew, the next batch passes",
    ),
    FaultRow(
        id=62, name="shared-memory-exhausted", inject=_shared_memory,
        injected="ENOSPC, ENOMEM, EMFILE for each segment of a batch in turn, in node, forge, host",
        expected="one fate, the next batch passes",
    ),
    FaultRow(
        id=63, name="disk-full", inject=_disk_full,
        injected="a 3 MB disk filled to the last byte under ring, journal, log, quarantine",
        expected="counted, one fate each, no partial file, work resumes when there is room",
    ),
    FaultRow(
        id=64, name="nth-call-of-the-stores", inject=_nth_call_of_the_stores,
        injected="each file operation and receive of a batch fails in turn; then a new start",
        expected="one fate, ring, quarantine and journal agree, no segment left",
    ),
    FaultRow(
        id=64, name="nth-call-of-the-process-tree", inject=_nth_call_of_the_tree,
        injected=f"{_RANDOM_CALLS} random opens, maps, forks, pipes of a batch fail in node, forge,"
        " host or child",
        expected="one fate, the next batch passes",
    ),
    FaultRow(
        id=67, name="forge-host-or-module-killed-at-a-call", inject=_killed_in_the_tree,
        injected=f"SIGKILL of forge, host or module child at {_RANDOM_CALLS} random calls",
        expected="one fate, the next batch passes",
    ),
    FaultRow(
        id=65, name="fork-fails", inject=_fork_fails,
        injected="EAGAIN or ENOMEM for each fork of a batch in turn",
        expected="one fate, the next batch passes",
    ),
    FaultRow(
        id=66, name="ring-wraps-while-it-is-read", inject=_ring_wraps,
        injected="images appended over an element while ground downloads it",
        expected="the element byte-exact, or an error; never other bytes",
    ),
)  # fmt: skip
