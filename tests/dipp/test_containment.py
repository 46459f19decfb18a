"""Under the full ladder: what ships runs, attacks are refused, and the operator can see it."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from dipp import cli
from dipp.check import samples
from dipp.errors import Code
from dipp.hostile import REFUSED_CALLS, REFUSED_FILES, Fault, write_module
from dipp.modulefiles import packaged_modules
from dipp.params import RUNG_NAMES, RUNGS_ACTIVE, RUNGS_MISSING, Telemetry, make_table
from dipp.runner.executor import Completed, Limits
from dipp.sandbox.landlock import version
from dipp.sandbox.rungs import RUNGS, active_names
from dipp.testing import IDENTITY, Harness, make_chain

# Verdicts that say that a module did not run as it wanted to.
_BROKEN = (Code.SIGNAL, Code.EXIT_WITHOUT_CODE, Code.LOAD_CRASHED, Code.TIMEOUT)
# Without these rungs the attacks below succeed and harm nobody.
_OFF = ("seccomp", "landlock", "capabilities", "network")
_HARMLESS = (
    "opens-a-socket", "opens-a-local-socket", "spawns-a-program", "executes-a-program",
    "makes-a-segment", "enters-a-namespace", "reads-what-is-not-its-business",
    "reopens-its-mappings",
)  # fmt: skip


@pytest.fixture(scope="module")
def harness():
    with Harness() as running:
        yield running


@pytest.fixture(scope="module")
def unbound(tmp_path_factory):
    with Harness(Limits(skipped_rungs=_OFF)) as running:
        yield running


@pytest.mark.parametrize("name", sorted(p.stem for p in packaged_modules().glob("[a-z]*.py")))
def test_shipped_modules_run(harness, name):
    chain = make_chain(packaged_modules() / f"{name}.py", timeout_s=20)
    codes = []
    for sample in samples():
        outcome = harness.run(chain, sample.images)
        codes.append(0 if isinstance(outcome, Completed) else outcome.code)
        outcome.close()
    harness.settle()
    assert not set(codes) & set(_BROKEN) or name == "chaos"
    assert 0 in codes or name == "chaos"


LIBRARIES = """
import importlib, os, tempfile, zoneinfo
import cv2, imagecodecs, numpy as np
from dipp.sdk import *
def run(batch, params):
    image = batch.images[0]
    picture = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    cv2.GaussianBlur(picture, (5, 5), 1.0)
    assert cv2.imencode('.png', picture)[0]
    assert (imagecodecs.jpegxl_decode(imagecodecs.jpegxl_encode(picture, level=0)) >= 0).all()
    assert imagecodecs.zlib_decode(imagecodecs.zlib_encode(b'x' * 99)) == b'x' * 99
    np.linalg.svd(np.eye(20))
    with tempfile.NamedTemporaryFile() as file:
        np.save(file, picture)
    for name in ('tflite_runtime.interpreter', 'ai_edge_litert.interpreter'):
        try:
            lite = importlib.import_module(name)
        except ImportError:
            continue
        try:
            lite.Interpreter(model_content=b'no model')
        except ValueError:
            image.add_item('lite', name)
    # Loaded late, from the libraries on disk.
    import sqlite3, xml.dom.minidom, concurrent.futures
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(len, ['a', 'bb'])) == 3
"""


def test_libraries_work_also_when_used_late(harness, tmp_path):
    path = tmp_path / "libraries.py"
    path.write_text(LIBRARIES)
    ((metadata, _),) = harness.run_images(make_chain(path))
    assert metadata.item("lite")


def test_a_module_reads_what_lies_beside_it_and_writes_scratch(harness, tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"12345")
    path = tmp_path / "model.py"
    path.write_text(
        "import os\nfrom pathlib import Path\ndef run(batch, params):\n"
        "    data = Path(__file__).with_name('weights.bin').read_bytes()\n"
        "    Path('copy').write_bytes(data)\n    os.mkdir('d')\n    os.replace('copy', 'd/copy')\n"
        "    batch.images[0].add_item('size', Path('d/copy').stat().st_size)\n"
    )
    ((metadata, _),) = harness.run_images(make_chain(path))
    assert metadata.item("size") == 5


def test_a_file_that_a_parameter_names_can_be_read(harness, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    weights = tmp_path / "elsewhere" / "weights.bin"
    weights.write_bytes(b"12345")
    (tmp_path / "code").mkdir()
    path = tmp_path / "code" / "model.py"
    path.write_text(
        "import os\nfrom pathlib import Path\nWEIGHTS = None\ndef load(params):\n"
        "    global WEIGHTS\n    WEIGHTS = Path(params['weights']).read_bytes()\n"
        "def run(batch, params):\n    batch.images[0].add_item('size', len(WEIGHTS))\n"
    )
    chain = make_chain(path)
    for params in ((("weights", str(weights)),), (("weights", "/etc/passwd"),)):
        steps = tuple(replace(step, params=params) for step in chain.steps)
        outcome = harness.run(replace(chain, steps=steps))
        assert isinstance(outcome, Completed)
        outcome.close()
    steps = tuple(replace(step, params=(("weights", "/etc"),)) for step in chain.steps)
    assert harness.run(replace(chain, steps=steps)).code == Code.LOAD_CRASHED


@pytest.mark.parametrize("hook", ["import socket; socket.socket()", "open('/tmp/x-dipp', 'w')"])
def test_loading_is_contained_too(harness, tmp_path, hook):
    if "open" in hook and not version():
        pytest.skip("this kernel has no Landlock")
    path = tmp_path / "loads.py"
    path.write_text(f"{hook}\n{IDENTITY}")
    outcome = harness.run(make_chain(path))
    assert outcome.code == Code.LOAD_CRASHED
    assert "PermissionError" in outcome.crash.last_log


@pytest.mark.parametrize(
    "attack", [a for a in (*REFUSED_CALLS, *REFUSED_FILES) if a[1] in _HARMLESS], ids=lambda a: a[1]
)
def test_attacks_work_without_the_rung_that_refuses_them(unbound, tmp_path, attack):
    number, name, body = attack
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    python = f"import ctypes, os, socket\ndef run(batch, params):\n{lines}"
    step = write_module(Fault(number=number, name=name, codes=(0,), python=python), tmp_path)
    outcome = unbound.run(make_chain(step.path))
    if name == "executes-a-program":
        # Its program ended well, and so there is no result.
        assert outcome.code == Code.PIPE_EMPTY
    else:
        assert isinstance(outcome, Completed), outcome.crash
    outcome.close()
    unbound.settle()


def test_what_is_off_is_reported(unbound):
    assert {f"{name}: switched off" for name in _OFF} <= set(unbound.executor.stats.missing_rungs)


def test_the_machine_is_tried_before_any_host(tmp_path):
    with Harness(scratch_dir=str(tmp_path)) as harness:
        while harness.executor.stats.missing_rungs is None:
            harness.loop.tick(0.05)
        assert harness.executor.stats.hosts_started == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can choose a user")
def test_modules_run_as_another_user(tmp_path):
    source = (
        "import os, tempfile\ndef run(batch, params):\n"
        "    batch.images[0].add_item('uid', os.getuid())\n"
        "    open('file', 'w').write('x')\n"
        "    os.close(tempfile.mkstemp()[0])\n"
    )
    path = tmp_path / "who.py"
    path.write_text(source)
    with Harness(Limits(module_user="65534")) as harness:
        ((metadata, _),) = harness.run_images(make_chain(path))
        assert metadata.item("uid") == 65534
        assert not any(text.startswith("user") for text in harness.executor.stats.missing_rungs)


def test_a_fork_that_fails_costs_a_batch_and_says_why(tmp_path):
    path = tmp_path / "identity.py"
    path.write_text(IDENTITY)
    # The group has room for the host only.
    with Harness(Limits(max_processes=0)) as harness:
        outcome = harness.run(make_chain(path))
        if "cgroup" not in active_names(harness.executor.stats.missing_rungs):
            pytest.skip("no control group can be made here")
        assert (outcome.code, outcome.module_index) == (Code.PIPE_CREATE, 1)
        assert outcome.crash.last_log.startswith("no process for identity: ")
        assert harness.executor.stats.forge_restarts == 0


def test_parameters_show_it():
    table = make_table()
    Telemetry(table).put_containment(("memory: no", "cgroup: no group can be made"))
    assert table[RUNGS_ACTIVE].get().bit_count() == len(RUNGS) - 2
    assert "landlock" in table[RUNG_NAMES].get().split()
    assert "memory" not in table[RUNG_NAMES].get().split()
    assert table[RUNGS_MISSING].get() == "memory: no; cgroup: no group can be made"
    Telemetry(table).put_containment(())
    assert table[RUNG_NAMES].get().split() == [rung.name for rung in RUNGS]


def test_check_shows_it(capsys):
    assert cli.main(["check", "identity", "--json"]) == 0
    containment = json.loads(capsys.readouterr().out)["containment"]
    assert "seccomp" in containment["active"]
    known = {rung.name for rung in RUNGS}
    assert known == {text.partition(":")[0] for text in containment["missing"]} | set(
        containment["active"]
    )
