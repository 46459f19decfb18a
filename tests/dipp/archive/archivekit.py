"""What the tests of the archive share: pictures, a chain, the command, and who is whose child."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from dipp.archive.records import Record
from dipp.cli import main
from dipp.pictures import encode_png
from dipp.testing import parent_of

DEADLINE_S = 120.0
# The first sample of a picture: 255 crashes for real, 254 hangs, 253 takes a moment.
CRASH, HANG, SLOW = 255, 254, 253
MODULE = """
import ctypes, time
from dipp.sdk import Manifest, Param
MANIFEST = Manifest('picky', '1.0', 'crashes where told', params=(
    Param('add', 'int', 0, 'added to every sample'),))
def run(batch, params):
    for image in batch:
        told = int(image.pixels[0, 0, 0])
        if told == 255:
            print('about to crash', flush=True)
            ctypes.string_at(0)
        while told == 254:
            pass
        if told == 253:
            time.sleep(0.4)
        image.edit()[:] += params.get_int('add')
        image.add_item('kind', 'odd' if int(image.pixels[0, 0, 1]) % 2 else 'even')
"""


def write_chain(folder: Path, module: str = MODULE, add: int = 0) -> Path:
    """Write a module and a pipeline of it; return the pipeline file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "picky.py").write_text(module)
    path = folder / "picky.yaml"
    path.write_text(f"- name: picky\n  params: {{add: {add}}}\n")
    return path


def picture(number: int, told: int = 0) -> bytes:
    """Return a small PNG that differs for every number."""
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[0, 0] = told, number % 256, number // 256
    pixels[3:, 2:6] = 40, 90, 200
    return encode_png(pixels)


def write_pictures(folder: Path, count: int, told: dict[int, int] | None = None) -> Path:
    """Write that many pictures; `told` says which ones tell the module something."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"p{number:04d}.png").write_bytes(picture(number, (told or {}).get(number, 0)))
    return folder


def archive(*words: object) -> tuple[int, dict]:
    """Run the command in this process; return its status and what it says.

    With one worker, unless told: to start one costs more than the few pictures of most tests.
    """
    out = io.StringIO()
    if "--workers" not in words:
        words = (*words, "--workers", 1)
    with contextlib.redirect_stdout(out):
        status = main(["archive", *map(str, words), "--json"])
    text = out.getvalue()
    return status, json.loads(text) if text else {}


def start(*words: object) -> subprocess.Popen:
    """Run the command in a process of its own, to be killed."""
    command = [sys.executable, "-m", "dipp", "archive", *map(str, words), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen) -> tuple[int, dict]:
    """Wait for the end of a command; return its status and what it says."""
    out, error = process.communicate(timeout=DEADLINE_S)
    assert out, error.decode()
    return process.returncode, json.loads(out)


def children(pid: int, word: str = "") -> list[int]:
    """Return the children of a process whose command line has that word in it."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and parent_of(int(name)) == pid:
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{name}/cmdline").read_bytes()
                if word.encode() in line:
                    found.append(int(name))
    return found


def runners(pid: int) -> list[int]:
    """Return the runner processes of a command."""
    return children(pid, "dipp.archive.runner")


def kill(pid: int) -> None:
    """Kill a process that this test has started, directly or through others; wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            wait_gone(pidfd)
        finally:
            os.close(pidfd)


def wait_gone(pidfd: int) -> None:
    """Wait for the end of a process."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    assert poller.poll(DEADLINE_S * 1000), "a process that was killed does not end"


def until(process: subprocess.Popen, condition) -> bool:
    """Wait until something is so; False if the command ends before that."""
    for _ in range(int(DEADLINE_S / 0.02)):
        if condition():
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
            return False
    raise AssertionError("it did not happen")


def records(store: str | Path) -> list[Record]:
    """Return the records of a store in a directory, each checked against its files."""
    found = []
    for path in Path(store).glob("results/*/*/record.json"):
        record = Record.decode(path.read_bytes())
        assert path.parent.name == record.key
        for output in record.outputs:
            assert (path.parent / output.name).stat().st_size == output.size_bytes
        found.append(record)
    return found


def assert_each_once(found: list[Record], files: list[Path]) -> None:
    """Fail unless every file is in exactly one record."""
    counts = Counter(each.uri for record in found for each in record.inputs)
    assert counts == dict.fromkeys(map(str, files), 1)


def count_results(destination: Path) -> int:
    """Return how many results there are, of whichever chain."""
    return sum(1 for _ in destination.glob("*/results/*/*/record.json"))


def tree(folder: Path) -> dict[str, int]:
    """Return all files with their times of change."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
