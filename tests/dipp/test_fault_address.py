"""The address of a fault, from the processor to the crash record."""

from __future__ import annotations

import faulthandler
import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dipp.runner.executor import Failed
from dipp.runner.values import CRASH_RECORD_LIMIT_BYTES, CrashRecord
from dipp.sandbox import faultaddress
from dipp.sandbox.faultline import FAULT_SIGNALS, PREFIX, fault_address, fault_line
from dipp.testing import Harness, make_chain

SOURCES = Path(__file__).parents[2] / "tools" / "fault_stub"
TOUCH = "import ctypes\ndef run(batch, params):\n    ctypes.string_at({})\n"
KILL = """
import os, signal
def run(batch, params):
    print('not me', flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
"""
MODULES: dict[str, tuple[str, int | None]] = {
    "null": (TOUCH.format(0), 0),
    "wild": (TOUCH.format("0x123456789000"), 0x123456789000),
    "sent": (KILL, None),
}

needs_stub = pytest.mark.skipif(
    platform.machine() not in faultaddress.CODE, reason=f"no stub for {platform.machine()}"
)


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    with Harness() as harness:
        yield harness


@needs_stub
@pytest.mark.parametrize("name", MODULES)
def test_the_log_tells_the_address_and_the_last_words_stay_the_modules(
    name: str, harness: Harness, tmp_path: Path
) -> None:
    source, address = MODULES[name]
    (tmp_path / f"{name}.py").write_text(source)
    outcome = harness.run(make_chain(tmp_path / f"{name}.py"))
    assert isinstance(outcome, Failed)
    assert outcome.crash.signal == signal.SIGSEGV
    assert outcome.crash.line, "Python's own handler still has its say"
    assert fault_address(outcome.log) == address
    assert outcome.crash.last_log == ("not me" if name == "sent" else "")


@needs_stub
def test_a_stack_overflow_has_an_address_too(harness: Harness, tmp_path: Path) -> None:
    """The stub runs on the signal stack: there is no other left."""
    source = (
        "import ctypes\n"
        "CALL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)\n"
        "def deeper(n):\n    return CALL(deeper)(n + 1)\n"
        "def run(batch, params):\n"
        "    import sys\n    sys.setrecursionlimit(10**9)\n"
        "    print('down', flush=True)\n    deeper(0)\n"
    )
    (tmp_path / "deep.py").write_text(source)
    outcome = harness.run(make_chain(tmp_path / "deep.py"))
    assert isinstance(outcome, Failed)
    assert outcome.crash.signal == signal.SIGSEGV
    assert fault_address(outcome.log) is not None, "although a long dump of frames follows it"
    assert outcome.crash.last_log == "down"


@needs_stub
@pytest.mark.parametrize("is_enabled", [True, False])
def test_without_a_handler_to_go_on_to_nothing_is_installed(is_enabled: bool) -> None:
    pid = os.fork()
    if pid == 0:
        faulthandler.disable()
        for number in FAULT_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        if is_enabled:
            with open(os.devnull, "w") as sink:
                faulthandler.enable(sink)
                os._exit(not faultaddress.install())
        os._exit(faultaddress.install())
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize(("machine", "tools"), [("x86_64", ""), ("aarch64", "aarch64-linux-gnu-")])
def test_the_bytes_are_those_of_the_source(machine: str, tools: str, tmp_path: Path) -> None:
    assembler = shutil.which(f"{tools}as")
    if assembler is None or (not tools and platform.machine() != machine):
        pytest.skip(f"no assembler for {machine}")
    built = tmp_path / "stub.o"
    subprocess.run([assembler, SOURCES / f"{machine}.s", "-o", built], check=True)
    code = tmp_path / "stub.bin"
    subprocess.run([f"{tools}objcopy", "-O", "binary", "-j", ".text", built, code], check=True)
    assert code.read_bytes() == faultaddress.stub(machine, 0)


@pytest.mark.parametrize(
    ("log", "address"),
    [
        ("", None),
        (f"hello\n{PREFIX.decode()}00000000deadbeef\nFatal Python error: x", 0xDEADBEEF),
        (f"{PREFIX.decode()}{'0' * 16}\n{PREFIX.decode()}{'f' * 16}\n", 2**64 - 1),
        (f"{PREFIX.decode()}xyz", None),
        (f"said {PREFIX.decode()}{'0' * 16}", None),
    ],
)
def test_reading_the_line(log: str, address: int | None) -> None:
    assert fault_address(log) == address


def test_the_line_is_that_of_the_module_not_of_a_library_it_called() -> None:
    log = 'File "/lib/ctypes.py", line 519 in string_at\n  File "/m/a+.py", line 3 in run\n'
    log += '  File "/m/a+.py", line 9 in <module>'
    assert fault_line(log, "/m/a+.py") == 3
    assert fault_line(log, "/m/aa.py") == 0


@pytest.mark.parametrize("address", [None, 0, 1, 2**64 - 1])
def test_the_longest_record_with_an_address_fits_a_parameter(address: int | None) -> None:
    crash = CrashRecord(
        code=65535, name="n" * 99, exception="e" * 99, last_log="l" * 999, fault_address=address
    )
    encoded = crash.encode()
    assert len(encoded) <= CRASH_RECORD_LIMIT_BYTES
    assert CrashRecord.decode(encoded).fault_address == address
