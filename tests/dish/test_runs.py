"""Running procedures as real processes: ends, kills, limits, commands, no leaks."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from csp.loop import Loop
from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import ParamType
from csp.sched import Promise
from dipp.runner.wait import child_pids
from dish.board import RunState
from dish.effects import Fault, LocalWrite, Pull, Push, Reading, Remote, Resolve, Settings
from dish.errors import Ret
from dish.forge import start_forge
from dish.frames import Command
from dish.request import RunRequest
from dish.runs import NoRoom, Runs
from dish.testing import graph_of

DEADLINE_S = 10.0


def table():
    names = [("n", 1), ("zero", 1), ("one", 1), ("a", 1), ("b", 1), ("arr", 4), ("seen", 1)]
    made = ParamTable(
        ParamSpec(id=index + 1, name=name, type=ParamType.U32, array_size=count)
        for index, (name, count) in enumerate(names)
    )
    made["one"].set(1)
    return made


class Crew:
    """A table, a forge and a supervisor, with scripted remote replies."""

    def __init__(self, natives=None):
        self.table = table()
        self.forge = start_forge(self.table, natives=natives)
        self.loop = Loop()
        self.outcomes = []
        self.asked = []
        self.replies = []
        self.runs = Runs(
            self.loop, self.forge, serve=self.serve, on_end=self.outcomes.append, limit=16
        )

    async def serve(self, request):
        self.asked.append(request)
        if isinstance(request, LocalWrite):
            self.table.by_id(request.id).write(request.value, request.index)
            return None
        reply = self.replies.pop(0)
        return await reply if isinstance(reply, Promise) else reply

    def start(self, texts, **options):
        settings = Settings(**options.pop("settings", {}))
        graph = graph_of(texts if isinstance(texts, dict) else {0: texts}, options.pop("root", 0),
                         options.pop("natives", frozenset()))  # fmt: skip
        return self.runs.start(RunRequest(graph=graph, settings=settings, row=0, **options))

    def until(self, condition):
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, "not in time"
            self.loop.tick(0.05)

    def finish(self, count=1):
        self.until(lambda: len(self.outcomes) >= count)
        return self.outcomes[-1]

    def close(self):
        self.runs.close()
        self.loop.close()


@pytest.fixture
def crew():
    before = set(os.listdir("/proc/self/fd"))
    # Other tests of this worker may have left a helper of some library.
    children = set(child_pids())
    made = Crew()
    yield made
    made.close()
    assert set(child_pids()) <= children
    assert len(os.listdir("/proc/self/fd")) <= len(before)


def is_dead(pid):
    """Whether a process is gone or waits for its new parent, the init process, to reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


BUSY = {0: "unop n ++ n\ncall 0"}


def test_a_run_computes_in_the_shared_table_and_reports(crew):
    texts = {
        0: "set zero 0\nset a 0\nset b 1\nset n 10\ncall 1",
        1: "binop a + b b\nbinop b - a a\nunop n -- n\nifelse n == zero\nnoop\ncall 1",
    }
    run_id = crew.start(texts)
    outcome = crew.finish()
    assert (outcome.run_id, outcome.root, outcome.ret) == (run_id, 0, Ret.OK)
    assert (crew.table["a"].get(), crew.table["n"].get()) == (55, 0)
    assert outcome.executed == 5 + 10 * 5
    assert len(crew.runs) == 0


def test_a_failure_names_slot_index_and_reason(crew):
    crew.start({0: "noop\ncall 7\nnoop\nset a 1", 7: "noop\nset nowhere 1"})
    outcome = crew.finish()
    assert (outcome.ret, outcome.root, outcome.slot, outcome.index) == (Ret.ERROR, 0, 7, 1)
    assert "nowhere" in outcome.reason


def test_kill_at_any_instruction_leaves_everything_going(crew):
    for round_ in range(5):
        crew.start(BUSY)
        crew.until(lambda: crew.runs.views() and crew.runs.views()[0].line.executed > 0)
        os.kill(crew.runs.views()[0].pid, signal.SIGKILL)
        outcome = crew.finish(2 * round_ + 1)
        assert (outcome.ret, outcome.reason) == (Ret.KILLED, "signal 9")
        assert outcome.executed > 0
        crew.start("set a 5")
        assert crew.finish(2 * round_ + 2).ret is Ret.OK


