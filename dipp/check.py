"""The command `dipp check`: qualify a module before it is uplinked. Driver.

Theory of operation: every check is a row with a verdict: ok, note (worth knowing) or bad. The
module runs in the real process tree on sample frames of the kinds a chain may meet, twice each.
Giving up with a declared code is fine; crashing, hanging, lying, leaving something behind or
differing between two equal runs is not. Exit status 1 if any row is bad.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from dipp.config.yaml import parse_module
from dipp.errors import CUSTOM_BASE, Code, ContentError, describe
from dipp.inputs import FrameShape, load_images
from dipp.manifest import Manifest, ParamValue
from dipp.metadata import Metadata
from dipp.modulefiles import ModuleLibrary, packaged_modules
from dipp.pictures import Pixels
from dipp.runfiles import FileRunner, find_module
from dipp.runner.describe import describe_module
from dipp.runner.executor import Chain, Completed, Failed, Limits, ModuleStep, StageStats
from dipp.sandbox.rungs import active_names

Images = list[tuple[Metadata, bytes]]
# An item the module cannot know; results should still carry it.
_PROBE = ("check_probe", "keep me")
# Verdicts that say that the module is broken, not that it does not want this image.
_BROKEN = range(Code.SIGNAL, CUSTOM_BASE)
DEFAULT_TIMEOUT_S = 20.0


class Grade(Enum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row of the report."""

    grade: Grade
    subject: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A batch to try a module on."""

    name: str
    images: Images


def samples() -> list[Sample]:
    """Return one batch of each kind a module may meet, always the same."""
    random = np.random.default_rng(20240229)
    ramp = np.add.outer(np.arange(96) * 13, np.arange(128) * 11)
    mosaic = (ramp + random.integers(0, 64, ramp.shape)).clip(0, 4095).astype("<u2")
    colour = np.stack([ramp // 11, ramp // 13, 255 - ramp // 12], -1).clip(0, 255).astype("u1")
    infrared = (mosaic.astype("<u4") * 16).clip(0, 65535).astype("<u2")
    planes = np.stack([ramp, -ramp, ramp * 0 + np.nan], -1).astype("<f4")
    made = (("raw mosaic, 12 bit", mosaic, 12), ("colour, 8 bit", colour, 8),
            ("infrared, 16 bit", infrared, 16), ("planes, float with NaN", planes, 32),
            ("all black", mosaic * 0, 12), ("all white", mosaic * 0 + 4095, 12),
            ("two by two", mosaic[:2, :2].copy(), 12))  # fmt: skip
    batches = [Sample(name=name, images=[_image(array, bits)]) for name, array, bits in made]
    encoded = _image(np.frombuffer(b"\xff\x0a not really a picture", "u1").reshape(1, -1), 8)
    broken = (encoded[0].with_item("enc", "jxl"), encoded[1])
    return [
        *batches,
        Sample(name="encoded and damaged", images=[broken]),
        Sample(name="three images", images=[_image(mosaic, 12, obid) for obid in (1, 2, 3)]),
    ]


def _image(array: Pixels, bits: int, obid: int = 77) -> tuple[Metadata, bytes]:
    data = array.tobytes()
    metadata = Metadata(
        size=len(data),
        height=array.shape[0],
        width=array.shape[1],
        channels=array.shape[2] if array.ndim == 3 else 1,
        bits_pixel=bits,
        obid=obid,
        camera="check",
        timestamp=1_700_000_000,
        items=(_PROBE,),
    )
    return metadata, data


class Checker:
    """Collects findings about one module."""

    def __init__(self, step: ModuleStep) -> None:
        self.step = step
        self.findings: list[Finding] = []
        self._manifest: Manifest | None = None

    def check(
        self, runner: FileRunner, batches: Sequence[Sample], extra: Sequence[Sample] = ()
    ) -> list[Finding]:
        """Run all checks. What is in `extra` must work, a sample of `batches` may be refused."""
        if self._check_declarations():
            self._check_samples(runner, [*batches, *extra], len(extra))
        return self.findings

    def _add(self, grade: Grade, subject: str, text: str) -> None:
        self.findings.append(Finding(grade=grade, subject=subject, text=text))

    # -- what the file says

    def _check_declarations(self) -> bool:
        if self.step.path.endswith(".so"):
            self._add(Grade.NOTE, "manifest", "native code has none; only its runs are checked")
            return True
        try:
            found = describe_module(Path(self.step.path))
        except ContentError as error:
            self._add(Grade.BAD, "load", str(error))
            return False
        if not found.has_run:
            self._add(Grade.BAD, "load", "no function run(batch, params)")
            return False
        self._manifest = found.manifest
        if found.manifest is None:
            self._add(Grade.BAD, "manifest", "no MANIFEST")
            return True
        for problem in found.problems:
            self._add(Grade.BAD, "manifest", problem)
        if not found.problems:
            text = f"{found.manifest.name} {found.manifest.version}: {found.manifest.summary}"
            self._add(Grade.OK, "manifest", text)
        self._check_fail_calls(found.manifest)
        return True

    def _check_fail_calls(self, manifest: Manifest) -> None:
        used = set(fail_codes(Path(self.step.path).read_text(errors="replace")))
        own = {code for code in used if 1 <= code <= 99}
        for code in sorted(own - set(manifest.errors)):
            self._add(Grade.BAD, "errors", f"fail({code}) is not declared in the manifest")
        for code in sorted(set(manifest.errors) - own):
            self._add(Grade.NOTE, "errors", f"{code} is declared but no fail({code}) was found")

    # -- what it does

    def _check_samples(self, runner: FileRunner, batches: list[Sample], own: int) -> None:
        chain = Chain(pipeline_id=1, generation=1, steps=(self.step,))
        done = 0
        for position, sample in enumerate(batches):
            first = runner.run(chain, sample.images)
            if isinstance(first, Failed):
                # A file that the author brought along must work; a sample may be refused.
                self._judge_failure(sample, first, position >= len(batches) - own)
                if not first.stages:
                    # It did not even load; every other sample would say the same.
                    return
                continue
            done += 1
            before = _copies(first)
            self._judge_result(sample, before, first.stages)
            first.close()
            again = runner.run(chain, sample.images)
            if isinstance(again, Failed) or _copies(again) != before:
                self._add(Grade.BAD, sample.name, "two runs on the same images differ")
            again.close()
        if not done:
            self._add(Grade.BAD, "samples", "no sample could be processed; bring one with --file")

    def _judge_failure(self, sample: Sample, outcome: Failed, must_work: bool) -> None:
        text = f"{outcome.code} {describe(outcome.code)}: {outcome.crash.last_log}"
        own = outcome.code - CUSTOM_BASE
        if outcome.code in _BROKEN or outcome.code in (Code.PIPE_EMPTY, Code.MODULE_NOT_FOUND):
            self._add(Grade.BAD, sample.name, text)
        elif 0 <= own < 100 and (self._manifest is None or own not in self._manifest.errors):
            self._add(Grade.BAD, sample.name, f"{text} (not declared)")
        else:
            self._add(Grade.BAD if must_work else Grade.NOTE, sample.name, f"refused: {text}")
        self._judge_stage(sample, outcome.stages)

    def _judge_result(self, sample: Sample, images: Images, stages: Sequence[StageStats]) -> None:
        for stage in stages:
            size = f"{stage.bytes_in} -> {stage.bytes_out} bytes"
            text = f"{stage.wall_s * 1000:.1f} ms, {stage.peak_rss_kb >> 10} MB, {size}"
            self._add(Grade.OK, sample.name, f"{len(images)} images, {text}")
        self._judge_stage(sample, stages)
        if not images:
            self._add(Grade.NOTE, sample.name, "all images were dropped")
        declared = {row[0] for row in self._manifest.adds} if self._manifest else set()
        known = {key for meta, _ in sample.images for key, _ in meta.items} | {"enc"}
        found = {key for meta, _ in images for key, _ in meta.items}
        for key in sorted(found - known - declared):
            self._add(Grade.BAD, sample.name, f"adds item {key!r}, which is not declared")
        obids = {meta.obid for meta, _ in sample.images}
        if any(_PROBE not in meta.items or meta.obid not in obids for meta, _ in images):
            self._add(Grade.NOTE, sample.name, "obid or items of the input are not passed on")

    def _judge_stage(self, sample: Sample, stages: Sequence[StageStats]) -> None:
        for stage in stages:
            if stage.orphans:
                self._add(Grade.BAD, sample.name, f"left {stage.orphans} processes running")
            if stage.leaked_segments:
                self._add(Grade.BAD, sample.name, f"left {stage.leaked_segments} segments behind")


def _copies(outcome: Completed) -> Images:
    return [(metadata, bytes(pixels)) for metadata, pixels in outcome.images]


def fail_codes(source: str) -> Iterator[int]:
    """Yield the constant codes of all calls of `fail` in a source text."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
        is_fail = name == "fail" or (isinstance(name, ast.Name) and name.id == "fail")
        first = node.args[0]
        if is_fail and isinstance(first, ast.Constant) and isinstance(first.value, int):
            yield first.value


