"""`dipp run` and `dipp check`: files through the real process tree, modules qualified."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from dipp.batch import encode_batch
from dipp.check import Checker, Grade, fail_codes, samples
from dipp.cli import main
from dipp.errors import ContentError
from dipp.inputs import FrameShape, load_images
from dipp.runfiles import FileRunner, load_chain
from dipp.runner.executor import ModuleStep
from dipp.testing import no_leaks, sample_image

MODULE = """
from dipp.sdk import Manifest, Param, fail
MANIFEST = Manifest('invert', '1.0', 'negative', params=(Param('top', 'int', 255, 'white'),),
                    adds=(('top', 'int', 'white'),), errors={1: 'wrong kind'})
def fork():
    import os, time
    if os.fork() == 0:
        os.setsid()
        time.sleep(60)
def run(batch, params):
    for image in batch:
        if image.is_encoded or image.dtype.kind == 'f':
            fail(1, 'no samples')
        pixels = image.edit()
        pixels[:] = params['top'] - pixels
        image.add_item('top', params['top'])
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "modules").mkdir()
    (tmp_path / "pipelines" / "invert.py").write_text(MODULE)
    (tmp_path / "modules" / "invert.yaml").write_text("- key: top\n  type: int\n  value: 200\n")
    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    cv2.imwrite(str(tmp_path / "picture.png"), picture[..., ::-1])
    return tmp_path


@pytest.fixture(scope="module")
def runner():
    with FileRunner() as running:
        yield running


def write_pipeline(folder, text):
    path = folder / "pipelines" / "chain.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("entry", "top"),
    [
        ("name: invert", 255),
        ("name: invert\n  param_id: 1", 200),
        ("name: invert\n  params: {top: 100}", 100),
        ("name: invert\n  params: ../modules/invert.yaml", 200),
        ("name: invert.py\n  timeout_s: 3", 255),
    ],
)
def test_parameters_come_from_where_the_file_says(folder, runner, entry, top):
    chain = load_chain(write_pipeline(folder, f"- order: 1\n  {entry}\n"))
    out = folder / "out"
    shape = FrameShape.parse("1x1", 8)
    done = runner.run_file(chain, folder / "picture.png", out, shape)
    assert (done.code, done.written) == (0, (out / "picture.png",))
    result = cv2.imread(str(out / "picture.png"), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert np.array_equal(result, (top - np.arange(60)).astype(np.uint8).reshape(4, 5, 3))
    metadata = json.loads((out / "picture.json").read_text())
    assert (metadata["width"], metadata["items"]) == (5, {"top": top})


def test_a_bad_file_does_not_stop_the_others(folder, capsys):
    pipeline = write_pipeline(folder, "- name: invert\n")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "two.batch").write_bytes(encode_batch([sample_image(), sample_image(16, 16)]))
    files = [str(folder / name) for name in ("broken.png", "none.png", "two.batch")]
    arguments = ["run", str(pipeline), *files, "--out", str(folder / "out"), "--json"]
    assert main(arguments) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["code"] != 0 for row in rows] == [True, True, False]
    assert len(rows[2]["written"]) == 2


def test_a_failing_module_is_named_and_nothing_is_left(folder, capsys):
    (folder / "pipelines" / "bad.py").write_text("def run(b, p):\n    raise ValueError('oh')\n")
    pipeline = write_pipeline(folder, "- name: invert\n- name: bad\n")
    with no_leaks():
        assert main(["run", str(pipeline), str(folder / "picture.png"), "--out", str(folder)]) == 1
    assert "601" in (text := capsys.readouterr().err)
    assert "module 2" in text
    assert "ValueError: oh" in text


@pytest.mark.parametrize(
    "text",
    ["just text", "- invert", "- order: 1", "- name: invert\n  what: 1", "[: ", "- name: x/y"],
)
def test_bad_pipeline_files_are_refused(folder, text):
    with pytest.raises(ContentError):
        load_chain(write_pipeline(folder, text))


def test_order_counts_where_it_is_given(folder):
    for name in ("a", "b"):
        (folder / "pipelines" / f"{name}.py").write_text("def run(b, p): pass\n")
    chain = load_chain(write_pipeline(folder, "- name: b\n  order: 2\n- name: a\n  order: 1\n"))
    assert [(step.index, step.name) for step in chain.steps] == [(1, "a"), (2, "b")]


def test_raw_files_need_their_shape(folder):
    path = folder / "frame.raw"
    path.write_bytes(bytes(24))
    ((metadata, data),) = load_images(path, FrameShape.parse("4x3", 12))
    assert (metadata.height, metadata.width, metadata.bits_pixel, len(data)) == (3, 4, 12, 24)
    with pytest.raises(ContentError, match="are 12"):
        load_images(path, FrameShape.parse("4x3", 8))
    with pytest.raises(ContentError, match="wanted WxH"):
        FrameShape.parse("4", 8)


@pytest.mark.parametrize(("change", "status"), [(("", ""), 0), (("errors={1", "errors={2"), 1)])
def test_command_qualifies_a_module(folder, capsys, change, status):
    path = folder / "candidate.py"
    path.write_text(MODULE.replace(*change))
    with no_leaks():
        assert main(["check", str(path), "--json"]) == status
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is (status == 0)
    subjects = {row["subject"] for row in report["findings"]}
    assert {sample.name for sample in samples()} <= subjects


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (("errors={1: 'wrong kind'}", "errors={}"), "fail(1) is not declared"),
        (("adds=(('top', 'int', 'white'),), ", ""), "adds item 'top'"),
        (("pixels[:] =", "import os; pixels[:] = os.urandom(1)[0] +"), "differ"),
        (("image.add_item(", "1 / 0, image.add_item("), "ZeroDivisionError"),
        (("'int', 255", "'int', 'white'"), "default: top is 'white'"),
        (("def run", "def walk"), "no function run"),
        (("from dipp.sdk", "from nowhere"), "No module named 'nowhere'"),
        (("MANIFEST = ", "OTHER = "), "no MANIFEST"),
        (("image.add_item(", "fork(); image.add_item("), "left 1 processes running"),
    ],
)
def test_bad_module_is_not_qualified_and_told_why(folder, runner, change, finding):
    path = folder / "bad.py"
    path.write_text(MODULE.replace(*change))
    step = ModuleStep(index=1, name="bad", path=str(path), timeout_s=5.0)
    findings = Checker(step).check(runner, samples()[1:2])
    bad = [row.text for row in findings if row.grade is Grade.BAD]
    assert any(finding in text for text in bad), findings


def test_fail_codes_are_read_from_the_source():
    source = "fail(3)\nsdk.fail(4, 'x')\nfail(code)\nfailure(5)\nfail()\n"
    assert list(fail_codes(source)) == [3, 4]
