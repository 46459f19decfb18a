"""The executor through its public interface: results, references, codes, hosts, stops and kills."""

from __future__ import annotations

import hashlib
import os
import signal
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
from dipp.testing import (
    IDENTITY,
    SLEEP,
    Harness,
    make_chain,
    no_leaks,
    parent_of,
    sample_image,
    segment,
)

INVERT = """
from dipp.sdk import Manifest, Param
MANIFEST = Manifest('invert', '1', 'negative', params=(Param('top', 'int', 4095, 'white'),))
def run(batch, params):
    for image in batch:
        pixels = image.edit()
        pixels[:] = params['top'] - pixels
        image.add_item('inverted', True)
"""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def harness(scratch):
    limits = Limits(load_timeout_s=1.0, grace_s=0.5, max_hosts=2)
    with Harness(limits, str(scratch)) as running:
        yield running


@pytest.fixture(autouse=True)
def _clean(harness, scratch):
    (root,) = scratch.iterdir()
    with no_leaks(root):
        yield
        harness.settle()


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    if not has_compiler():
        pytest.skip("no gcc to build a native module")
    return compile_module(C_SOURCE, tmp_path_factory.mktemp("native") / "hostile.so")


def with_params(chain, *params, step=0):
    steps = list(chain.steps)
    steps[step] = replace(steps[step], params=params)
    return replace(chain, steps=tuple(steps))


def test_identity_forwards_everything_by_reference(harness, module):
    images = [sample_image(obid=1), sample_image(16, 16, obid=2)]
    outcome = harness.run(make_chain(module(IDENTITY)), images)
    assert isinstance(outcome, Completed)
    assert [meta.obid for meta, _ in outcome.images] == [1, 2]
    assert [bytes(pixels) for _, pixels in outcome.images] == [data for _, data in images]
    (stage,) = outcome.stages
    assert (stage.name, stage.bytes_in, stage.bytes_out) == ("module", 576, 576)
    assert stage.pid > 0
    assert stage.peak_rss_kb > 0
    outcome.close()


def test_in_place_changes_reach_the_next_module_and_not_the_input(harness, module):
    chain = make_chain(module(INVERT), module(INVERT.replace("'inverted'", "'again'"), "second"))
    meta, data = sample_image()
    batch = encode_batch([(meta, data)])
    with segment(batch) as fd:
        promise = harness.executor.submit(harness.job(chain, fd, batch, 1))
        outcome = harness.loop.run_until(promise, 10)
        assert os.pread(fd, len(batch), 0) == batch
    ((result, pixels),) = outcome.images
    assert bytes(pixels) == data
    assert result.items == (("inverted", True), ("again", True))
    assert all(isinstance(view.obj, object) for _, view in outcome.images)
    outcome.close()


def test_parameters_come_from_the_configuration(harness, module):
    chain = with_params(make_chain(module(INVERT)), ("top", 1000))
    ((_, pixels),) = harness.run_images(chain)
    assert np.frombuffer(pixels, "<u2")[0] == 1000


@pytest.mark.parametrize("value", ["white", 1.5, True])
def test_parameter_of_the_wrong_type_is_504_with_the_module(harness, module, value):
    outcome = harness.run(with_params(make_chain(module(INVERT)), ("top", value)))
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.module_index) == (504, 1)


@pytest.mark.parametrize(("number", "code"), [(0, 700), (8, 708), (99, 799), (100, 100)])
def test_custom_codes(harness, module, number, code):
    source = f"from dipp.sdk import fail\ndef run(b, p):\n    fail({number}, 'on purpose')\n"
    outcome = harness.run(make_chain(module(source)))
    assert outcome.code == code
    assert outcome.crash.last_log == "on purpose"


def test_crash_record_says_where_and_what_was_logged(harness, module):
    source = "def run(batch, params):\n    batch.log('half\\x1b[31m way')\n    1 / 0\n"
    path = module(source, "culprit")
    chain = make_chain(module(IDENTITY), path)
    digest = hashlib.sha256(source.encode()).hexdigest()
    chain = replace(chain, steps=(chain.steps[0], replace(chain.steps[1], sha256=digest)))
    outcome = harness.run(chain)
    crash = outcome.crash
    assert (crash.code, crash.module, crash.name) == (601, 2, "culprit")
    assert (crash.exception, crash.line) == ("ZeroDivisionError", 3)
    assert crash.last_log == "ZeroDivisionError: division by zero"
    assert crash.module_hash.hex() == digest[:16]
    assert "half\\x1b[31m way" in outcome.log
    assert "\x1b" not in outcome.log


