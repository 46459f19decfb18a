"""What makes two chains the same, and a chain that travels."""

from __future__ import annotations

import shutil
from dataclasses import replace

import archivekit as kit
import pytest

from dipp.archive.chains import Context, describe_chain, fingerprint, make_context
from dipp.errors import ContentError
from dipp.inputs import FrameShape
from dipp.modulefiles import packaged_modules
from dipp.runfiles import find_pipeline, load_chain
from dipp.runner.executor import Chain, ModuleStep

SHAPE = FrameShape(width=4, height=3, channels=2, bits_pixel=12)


def write_family(folder):
    """Write a module with a helper, a model and a file that a parameter names."""
    family = folder / "family"
    (family / "models").mkdir(parents=True)
    (family / "__init__.py").write_text("")
    (family / "helper.py").write_text("A = 1\n")
    (family / "models" / "net.tflite").write_bytes(b"weights")
    (family / "models" / "net.json").write_text("{}")
    (family / "look.py").write_text("def run(batch, params):\n    pass\n")
    (folder / "table.txt").write_text("1 2 3")
    params = (("table", "../table.txt"), ("model", "net.tflite"), ("thr", 0.5))
    step = ModuleStep(index=1, name="look", path=str(family / "look.py"), params=params)
    return Chain(pipeline_id=1, generation=1, steps=(step,))


def test_everything_a_result_depends_on_changes_the_fingerprint(tmp_path):
    chain = write_family(tmp_path)
    seen = [fingerprint(chain)]
    for name in (
        "family/look.py", "family/helper.py", "family/models/net.tflite", "family/models/net.json",
        "table.txt", "family/__init__.py",
    ):  # fmt: skip
        path = tmp_path / name
        path.write_bytes(path.read_bytes() + b"\n")
        seen.append(fingerprint(chain))
    (step,) = chain.steps
    for changed in (
        (("table", "../table.txt"), ("model", "net.tflite"), ("thr", 0.6)),
        (("table", "../table.txt"), ("model", "net.tflite"), ("thr", "0.5")),
        (("table", "../table.txt"), ("model", "net.tflite")),
        (("table", "\0"), ("model", "x" * 5000)),
    ):
        seen.append(fingerprint(replace(chain, steps=(replace(step, params=changed),))))
    seen.append(fingerprint(replace(chain, steps=(step, replace(step, index=2)))))
    assert len(set(seen)) == len(seen)


def test_what_a_result_does_not_depend_on_changes_nothing(tmp_path):
    chain = write_family(tmp_path / "a")
    wanted = fingerprint(chain)
    (step,) = chain.steps
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "family" / "__pycache__").mkdir()
    (tmp_path / "b" / "family" / "__pycache__" / "x.pyc").write_bytes(b"x")
    moved = replace(step, path=str(tmp_path / "b" / "family" / "look.py"))
    twice = replace(step, params=(*step.params[::-1], ("thr", 9.0)))
    for same in (moved, replace(step, timeout_s=99.0), twice):
        assert fingerprint(replace(chain, steps=(same,), generation=7)) == wanted


def test_shipped_modules_depend_on_what_they_import_and_not_on_each_other():
    home = packaged_modules()

    def files(name):
        described = describe_chain(make_context("p", load_chain(find_pipeline(name)), SHAPE, 0))
        return [step["files"] for step in described["steps"]]

    family = sum(path.is_file() and path.suffix != ".pyc" for path in (home / "aurora").rglob("*"))
    assert files("identity") == [1]
    assert all(count >= family for count in files("aurora"))


def test_a_directory_full_of_other_things_is_refused(tmp_path, monkeypatch):
    chain = write_family(tmp_path)
    monkeypatch.setattr("dipp.archive.chains._FILES_LIMIT", 3)
    with pytest.raises(ContentError, match="give it a directory"):
        fingerprint(chain)


def test_a_module_that_is_gone_is_named(tmp_path):
    chain = write_family(tmp_path)
    (tmp_path / "family" / "look.py").unlink()
    with pytest.raises(ContentError, match=r"look\.py"):
        make_context("p", chain, SHAPE, 0)


def test_a_context_travels_whole_and_damage_is_named(tmp_path):
    write_family(tmp_path)
    for chain in (
        load_chain(kit.write_chain(tmp_path / "c", add=3)),
        load_chain(find_pipeline("earth")),
    ):
        context = replace(make_context("p q", chain, SHAPE, 64), store="s3://x/y")
        again = Context.decode(context.encode())
        assert again == context
        assert fingerprint(again.chain) == context.fingerprint
        assert context.folder == f"p_q-{context.fingerprint[:12]}"
    # A shipped module is found where this process has it, not where the other one had.
    assert str(packaged_modules()).encode() not in context.encode()
    data = context.encode()
    for end in range(0, len(data), 7):
        with pytest.raises(ContentError):
            Context.decode(data[:end])


def test_the_host_gets_the_hash_of_what_was_hashed_and_a_path_for_any_directory(
    tmp_path, monkeypatch
):
    pipeline = kit.write_chain(tmp_path)
    monkeypatch.chdir(tmp_path)
    context = make_context("p", load_chain(pipeline.relative_to(tmp_path)), SHAPE, 0)
    (step,) = context.chain.steps
    assert (step.path, len(step.sha256)) == (str(tmp_path / "picky.py"), 64)