# -- command line


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dipp check`."""
    parser.description = "Qualify a module: manifest, behaviour on sample frames, time, memory."
    parser.add_argument("module", help="module file, or the name of a shipped module")
    parser.add_argument("--params", type=Path, metavar="FILE", help="module parameter file (YAML)")
    parser.add_argument("--file", type=Path, action="append", default=[],
                        help="picture that must work; may be repeated")  # fmt: skip
    parser.add_argument("--size", default="2464x2056", metavar="WxH[xC]", help="of .raw files")
    parser.add_argument("--bits", type=int, default=12, help="of .raw files")
    parser.add_argument("--timeout", type=float, default=DEFAULT_TIMEOUT_S, metavar="S",
                        help="seconds per run, default %(default)g")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 1 if anything is bad. Raises ContentError, OSError."""
    params: tuple[tuple[str, ParamValue], ...] = ()
    if arguments.params:
        params = parse_module(arguments.params.read_text()).parameters
    library = ModuleLibrary([packaged_modules()])
    path, _ = find_module(arguments.module, Path.cwd(), library)
    step = ModuleStep(
        index=1, name=path.stem, path=str(path), params=params, timeout_s=arguments.timeout
    )
    shape = FrameShape.parse(arguments.size, arguments.bits)
    extra = [Sample(name=str(f), images=load_images(f, shape)) for f in arguments.file]
    with FileRunner(Limits(load_timeout_s=DEFAULT_TIMEOUT_S)) as runner:
        findings = Checker(step).check(runner, samples(), extra)
        missing = runner.executor.stats.missing_rungs or ()
    is_bad = any(finding.grade is Grade.BAD for finding in findings)
    if arguments.json:
        rows = [{**asdict(finding), "grade": finding.grade.value} for finding in findings]
        containment = {"active": active_names(missing), "missing": missing}
        report = {"module": str(path), "passed": not is_bad, "findings": rows}
        print(json.dumps({**report, "containment": containment}))
    else:
        _print_table(path, findings)
        print(f"contained by {', '.join(active_names(missing))}")
        for text in missing:
            print(f"without {text}")
        print(f"{path.name}: {'not qualified' if is_bad else 'qualified'}")
    return 1 if is_bad else 0


def _print_table(path: Path, findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table

    colours = {Grade.OK: "green", Grade.NOTE: "yellow", Grade.BAD: "red"}
    table = Table(title=str(path), title_justify="left")
    for heading in ("", "subject", "finding"):
        table.add_column(heading)
    for finding in findings:
        colour = colours[finding.grade]
        table.add_row(f"[{colour}]{finding.grade.value}[/]", finding.subject, finding.text)
    Console().print(table)
