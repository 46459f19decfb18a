"""The nursery: whose children it forks, what they put on, and that nobody misses one that died."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import struct
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipp.batch import encode_batch
from dipp.errors import Code
from dipp.runner.birth import Birth
from dipp.runner.executor import Completed, Limits
from dipp.runner.forking import OwnNumber, fork_beside, fork_single
from dipp.runner.wait import all_pids
from dipp.sandbox.namespaces import probe_namespaces
from dipp.testing import (
    IDENTITY,
    Harness,
    make_chain,
    no_leaks,
    parent_of,
    sample_image,
    segment,
)

BYTES = st.integers(0, (1 << 64) - 1)
NUMBER = st.integers(0, 255)
# A piece of a byte string cannot tell the end of the text that is last in it.
HEAD_BYTES = len(Birth(0, 0, 0, 0, 0, 0, 0, None, "").encode())
BIRTHS = st.builds(
    Birth,
    NUMBER,
    NUMBER,
    NUMBER,
    BYTES,
    BYTES,
    BYTES,
    BYTES,
    st.none() | st.integers(0, (1 << 63) - 1),
    st.text(),
)


@given(BIRTHS)
def test_a_birth_survives_the_wire(birth):
    assert Birth.decode(birth.encode()) == birth


@given(BIRTHS, st.integers(0, HEAD_BYTES - 1))
def test_half_a_birth_is_an_error(birth, end):
    with pytest.raises(struct.error):
        Birth.decode(birth.encode()[:end])


def test_every_truncation_of_the_head_is_an_error():
    data = Birth(1, 0, 1, 2, 3, 4, 5, 6, "/scratch").encode()
    for end in range(HEAD_BYTES):
        with pytest.raises(struct.error):
            Birth.decode(data[:end])
    assert Birth.decode(data[:HEAD_BYTES]).directory == ""


@pytest.mark.parametrize("row", [(256,) + (0,) * 6, (0,) * 6 + (1 << 64,), (-1,) + (0,) * 6])
def test_what_no_birth_can_say(row):
    with pytest.raises(struct.error):
        Birth(*row, None, "").encode()


# -- forks


def test_a_child_forked_beside_is_the_parents_and_knows_its_own_number():
    """Forked by a child of ours, watched and reaped by us, as a host does."""
    read_fd, write_fd = os.pipe()
    number = OwnNumber()
    middle = fork_single()
    if middle == 0:
        with contextlib.suppress(BaseException):
            number.find_again()
            pid = fork_beside(number.address)
            if pid == 0:
                text = f"{os.getpid()} {os.getppid()} {_library_number(number.address)}"
                os.write(write_fd, text.encode())
        os._exit(0)
    os.waitpid(middle, 0)
    os.close(write_fd)
    with open(read_fd, "rb") as file:
        pid, parent, known = map(int, file.read().split())
    assert parent == os.getpid()
    assert known == pid != middle
    assert os.waitpid(pid, 0) == (pid, 0)


def _library_number(address):
    return ctypes.c_int.from_address(address).value if address else None


# -- the process tree


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "namespaces"])
def namespaces(request):
    if request.param and not probe_namespaces():
        pytest.skip("PID namespaces are not allowed here")
    return request.param


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


LIMITS = Limits(grace_s=0.5, workers=1, open_files=61, file_mb=3, module_memory_mb=96, arena_mb=32)


@pytest.fixture(scope="module")
def harness(scratch, namespaces):
    with Harness(LIMITS, str(scratch), namespaces=namespaces) as running:
        yield running


@pytest.fixture(autouse=True)
def _clean(request):
    if "harness" not in request.fixturenames:
        yield
        return
    harness = request.getfixturevalue("harness")
    (root,) = request.getfixturevalue("scratch").iterdir()
    with no_leaks(root):
        yield
        harness.settle()


def family_of(harness):
    """Return host, nurseries and children of the only host; zombies too."""
    (host,) = [pid for pid in all_pids() if parent_of(pid) == harness.forge_pid]
    below = [pid for pid in all_pids() if parent_of(pid) == host]
    # Children lead sessions of their own, a nursery stays in that of its host.
    nurseries = [pid for pid in below if session_of(pid) != pid]
    return host, nurseries, [pid for pid in below if pid not in nurseries]


def session_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[3])


def kill_and_see_dead(harness, pid):
    os.kill(pid, signal.SIGKILL)
    while os.path.exists(f"/proc/{pid}") and "Z" not in _state(pid):
        harness.loop.tick(0.01)


def _state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


WHO = """
import os
def run(batch, params):
    batch.images[0].add_item(__name__ + str(os.getpid()), os.getppid())
