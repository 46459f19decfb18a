"""Killing and burying: only own children, never a number that means more than one process."""

from __future__ import annotations

import os
import signal

import pytest

from dipp.runner import wait
from dipp.sandbox.namespaces import PidNamespaces, probe_namespaces


@pytest.fixture
def signals(monkeypatch):
    """Record what would be signalled instead of doing it."""
    sent = []
    monkeypatch.setattr(os, "killpg", lambda group, number: sent.append(("group", group)))
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda fd, number: sent.append(("fd", fd)))
    return sent


@pytest.fixture
def child():
    """A child that waits for the end of a pipe; gone afterwards."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write_fd)
        os.read(read_fd, 1)
        os._exit(3)
    os.close(read_fd)
    pidfd = os.pidfd_open(pid)
    yield pid, pidfd
    os.close(write_fd)
    os.waitpid(pid, 0)
    os.close(pidfd)


@pytest.mark.parametrize("number", [-1, 0, 1])
def test_numbers_that_mean_many_are_never_signalled(signals, child, number):
    wait.kill_group(number, child[1])
    assert signals == []


def test_only_own_children_are_signalled(signals, child):
    pid, pidfd = child
    stranger = os.pidfd_open(os.getpid())
    try:
        wait.kill_group(os.getpid(), stranger)
        # Descriptor and number of different processes.
        wait.kill_group(pid, stranger)
        wait.kill_group(os.getpid(), pidfd)
    finally:
        os.close(stranger)
    assert signals == []
    wait.kill_group(pid, pidfd)
    assert signals == [("fd", pidfd), ("group", pid)]


def test_children_are_listed_by_the_numbers_this_process_uses(child):
    assert child[0] in set(wait.child_pids())


def test_process_1_of_a_namespace_is_listed_by_its_outer_number(signals):
    if not probe_namespaces():
        pytest.skip("PID namespaces are not allowed here")
    read_fd, write_fd = os.pipe()
    pid, is_separate = PidNamespaces().fork()
    if pid == 0:
        os.close(write_fd)
        os.read(read_fd, 1)
        os._exit(0)
    os.close(read_fd)
    try:
        assert is_separate
        assert pid in set(wait.child_pids())
        assert 1 not in set(wait.child_pids())
        # The parent's own next child is an ordinary one.
        plain = os.fork()
        if plain == 0:
            os._exit(0 if os.getppid() > 0 and os.getpid() > 1 else 1)
        assert os.waitpid(plain, 0)[1] == 0
    finally:
        os.close(write_fd)
        os.waitpid(pid, 0)
    assert signals == []


def test_within_a_namespace_children_have_inner_numbers():
    if not probe_namespaces():
        pytest.skip("PID namespaces are not allowed here")
    pid, _ = PidNamespaces().fork()
    if pid == 0:
        inner = os.fork()
        if inner == 0:
            signal.pause()
        os._exit(0 if list(wait.child_pids()) == [inner] else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_orphans_are_swept_and_known_children_spared(child):
    sibling = os.fork()
    if sibling == 0:
        signal.pause()
    assert wait.sweep_orphans({child[0], *set(wait.child_pids()) - {sibling}}) == {sibling}
    assert child[0] in set(wait.child_pids())


def test_burial_reports_the_status(child):
    other = os.fork()
    if other == 0:
        os._exit(7)
    other_fd = os.pidfd_open(other)
    burial = wait.bury(other, other_fd)
    os.close(other_fd)
    assert burial is not None
    assert (burial.status, burial.signal) == (7, 0)
    assert not wait.wait_readable(child[1], 0)
