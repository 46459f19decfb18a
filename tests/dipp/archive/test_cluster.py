"""The same on a Dask cluster: host death is the engine's business, module failure is a result."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import archivekit as kit
import pytest

from dipp.archive.chains import make_context
from dipp.archive.cluster import ClusterEngine, run_task
from dipp.archive.dispatch import Dispatcher
from dipp.archive.places import join_uri, list_inputs, make_units
from dipp.archive.records import Order, Report, State
from dipp.inputs import FrameShape
from dipp.runfiles import load_chain

pytest.importorskip("distributed", reason="the extra dask is not installed")
pytestmark = pytest.mark.timeout(240)


def test_command_on_a_cluster_of_its_own_gives_the_same_results(folder):
    inputs = kit.write_pictures(folder / "in", 12, {3: kit.CRASH, 8: kit.CRASH})
    words = (folder / "chain/picky.yaml", inputs, "--out", folder / "out")
    status, said = kit.archive(*words, "--engine", "dask", "--workers", 2)
    assert (status, said["done"], said["quarantined"], said["left"]) == (1, 10, 2, 0)
    found = kit.records(said["store"])
    kit.assert_each_once(found, sorted(inputs.iterdir()))
    assert {record.crash.signal for record in found if record.crash} == {signal.SIGSEGV}
    # The other engine finds everything done.
    assert kit.archive(*words)[1]["wall_s"] == 0.0


def test_killed_workers_runners_and_hosts_lose_no_file(folder):
    inputs = kit.write_pictures(folder / "in", 24, {**dict.fromkeys(range(24), kit.SLOW), 2: 255})
    chain = load_chain(folder / "chain/picky.yaml")
    context = make_context("picky", chain, FrameShape(width=1, height=1), 64)
    context = replace(context, store=join_uri(str(folder / "out"), context.folder))
    units = make_units(list_inputs(str(inputs)))
    finished = []
    dispatcher = Dispatcher(units)
    with ClusterEngine(context, workers=2) as engine:
        victims = iter(("worker", "runner", "host"))
        for each in engine.run(dispatcher):
            finished.append(each)
            if len(finished) in (2, 6, 10):
                strike(engine, next(victims))
    assert dispatcher.problem == ""
    assert next(victims, None) is None
    states = [each.report.state for each in finished]
    assert (states.count(State.DONE), states.count(State.FAILED)) == (23, 1)
    assert sorted(each.unit.uris for each in finished) == sorted(unit.uris for unit in units)
    kit.assert_each_once(kit.records(context.store), sorted(inputs.iterdir()))


def strike(engine: ClusterEngine, what: str) -> None:
    """Kill one worker process of the cluster, a runner, or a host."""
    for worker in engine.client.run(os.getpid).values():
        runners = kit.runners(worker)
        if what == "worker":
            kit.kill(worker)
            return
        if runners and what == "runner":
            kit.kill(runners[0])
            return
        for runner in runners:
            for forge in kit.children(runner, "dipp.runner.forge"):
                if hosts := kit.children(forge):
                    kit.kill(hosts[0])
                    return
    raise AssertionError(f"no {what} to kill")


def test_a_worker_with_other_modules_refuses(folder):
    inputs = kit.write_pictures(folder / "in", 1)
    chain = load_chain(folder / "chain/picky.yaml")
    context = make_context("picky", chain, FrameShape(width=1, height=1), 64)
    context = replace(context, store=str(folder / "out"))
    kit.write_chain(folder / "chain", kit.MODULE + "\n# another version\n")
    (unit,) = make_units(list_inputs(str(inputs)))
    # What a worker does with a task; it needs no cluster to refuse.
    report = Report.decode(run_task(context.encode(), Order(unit=unit).encode()))
    assert report.state is State.CHAIN
    assert "has other modules" in report.reason


def test_a_scheduler_that_is_not_there_is_told(folder, capsys, monkeypatch):
    inputs = kit.write_pictures(folder / "in", 1)
    monkeypatch.setattr("dipp.archive.cluster._CONNECT_TIMEOUT_S", 0.3)
    words = (folder / "chain/picky.yaml", inputs, "--out", folder / "out", "--engine", "dask")
    assert kit.archive(*words, "--scheduler", "tcp://127.0.0.1:1")[0] == 1
    assert "dask: tcp://127.0.0.1:1" in capsys.readouterr().err
