"""Slots and module files: what is accepted, what is refused as a whole, when a chain changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dipp.config.codec import EMPTY_SLOT, encode_module, encode_pipeline, encode_slot
from dipp.config.definition import ModuleConfig, ModuleStep, PipelineDefinition
from dipp.configuration import Configuration
from dipp.errors import Code, ContentError
from dipp.modulefiles import ModuleLibrary
from dipp.params import Telemetry, make_table
from dipp.runner.values import Chain
from dipp.slots import ModuleMissingError, Slots

GOOD = "def run(batch, params):\n    pass\n"


def pipeline(*steps: tuple[str, int]) -> bytes:
    return encode_pipeline(
        PipelineDefinition(
            modules=tuple(
                ModuleStep(name=name, param_id=slot, order=i)
                for i, (name, slot) in enumerate(steps, 1)
            )
        )
    )


PARAMS = encode_module(ModuleConfig(parameters=(("gain", 2),)))
NO_STREAM = b"\x05" + b"\xff" * 187


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    directory = tmp_path / "modules"
    directory.mkdir()
    (directory / "a.py").write_text(GOOD)
    (directory / "b.py").write_text(GOOD)
    (directory / "norun.py").write_text("x = 'runs'\n")
    (directory / "native.so").write_bytes(b"\x7fELF...\0dryrun\0")
    (directory / "empty.so").write_bytes(b"\x7fELF...\0runs\0")
    return directory


@pytest.fixture
def slots(modules: Path) -> Slots:
    return Slots(ModuleLibrary([modules]), lambda: 0.0)


def test_a_chain_has_everything_the_runner_needs(slots: Slots, modules: Path) -> None:
    slots.set_params(3, PARAMS)
    slots.set_pipeline(1, pipeline(("a", 3), ("native", 0)))
    first, second = slots.chain(1).steps
    assert (first.index, first.name, first.path) == (1, "a", str(modules / "a.py"))
    assert len(first.sha256) == 64
    assert first.params == (("gain", 2),)
    assert first.timeout_s == 30.0
    assert (second.index, second.path, second.params) == (2, str(modules / "native.so"), ())


def test_a_timeout_of_zero_is_the_default(modules: Path) -> None:
    seconds = [0.0]
    slots = Slots(ModuleLibrary([modules]), lambda: seconds[0])
    slots.set_pipeline(1, pipeline(("a", 0)))
    assert slots.chain(1).steps[0].timeout_s == 30.0
    seconds[0] = 3.0
    assert slots.chain(1).steps[0].timeout_s == 3.0


@pytest.mark.parametrize("number", [1, 2, 0, 7, -1])
def test_not_configured_is_not_an_empty_pipeline(slots: Slots, number: int) -> None:
    slots.set_pipeline(1, EMPTY_SLOT)
    with pytest.raises(ContentError) as caught:
        slots.chain(number)
    assert caught.value.code == Code.PIPELINE_NOT_FOUND
    slots.set_pipeline(2, encode_slot(b""))
    assert slots.chain(2).steps == ()
    assert slots.configured == (2,)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("missing", Code.MODULE_NOT_FOUND),
        ("norun", Code.MODULE_NO_RUN),
        ("empty", Code.MODULE_NO_RUN),
    ],
)
def test_a_bad_module_leaves_the_pipeline_as_it_was(slots: Slots, name: str, code: Code) -> None:
    slots.set_pipeline(1, pipeline(("a", 0)))
    before = slots.chain(1)
    with pytest.raises(ModuleMissingError) as caught:
        slots.set_pipeline(1, pipeline(("b", 0), (name, 0)))
    assert (caught.value.code, caught.value.module) == (code, 2)
    assert slots.chain(1) is before


def test_a_module_that_goes_missing_later_is_found_out_before_anything_runs(
    slots: Slots, modules: Path
) -> None:
    slots.set_pipeline(1, pipeline(("a", 0), ("b", 0)))
    (modules / "b.py").unlink()
    with pytest.raises(ModuleMissingError) as caught:
        slots.chain(1)
    assert (caught.value.code, caught.value.module) == (Code.MODULE_NOT_FOUND, 2)


def test_an_unchanged_chain_keeps_its_generation(slots: Slots) -> None:
    slots.set_pipeline(1, pipeline(("a", 1)))
    assert slots.chain(1) is slots.chain(1)


Change = Callable[[Slots, Path], object]
CHANGES: dict[str, Change] = {
    "other module": lambda s, m: s.set_pipeline(1, pipeline(("b", 1))),
    "parameters": lambda s, m: s.set_params(1, PARAMS),
    "new file": lambda s, m: (m / "new").write_text(GOOD + "#") and (m / "new").rename(m / "a.py"),
    "file written in place": lambda s, m: (m / "a.py").write_text(GOOD + "##"),
    "failure": lambda s, m: s.forget(1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_changes_gives_a_new_generation(
    slots: Slots, modules: Path, change: Change
) -> None:
    slots.set_pipeline(1, pipeline(("a", 1)))
    before = slots.chain(1)
    change(slots, modules)
    after = slots.chain(1)
    assert after.generation > before.generation
    assert slots.chain(1) is after


def test_a_snapshot_is_not_touched_by_an_update_in_mid_pipeline(slots: Slots) -> None:
    slots.set_pipeline(1, pipeline(("a", 1)))
    running = slots.chain(1)
    slots.set_pipeline(1, pipeline(("b", 1)))
    assert running.steps[0].name == "a"
    assert slots.chain(1).steps[0].name == "b"


def test_uplinked_modules_come_before_those_that_ship(tmp_path: Path, modules: Path) -> None:
    uplinked = tmp_path / "active"
    uplinked.mkdir()
    library = ModuleLibrary([uplinked, modules])
    assert library.find("a").path == modules / "a.py"
    (uplinked / "a.py").write_text(GOOD + "# newer")
    assert library.find("a").path == uplinked / "a.py"


def test_nothing_leads_out_of_the_directories(modules: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.py").write_text(GOOD)
    (modules / "link.py").symlink_to(tmp_path / "secret.py")
    (modules / "folder.py").mkdir()
    os.mkfifo(modules / "fifo.py")
    library = ModuleLibrary([modules, tmp_path / "none"])
    for name in ("link", "folder", "fifo", "../secret", "a.py", "", "a/b", "x" * 65):
        with pytest.raises(ContentError) as caught:
            library.find(name)
        assert caught.value.code == Code.MODULE_NOT_FOUND, name


def test_a_family_of_modules_is_found_after_the_directory_itself(
    modules: Path, tmp_path: Path
) -> None:
    family = modules / "mars"
    family.mkdir()
    (family / "__init__.py").write_text("")
    (family / "limb.py").write_text(GOOD)
    (family / "a.py").write_text(GOOD)
    (family / "shared.py").write_text("def helper(): ...")
    (modules / "loose").mkdir()
    (modules / "loose" / "c.py").write_text(GOOD)
    (modules / "linked").symlink_to(family)
    library = ModuleLibrary([modules, tmp_path / "none"])
    assert library.find("limb").path == family / "limb.py"
    assert library.find("a").path == modules / "a.py"
    for name, code in (("shared", Code.MODULE_NO_RUN), ("c", Code.MODULE_NOT_FOUND)):
        with pytest.raises(ContentError) as caught:
            library.find(name)
        assert caught.value.code == code, name


class Node:
    """A table with its configuration, as the node has it."""

    def __init__(self, modules: Path, stored: dict[str, bytes] | None = None) -> None:
        self.table = make_table()
        for name, value in (stored or {}).items():
            self.table[name].set(value)
        self.telemetry = Telemetry(self.table)
        self.statuses: list[int] = []
        self.warmed: list[Chain] = []
        self.slots = Slots(ModuleLibrary([modules]), lambda: 0.0)
        self.configuration = Configuration(
            self.table,
            self.slots,
            telemetry=self.telemetry,
            log_status=self.statuses.append,
            warm=self.warmed.append,
        )


def test_a_good_push_is_active_and_warmed(modules: Path) -> None:
    node = Node(modules)
    node.table["pipeline_config_2"].write(pipeline(("a", 4)))
    assert node.slots.chain(2).steps[0].name == "a"
    node.table["module_param_4"].write(PARAMS)
    assert [chain.pipeline_id for chain in node.warmed] == [2, 2]
    assert node.warmed[1].steps[0].params == (("gain", 2),)
    assert node.statuses == []


REJECTS = [
    ("pipeline_config_1", NO_STREAM, 516000),
    ("pipeline_config_1", encode_slot(b"\x0a\x03\x12\x01/"), 518000),
    ("pipeline_config_1", pipeline(("a", 0), ("missing", 0)), 501102),
    ("pipeline_config_1", pipeline(("norun", 0)), 502101),
    ("module_param_1", NO_STREAM, 516000),
    ("module_param_1", encode_slot(b"\x0a\x02\x10\x01"), 518000),
]


@pytest.mark.parametrize(("name", "value", "status"), REJECTS)
def test_a_bad_push_changes_nothing_but_the_status(
    modules: Path, name: str, value: bytes, status: int
) -> None:
    node = Node(modules)
    node.table["pipeline_config_1"].write(pipeline(("a", 1)))
    node.table["module_param_1"].write(PARAMS)
    before, stored = node.slots.chain(1), node.table[name].get()
    node.table[name].write(value)
    assert node.slots.chain(1) is before
    assert node.table[name].get() == stored
    assert node.statuses == [status]
    assert node.telemetry.get("config_rejects") == 1


def test_stored_configurations_are_loaded_and_bad_ones_reported(modules: Path) -> None:
    node = Node(
        modules,
        {
            "pipeline_config_1": pipeline(("a", 1)),
            "pipeline_config_2": NO_STREAM,
            "pipeline_config_3": pipeline(("later", 0)),
            "module_param_1": PARAMS,
            "module_param_2": NO_STREAM,
        },
    )
    assert node.slots.configured == (1, 3)
    assert node.slots.chain(1).steps[0].params == (("gain", 2),)
    assert node.statuses == [516000, 516000]
    (modules / "later.py").write_text(GOOD)
    assert node.slots.chain(3).steps[0].name == "later"


def test_wiping_a_slot_makes_it_not_configured(modules: Path) -> None:
    node = Node(modules)
    node.table["pipeline_config_1"].write(pipeline(("a", 0)))
    node.table["pipeline_config_1"].write(EMPTY_SLOT)
    assert node.slots.configured == ()
    assert node.statuses == []
