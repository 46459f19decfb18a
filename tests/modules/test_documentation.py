"""What docs/modules.md shows must run, and what it lists must be so."""

import importlib.util
import re
import subprocess

import kit
import numpy as np
import pytest

from dipp.config.yaml import parse_module, parse_pipeline
from dipp.hostile import has_compiler
from dipp.testing import Harness, make_chain, sample_image

TEXT = (kit.FOLDER.parent / "docs" / "modules.md").read_text()


def block(language: str, start: str) -> str:
    """Return the code block of a language that begins with a text."""
    for found in re.findall(rf"```{language}\n(.*?)```", TEXT, re.S):
        if found.startswith(start):
            return found
    raise AssertionError(f"no {language} block starts with {start!r}")


def test_python_example_passes_the_test_that_is_shown_for_it(tmp_path):
    (tmp_path / "brightest.py").write_text(block("python", "# brightest.py"))
    (tmp_path / "test_brightest.py").write_text(block("python", "# test_brightest.py"))
    spec = importlib.util.spec_from_file_location("shown_test", tmp_path / "test_brightest.py")
    assert spec is not None
    assert spec.loader is not None
    shown = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shown)
    shown.test_brightest_pixel_is_found()


@pytest.mark.skipif(not has_compiler(), reason="no C compiler")
def test_native_example_compiles_and_runs(tmp_path):
    source = block("c", "/* halve.c")
    (tmp_path / "halve.c").write_text(source)
    command = re.search(r"cc [^*]*", source).group().split()
    subprocess.run([*command, "-Wall", "-Werror"], cwd=tmp_path, check=True, timeout=30)
    images = [sample_image(obid=1), sample_image(width=16, obid=2)]
    with Harness() as harness:
        results = harness.run_images(make_chain(tmp_path / "halve.so"), images)
    for (_, before), (_, after) in zip(images, results, strict=True):
        halved = np.frombuffer(before, "<u2") // 2
        assert np.array_equal(np.frombuffer(after, "<u2"), halved)


def test_yaml_examples_are_accepted():
    assert len(parse_pipeline(block("yaml", "# a pipeline")).modules) == 2
    (parameter,) = parse_module(block("yaml", "# the parameters")).parameters
    assert parameter == ("least", 500)


def test_table_of_modules_agrees_with_the_manifests():
    for name in ("cloud_cover", "demosaic", "thumbnail", "jxl", "png"):
        (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |")]
        manifest = kit.load(name).MANIFEST
        _, _, _, adds, errors, _ = row.split("|")
        assert re.findall(r"`(\w+)`", adds) == [key for key, _, _ in manifest.adds]
        assert [int(n) for n in re.findall(r"\b(\d)\b", errors)] == sorted(manifest.errors)
