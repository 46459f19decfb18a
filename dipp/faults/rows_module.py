"""Rows of groups A to E that need more than one hostile module: races, others, files. Driver.

The modules that misbehave by themselves are data in `dipp.hostile`.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from csp.faultrow import Case, FaultRow, require
from dipp.batch import encode_batch
from dipp.errors import Code, ContentError
from dipp.faults.daemon import children_of
from dipp.modulefiles import ModuleLibrary
from dipp.runner.executor import Completed, Failed, Outcome
from dipp.testing import IDENTITY, SLEEP, Harness, make_chain, sample_image, segment

_RACES = 12
_RACE_TIMEOUT_S = 0.3
_MANY_RUNS = 1000
_DESCRIPTORS_LEFT = 50

_DISTURBS = """\
import locale, os, signal, sys
def run(batch, params):
    os.chdir('/'); os.umask(0); os.environ['LEAK'] = '1'; sys.path.insert(0, '/leak')
    locale.setlocale(locale.LC_ALL, 'C'); signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {10, 15}); os.dup2(1, 100)
"""
_LOOKS = """\
import locale, os, signal, sys
def run(batch, params):
    image = batch.images[0]
    image.add_item('mask', len(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    image.add_item('umask', os.umask(0o22))
    image.add_item('leak', 'LEAK' in os.environ or '/leak' in sys.path)
    image.add_item('cwd', os.path.basename(os.getcwd())[:6])
    image.add_item('locale', locale.setlocale(locale.LC_ALL))
    image.add_item('usr1', str(signal.getsignal(signal.SIGUSR1)))
    image.add_item('fds', sum(is_open(fd) for fd in range(256)))
def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
"""
_SIGNS = ("mask", "umask", "leak", "cwd", "locale", "usr1", "fds")


def _write(case: Case, name: str, source: str) -> Path:
    path = case.directory / f"{name}.py"
    path.write_text(source)
    return path


def _spoil(outcome: Outcome) -> int:
    """Close an outcome and return its code, 0 if it passed."""
    outcome.close()
    return int(outcome.code) if isinstance(outcome, Failed) else 0


def _leaves(pid: int) -> list[int]:
    """Return the processes below one that have no children themselves."""
    below = children_of(pid)
    return [leaf for child in below for leaf in (_leaves(child) or [child])]


def _killed_from_outside(case: Case) -> str:
    path, good = _write(case, "sleeps", SLEEP), _write(case, "good", IDENTITY)
    kills = []
    with Harness() as harness:
        for signal_ in (signal.SIGKILL, signal.SIGSEGV):
            data = encode_batch([sample_image()])
            with segment(data) as fd:
                promise = harness.executor.submit(harness.job(make_chain(path), fd, data, 1))
                end = time.monotonic() + 10
                while not any(position for _, position in harness.executor.current):
                    harness.loop.tick(0.02)
                    require(time.monotonic() < end, "the module never ran")
                victim = _busy_module(harness)
                os.kill(victim, signal_)
                outcome = harness.loop.run_until(promise, 20)
            require(isinstance(outcome, Failed), "the batch passed")
            name = outcome.crash.exception if isinstance(outcome, Failed) else ""
            require(signal_.name in name, f"{signal_.name} to {victim}: {name!r} in the record")
            require(_spoil(outcome) == Code.SIGNAL, "not code 600")
            kills.append(signal_.name)
        harness.run_images(make_chain(good, pipeline_id=2))
    return f"{' and '.join(kills)} from another process: 600 with the signal's name"


def _busy_module(harness: Harness) -> int:
    """Return the process that sleeps in the module, not one that waits for work."""
    for _ in range(200):
        for pid in _leaves(harness.forge_pid):
            if "nanosleep" in _where(pid):
                return pid
        harness.loop.tick(0.02)
    return _leaves(harness.forge_pid)[-1]


def _where(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return ""


def _done_at_the_deadline(case: Case) -> str:
    passed = late = 0
    with Harness() as harness:
        for turn in range(_RACES):
            nap_s = _RACE_TIMEOUT_S + case.random.uniform(-0.04, 0.004)
            source = f"import time\ndef run(batch, params):\n    time.sleep({nap_s})\n"
            chain = make_chain(
                _write(case, f"race{turn}", source), timeout_s=_RACE_TIMEOUT_S, generation=turn + 1
            )
            before = harness.executor.stats.completed + harness.executor.stats.failed
            code = _spoil(harness.run(chain))
            after = harness.executor.stats.completed + harness.executor.stats.failed
            require(code in (0, Code.TIMEOUT), f"{nap_s:.3f} s of {_RACE_TIMEOUT_S} s: code {code}")
            require(after == before + 1, f"{after - before} verdicts of one batch")
            passed, late = passed + (code == 0), late + (code != 0)
    return f"{passed} passed, {late} timed out, one verdict each"


def _descriptors(case: Case) -> str:
    source = f"import os\ndef run(b, p): [os.dup(0) for _ in range({_DESCRIPTORS_LEFT})]\n"
    chain = make_chain(_write(case, "leaks", source))
    with Harness() as harness:
        for _ in range(3):
            harness.run_images(chain)
        # With a child that stands by, as afterwards.
        harness.prepare()
        family = [os.getpid(), harness.forge_pid, *children_of(harness.forge_pid)]
        before = [_count_fds(pid) for pid in family]
        for _ in range(_MANY_RUNS):
            harness.run_images(chain)
        harness.prepare()
        # A host closes its last ones just after it has answered.
        for _ in range(100):
            after = [_count_fds(pid) for pid in family]
            if all(late <= early for late, early in zip(after, before, strict=True)):
                break
            harness.loop.tick(0.02)
    require(
        all(late <= early for late, early in zip(after, before, strict=True)),
        f"descriptors of node, forge, host before {before}, after {after}",
    )
    return f"{_MANY_RUNS} runs that leave {_DESCRIPTORS_LEFT} each: {before} before, {after} after"


def _count_fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _disturbs_the_next(case: Case) -> str:
    disturbs, looks = _write(case, "disturbs", _DISTURBS), _write(case, "looks", _LOOKS)
    with Harness() as harness:
        ((alone, _),) = harness.run_images(make_chain(looks))
        ((behind, _),) = harness.run_images(make_chain(disturbs, looks, generation=2))
    for sign in _SIGNS:
        require(
            alone.item(sign) == behind.item(sign),
            f"{sign} is {behind.item(sign)!r} instead of {alone.item(sign)!r}",
        )
    return f"{', '.join(_SIGNS)} as without it"


def _hash_mismatch(case: Case) -> str:
    path = _write(case, "module", IDENTITY)
    chain = make_chain(path)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    flipped = f"{int(right[0], 16) ^ 1:x}{right[1:]}"
    with Harness() as harness:
        for generation, (sha, codes) in enumerate(
            ((right, (0,)), (flipped, (501,)), ("00" * 32, (501,)), (right, (0,))), 1
        ):
            step = replace(chain.steps[0], sha256=sha)
            code = _spoil(harness.run(replace(chain, generation=generation, steps=(step,))))
            require(code in codes, f"hash {sha[:8]}: code {code}, expected {codes}")
    return "two wrong hashes 501, the right one passes before and after"


def _replaced_while_running(case: Case) -> str:
    source = "import time\ndef run(b, p):\n    time.sleep(0.2)\n    b.images[0].add_item('v', {})\n"
    path = _write(case, "module", source.format(1))
    chain, data = make_chain(path), encode_batch([sample_image()])
    with Harness() as harness, segment(data) as fd:
        first = harness.executor.submit(harness.job(chain, fd, data, 1))
        end = time.monotonic() + 10
        while not any(position for _, position in harness.executor.current):
            harness.loop.tick(0.02)
            require(time.monotonic() < end, "the module never ran")
        # In place, which is worse than the rename of an upload.
        path.write_text("def run(:")
        path.write_text(source.format(2))
        harness.executor.retire(1)
        second = harness.executor.submit(harness.job(replace(chain, generation=2), fd, data, 1))
        versions = []
        for promise in (first, second):
            outcome = harness.loop.run_until(promise, 20)
            require(isinstance(outcome, Completed), f"failed with {_code(outcome)}")
            if isinstance(outcome, Completed):
                versions.append(outcome.images[0][0].item("v"))
            outcome.close()
    require(versions == [1, 2], f"versions {versions}")
    return "the running batch ended on version 1, the next ran on 2"


def _code(outcome: Outcome) -> int:
    return int(outcome.code) if isinstance(outcome, Failed) else 0


def _make_unreadable(path: Path) -> None:
    path.write_text(IDENTITY)
    path.chmod(0)


def _no_plain_file(case: Case) -> str:
    outside = case.directory / "outside"
    outside.mkdir()
    (outside / "secret.py").write_text(IDENTITY)
    kinds: tuple[tuple[str, Callable[[Path], object]], ...] = (
        ("directory", lambda path: path.mkdir()),
        ("pipe", lambda path: os.mkfifo(path)),
        ("dangling link", lambda path: path.symlink_to(case.directory / "nothing")),
        ("unreadable", _make_unreadable),
        ("link out", lambda path: path.symlink_to(outside / "secret.py")),
    )
    seen = []
    good = _write(case, "good", IDENTITY)
    library = ModuleLibrary([case.directory])
    with Harness() as harness:
        for generation, (kind, make) in enumerate(kinds, 1):
            path = case.directory / f"thing{generation}.py"
            make(path)
            if kind == "unreadable" and os.geteuid() == 0:
                continue
            # Looked at before a host is asked, which is all that a link needs.
            require(_found(library, path.stem) == 501, f"{kind}: found as a module")
            if kind != "link out":
                code = _spoil(harness.run(make_chain(path, generation=generation)))
                require(code == Code.MODULE_NOT_FOUND, f"{kind}: code {code}, expected 501")
            seen.append(kind)
        for name in ("outside/secret", "../outside/secret", "good.py", "", "x" * 65):
            require(_found(library, name) == 501, f"{name!r} leads out of its directory")
        harness.run_images(make_chain(good, pipeline_id=2))
    return f"{', '.join(seen)}, names with / and ..: 501"


def _found(library: ModuleLibrary, name: str) -> int:
    try:
        library.find(name)
    except ContentError as error:
        return error.code
    return 0


ROWS: tuple[FaultRow, ...] = (
    FaultRow(
        id=13, name="killed-by-another-process", inject=_killed_from_outside,
        injected="SIGKILL and SIGSEGV from outside to the process that runs the module",
        expected="600 with the signal in the record, the next batch passes",
    ),
    FaultRow(
        id=22, name="done-around-the-deadline", inject=_done_at_the_deadline,
        injected=f"{_RACES} modules that end within 40 ms of their deadline, at random",
        expected="exactly one verdict, passed or 602",
    ),
    FaultRow(
        id=35, name="descriptors-left-open", inject=_descriptors,
        injected=f"{_MANY_RUNS} runs that leave {_DESCRIPTORS_LEFT} descriptors open each",
        expected="node, forge and host hold as many as before",
    ),
    FaultRow(
        id=36, name="disturbs-the-next-module", inject=_disturbs_the_next,
        injected="changes directory, umask, environment, locale, handlers, masks, descriptors",
        expected="the next module sees what it would see without that",
    ),
    FaultRow(
        id=51, name="hash-mismatch", inject=_hash_mismatch,
        injected="a configuration with a hash that differs in one bit, or wholly",
        expected="501 before any of its code runs",
    ),
    FaultRow(
        id=52, name="replaced-while-running", inject=_replaced_while_running,
        injected="overwrites the file of a module in place while it runs",
        expected="the running batch keeps its version, the next has the new one",
    ),
    FaultRow(
        id=53, name="no-plain-file", inject=_no_plain_file,
        injected="a directory, a pipe, links, an unreadable file as the module; names out of it",
        expected="501, the next batch passes",
    ),
)  # fmt: skip
