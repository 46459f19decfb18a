"""Batches in a hurry, and alerts: what is done ahead or left for later changes no result."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dipp.batch import encode_batch
from dipp.errors import Code
from dipp.hostile_c import C_SOURCE
from dipp.hostilefault import compile_module, has_compiler
from dipp.runner.executor import Completed, Failed, Limits
from dipp.runner.wait import all_pids
from dipp.sandbox.namespaces import probe_namespaces
from dipp.testing import Harness, make_chain, no_leaks, parent_of, sample_image, segment

MANY = 60
INVERT = """
def run(batch, params):
    for image in batch:
        pixels = image.edit()
        pixels[:] = 4095 - pixels
"""
ADD = """
def run(batch, params):
    for image in batch:
        image.edit()[:] += 1
"""


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "namespaces"])
def harness(request):
    if request.param and not probe_namespaces():
        pytest.skip("PID namespaces are not allowed here")
    limits = Limits(workers=1, grace_s=0.5)
    with no_leaks(), Harness(limits, namespaces=request.param) as running:
        yield running


@pytest.fixture(autouse=True)
def _clean(harness):
    with no_leaks():
        yield
        harness.settle()


def image_number(number):
    """Return an image that no other number has."""
    meta, data = sample_image(obid=number)
    return meta, (np.frombuffer(data, "<u2") // 2 + number).astype("<u2").tobytes()


def expected(number):
    """Return the pixels after INVERT and ADD."""
    return (4096 - np.frombuffer(image_number(number)[1], "<u2")).tobytes()


@contextlib.contextmanager
def inputs(numbers) -> Iterator[list[tuple[int, bytes]]]:
    """Give a segment with one image for each number."""
    with contextlib.ExitStack() as stack:
        batches = [encode_batch([image_number(number)]) for number in numbers]
        yield [(stack.enter_context(segment(data)), data) for data in batches]


def run_series(harness, chain, numbers):
    """Submit all at once; return the outcomes, and in which order they came."""
    order = []
    with inputs(numbers) as segments:
        promises = []
        for number, (fd, data) in zip(numbers, segments, strict=True):
            promise = harness.executor.submit(harness.job(chain, fd, data, 1))
            promise.on_done(lambda number=number: order.append(number))
            promises.append(promise)
        outcomes = []
        for promise in promises:
            outcome = harness.loop.run_until(promise, 60)
            if isinstance(outcome, Completed):
                ((meta, pixels),) = outcome.images
                outcomes.append((meta.obid, bytes(pixels), outcome.stages))
                del pixels
                outcome.close()
            else:
                outcomes.append(outcome)
    return outcomes, order


def below(harness):
    """Return the processes below the only host, with their states."""
    (host,) = [pid for pid in all_pids() if parent_of(pid) == harness.forge_pid]
    found = {}
    for pid in all_pids():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == host:
                found[pid] = fields[0]
    return found


def test_a_long_series_is_right_and_in_order_and_leaves_nobody(harness, module):
    chain = make_chain(module(INVERT, "invert"), module(ADD, "add"))
    numbers = list(range(1, MANY + 1))
    outcomes, order = run_series(harness, chain, numbers)
    assert order == numbers
    pids = set()
    for number, (obid, pixels, stages) in zip(numbers, outcomes, strict=True):
        assert (obid, pixels) == (number, expected(number))
        assert [stage.name for stage in stages] == ["invert", "add"]
        for stage in stages:
            assert 0 < stage.cpu_s < 5
            assert 0 < stage.wall_s < 5
            assert 1000 < stage.peak_rss_kb < 4 << 20
            assert (stage.bytes_in, stage.bytes_out) == (64, 64)
            assert (stage.orphans, stage.leaked_segments) == (0, 0)
            pids.add(stage.pid)
    assert len(pids) == 2 * MANY
    assert 0 not in pids
    harness.prepare()
    # Those that were ended are buried when nothing else is to do; a nursery and two stand by.
    while len(below(harness)) != 3 or "Z" in below(harness).values():
        harness.loop.tick(0.01)
    assert harness.executor.standby_children == 2
    assert not pids & set(below(harness))
    assert harness.executor.stats.orphans == 0


BAD = 7
# What the module does with one batch of the series, and what is right for that batch.
_SEND = """
import os, socket
def send_to_all(data):
    for fd in range(3, 64):
        try:
            socket.socket(fileno=os.dup(fd)).send(data)
        except OSError:
            pass
