"""The operator's commands about failures, against a real node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp.shell.main import open_session
from dipp.errors import Code
from dipp.policy.report import code_name, crash_lines
from dipp.runner.values import CrashRecord
from dipp.testing import no_leaks
from tests.dipp.test_shell import PIXELS, Rig

BROKEN = "def run(batch, params):\n    print('so long')\n    raise KeyError('lost')\n"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    monkeypatch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("shell")
    with no_leaks():
        rig = Rig(folder / "state", monkeypatch)
        (rig.node.state.active_modules / "broken.py").write_text(BROKEN)
        with open_session(rig.bus.link("SHELL"), address=20, out=rig.lines.append) as session:
            rig.session = session
            session.node = 162
            for name, fallback in (("identity", ""), ("broken", "  fallback: skip\n")):
                text = f"- order: 1\n  param_id: 20\n  name: {name}\n{fallback}"
                (folder / f"{name}.yaml").write_text(text)
            rig.run("list download")
            yield rig
            task = rig.loop.scheduler.spawn(rig.node.close())
            rig.loop.run_until(task, 20)
        rig.camera.clean()
        monkeypatch.undo()


@pytest.fixture
def folder(rig: Rig) -> Path:
    return rig.node.config.state_dir.parent


def settle(rig: Rig) -> None:
    replays = rig.node.policy.replays
    assert replays is not None
    while replays.is_busy:
        rig.loop.tick(0.01)


def test_an_operator_finds_mends_and_replays(rig: Rig, folder: Path) -> None:
    assert "0 batches in the quarantine of node 162" in rig.run("obs quarantine list")
    assert "has no crash records" in rig.run("crash")
    assert "is empty" in rig.run("obs quarantine replay all")
    rig.run(f"ippc pipeline 1 {folder / 'broken.yaml'}")
    for _ in range(4):
        rig.camera.shoot(PIXELS)
        rig.process()

    listing = rig.run("obs quarantine list")
    rows = json.loads(rig.run("obs quarantine list --json"))["batches"]
    assert [(row["batch"], row["pipeline"], row["module"]) for row in rows][:1] == [(1, 1, 1)]
    assert all(row["code"] and row["bytes"] and row["time_unix"] for row in rows)
    assert "4 batches" in listing
    assert "601 module ended with an error but without a code in pipeline 1, module 1" in listing
    assert "608 module failed too often" in listing.splitlines()[-1]

    report = rig.run("crash 1")
    assert "code 601 EXIT_WITHOUT_CODE: module ended with an error" in report
    assert "batch 3, pipeline 1, module 1 'broken', version " in report
    assert "KeyError, line 3 of the module" in report
    assert "last words: KeyError: 'lost'" in report
    assert rig.run("crash").count("record ") == 3
    assert "no crash record there" in rig.run("crash 8")

    said = rig.run("ippc rearm 1")
    assert "1 modules were quarantined (1/broken skip), 0 are now; no pipeline is degraded" in said

    rig.run(f"ippc pipeline 1 {folder / 'identity.yaml'}")
    rig.run("obs quarantine replay 1 2")
    settle(rig)
    assert rig.value("batches_delivered") == 2
    rig.run("obs quarantine discard 3")
    settle(rig)
    rig.run("obs quarantine replay all")
    settle(rig)
    assert "0 batches" in rig.run("obs quarantine list")
    assert [rig.value(f"batches_{fate}") for fate in ("taken", "delivered", "dropped")] == [4, 3, 1]


def test_more_than_a_page_is_listed_whole(rig: Rig, folder: Path) -> None:
    rig.run("set raw_thumbnail 0")
    rig.run("set fail_limit 1")
    rig.run(f"ippc pipeline 1 {folder / 'broken.yaml'}")
    for _ in range(5):
        for _ in range(5):
            rig.camera.shoot(PIXELS)
        rig.process()
    assert "25 batches" in rig.run("obs quarantine list")
    assert rig.run("obs quarantine discard all").count("is deleted") == 25
    settle(rig)
    assert rig.value("quarantine_count") == 0
    rig.run("set fail_limit 3")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("obs quarantine", "say one of"),
        ("obs quarantine replay", "batches is missing"),
        ("obs quarantine replay x", "'x' is no number of a batch"),
        ("obs quarantine replay 999", "has no batch 999 in its quarantine"),
        ("obs quarantine discard 999 998", "has no batch 999, 998"),
        ("ippc rearm 7", "Range is 1-6"),
        ("crash 9", "Range is 1-8"),
    ],
)
def test_wrong_use_is_explained(rig: Rig, line: str, message: str) -> None:
    assert message in rig.run(line, ok=False)


@pytest.mark.parametrize(
    ("code", "name"),
    [(Code.SIGNAL, "SIGNAL"), (708, "MODULE_ERROR"), (999, "UNKNOWN")],
)
def test_codes_have_names(code: int, name: str) -> None:
    assert code_name(code) == name


def test_a_fault_is_reported_with_its_address() -> None:
    crash = CrashRecord(code=600, signal=11, exception="SIGSEGV", line=3, fault_address=0)
    lines = list(crash_lines(crash))
    assert lines[0] == "code 600 SIGNAL: module died by a signal"
    assert "signal 11, SIGSEGV, address 0x0, line 3 of the module" in lines


@given(
    st.builds(
        CrashRecord,
        code=st.integers(0, 65535),
        module=st.integers(0, 20),
        signal=st.integers(0, 255),
        exit_status=st.integers(0, 255),
        line=st.integers(0, 65535),
        last_log=st.text(max_size=20),
    )
)
def test_every_record_has_a_report(crash: CrashRecord) -> None:
    text = "\n".join(crash_lines(CrashRecord.decode(crash.encode())))
    assert f"code {crash.code} " in text
    assert f"batch {crash.batch_id}" in text