def test_signal_record_names_the_python_line(harness, module):
    outcome = harness.run(make_chain(module("import os\ndef run(b, p):\n    os.abort()\n")))
    assert (outcome.crash.signal, outcome.crash.exception, outcome.crash.line) == (6, "SIGABRT", 3)


def test_all_images_may_be_dropped_and_the_chain_ends_early(harness, module):
    drop = "def run(batch, params):\n    for i in batch: batch.drop(i, 'dark')\n"
    chain = make_chain(module(drop, "drop"), module("def run(b, p): 1 / 0", "never"))
    outcome = harness.run(chain)
    assert isinstance(outcome, Completed)
    assert outcome.images == ()
    assert len(outcome.stages) == 1


def test_a_chain_without_modules_passes_the_batch_on(harness):
    assert harness.run_images(make_chain())[0][1] == sample_image()[1]
    assert harness.executor.count_hosts() == 0


def test_large_image_goes_through_two_stages(harness, module):
    meta, _ = sample_image()
    big = np.arange(2464 * 2056, dtype="<u2").reshape(2056, 2464) % 4096
    meta = meta.replace(width=2464, height=2056)
    chain = make_chain(module(INVERT), module(IDENTITY, "second"))
    ((_, pixels),) = harness.run_images(chain, [(meta, big.tobytes())])
    assert np.array_equal(np.frombuffer(pixels, "<u2").reshape(big.shape), 4095 - big)


def test_file_is_loaded_from_what_was_hashed_and_kept_while_running(harness, module):
    path = module(IDENTITY)
    chain = make_chain(path)
    harness.run_images(chain)
    # In-place overwrite with nonsense: the loaded version goes on (fault 52).
    path.write_text("def run(:")
    harness.run_images(chain)
    bad = replace(chain.steps[0], sha256="00" * 32)
    outcome = harness.run(replace(chain, generation=2, steps=(bad,)))
    assert (outcome.code, outcome.module_index) == (501, 1)


@pytest.mark.parametrize("kind", ["directory", "fifo", "dangling link"])
def test_what_is_no_plain_file_is_501(harness, tmp_path, kind):
    path = tmp_path / "thing.py"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "nothing")
    assert harness.run(make_chain(path)).code == Code.MODULE_NOT_FOUND


def test_module_that_hangs_while_it_is_loaded_is_604(harness, module):
    chain = make_chain(module(IDENTITY), module("while True: pass\n", "hang"))
    outcome = harness.run(chain)
    assert (outcome.code, outcome.module_index) == (Code.LOAD_CRASHED, 2)


def test_failure_makes_the_next_batch_load_again(harness, module):
    path = module("def run(b, p): 1 / 0")
    chain = make_chain(path)
    assert harness.run(chain).code == 601
    path.write_text(IDENTITY)
    harness.run_images(chain)


# -- native modules


@pytest.mark.parametrize("case", ["", "invert", "new-segment"])
def test_native_module_gets_and_gives_a_system_v_segment(harness, native, case):
    chain = with_params(make_chain(native), ("case", case))
    images = [sample_image(obid=3)]
    ((meta, pixels),) = harness.run_images(chain, images)
    expected = images[0][1]
    if case == "invert":
        expected = bytes(byte ^ 0xFF for byte in expected)
    assert (meta.obid, pixels) == (3, expected)


@pytest.mark.parametrize(
    ("case", "number", "code"), [("code", 8, 708), ("code", 0, 700), ("code", 503, 503),
                                 ("half-a-code", 0, 601)]
)  # fmt: skip
def test_native_error_pipe(harness, native, case, number, code):
    chain = with_params(make_chain(native), ("case", case), ("number", number))
    assert harness.run(chain).code == code


def test_native_and_python_modules_mix(harness, native, module):
    chain = make_chain(module(INVERT), native, module(IDENTITY, "last"))
    chain = with_params(chain, ("case", "invert"), step=1)
    ((meta, pixels),) = harness.run_images(chain)
    assert meta.item("inverted") is True
    assert np.frombuffer(pixels, "<u2")[0] == 4095 ^ 0xFFFF


