"""A baseline: a supervisor that forks for every module when the batch is there.

In the manner of the flown one: the module's result goes into a new shared segment with a third
copy, 32 bytes come back through a pipe, the parent waits for the exit. It is written in Python
and is not the C program. It runs in a process of its own, so that it is small when it forks.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.pipeline import BenchError, load_chain, plain_image, run_module
from dipp.batch import batch_parts, split_blocks
from dipp.runner.executor import Chain
from dipp.runner.loader import PythonModule
from dipp.testing import make_chain

_ANONYMOUS = mmap.MAP_ANONYMOUS
# Metadata that a module writes anew.
_SLACK_BYTES = 1 << 16
_RESULT = struct.Struct("<iIIIQQ")
_ROOT = Path(__file__).resolve().parents[1]


class ForkOnDemand:
    """The supervisor's process, told over pipes what to run. A context manager."""

    def __init__(self, chain: Chain) -> None:
        paths = [step.path for step in chain.steps]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.forking", *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=_ROOT,
        )

    def __enter__(self) -> ForkOnDemand:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.communicate()

    def latency_s(self, size_bytes: int) -> float:
        """Run the chain on a batch of that size; return what the supervisor measured."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the supervisor has no pipes")
        self._process.stdin.write(f"{size_bytes}\n")
        return float(json.loads(self._process.stdout.readline()))


def main(paths: list[str]) -> int:
    """Read sizes, run the chain once each, print the seconds."""
    modules = load_chain(make_chain(*paths))
    for line in sys.stdin:
        data = b"".join(batch_parts([plain_image(int(line))]))
        print(json.dumps(_run_chain(modules, data)), flush=True)
    return 0


def _run_chain(modules: Sequence[PythonModule], data: bytes) -> float:
    fd = _new_segment(len(data))
    with mmap.mmap(fd, len(data)) as view:
        view[:] = data
    began = time.perf_counter()
    for module in modules:
        result = _fork_module(module, fd)
        os.close(fd)
        fd = result
    took = time.perf_counter() - began
    os.close(fd)
    return took


def _fork_module(module: PythonModule, fd: int) -> int:
    """Run one module in a child; return the segment with its result."""
    size = os.fstat(fd).st_size
    result = _new_segment(size)
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _run_module(module, fd, result, size)
            os.write(write_fd, _RESULT.pack(result, 1, size, 1, 0, 0))
            status = 0
        finally:
            os._exit(status)
    os.close(write_fd)
    _, status = os.waitpid(pid, 0)
    answer = os.read(read_fd, _RESULT.size)
    os.close(read_fd)
    if status or len(answer) != _RESULT.size:
        raise BenchError(f"{module.step.name} ended with {status} without any supervision")
    return result


def _run_module(module: PythonModule, fd: int, result: int, size: int) -> None:
    """Run a module that changes neither number nor size of images on private memory."""
    source = memoryview(mmap.mmap(fd, size, prot=mmap.PROT_READ))
    private = memoryview(mmap.mmap(-1, size + _SLACK_BYTES, flags=mmap.MAP_PRIVATE | _ANONYMOUS))
    target = memoryview(mmap.mmap(result, size))
    blocks = split_blocks(source, 1, size)
    for block, pixels in zip(blocks, run_module(module, blocks, source, private), strict=True):
        target[: block.pixel_offset] = source[: block.pixel_offset]
        target[block.pixel_offset : block.end] = pixels


def _new_segment(size: int) -> int:
    fd = os.memfd_create("bench-flown", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