"""


def test_children_are_the_hosts_own(harness, module, namespaces):
    chain = make_chain(module(WHO, "a"), module(WHO, "b"))
    for _ in range(2):
        ((metadata, _),) = harness.run_images(chain)
        harness.prepare()
        host, nurseries, children = family_of(harness)
        assert (len(nurseries), len(children)) == (1, 2)
        assert not [pid for pid in all_pids() if parent_of(pid) in nurseries]
        parents = [value for _, value in metadata.items]
        assert parents == [1 if namespaces else host] * 2


def test_a_nursery_that_dies_between_batches_is_replaced(harness, module):
    chain = make_chain(module(IDENTITY), module(IDENTITY, "second"))
    expected = harness.run_images(chain)
    started = harness.executor.stats.hosts_started
    for _ in range(3):
        harness.prepare()
        _, (nursery,), _ = family_of(harness)
        kill_and_see_dead(harness, nursery)
        assert harness.run_images(chain) == expected
        harness.prepare()
        _, (another,), children = family_of(harness)
        assert another != nursery
        assert len(children) == 2
    assert harness.executor.stats.hosts_started == started
    assert harness.executor.stats.orphans == 0


WAIT = """
import os, time
def run(batch, params):
    while not os.path.exists(os.path.join(os.path.dirname(__file__), 'go')):
        time.sleep(0.002)
"""


def test_a_nursery_that_dies_while_a_batch_runs_costs_nothing(harness, module, tmp_path):
    chain = make_chain(
        module(WAIT, "wait"), *(module(IDENTITY, name) for name in "xyz"), timeout_s=20
    )
    data = encode_batch([sample_image()])
    with segment(data) as fd:
        # The first one on a new host: nobody stands by for the last stages yet.
        promise = harness.executor.submit(harness.job(chain, fd, data, 1))
        while (1, 1) not in harness.executor.current or len(family_of(harness)[2]) < 2:
            harness.loop.tick(0.01)
        _, (nursery,), children = family_of(harness)
        kill_and_see_dead(harness, nursery)
        (tmp_path / "go").touch()
        outcome = harness.loop.run_until(promise, 20)
        assert isinstance(outcome, Completed), outcome
        assert bytes(outcome.images[0][1]) == sample_image()[1]
        assert [stage.orphans for stage in outcome.stages] == [0] * 4
        outcome.close()
    harness.prepare()
    _, (another,), _ = family_of(harness)
    assert another != nursery
    assert children


@pytest.mark.parametrize("kill", [False, True], ids=["retired", "killed"])
def test_nobody_is_left_of_a_host(harness, module, kill):
    chain = make_chain(module(IDENTITY), module(IDENTITY, "second"))
    harness.run_images(chain)
    harness.prepare()
    host, nurseries, children = family_of(harness)
    if kill:
        os.kill(host, signal.SIGKILL)
        while harness.executor.count_hosts():
            harness.loop.tick(0.01)
    else:
        harness.settle()
    assert not {host, *nurseries, *children} & set(all_pids())
    assert not [pid for pid in all_pids() if parent_of(pid) == harness.forge_pid]


FROM_ANOTHER = """\
main = threading.main_thread().ident
thread = threading.Thread(target=lambda: signal.pthread_kill(main, 12))
thread.start()
thread.join()
while True:
    pass
