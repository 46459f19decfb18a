"""The command `dipp run`: a pipeline over picture files, through the real process tree. Driver.

Theory of operation: a pipeline file is the one the ground uplinks (order, name, param_id), and may
in addition carry `params`, inline or as the name of a module file, and `timeout_s`. Each input file
becomes one batch, or several that belong together, such as the swaths of one observation; what the
chain makes of it is written below the output directory, pictures as PNG or as the encoded file they
are, with the metadata as JSON beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import yaml

from csp.loop import Loop
from dipp.batch import encode_batch
from dipp.config.yaml import parse_module
from dipp.errors import Code, ContentError, describe
from dipp.inputs import (
    Done,
    FrameShape,
    blocks_of,
    group_inputs,
    load_images,
    memory_segment,
    source_of,
)
from dipp.manifest import ParamValue
from dipp.metadata import Metadata
from dipp.modulefiles import SUFFIXES, ModuleLibrary, packaged_modules
from dipp.pictures import save_picture
from dipp.runner.executor import (
    Chain,
    Completed,
    Executor,
    Failed,
    Job,
    Limits,
    ModuleStep,
    Outcome,
    start_forge,
)

DEFAULT_TIMEOUT_S = 30.0
_STEP_KEYS = ("order", "name", "param_id", "params", "timeout_s")
_CLOSE_DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """What became of one input file. `code` 0 means done; `written` are the pictures."""

    file: Path
    code: int = 0
    module: int = 0
    reason: str = ""
    wall_s: float = 0.0
    written: tuple[Path, ...] = ()


class FileRunner:
    """A forge and an executor for use without a daemon; a context manager."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.loop = Loop()
        self.executor = Executor(self.loop, start_forge(), limits)
        self._batches = 0

    def __enter__(self) -> FileRunner:
        return self

    def __exit__(self, *exc: object) -> None:
        task = self.loop.scheduler.spawn(self.executor.close(), "close")
        self.loop.run_until(task, _CLOSE_DEADLINE_S)
        self.loop.close()

    def run(self, chain: Chain, images: Sequence[tuple[Metadata, bytes]]) -> Outcome:
        """Run one batch and wait for it; the outcome must be closed."""
        self._batches += 1
        data = encode_batch(images)
        with memory_segment(data) as fd:
            job = Job(
                batch_id=self._batches,
                chain=chain,
                segment_fd=fd,
                blocks=blocks_of(data, len(images)),
            )
            return self.loop.run_until(self.executor.submit(job))

    def run_file(self, chain: Chain, file: Path, out: Path, shape: FrameShape) -> FileResult:
        """Run a file as one batch and write what comes out. Never raises on content."""
        return self.run_files(chain, (file,), out, shape)

    def run_files(
        self, chain: Chain, files: Sequence[Path], out: Path, shape: FrameShape
    ) -> FileResult:
        """Run files together as one batch, named after the first. Never raises on content."""
        started, file = time.monotonic(), files[0]
        try:
            images = [image for each in files for image in load_images(each, shape)]
            outcome = self.run(chain, images)
        except (ContentError, OSError) as error:
            code = error.code if isinstance(error, ContentError) else Code.BATCH_INVALID
            return FileResult(file=file, code=code, reason=str(error))
        wall_s = time.monotonic() - started
        if isinstance(outcome, Failed):
            return FileResult(
                file=file,
                code=outcome.code,
                module=outcome.module_index,
                reason=f"{outcome.crash.name}: {outcome.crash.last_log}",
                wall_s=wall_s,
            )
        try:
            written = write_images(outcome, out, file.name.removesuffix(".gz").rpartition(".")[0])
        finally:
            outcome.close()
        return FileResult(file=file, wall_s=wall_s, written=written)


