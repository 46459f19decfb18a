"""What a module that misbehaves on purpose is, and how it is put on disk. Driver."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dipp.errors import Code
from dipp.hostile_c import C_SOURCE
from dipp.runner.values import ModuleStep

OK = 0
SHORT_S = 0.4
_SUMMARY_CHARS = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One injection. `codes` are the verdicts that are right; `exception` is in the record.

    `native` faults name a case of the C file, `load` ones replace the whole shared object.
    """

    number: int
    name: str
    codes: tuple[int, ...]
    python: str = ""
    native: str = ""
    load_c: str = ""
    content: bytes | None = None
    timeout_s: float = 5.0
    exception: str = ""
    # None: any number of them.
    orphans: int | None = 0
    leaked_segments: int = 0
    # A text that the log in the crash record must contain.
    log: str = ""
    # Injected only if one of these rungs holds.
    needs: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """What is injected, in one line."""
        source = self.python.removeprefix(_PRELUDE).strip()
        what = (
            f"C module, case {self.native}" if self.native
            else "shared object that fails to load" if self.load_c
            else f"file of {len(self.content)} bytes" if self.content is not None
            else " ".join(source.split()) or "no such file"
        )  # fmt: skip
        return what if len(what) <= _SUMMARY_CHARS else what[: _SUMMARY_CHARS - 1] + "…"

    @property
    def outcome(self) -> str:
        """What must come of it, in one line."""
        codes = " or ".join("passes" if code == OK else str(int(code)) for code in self.codes)
        parts = [codes, self.exception, f"log has {self.log!r}" if self.log else ""]
        if self.orphans:
            parts.append(f"{self.orphans} processes ended")
        if self.leaked_segments:
            parts.append(f"{self.leaked_segments} segments removed")
        if Code.TIMEOUT in self.codes:
            parts.append(f"{self.timeout_s:g} to {self.timeout_s + 0.5:g} s")
        return ", ".join(part for part in parts if part)

    @property
    def needs_compiler(self) -> bool:
        """True if the module has to be built from C."""
        return bool(self.native or self.load_c)


_PRELUDE = """\
import ctypes, mmap, os, resource, signal, socket, sys, threading, time
from dipp.sdk import *
from dipp.workspace import SegmentRange
def run(batch, params):
    image = batch.images[0]
"""


def _python(body: str) -> str:
    return _PRELUDE + "".join(f"    {line}\n" for line in body.splitlines())


def make_fault(number: int, name: str, *codes: int, body: str = "", **more: object) -> Fault:
    if body:
        more["python"] = _python(body)
    return Fault(number=number, name=name, codes=codes, **more)  # type: ignore[arg-type]


def has_compiler() -> bool:
    """Say whether native faults can be built here."""
    return shutil.which("gcc") is not None


def compile_module(source: str, path: Path) -> Path:
    """Build a shared object. Raises subprocess.CalledProcessError."""
    command = ["gcc", "-w", "-O1", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=source.encode(), check=True, timeout=60)
    return path


def write_module(fault: Fault, directory: Path) -> ModuleStep:
    """Put the module of a fault in place and return the step that runs it."""
    params: tuple[tuple[str, str], ...] = ()
    path = directory / f"fault_{fault.number}_{fault.name}.py"
    if fault.native:
        path = directory / "hostile.so"
        if not path.exists():
            compile_module(C_SOURCE, path)
        params = (("case", fault.native),)
    elif fault.load_c:
        path = compile_module(fault.load_c, path.with_suffix(".so"))
    elif fault.content is not None:
        path = path.with_suffix(".so")
        path.write_bytes(fault.content)
    elif fault.python:
        path.write_text(fault.python)
    return ModuleStep(
        index=1, name=path.stem, path=str(path), params=params, timeout_s=fault.timeout_s
    )
