"""What is compared does the same work: modules, baselines, the view on a process tree."""

from __future__ import annotations

import hashlib
import os

import pytest

from bench.forking import ForkOnDemand
from bench.pipeline import BenchError, InProcess, Tree, chain_of, inputs, plain_image
from bench.tree import children, family, memory_of, wait_for_rest
from dipp.errors import Code
from dipp.runner.executor import Failed
from dipp.testing import no_leaks


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def copying():
    with Tree(chain_of("identity_copy", 2)) as tree:
        yield tree


@pytest.mark.parametrize("size", [1_000, 100_000])
def test_identity_gives_back_what_came(copying, size):
    metadata, pixels = plain_image(size)
    with inputs([(metadata, pixels)]) as [batch]:
        outcome = copying.finish(copying.submit(batch))
        [(after, view)] = outcome.images
        assert (after.width, after.height, digest(view)) == (
            metadata.width, metadata.height, digest(pixels)
        )  # fmt: skip
        outcome.close()
        assert InProcess(copying.chain).run(batch) == 1


def test_times_are_those_of_the_last_batch(copying):
    with inputs([plain_image(1_000)]) as [batch]:
        took = copying.wall(batch)
        assert copying.latency_s(batch) > 0
        assert took > 0
    assert [stage.name for stage in copying.last.stages] == ["identity_copy"] * 2


def test_many_batches_are_all_finished(copying):
    before = copying.executor.stats.completed
    with inputs([plain_image(1_000)], 3) as batches:
        assert copying.sustained(batches) > 0
    assert copying.executor.stats.completed == before + 3


def test_edit_and_view_and_crash():
    poison = (plain_image(1_000)[0].replace(camera="poison"), plain_image(1_000)[1])
    for name, changed in (("edit", True), ("identity_view", False)):
        with Tree(chain_of(name)) as tree, inputs([plain_image(1_000)]) as [batch]:
            outcome = tree.finish(tree.submit(batch))
            expected = bytes(255 - b for b in plain_image(1_000)[1]) if changed else None
            assert digest(outcome.images[0][1]) == digest(expected or plain_image(1_000)[1])
            outcome.close()
    with Tree(chain_of("crasher")) as tree, inputs([poison]) as [batch]:
        outcome = tree.wait(tree.submit(batch))
        assert isinstance(outcome, Failed)
        assert outcome.code == Code.SIGNAL
        with pytest.raises(BenchError, match="crasher"):
            tree.finish(tree.submit(batch))


def test_nothing_is_left_behind():
    with no_leaks():
        with Tree(chain_of("identity_view")) as tree, inputs([plain_image(64)]) as [batch]:
            tree.wall(batch)
        with ForkOnDemand(chain_of("identity_copy", 2)) as forking:
            assert forking.latency_s(1_000) > 0


def test_family_of_a_tree_comes_to_rest_and_has_memory(copying):
    copying.await_loaded()
    pids = family(copying.forge_pid)
    assert children(copying.forge_pid)[0] in pids
    assert wait_for_rest(copying.forge_pid, copying.loop.tick, 20.0)
    memory = memory_of(pids)
    assert 0 < memory.anonymous <= memory.pss


def test_memory_files_count_once_whoever_holds_them():
    fd = os.memfd_create("bench-test")
    try:
        before = memory_of([os.getpid()]).files
        os.write(fd, bytes(1 << 20))
        other = os.dup(fd)
        assert memory_of([os.getpid()]).files - before == 1 << 20
        assert memory_of([os.getpid()], exclude=[fd]).files == before
        os.close(other)
    finally:
        os.close(fd)


def test_gone_process_has_no_memory_and_rests():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert memory_of([pid]).pss == 0
    assert family(pid) == [pid]
    assert wait_for_rest(pid, lambda wait_s: None)