def write_images(outcome: Completed, out: Path, stem: str) -> tuple[Path, ...]:
    """Write every image with its metadata beside it; return the pictures. Raises OSError."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for number, (metadata, pixels) in enumerate(outcome.images):
        suffix = f"-{number}" if len(outcome.images) > 1 else ""
        # The suffix is replaced by the one that fits; without one, a dot in the stem would be.
        target = out / f"{stem}{suffix}.png"
        is_encoded = metadata.item("enc") is not None
        try:
            path = save_picture(metadata, pixels, target, raw=is_encoded)
        except (ContentError, ValueError):
            # More planes than a picture can have: the numbers are kept as they are.
            path = save_picture(metadata, pixels, target, raw=True)
        text = json.dumps({**asdict(metadata), "items": dict(metadata.items)}, indent=1)
        path.with_suffix(".json").write_text(text + "\n")
        written.append(path)
    return tuple(written)


# -- pipeline files


def load_chain(
    pipeline: Path,
    *,
    module_dirs: Sequence[Path] = (),
    slots: dict[int, Path] | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Chain:
    """Read a pipeline file and find its modules and parameters. Raises ContentError, OSError."""
    try:
        entries = yaml.safe_load(pipeline.read_text())
    except yaml.YAMLError as error:
        raise ContentError(f"{pipeline}: {error}", Code.CONFIG_INVALID) from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ContentError(f"{pipeline}: wanted a list of modules", Code.CONFIG_INVALID)
    entries.sort(key=lambda entry: str(entry.get("order", "")).zfill(3))
    library = ModuleLibrary([pipeline.parent, *module_dirs, packaged_modules()])
    steps = []
    for index, entry in enumerate(entries, 1):
        unknown = set(entry) - set(_STEP_KEYS)
        if unknown or "name" not in entry:
            text = f"{pipeline}: module {index}: unknown {sorted(map(str, unknown))} or no name"
            raise ContentError(text, Code.CONFIG_INVALID)
        path, sha256 = find_module(str(entry["name"]), pipeline.parent, library)
        steps.append(
            ModuleStep(
                index=index,
                name=path.stem,
                path=str(path),
                sha256=sha256,
                params=_params(entry, pipeline, slots or {}),
                timeout_s=float(entry.get("timeout_s", timeout_s)),
            )
        )
    return Chain(pipeline_id=1, generation=1, steps=tuple(steps))


def find_module(name: str, base: Path, library: ModuleLibrary) -> tuple[Path, str]:
    """Return file and hash of a module given by name or path. Raises ContentError (501)."""
    if name.endswith(SUFFIXES):
        return (base / name).resolve(), ""
    found = library.find(name)
    return found.path, found.sha256


def find_pipeline(name: str) -> Path:
    """Return a pipeline file given by path or by the name of a shipped one."""
    if Path(name).exists() or name.endswith((".yaml", ".yml")):
        return Path(name)
    with resources.as_file(resources.files("configs")) as configs:
        return configs / "pipelines" / f"{name}.yaml"


def _params(
    entry: dict[str, object], pipeline: Path, slots: dict[int, Path]
) -> tuple[tuple[str, ParamValue], ...]:
    given = entry.get("params")
    if isinstance(given, dict):
        return tuple((str(key), _value(str(key), value)) for key, value in given.items())
    if isinstance(given, str):
        return parse_module((pipeline.parent / given).read_text()).parameters
    slot = entry.get("param_id", 0)
    if isinstance(slot, int) and slot in slots:
        return parse_module(slots[slot].read_text()).parameters
    # As the shipped configurations are laid out: pipelines/ beside modules/.
    # A module that pipelines use differently has a file per pipeline: aurora_pack_lite.yaml.
    folder, variant = pipeline.resolve().parent.parent / "modules", pipeline.stem.split("_")[-1]
    for beside in (folder / f"{entry['name']}_{variant}.yaml", folder / f"{entry['name']}.yaml"):
        if slot and beside.exists():
            return parse_module(beside.read_text()).parameters
    return ()


def _value(key: str, value: object) -> ParamValue:
    if isinstance(value, bool | int | float | str):
        return value
    raise ContentError(f"parameter {key!r} is {value!r}", Code.CONFIG_INVALID)


# -- command line


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dipp run`."""
    parser.description = "Run a pipeline over picture files: same process tree, no network."
    parser.add_argument("pipeline", help="pipeline file, or the name of a shipped one: earth, ...")
    parser.add_argument(
        "files", nargs="+", type=Path, help=".png .jpg .tif .raw .batch .fits or .fits.gz"
    )
    parser.add_argument("--out", type=Path, default=Path("out/run"), help="default: %(default)s")
    add_chain_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object per file")


