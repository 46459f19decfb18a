"""What a chain is made of, as a hash and as a text that another process can load. Driver.

Theory of operation: a module's code is its file; if that lies in a family (a package of modules),
all of the family; what it imports from the shipped `modules`; the `models` directory beside it; and
files its parameters name. All of that with the parameters is hashed. Timeouts are not: they decide
whether there is a result, not which. Neither is what is installed (numpy, codecs); it is written
down beside the results. A process that is to run the chain hashes its own copy and refuses another.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from dipp.archive.keys import KEY_VERSION, digest_of, safe_stem
from dipp.errors import Code, ContentError
from dipp.inputs import FrameShape
from dipp.manifest import ABI_VERSION
from dipp.modulefiles import packaged_modules
from dipp.runner.executor import Chain, ModuleStep

# A family or a directory of models beyond this is something else by mistake.
_FILES_LIMIT = 4000
_MODELS, _PACKAGE = "models", "modules"
_LIBRARIES = ("numpy", "opencv-python-headless", "imagecodecs", "tflite-runtime", "ai-edge-litert")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """All that a runner needs to know once. `pipeline` is a name for people."""

    pipeline: str
    chain: Chain
    fingerprint: str
    shape: FrameShape
    thumbnail_px: int
    store: str = ""

    @property
    def folder(self) -> str:
        """Return the name of the chain's directory in a destination."""
        return f"{safe_stem(self.pipeline + '.yaml')}-{self.fingerprint[:12]}"

    @property
    def shape_text(self) -> str:
        """Return how raw frames are read."""
        shape = self.shape
        return f"{shape.width}x{shape.height}x{shape.channels}/{shape.bits_pixel}"

    def encode(self) -> bytes:
        """Return the context as JSON."""
        shape = self.shape
        fields = {
            "pipeline": self.pipeline,
            "steps": [_step_fields(step) for step in self.chain.steps],
            "fingerprint": self.fingerprint,
            "shape": [shape.width, shape.height, shape.channels, shape.bits_pixel],
            "thumbnail_px": self.thumbnail_px,
            "store": self.store,
        }
        return json.dumps(fields).encode("ascii")

    @classmethod
    def decode(cls, data: bytes) -> Context:
        """Parse what `encode` made; shipped modules are those of this process. Raises ContentError.

        The text comes from a process of the same program, so its values are not checked.
        """
        try:
            fields = json.loads(data)
            steps = tuple(_step(row, index) for index, row in enumerate(fields["steps"], 1))
            width, height, channels, bits = fields["shape"]
            return cls(
                pipeline=fields["pipeline"],
                chain=Chain(pipeline_id=1, generation=1, steps=steps),
                fingerprint=fields["fingerprint"],
                shape=FrameShape(width=width, height=height, channels=channels, bits_pixel=bits),
                thumbnail_px=fields["thumbnail_px"],
                store=fields["store"],
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ContentError(f"damaged context: {error}", Code.CONFIG_INVALID) from error


def make_context(pipeline: str, chain: Chain, shape: FrameShape, thumbnail_px: int) -> Context:
    """Hash a chain; fix the hash of every module in it and where it is. Raises ContentError."""
    # Runners of a cluster work in other directories.
    steps = tuple(
        replace(step, path=os.path.abspath(step.path), sha256=_hash(Path(step.path)))
        for step in chain.steps
    )
    chain = replace(chain, steps=steps)
    return Context(
        pipeline=pipeline,
        chain=chain,
        fingerprint=fingerprint(chain),
        shape=shape,
        thumbnail_px=thumbnail_px,
    )


def fingerprint(chain: Chain) -> str:
    """Return the hash of everything that decides what a chain makes of a file.

    Raises ContentError (501) if something of it cannot be read.
    """
    steps = [
        {
            "name": step.name,
            "params": _effective(step),
            "files": _hashes(step),
        }
        for step in chain.steps
    ]
    return digest_of([KEY_VERSION, ABI_VERSION, steps])


def describe_chain(context: Context) -> dict[str, object]:
    """Return for people and programs what made the results of a directory."""
    steps = [
        {
            "name": step.name,
            "sha256": step.sha256,
            "params": dict(_effective(step)),
            "files": len(_files(step)),
            "timeout_s": step.timeout_s,
        }
        for step in context.chain.steps
    ]
    return {
        "pipeline": context.pipeline,
        "fingerprint": context.fingerprint,
        "steps": steps,
        "raw_frames": context.shape_text,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "libraries": dict(_installed()),
    }


def _installed() -> Iterator[tuple[str, str]]:
    for name in _LIBRARIES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def _effective(step: ModuleStep) -> list[tuple[str, object]]:
    """Return the parameters as a module sees them: of duplicates the first, in any order."""
    values: dict[str, object] = {}
    for key, value in step.params:
        values.setdefault(key, value)
    return sorted(values.items())


# -- shipping


def _step_fields(step: ModuleStep) -> Mapping[str, object]:
    path, home = Path(step.path), packaged_modules()
    is_shipped = path.is_relative_to(home)
    return {
        "name": step.name,
        "path": str(path.relative_to(home)) if is_shipped else str(path),
        "is_shipped": is_shipped,
        "sha256": step.sha256,
        "params": step.params,
        "timeout_s": step.timeout_s,
    }


def _step(fields: Mapping[str, object], index: int) -> ModuleStep:
    path = Path(str(fields["path"]))
    params = fields["params"]
    if not isinstance(params, list):
        raise ValueError(f"params are {params!r}")
    return ModuleStep(
        index=index,
        name=str(fields["name"]),
        path=str(packaged_modules() / path if fields["is_shipped"] else path),
        sha256=str(fields["sha256"]),
        params=tuple((key, value) for key, value in params),
        timeout_s=float(str(fields["timeout_s"])),
    )


# -- files


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ContentError(f"{path}: {error}", Code.MODULE_NOT_FOUND) from error


def _hashes(step: ModuleStep) -> list[tuple[str, str]]:
    return sorted((name, _hash(path)) for name, path in _files(step).items())


def _files(step: ModuleStep) -> dict[str, Path]:
    """Return what a module consists of, by names that do not depend on where it lies."""
    home, own = packaged_modules(), Path(step.path)
    found: dict[str, Path] = {}
    waiting = [(_label(own, own.parent), own), *_beside(own)]
    while waiting:
        label, path = waiting.pop()
        if label in found:
            continue
        found[label] = path
        if len(found) > _FILES_LIMIT:
            text = f"{own}: more than {_FILES_LIMIT} files beside it; give it a directory"
            raise ContentError(text, Code.MODULE_NOT_FOUND)
        for name in _imported(path):
            if (home / name).is_dir():
                waiting += _tree(home / name, home)
            elif (home / f"{name}.py").is_file():
                waiting.append((_label(home / f"{name}.py", home), home / f"{name}.py"))
    found.update(_named_by_params(step))
    return found


def _beside(own: Path) -> Iterable[tuple[str, Path]]:
    """Return the family of a module, or the models beside one that has none."""
    parent, home = own.parent, packaged_modules()
    if parent != home and (parent / "__init__.py").is_file():
        return _tree(parent, parent.parent)
    return _tree(parent / _MODELS, parent) if parent != home else ()


def _tree(root: Path, base: Path) -> Iterator[tuple[str, Path]]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in ("__pycache__", ".git"))
        for name in sorted(files):
            path = Path(folder) / name
            if path.suffix != ".pyc" and path.is_file():
                yield _label(path, base), path


def _label(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix()


def _imported(path: Path) -> Iterator[str]:
    """Return the names below `modules` that a Python file imports."""
    if path.suffix != ".py":
        return
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        # The host will say what is wrong with it.
        return
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == _PACKAGE:
                names = [f"{_PACKAGE}.{alias.name}" for alias in node.names]
        for name in names:
            words = name.split(".")
            if words[0] == _PACKAGE and len(words) > 1:
                yield words[1]


def _named_by_params(step: ModuleStep) -> Iterator[tuple[str, Path]]:
    own = Path(step.path).parent
    for key, value in _effective(step):
        if not isinstance(value, str) or not value:
            continue
        for place in (own / value, own / _MODELS / value):
            # os.path, because a text may hold what no file name can.
            if os.path.isfile(place):
                yield f"{key}={value}", place
                if os.path.isfile(place.with_suffix(".json")):
                    yield f"{key}={value}.json", place.with_suffix(".json")