# -- isolation between stages


def test_one_module_cannot_disturb_the_next(harness, module):
    first = """
import os, signal
def run(batch, params):
    os.chdir('/'); os.umask(0); os.environ['LEAK'] = '1'
    signal.pthread_sigmask(signal.SIG_BLOCK, {10})
"""
    second = """
import os, signal
def run(batch, params):
    image = batch.images[0]
    image.add_item('cwd', os.path.basename(os.getcwd()))
    image.add_item('umask', os.umask(0o22))
    image.add_item('leak', 'LEAK' in os.environ)
    image.add_item('mask', len(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    image.add_item('fds', sum(is_open(fd) for fd in range(256)))
def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
"""
    ((meta, _),) = harness.run_images(make_chain(module(first, "a"), module(second, "b")))
    assert str(meta.item("cwd")).startswith("stage-")
    assert meta.item("umask") != 0
    assert meta.item("leak") is False
    assert meta.item("mask") == 0
    # Standard ones, the result socket, the one that brings segments, the input.
    assert meta.item("fds") == 6


def test_scratch_directory_is_private_and_removed(harness, module):
    source = """
import os, tempfile
def run(batch, params):
    with open('left', 'w') as f: f.write('x')
    os.makedirs('deep/er')
    batch.images[0].add_item('dir', os.getcwd())
    batch.images[0].add_item('tmp', tempfile.gettempdir())
"""
    ((meta, _),) = harness.run_images(make_chain(module(source)))
    assert meta.item("dir") == meta.item("tmp")
    assert not Path(str(meta.item("dir"))).exists()


# -- hosts


def test_host_is_reused_until_the_configuration_changes(harness, module):
    chain = make_chain(module(IDENTITY))
    started = harness.executor.stats.hosts_started
    harness.run_images(chain)
    harness.run_images(chain)
    assert harness.executor.stats.hosts_started == started + 1
    harness.run_images(replace(chain, generation=2))
    assert harness.executor.stats.hosts_started == started + 2


def test_a_host_that_was_warmed_keeps_its_children_until_the_first_batch(harness, module):
    chain, stats = make_chain(module(IDENTITY)), harness.executor.stats
    started, lost = stats.hosts_started, stats.hosts_lost
    harness.executor.warm(chain)
    harness.prepare()
    assert harness.executor.standby_children == 1
    assert len(harness.run_images(chain)) == 1
    assert (stats.hosts_started, stats.hosts_lost) == (started + 1, lost)


def test_warm_loads_ahead(harness, module):
    chain = make_chain(module(IDENTITY))
    started = harness.executor.stats.hosts_started
    harness.executor.warm(chain)
    assert harness.executor.count_hosts(1) == 1
    harness.executor.warm(chain)
    harness.run_images(chain)
    assert harness.executor.stats.hosts_started == started + 1


def test_least_recently_used_host_makes_room(harness, module):
    path = module(IDENTITY)
    for pipeline_id in (1, 2, 1, 3):
        harness.run_images(make_chain(path, pipeline_id=pipeline_id))
    assert [harness.executor.count_hosts(n) for n in (1, 2, 3)] == [1, 0, 1]


def test_running_batch_ends_on_the_old_version(harness, module):
    source = "import time\ndef run(b, p):\n    time.sleep(0.2)\n    b.images[0].add_item('v', {})\n"
    path = module(source.format(1))
    chain = make_chain(path)
    data = encode_batch([sample_image()])
    with segment(data) as fd:
        first = harness.executor.submit(harness.job(chain, fd, data, 1))
        while not any(position for _, position in harness.executor.current):
            harness.loop.tick(0.05)
        path.write_text(source.format(2))
        harness.executor.retire(1)
        second = harness.executor.submit(harness.job(replace(chain, generation=2), fd, data, 1))
        outcomes = [harness.loop.run_until(promise, 10) for promise in (first, second)]
    assert [outcome.images[0][0].item("v") for outcome in outcomes] == [1, 2]
    for outcome in outcomes:
        outcome.close()