"""
LIES = [
    ("raises", "1 / 0", {Code.EXIT_WITHOUT_CODE}),
    ("aborts", "os.abort()", {Code.SIGNAL}),
    ("exits-with-a-status", "os._exit(3)", {Code.EXIT_WITHOUT_CODE}),
    ("exits-without-one", "os._exit(0)", {Code.PIPE_EMPTY}),
    ("sends-garbage-first", "send_to_all(b'garbage')", {Code.RESULT_INVALID}),
    # From here on it happens after a result: who ends the child comes first, or it does itself.
    ("sends-two-results", "send_to_all(encode_frame(ModuleForwarded(batch_id=batch.batch_id)))",
     {0, Code.RESULT_INVALID}),
    ("exits-after-its-result", "later(lambda: os._exit(3))", {0, Code.EXIT_WITHOUT_CODE}),
    ("aborts-after-its-result", "later(os.abort)", {0, Code.SIGNAL}),
    ("sends-after-its-result", "later(lambda: send_to_all(b'garbage'))", {0, Code.RESULT_INVALID}),
]  # fmt: skip
LIAR = """
import os, threading, time
from dipp.runner.frames import ModuleForwarded
from dipp.runner.protocol import encode_frame
{send}
def later(act):
    main = threading.main_thread().ident
    def wait():
        # The main thread has told the result when it is asleep for good.
        time.sleep(0.002)
        act()
    threading.Thread(target=wait, daemon=True).start()
def run(batch, params):
    for image in batch:
        pixels = image.edit()
        pixels[:] = 4095 - pixels
    if batch.images[0].metadata.obid == {bad}:
        {act}
"""


@pytest.mark.parametrize("is_last", [False, True], ids=["then-another", "last"])
@pytest.mark.parametrize(("act", "codes"), [r[1:] for r in LIES], ids=[r[0] for r in LIES])
def test_a_liar_in_a_series_spoils_its_own_batch_only(harness, module, act, codes, is_last):
    liar = module(LIAR.format(send=_SEND, bad=BAD, act=act), "liar")
    add = module(ADD, "add")
    chain = make_chain(liar, add)
    if is_last:
        chain = make_chain(add, liar)
    numbers = list(range(1, 13))
    outcomes, order = run_series(harness, chain, numbers)
    assert order == numbers
    for number, outcome in zip(numbers, outcomes, strict=True):
        if number == BAD and isinstance(outcome, Failed):
            assert outcome.code in codes, outcome
            assert outcome.crash.name == "liar"
            continue
        assert not isinstance(outcome, Failed), (number, outcome)
        assert number != BAD or 0 in codes
        if number == BAD and "ModuleForwarded" in act:
            # The first of its results was that it had changed nothing.
            assert outcome[0] == number
            continue
        right = np.frombuffer(expected(number), "<u2") - 2 * is_last
        assert outcome[:2] == (number, right.tobytes())


# Forks as often as it may from the moment its result is there.
STARTER = """
import os, threading, time
def run(batch, params):
    def start():
        time.sleep({pause_s})
        while os.fork():
            pass
        os.setsid()
        time.sleep(600)
    threading.Thread(target=start, daemon=True).start()
