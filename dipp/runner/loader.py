"""Bring module files into a pipeline host: Python source or native shared object.

Driver; runs in the host, so whatever a module does while it is loaded hurts that host only. The
file is read once: what is hashed is what is compiled or linked, and a file that is replaced or
truncated later changes nothing. Source: dipp.md 13, defects D8 and D12, faults 46..53.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import types
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from dipp.errors import Code, ContentError, custom_code
from dipp.manifest import ABI_VERSION, Manifest, Params
from dipp.runner.frames import (
    Go,
)
from dipp.runner.native import NativeLibrary, open_library
from dipp.runner.values import ModuleStep
from dipp.sdk import Batch, Image, ModuleError
from dipp.workspace import ImageRef, Workspace

# Larger than any module or its statically linked libraries; keeps a wrong path out of memory.
MODULE_LIMIT_BYTES = 64 << 20
_NATIVE_SUFFIX = ".so"
ErrorPipe = tuple[int, int]


class LoadedModule(Protocol):
    """A module ready to be executed in a child."""

    step: ModuleStep
    is_native: bool

    def execute(
        self, go: Go, space: Workspace, error_pipe: ErrorPipe | None
    ) -> tuple[int, Sequence[ImageRef] | None]:
        """Run on a batch; return the pipeline id and the images it reports, None: those it got."""

    def rehearse(
        self, go: Go, space: Workspace, error_pipe: ErrorPipe | None
    ) -> tuple[int, Sequence[ImageRef] | None]:
        """Do what `execute` does but for the module's `run`, to have it all in memory."""

    def rehearse_fully(self) -> None:
        """Do what the module offers for its own part. Raises whatever that raises."""


def load_module(step: ModuleStep) -> LoadedModule:
    """Load one module. Raises ContentError: 501, 502, 503..506, 604 or the module's own code."""
    content = read_module(step.path, step.sha256)
    if step.path.endswith(_NATIVE_SUFFIX):
        return NativeModule(step, open_library(step.path, content))
    return PythonModule(step, content)


def read_module(path: str, sha256: str = "") -> bytes:
    """Return the content of a module file. Raises ContentError (501)."""
    try:
        # Non-blocking, so that a fifo in the place of a module cannot hang the host.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MODULE_LIMIT_BYTES:
                raise ContentError(f"{path}: not a plain file of <= 64 MB", Code.MODULE_NOT_FOUND)
            content = file.read(MODULE_LIMIT_BYTES)
    except (OSError, ValueError) as error:
        raise ContentError(f"{path}: {error}", Code.MODULE_NOT_FOUND) from error
    digest = hashlib.sha256(content).hexdigest()
    if sha256 and digest != sha256.lower():
        text = f"{path}: sha256 is {digest[:16]}..., configured {sha256[:16]}..."
        raise ContentError(text, Code.MODULE_NOT_FOUND)
    return content


class PythonModule:
    """A Python module file, executed once; its `run` is called in the children."""

    is_native = False

    def __init__(self, step: ModuleStep, content: bytes) -> None:
        self.step = step
        module = execute_source(step, content)
        self.manifest = _manifest(module, step)
        self._run: Callable[[Batch, Params], object] = _function(module, "run", step)
        self.params = Params(step.params, self.manifest)
        for code, text in self.params.problems():
            raise ContentError(f"{step.name}: {text}", code)
        if hasattr(module, "load"):
            load = _function(module, "load", step)
            _guarded(step, "load", lambda: load(self.params))
        self.module = module
        self._rehearse: Callable[[Params], object] | None = None
        if hasattr(module, "rehearse"):
            self._rehearse = _function(module, "rehearse", step)
        self._parts = _parts(module)

    def rehearse(
        self, go: Go, space: Workspace, error_pipe: ErrorPipe | None
    ) -> tuple[int, Sequence[ImageRef] | None]:
        """Do everything for an image of one byte."""
        for _ in self._parts:
            # To take an object up writes into it: its page becomes this process's own now.
            pass
        return self._call(_touch, go, space)

    def rehearse_fully(self) -> None:
        """Call the module's hook. Raises whatever that raises."""
        if self._rehearse is not None:
            self._rehearse(self.params)

    def execute(
        self, go: Go, space: Workspace, error_pipe: ErrorPipe | None
    ) -> tuple[int, Sequence[ImageRef] | None]:
        """Run on a batch. Raises whatever the module raises."""
        return self._call(self._run, go, space)

    def _call(
        self, run: Callable[[Batch, Params], object], go: Go, space: Workspace
    ) -> tuple[int, Sequence[ImageRef] | None]:
        batch = Batch(go.images, space, go.pipeline_id, go.batch_id)
        result = run(batch, self.params)
        if result is None or result is batch:
            if batch.is_untouched:
                return batch.pipeline_id, None
            result = batch
        if not isinstance(result, Batch):
            raise ModuleError(Code.RESULT_INVALID, f"run returned {type(result).__name__}")
        refs = []
        for image in result.images:
            if not isinstance(image, Image):
                raise ModuleError(Code.RESULT_INVALID, f"{type(image).__name__} among the images")
            refs.append(image.to_ref())
        return result.pipeline_id, refs