def add_chain_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say what the chain is and how raw frames are read."""
    parser.add_argument("--modules", type=Path, action="append", default=[], metavar="DIR",
                        help="search modules here too; may be repeated")  # fmt: skip
    parser.add_argument("--slot", action="append", default=[], metavar="N=FILE",
                        help="module file of parameter slot N")  # fmt: skip
    parser.add_argument("--timeout", type=float, default=DEFAULT_TIMEOUT_S, metavar="S",
                        help="seconds per module, default %(default)g")  # fmt: skip
    parser.add_argument("--size", default="2464x2056", metavar="WxH[xC]",
                        help="of .raw files, default %(default)s")  # fmt: skip
    parser.add_argument("--bits", type=int, default=12, help="of .raw files, default %(default)s")


def chain_of(arguments: argparse.Namespace) -> Chain:
    """Load the chain that the options of `add_chain_options` name. Raises ContentError, OSError."""
    return load_chain(
        find_pipeline(arguments.pipeline),
        module_dirs=arguments.modules,
        slots=dict(_slot(text) for text in arguments.slot),
        timeout_s=arguments.timeout,
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 1 if any file failed. Raises ContentError, OSError."""
    chain = chain_of(arguments)
    shape = FrameShape.parse(arguments.size, arguments.bits)
    failures = 0
    done: list[Done] = []
    groups = group_inputs(arguments.files)
    with FileRunner() as runner, _progress(len(groups), arguments.json) as report:
        for files in groups:
            result = runner.run_files(chain, files, arguments.out, shape)
            failures += result.code != 0
            report(result)
            if result.code == 0:
                done.append((files, result.written))
    for path in _write_reports(arguments.out, done):
        if not arguments.json:
            print(path)
    return 1 if failures else 0


def _write_reports(out: Path, done: Sequence[Done]) -> list[Path]:
    """Let the readers of special formats write about their files. Raises OSError."""
    sources = {source_of(files[0]) for files, _ in done} - {None}
    return [
        path
        for source in sources
        if source is not None
        for path in source.report(out, [each for each in done if source_of(each[0][0]) is source])
    ]


def _slot(text: str) -> tuple[int, Path]:
    number, _, file = text.partition("=")
    if not number.isdigit() or not file:
        raise ContentError(f"--slot {text!r}: wanted N=FILE", Code.CONFIG_INVALID)
    return int(number), Path(file)


class _Reporter:
    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def __call__(self, result: FileResult) -> None:
        if self._as_json:
            fields = {**asdict(result), "file": str(result.file)}
            print(json.dumps({**fields, "written": [str(path) for path in result.written]}))
            return
        if result.code:
            place = f" in module {result.module}" if result.module else ""
            text = f"{result.code} {describe(result.code)}{place}: {result.reason}"
            print(f"{result.file}: {text}", file=sys.stderr)
        else:
            names = ", ".join(str(path) for path in result.written) or "no image left"
            print(f"{result.file}: {result.wall_s:.2f} s: {names}")


@contextmanager
def _progress(total: int, as_json: bool) -> Iterator[_Reporter]:
    """Give the reporter, with a progress bar around it where somebody watches."""
    if as_json or total < 2 or not sys.stderr.isatty():
        yield _Reporter(as_json)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("pipeline", total=total)

        class Advancing(_Reporter):
            def __call__(self, result: FileResult) -> None:
                super().__call__(result)
                progress.advance(task)

        yield Advancing(as_json)