def test_busy_loops_do_not_hold_up_others(crew):
    for _ in range(4):
        crew.start(BUSY)
    for turn in range(10):
        crew.start("set a 1")
        crew.until(lambda turn=turn: len(crew.outcomes) > turn)
    assert all(outcome.ret is Ret.OK for outcome in crew.outcomes)
    assert crew.runs.command(Command.STOP) == 4
    crew.finish(14)


def test_the_17th_is_refused_and_room_comes_back(crew):
    for _ in range(16):
        crew.start("block zero == one")
    with pytest.raises(NoRoom):
        crew.start("noop")
    crew.until(lambda: all(view.pid for view in crew.runs.views()))
    assert len({view.row for view in crew.runs.views()}) == 16
    os.kill(crew.runs.views()[5].pid, signal.SIGKILL)
    crew.finish(1)
    crew.start("set a 1")
    assert crew.finish(2).ret is Ret.OK
    assert crew.runs.counters.refused == 1


def test_stop_is_answered_by_a_procedure_that_waits_and_by_one_that_computes(crew):
    crew.start({3: "block zero == one"}, root=3)
    crew.start({4: "call 4"}, root=4)
    crew.until(lambda: all(view.line.state > RunState.STARTING for view in crew.runs.views()))
    assert crew.runs.command(Command.STOP, 3) == 1
    outcome = crew.finish(1)
    assert (outcome.ret, outcome.root, outcome.slot, outcome.index) == (Ret.STOPPED, 3, 3, 0)
    assert crew.runs.command(Command.STOP, 4) == 1
    assert crew.finish(2).ret is Ret.STOPPED
    assert crew.runs.command(Command.STOP, 4) == 0


def test_stop_kills_what_does_not_listen():
    crew = Crew(natives={5: lambda _table: time.sleep(60) or 0})
    try:
        crew.start({}, root=5, natives=frozenset({5}))
        crew.until(lambda: crew.runs.views()[0].line.state is RunState.RUNNING)
        began = time.monotonic()
        crew.runs.command(Command.STOP)
        assert crew.finish().ret is Ret.STOPPED
        assert time.monotonic() - began < 3
    finally:
        crew.close()


