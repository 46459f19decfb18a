"""The injector of failing system calls strikes what it says, where it says, and nothing else."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from dipp.faults.sabotage import (
    BROKEN,
    CHANGES,
    KILL,
    NUMBERS,
    REFUSED,
    Strike,
    Switch,
    every_call,
    run_sabotaged,
)


def write_and_rename(path):
    with (path / "new").open("wb") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
    (path / "new").rename(path / "file")


def test_each_call_is_struck_once_and_the_last_run_is_not(tmp_path):
    endings = list(every_call(lambda: lambda: write_and_rename(tmp_path), CHANGES, KILL))
    assert [ending.struck.name for ending in endings[:-1]] == ["openat", "write", "fsync", "rename"]
    assert all(ending.was_killed for ending in endings[:-1])
    assert (endings[-1].struck, endings[-1].status, endings[-1].calls) == (None, 0, 4)
    assert (tmp_path / "file").read_bytes() == b"x"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_refused_call_fails_with_that_error_and_does_not_happen(code, tmp_path):
    def operation():
        try:
            write_and_rename(tmp_path)
        except OSError as error:
            os._exit(error.errno)

    ending = run_sabotaged(operation, ["rename"], Strike(1, code))
    assert ending.status == code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]


def test_errors_with_a_name_and_others_end_differently():
    def refused():
        raise OSError(5, "x")

    def broken():
        raise ZeroDivisionError

    assert run_sabotaged(refused, CHANGES, lambda call: 0).status == REFUSED
    assert run_sabotaged(broken, CHANGES, lambda call: 0).status == BROKEN


def test_programs_that_are_started_are_watched_too(tmp_path):
    path = tmp_path / "file"

    def operation():
        command = [sys.executable, "-S", "-c", f"open({str(path)!r}, 'w').write('x')"]
        os._exit(subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode)

    def no_writing(call):
        return errno.EROFS if call.name == "openat" and call.args[2] & os.O_CREAT else 0

    assert run_sabotaged(operation, ["openat"], no_writing).status == 1
    assert not path.exists()


def test_only_what_happens_while_the_switch_is_on_counts(tmp_path):
    switch = Switch()

    def operation():
        (tmp_path / "before").touch()
        switch.set(True)
        pid = os.fork()
        if pid == 0:
            (tmp_path / "child").touch()
            os._exit(0)
        (tmp_path / "own").touch()
        status = os.waitpid(pid, 0)[1]
        switch.set(False)
        (tmp_path / "after").touch()
        os._exit(-os.waitstatus_to_exitcode(status))

    rule = Strike(1, KILL, when=switch, spares_owner=True)
    ending = run_sabotaged(operation, ["openat"], rule)
    assert (rule.seen, ending.calls, ending.status) == (1, 4, signal.SIGKILL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after", "before", "own"]


def test_numbers_are_those_of_different_calls():
    for column in (0, 1):
        numbers = [row[column] for row in NUMBERS.values() if row[column] is not None]
        assert len(set(numbers)) == len(numbers)


def test_a_fork_whose_parent_dies_never_goes_on_in_its_parents_code(tmp_path):
    mark = tmp_path / "escaped"
    script = f"""
import os, signal
from pathlib import Path
from dipp.faults.smalldisk import in_fork

def orphan():
    os.kill(os.getppid(), signal.SIGKILL)
    while os.getppid() == parent:
        os.sched_yield()
    return "nobody reads this"

parent = os.getpid()
try:
    in_fork(orphan)
finally:
    Path({str(mark)!r}).touch()
"""
    # Its output ends when the orphan has ended too.
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not mark.exists()