"""


@pytest.mark.parametrize("pause_s", [0.00001, 0.00015, 0.002])
@pytest.mark.parametrize("is_last", [False, True], ids=["then-another", "last"])
def test_what_is_started_after_a_result_is_killed(harness, module, pause_s, is_last):
    paths = [module(STARTER.format(pause_s=pause_s), "starter"), module(ADD, "add")]
    chain = make_chain(*(reversed(paths) if is_last else paths))
    for number in range(1, 6):
        outcomes, _ = run_series(harness, chain, [number])
        if not isinstance(outcomes[0], Failed):
            right = np.frombuffer(image_number(number)[1], "<u2") + 1
            assert outcomes[0][:2] == (number, right.astype("<u2").tobytes())
        harness.prepare()
        # A nursery and two that stand by.
        while len(below(harness)) != 3 or "Z" in below(harness).values():
            harness.loop.tick(0.01)


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    if not has_compiler():
        pytest.skip("no gcc to build a native module")
    return compile_module(C_SOURCE, tmp_path_factory.mktemp("native") / "hostile.so")


@pytest.mark.parametrize("is_first", [True, False])
def test_what_native_code_leaks_in_a_series_is_counted_and_removed(
    harness, module, native, is_first
):
    paths = [native, module(INVERT, "invert")]
    chain = make_chain(*(paths if is_first else reversed(paths)))
    position = 0 if is_first else 1
    steps = list(chain.steps)
    steps[position] = replace(steps[position], params=(("case", "leak"),))
    before = harness.executor.stats.leaked_segments
    outcomes, _ = run_series(harness, replace(chain, steps=tuple(steps)), [1, 2, 3, 4, 5])
    for _, _, stages in outcomes:
        assert stages[position].leaked_segments == 1
        assert stages[1 - position].leaked_segments == 0
    assert harness.executor.stats.leaked_segments == before + 5


# -- alerts


def run_one(harness, chain, source, number):
    fd, data = source
    outcome = harness.loop.run_until(harness.executor.submit(harness.job(chain, fd, data, 1)), 30)
    assert isinstance(outcome, Completed), outcome
    ((meta, pixels),) = outcome.images
    assert (meta.obid, bytes(pixels)) == (number, expected(number))
    del pixels
    outcome.close()


# Which inputs are announced before the batch of input 0; -1 is an alert without an input.
ALERTS = {
    "the-input": [0],
    "another-input": [1],
    "both": [1, 0],
    "both-the-other-way": [0, 1],
    "without-and-with": [-1, 0],
    "with-and-without": [0, -1],
    "again": [0, 0, 0],
    "many": [0, 1] * 10,
    "many-the-other-way": [1, 0] * 10,
}


@pytest.mark.parametrize("announced", ALERTS.values(), ids=ALERTS.keys())
def test_the_batch_decides_and_not_what_was_announced(harness, module, announced):
    chain = make_chain(module(INVERT, "invert"), module(ADD, "add"))
    harness.run(chain).close()
    with inputs([1, 2]) as segments:
        for number in (1, 2, 1):
            harness.prepare()
            for index in announced:
                fd = segments[index ^ (number == 2)][0] if index >= 0 else -1
                harness.executor.alert(chain.pipeline_id, fd)
            run_one(harness, chain, segments[number - 1], number)


def test_an_announced_segment_may_be_gone_when_another_comes(harness, module):
    chain = make_chain(module(INVERT, "invert"), module(ADD, "add"))
    harness.run(chain).close()
    for number in range(1, 6):
        harness.prepare()
        # The number of its file may be given out again at once.
        with inputs([number + 10]) as segments:
            harness.executor.alert(chain.pipeline_id, segments[0][0])
        with inputs([number]) as segments:
            run_one(harness, chain, segments[0], number)


def test_alerts_while_a_series_runs_change_nothing(harness, module):
    chain = make_chain(module(INVERT, "invert"), module(ADD, "add"))
    with inputs(range(1, 21)) as segments:
        promises = []
        for fd, data in segments:
            harness.executor.alert(chain.pipeline_id, fd)
            promises.append(harness.executor.submit(harness.job(chain, fd, data, 1)))
            harness.loop.tick(0.001)
        for number, promise in enumerate(promises, 1):
            outcome = harness.loop.run_until(promise, 30)
            assert isinstance(outcome, Completed), outcome
            assert bytes(outcome.images[0][1]) == expected(number)
            outcome.close()


@pytest.mark.parametrize("count", [1, 20])
def test_an_announced_batch_that_never_comes_leaves_nothing(harness, module, count):
    chain = make_chain(module(INVERT, "invert"), module(ADD, "add"))
    harness.run(chain).close()
    harness.prepare()
    held = len(os.listdir("/proc/self/fd"))
    family = set(below(harness))
    with inputs([1, 2]) as segments:
        for number in range(count):
            harness.executor.alert(chain.pipeline_id, segments[number % 2][0])
    assert len(os.listdir("/proc/self/fd")) == held
    harness.settle()
    assert not family & set(all_pids())