def test_native_procedures_run_in_the_child():
    def add(shared):
        shared["a"].set(shared["a"].get() + 1)
        return 0

    crew = Crew(natives={5: add, 6: lambda _table: 1 // 0})
    try:
        crew.start({0: "call 5\ncall 5\nset b 1"}, natives=frozenset({5}))
        assert crew.finish(1).ret is Ret.OK
        assert crew.table["a"].get() == 2
        crew.start({0: "call 6\nset b 2"}, natives=frozenset({6}))
        assert crew.finish(2).ret is Ret.ERROR
        assert crew.table["b"].get() == 1
    finally:
        crew.close()


def test_pause_step_and_resume(crew):
    crew.start("set a 1\nset a 2\nset a 3\nset a 4", is_paused=True)
    line = lambda: crew.runs.views()[0].line  # noqa: E731
    crew.until(lambda: line().state is RunState.PAUSED)
    assert crew.table["a"].get() == 0
    for value in (1, 2):
        crew.runs.command(Command.STEP)
        crew.until(lambda value=value: line().executed == value)
        crew.until(lambda: line().state is RunState.PAUSED)
        assert (crew.table["a"].get(), line().position.index) == (value, value)
    crew.runs.command(Command.RESUME)
    assert crew.finish().ret is Ret.OK
    assert crew.table["a"].get() == 4


def test_pause_holds_a_busy_loop_and_a_waiting_block(crew):
    crew.start(BUSY)
    crew.start({1: "block zero == one\nset b 1"}, root=1, settings={"poll_s": 0.01})
    crew.until(lambda: all(view.line.state > RunState.STARTING for view in crew.runs.views()))
    crew.runs.command(Command.PAUSE)
    crew.until(lambda: all(v.line.state is RunState.PAUSED for v in crew.runs.views()))
    held = crew.table["n"].get()
    crew.table["zero"].set(1)
    for _ in range(5):
        crew.loop.tick(0.01)
    assert (crew.table["n"].get(), crew.table["b"].get()) == (held, 0)
    crew.runs.command(Command.RESUME)
    crew.finish(1)
    assert crew.table["b"].get() == 1
    crew.runs.command(Command.STOP)
    crew.finish(2)


def test_remote_operands_and_observed_writes_go_through_the_node(crew):
    crew.replies = [
        (Reading(type=ParamType.U32, value=4), Reading(type=ParamType.U32, value=6)),
        Remote(type=ParamType.U16, count=1, read_only=False),
        None,
        Fault(reason="no response from node 9"),
    ]
    seen = crew.table["seen"].id
    crew.start("binop x + y z 9\nset seen 3\nunop x idt a 9", observed=frozenset({seen}))
    outcome = crew.finish()
    assert (outcome.ret, outcome.index, outcome.reason) == (Ret.ERROR, 2, "no response from node 9")
    assert [type(entry) for entry in crew.asked] == [Pull, Resolve, Push, LocalWrite, Pull]
    assert crew.asked[2].value == 10
    assert crew.table["seen"].get() == 3


def test_a_child_killed_during_a_request_does_not_disturb_the_answer(crew):
    answer = Promise()
    crew.replies = [answer]
    crew.start("unop x idt a 9")
    crew.until(lambda: bool(crew.asked))
    os.kill(crew.runs.views()[0].pid, signal.SIGKILL)
    assert crew.finish().ret is Ret.KILLED
    answer.resolve(Fault(reason="late"))
    crew.start("set a 1")
    assert crew.finish(2).ret is Ret.OK


def test_budget(crew):
    crew.start(BUSY, settings={"budget": 5000})
    outcome = crew.finish()
    assert outcome.ret is Ret.BUDGET
    assert 4990 <= outcome.executed <= 5000


def test_closing_ends_everything_and_gives_each_run_its_outcome(crew):
    crew.start(BUSY)
    crew.start("block zero == one")
    crew.until(lambda: all(view.pid for view in crew.runs.views()))
    pids = [view.pid for view in crew.runs.views()]
    crew.runs.close()
    assert [outcome.ret for outcome in crew.outcomes] == [Ret.INTERRUPTED] * 2
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_losing_the_forge_ends_its_runs_with_a_code_and_the_next_one_takes_over(crew):
    for turn in range(3):
        crew.until(lambda: crew.runs.has_standby)
        crew.start(BUSY)
        crew.until(lambda: crew.runs.views()[0].pid)
        pid = crew.runs.views()[0].pid
        os.kill(crew.runs.forge_pid, signal.SIGKILL)
        assert crew.finish(2 * turn + 1).ret is Ret.HOST_LOST
        crew.until(lambda pid=pid: is_dead(pid))
        crew.start("set a 1")
        assert crew.finish(2 * turn + 2).ret is Ret.OK


def test_a_second_forge_that_dies_is_replaced(crew):
    crew.until(lambda: crew.runs.has_standby)
    first = crew.runs.standby_pid
    os.kill(first, signal.SIGKILL)
    crew.until(lambda: crew.runs.standby_pid not in (0, first))
    crew.start("set a 1")
    assert crew.finish().ret is Ret.OK


def test_without_any_forge_runs_are_refused(crew):
    crew.until(lambda: crew.runs.has_standby)
    os.kill(crew.runs.standby_pid, signal.SIGKILL)
    os.kill(crew.forge.pid, signal.SIGKILL)
    # Both ends are noticed in some order; afterwards nothing can start and nothing is running.
    for _ in range(5):
        crew.loop.tick(0.02)
    with pytest.raises(NoRoom):
        crew.start(BUSY)
    assert len(crew.runs) == 0


def test_many_runs_leave_nothing_behind(crew):
    crew.start("noop")
    crew.finish(1)
    crew.until(lambda: crew.runs.has_standby)
    fds = len(os.listdir("/proc/self/fd"))
    forge_fds = len(os.listdir(f"/proc/{crew.forge.pid}/fd"))
    for turn in range(60):
        crew.start({0: "call 1", 1: "set a 1"})
        crew.finish(turn + 2)
    assert len(os.listdir("/proc/self/fd")) == fds
    assert len(os.listdir(f"/proc/{crew.forge.pid}/fd")) == forge_fds
    children = Path(f"/proc/{crew.forge.pid}/task/{crew.forge.pid}/children")
    assert children.read_text().split() == [str(crew.runs.standby_pid)]