def test_batches_are_answered_in_order(harness, module):
    chain = make_chain(module(IDENTITY))
    data = encode_batch([sample_image()])
    done = []
    with segment(data) as fd:
        for number in range(5):
            promise = harness.executor.submit(harness.job(chain, fd, data, 1))
            promise.on_done(lambda number=number: done.append(number))
        harness.loop.run_until(promise, 10)
    assert done == [0, 1, 2, 3, 4]


def test_as_many_batches_at_a_time_as_there_are_workers(scratch, module):
    chain = make_chain(module(SLEEP, "sleeper"), timeout_s=30)
    data = encode_batch([sample_image()])
    with Harness(Limits(workers=2, grace_s=0.5), str(scratch)) as harness:
        with segment(data) as fd:
            promises = [harness.executor.submit(harness.job(chain, fd, data, 1)) for _ in range(3)]
        while sum(position > 0 for _, position in harness.executor.current) < 2:
            harness.loop.tick(0.05)
        assert harness.executor.hosts_alive == 2
        harness.executor.workers = 3
        assert harness.executor.stop_current() == 2
        outcomes = [harness.loop.run_until(promise, 10) for promise in promises[:2]]
        assert [outcome.code for outcome in outcomes] == [Code.OPERATOR_STOP] * 2
        # The third one was not stopped: it waited, and runs now.
        while not any(position for _, position in harness.executor.current):
            harness.loop.tick(0.05)
        assert not promises[2].done


def test_children_stand_by_for_the_next_batch_and_are_used_once(harness, module):
    source = "import os\ndef run(batch, params): batch.images[0].add_item('pid', os.getpid())"
    chain = make_chain(module(source))
    pids = set()
    for _ in range(4):
        ((meta, _),) = harness.run_images(chain)
        pids.add(meta.item("pid"))
        harness.prepare()
        assert harness.executor.standby_children == 1
    assert len(pids) == 4


def state_of(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_child_that_dies_while_it_stands_by_is_replaced_and_the_batch_runs(harness, module):
    chain = make_chain(module(IDENTITY))
    harness.run_images(chain)
    harness.prepare()
    (host,) = [pid for pid in all_pids() if parent_of(pid) == harness.forge_pid]
    _nursery, child = sorted(pid for pid in all_pids() if parent_of(pid) == host)
    os.kill(child, signal.SIGKILL)
    # Seen dead; killed a moment later it would be a module killed from outside, which is fault 13.
    while os.path.exists(f"/proc/{child}") and state_of(child) != "Z":
        harness.loop.tick(0.01)
    assert len(harness.run_images(chain)) == 1
    # Another one takes its place, after a pause.
    while harness.executor.standby_children != 1:
        harness.loop.tick(0.05)


@pytest.mark.parametrize("body", ["1 / 0", "import os; os._exit(3)", "import os; os.abort()"])
def test_a_rehearsal_that_fails_costs_speed_and_no_batch(harness, module, body):
    source = f"def run(batch, params): pass\ndef rehearse(params): {body}\n"
    chain = make_chain(module(source), timeout_s=1)
    for _ in range(5):
        assert len(harness.run_images(chain)) == 1
        harness.prepare()


def test_an_alert_changes_no_result(harness, module):
    chain = make_chain(module(IDENTITY), module(INVERT, "invert"))
    expected = harness.run_images(chain)
    for _ in range(3):
        harness.prepare()
        harness.executor.alert(chain.pipeline_id)
        assert harness.run_images(chain) == expected


def test_an_alert_without_a_batch_costs_nothing_but_time(harness, module):
    chain = make_chain(module(IDENTITY))
    expected = harness.run_images(chain)
    harness.prepare()
    for _ in range(20):
        harness.executor.alert(chain.pipeline_id)
    # Nobody is loaded for this one.
    harness.executor.alert(7)
    assert harness.run_images(chain) == expected
    harness.prepare()
    assert harness.executor.standby_children == 1


def test_a_module_may_use_every_processor_though_its_child_stood_by_on_one(harness, module):
    chain = make_chain(
        module(
            "import os\n"
            "def run(batch, params):\n"
            "    batch.images[0].add_item('cpus', len(os.sched_getaffinity(0)))\n"
        )
    )
    for _ in range(2):
        harness.prepare()
        ((metadata, _),) = harness.run_images(chain)
        assert metadata.item("cpus") == len(os.sched_getaffinity(0))
