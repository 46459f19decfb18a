"""The layers of design.md 8: who may import whom, and which files touch the operating system."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"csp", "dish", "dipp", "sim", "modules", "bench", "tools", "tests"}
MAY_IMPORT = {
    "csp": set(),
    "dish": {"csp"},
    "dipp": {"csp"},
    "sim": {"csp", "dish", "dipp"},
    "modules": {"dipp"},
}
OPERATING_SYSTEM = {
    "ctypes", "fcntl", "mmap", "multiprocessing", "os", "posix_ipc", "resource", "select",
    "selectors", "signal", "socket", "subprocess", "tempfile", "termios", "threading", "time",
    "zmq",
}  # fmt: skip
# The drivers: everything not named here must be pure. A trailing slash names a whole folder.
DRIVERS = (
    "csp/cli.py",
    "csp/files/archive.py",
    "csp/files/disk.py",
    "csp/files/folder.py",
    "csp/files/testing.py",
    "csp/hub.py",
    "csp/keyfiles.py",
    "csp/links/",
    "csp/loop.py",
    "csp/monitor_cli.py",
    "csp/node.py",
    "csp/param/table.py",
    "csp/shell/",
    "csp/statelock.py",
    "csp/vmem/file.py",
    "csp/vmem/testing.py",
    "dipp/archive/chains.py",
    "dipp/archive/cli.py",
    "dipp/archive/cluster.py",
    "dipp/archive/handle.py",
    "dipp/archive/local.py",
    "dipp/archive/places.py",
    "dipp/archive/rooms.py",
    "dipp/archive/runner.py",
    "dipp/archive/s3.py",
    "dipp/archive/summary.py",
    "dipp/archive/work.py",
    "dipp/bridge.py",
    "dipp/eventlog.py",
    "dipp/faults/campaign.py",
    "dipp/faults/cli.py",
    "dipp/faults/daemon.py",
    "dipp/faults/injection.py",
    "dipp/faults/pytests.py",
    "dipp/faults/rows_bits.py",
    "dipp/faults/rows_config.py",
    "dipp/faults/rows_module.py",
    "dipp/faults/rows_node.py",
    "dipp/faults/rows_storage.py",
    "dipp/faults/sabotage.py",
    "dipp/faults/smalldisk.py",
    "dipp/faults/world.py",
    "dipp/hostilefault.py",
    "dipp/inputs.py",
    "dipp/intake.py",
    "dipp/journal.py",
    "dipp/modulefiles.py",
    "dipp/node.py",
    "dipp/quarantine.py",
    "dipp/rig.py",
    "dipp/ring.py",
    "dipp/runfiles.py",
    "dipp/runner/",
    "dipp/sandbox/",
    "dipp/segment.py",
    "dipp/soak/cli.py",
    "dipp/soak/field.py",
    "dipp/soak/run.py",
    "dipp/soak/samples.py",
    "dipp/soak/strikes.py",
    "dipp/state.py",
    "dipp/sysv.py",
    "dipp/supervisor/driver.py",
    "dipp/testing.py",
    "dish/board.py",
    "dish/child.py",
    "dish/faultkills.py",
    "dish/faults.py",
    "dish/faultsite.py",
    "dish/forge.py",
    "dish/node.py",
    "dish/runs.py",
    "dish/storage.py",
    "sim/box.py",
    "sim/camera/cli.py",
    "sim/camera/node.py",
    "sim/camera/segments.py",
    "sim/nodes.py",
    "sim/payload/",
    "sim/store.py",
)


def _sources(package: str) -> Iterator[Path]:
    for path in sorted((ROOT / package).rglob("*.py")):
        if not path.name.endswith("_pb2.py"):
            yield path


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_packages_import_only_the_layers_below(package: str) -> None:
    allowed = MAY_IMPORT[package] | {package}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in _sources(package)
        for line, name in _imports(path)
        if name.split(".")[0] in OURS - allowed
    ]
    assert wrong == []


def test_modules_import_only_the_sdk_of_dipp() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in _sources("modules")
        for line, name in _imports(path)
        if name.split(".")[0] == "dipp" and name != "dipp.sdk"
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ["csp", "dish", "dipp", "sim"])
def test_pure_files_do_not_touch_the_operating_system(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in _sources(package)
        if not any(
            str(path.relative_to(ROOT)) == each
            or (each.endswith("/") and str(path.relative_to(ROOT)).startswith(each))
            for each in DRIVERS
        )
        for line, name in _imports(path)
        if name.split(".")[0] in OPERATING_SYSTEM
    ]
    assert wrong == []


def test_the_driver_table_names_only_what_exists() -> None:
    assert [each for each in DRIVERS if not (ROOT / each).exists()] == []


def test_every_package_says_what_lives_in_it() -> None:
    missing = [
        str(path.relative_to(ROOT))
        for package in MAY_IMPORT
        for path in (ROOT / package).rglob("__init__.py")
        if "_pb2" not in path.name and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert missing == []