"""
ENDS = [
    ("raises", "LIBC.raise_(10)", signal.SIGUSR1),
    ("kills-its-thread", "LIBC.pthread_kill(LIBC.pthread_self(), 12)", signal.SIGUSR2),
    ("aborts", "os.abort()", signal.SIGABRT),
    ("aborts-by-the-library", "LIBC.abort()", signal.SIGABRT),
    ("is-killed-from-another-thread", FROM_ANOTHER, signal.SIGUSR2),
]


@pytest.mark.parametrize(("body", "number"), [r[1:] for r in ENDS], ids=[r[0] for r in ENDS])
def test_the_library_knows_which_thread_a_child_is(harness, module, body, number):
    source = (
        "import ctypes, os, signal, threading\nLIBC = ctypes.CDLL(None)\n"
        "LIBC.pthread_self.restype = ctypes.c_void_p\n"
        "LIBC.pthread_kill.argtypes = (ctypes.c_void_p, ctypes.c_int)\n"
        "LIBC.raise_ = LIBC['raise']\n"
        f"def run(batch, params):\n{textwrap.indent(body, '    ')}\n"
    )
    outcome = harness.run(make_chain(module(source)))
    assert (outcome.code, outcome.crash.signal) == (Code.SIGNAL, number), outcome


def test_the_library_knows_the_number_of_the_main_thread(harness, module):
    """Asked from another thread, where nothing but the library's own notes can tell."""
    source = """
import os, threading, time
def run(batch, params):
    main = threading.main_thread().ident
    found = []
    def ask():
        clock = time.pthread_getcpuclockid(main)
        found.append(~(clock >> 3))
        time.clock_gettime(clock)
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    batch.images[0].add_item('known', found == [os.getpid()])
"""
    for _ in range(2):
        ((metadata, _),) = harness.run_images(make_chain(module(source)))
        assert metadata.item("known") is True


CLONE = """
import ctypes, os, signal
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
def clone(flags):
    number = 220 if os.uname().machine == 'aarch64' else 56
    pid = LIBC.syscall(*(ctypes.c_long(word) for word in (number, flags, 0, 0, 0, 0)))
    if pid == 0:
        os._exit(0)
    return pid
def run(batch, params):
    refused = clone(0x8000 | signal.SIGCHLD)
    batch.images[0].add_item('refused', [refused, ctypes.get_errno()] == [-1, 1])
    pid = clone(signal.SIGCHLD)
    batch.images[0].add_item('works', os.waitpid(pid, 0) == (pid, 0))
"""


def test_a_module_gives_its_host_no_children(harness, module):
    before = harness.executor.stats.orphans
    ((metadata, _),) = harness.run_images(make_chain(module(CLONE)))
    assert metadata.items == (("refused", True), ("works", True))
    assert harness.executor.stats.orphans == before


ASK = """
import os, resource
KINDS = ('CPU', 'FSIZE', 'NOFILE', 'CORE', 'AS')
def run(batch, params):
    image = batch.images[0]
    for kind in KINDS:
        soft, hard = resource.getrlimit(getattr(resource, 'RLIMIT_' + kind))
        image.add_item(f'{__name__[-1]}-{kind}', f'{soft} {hard}')
    fds = []
    try:
        while True:
            fds.append(os.dup(0))
    except OSError:
        image.add_item(f'{__name__[-1]}-last', fds[-1])
    try:
        bytearray(512 << 20)
    except MemoryError:
        image.add_item(f'{__name__[-1]}-memory', 'refused')
"""


def test_limits_hold_in_children_and_time_is_each_modules_own(harness, module):
    chain = make_chain(module(ASK, "a"), module(ASK, "b"))
    first, second = chain.steps
    chain = replace(chain, steps=(replace(first, timeout_s=3.5), replace(second, timeout_s=9.0)))
    for _ in range(2):
        ((metadata, _),) = harness.run_images(chain)
        harness.prepare()
        found = dict(metadata.items)
        for name, timeout_s in (("a", 3.5), ("b", 9.0)):
            cpu_s = math.ceil(timeout_s) + 2
            assert found[f"{name}-CPU"] == f"{cpu_s} {cpu_s + 1}"
            assert found[f"{name}-FSIZE"] == f"{3 << 20} {3 << 20}"
            assert found[f"{name}-NOFILE"] == "61 61"
            assert found[f"{name}-CORE"] == "0 0"
            assert found[f"{name}-last"] == 60
            assert found[f"{name}-memory"] == "refused"
            soft, hard = found[f"{name}-AS"].split()
            assert soft == hard != "-1"