def _parts(module: types.ModuleType) -> tuple[object, ...]:
    """Return what a module consists of: its globals, and of its functions the code."""
    parts: list[object] = list(module.__dict__.values())
    codes = [value.__code__ for value in parts if isinstance(value, types.FunctionType)]
    for code in codes:
        parts += [code, *code.co_consts]
        codes += [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return tuple(parts)


def _touch(batch: Batch, params: Params) -> None:
    """What a module usually asks of a batch."""
    for image in batch:
        local = image.copy()
        np.copyto(local, image.pixels)
        image.edit()
        new = batch.allocate(image.shape, image.dtype)
        np.copyto(new, local)
        batch.replace(image, image.derive(pixels=new))
    list(params)


class NativeModule:
    """A shared object with the flown interface."""

    is_native = True

    def __init__(self, step: ModuleStep, library: NativeLibrary) -> None:
        self.step = step
        self._library = library

    def rehearse(
        self, go: Go, space: Workspace, error_pipe: ErrorPipe | None
    ) -> tuple[int, Sequence[ImageRef]]:
        """Do nothing: only `run` itself would tell anything, and it may have effects."""
        return go.pipeline_id, [image.ref for image in go.images]

    def rehearse_fully(self) -> None:
        """Do nothing, for the same reason."""

    def execute(
        self, go: Go, space: Workspace, error_pipe: ErrorPipe | None
    ) -> tuple[int, Sequence[ImageRef]]:
        """Run on a copy of the batch in a System V segment."""
        if error_pipe is None:
            raise ModuleError(Code.PIPE_CREATE, "no error pipe")
        return self._library.execute(go, self.step.params, space, error_pipe)


def execute_source(step: ModuleStep, content: bytes) -> types.ModuleType:
    """Compile and execute a module file as a Python module of its own."""
    try:
        code = compile(content, step.path, "exec")
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ContentError(f"{step.path}: {error}", Code.MODULE_NOT_FOUND) from error
    module = types.ModuleType(f"dipp_module_{step.index}_{step.name}")
    module.__file__ = step.path
    # Registered, because dataclasses and pickling look their module up by name.
    sys.modules[module.__name__] = module
    _guarded(step, "import", lambda: exec(code, module.__dict__))
    return module


def _guarded(step: ModuleStep, what: str, call: Callable[[], object]) -> None:
    try:
        call()
    except ModuleError as error:
        raise ContentError(f"{step.name}: {error.reason}", custom_code(error.code)) from error
    except BaseException as error:  # boundary: foreign code in the host's own process
        text = f"{step.name}: {what}: {type(error).__name__}: {error}"
        raise ContentError(text, Code.LOAD_CRASHED) from error


def _function(module: types.ModuleType, name: str, step: ModuleStep) -> Callable[..., object]:
    function: Callable[..., object] | None = getattr(module, name, None)
    if not callable(function):
        raise ContentError(f"{step.path}: no function {name!r}", Code.MODULE_NO_RUN)
    return function


def _manifest(module: types.ModuleType, step: ModuleStep) -> Manifest | None:
    manifest = getattr(module, "MANIFEST", None)
    if manifest is None:
        return None
    if not isinstance(manifest, Manifest) or manifest.abi != ABI_VERSION:
        text = f"{step.path}: manifest is not of interface version {ABI_VERSION}"
        raise ContentError(text, Code.MODULE_NOT_FOUND)
    return manifest
