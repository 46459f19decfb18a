"""Rows of group F: configurations that are damaged, hostile or cut off. Driver.

Each is pushed over the bus to a whole node, or lies in its state directory when it starts.
"""

from __future__ import annotations

import contextlib
import os
import signal

import brotli

from csp.errors import PeerError
from csp.faultrow import Case, FaultRow, require
from csp.vmem.file import FileArea
from csp.vmem.testing import KillingFileOps
from dipp.config.codec import encode_module, encode_slot
from dipp.config.definition import ModuleConfig
from dipp.faults.world import NEGATE, World, pipeline_value
from dipp.params import STORAGE_AREA, STORAGE_BYTES

_SLOT_BYTES = 188
_SWEPT_BITS = 40
_PARAMETERISED = (
    "from dipp.sdk import Manifest, Param\n"
    "MANIFEST = Manifest('typed', '1', '', params=(Param('top', 'int', 255, ''),))\n" + NEGATE
)


def _rejected(world: World, name: str, value: bytes, codes: tuple[int, ...]) -> None:
    """Push what must be refused; look that nothing changed but the status and a counter."""
    before, rejects = world.get(name), world.node.telemetry.get("config_rejects")
    # The ground notices that the node kept the old value.
    with contextlib.suppress(PeerError):
        world.set(name, value.ljust(_SLOT_BYTES, b"\0"))
    status = world.node.telemetry.get("log_status")
    require(world.get(name) == before, f"{name} changed although it was refused")
    require(
        world.node.telemetry.get("config_rejects") == rejects + 1, f"{name}: no refusal counted"
    )
    require(status // 1000 in codes, f"{name}: status {status}, expected {codes}")


def _still_runs(world: World) -> None:
    world.camera.shoot(b"\x01", pipeline=1)
    world.process()
    require(world.pixels() == b"\xfe", "the active configuration no longer runs")


def _no_message(case: Case) -> str:
    with World(case.directory) as world:
        world.configure(1, "negate")
        golden = pipeline_value("negate")
        tried = [encode_slot(b"\xff\xff"), encode_slot(b"\x0a\x7f\x12\x01a")]
        tried += [encode_slot(golden[2:10][: case.random.randrange(2, 8)]) for _ in range(3)]
        for value in tried:
            _rejected(world, "pipeline_config_1", value, (516, 518))
        for value in (b"\xff\xff", b"\x0a\x03\x0a\x01a", b"\x0a\x02\x10\x01"):
            _rejected(world, "module_param_1", encode_slot(value), (518,))
        _still_runs(world)
    return f"{len(tried)} pipelines and 3 parameter sets refused, the old pipeline runs"


def _bad_compression(case: Case) -> str:
    bomb = brotli.compress(bytes(1 << 26), quality=5, lgwin=24)
    with World(case.directory) as world:
        world.configure(1, "negate")
        noise = [bytes([90]) + case.random.randbytes(90) for _ in range(5)]
        stream = pipeline_value("negate")
        cut = bytes([stream[0] - 3]) + stream[1 : stream[0] - 2]
        for value in (*noise, cut, bytes([187]) + b"\0" * 187, bytes([len(bomb)]) + bomb):
            _rejected(world, "pipeline_config_1", value, (516, 518))
        _still_runs(world)
    return f"noise, a cut stream and a bomb of {len(bomb)} bytes for 64 MB refused"


def _bad_definitions(case: Case) -> str:
    unknown = case.random.choice(("missing", "nothing_here"))
    rows = (
        (pipeline_value("negate", unknown), (501,)),
        (encode_slot(b"\x0a\x03\x12\x01a" * 21), (518,)),
        (encode_slot(b"\x0a\x00" * 25), (518,)),
        (encode_slot(b"\x0a\x06\x12\x04../x"), (518,)),
        (encode_slot(b"\x0a\x05\x12\x01a\x18\x15"), (518,)),
        (encode_slot(b"\x0a\x02\x18\x01"), (518,)),
    )
    with World(case.directory) as world:
        world.configure(1, "negate")
        for value, codes in rows:
            _rejected(world, "pipeline_config_1", value, codes)
        quarantined = world.node.telemetry.get("batches_quarantined")
        for pipeline in (7, 0, 4):
            world.camera.shoot(b"\x01", pipeline=pipeline)
        world.process()
        refused = world.node.telemetry.get("batches_quarantined") - quarantined
        require(refused == 3, f"{refused} of 3 batches for unknown pipelines were quarantined")
        _still_runs(world)
    return f"{len(rows)} definitions refused as a whole, 3 batches of unknown pipelines quarantined"


def _wrong_type(case: Case) -> str:
    values = ("white", case.random.random() + 1, True)
    with World(case.directory) as world:
        (world.modules / "typed.py").write_text(_PARAMETERISED)
        world.set("pipeline_config_2", pipeline_value("typed", slot=5))
        for value in values:
            world.set("module_param_5", encode_module(ModuleConfig(parameters=(("top", value),))))
            world.camera.shoot(b"\x01", pipeline=2)
            world.process()
            status = world.node.telemetry.get("log_status")
            require(status == 504201, f"{value!r}: status {status}, expected 504201")
        world.set("module_param_5", encode_module(ModuleConfig(parameters=(("top", 9),))))
        world.camera.shoot(b"\x01", pipeline=2)
        world.process()
        require(world.pixels() == b"\xfe", "the right type does not pass either")
    return f"{len(values)} values of another type: 504 with pipeline 2, module 1"


def _update_in_mid_pipeline(case: Case) -> str:
    with World(case.directory) as world:
        world.configure(5, "slow", "negate")
        first, second = case.random.sample(range(1, 200), 2)
        for value in (first, second):
            world.camera.shoot(bytes([value]), pipeline=5)
        world.set("pipeline_run", 2)
        world.until(lambda: world.node.executor.current, "a module runs")
        world.configure(5, "add_one")
        world.until(lambda: world.get("pipeline_run") == 0, "pipeline_run is 0 again")
        found = [world.pixels(index)[0] for index in (-2, -1)]
    require(found == [255 - first, second + 1], f"pixels {found} of {first}, {second}")
    return "the batch under way ended on the old pipeline, the next ran on the new one"


def _power_cut(case: Case) -> str:
    path = case.directory / "storage.vmem"
    kills = 0
    old, new = case.random.randbytes(STORAGE_BYTES), case.random.randbytes(STORAGE_BYTES)
    while True:
        kills += 1
        area = FileArea(STORAGE_AREA, path, STORAGE_BYTES)
        area.write(0, old)
        area.flush()
        pid = os.fork()
        if pid == 0:
            try:
                child = FileArea(STORAGE_AREA, path, STORAGE_BYTES, ops=KillingFileOps(kills))
                child.write(0, new)
                child.flush()
            finally:
                os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        found = FileArea(STORAGE_AREA, path, STORAGE_BYTES).read(0, STORAGE_BYTES)
        require(found in (old, new), f"neither old nor new after a kill at call {kills}")
        if status != -signal.SIGKILL:
            require(found == new, "what was written without a kill is not there")
            break
    require(kills > 8, f"only {kills} calls were cut")
    return f"killed at each of {kills - 1} calls, half-written data included: old or new"


def _stored_bit_flip(case: Case) -> str:
    with World(case.directory) as world:
        world.configure(1, "negate")
        world.configure(2, "add_one")
        world.loop.tick(0.01)
    storage = case.directory / "state" / "storage.vmem"
    intact = storage.read_bytes()
    bits = case.random.sample(range(8 * len(intact)), _SWEPT_BITS)
    for bit in bits:
        flipped = bytearray(intact)
        flipped[bit // 8] ^= 1 << bit % 8
        storage.write_bytes(flipped)
        area = FileArea(STORAGE_AREA, storage, STORAGE_BYTES)
        require(area.report.damaged, f"bit {bit} was not noticed")
    with World(case.directory) as world:
        value = world.get("pipeline_config_1")
        require(value == pipeline_value("negate").ljust(_SLOT_BYTES, b"\0"),
                "the node did not start with the previous copy")  # fmt: skip
        _still_runs(world)
    return f"{_SWEPT_BITS} flipped bits noticed; a node started on one runs the previous copy"


ROWS: tuple[FaultRow, ...] = (
    FaultRow(
        id=54, name="configuration-is-no-message", inject=_no_message,
        injected="pushes protobuf that is damaged, cut or of another schema",
        expected="516 or 518, counted, old value stays and runs",
    ),
    FaultRow(
        id=55, name="compression-damaged-or-bomb", inject=_bad_compression,
        injected="pushes brotli noise, a cut stream, 187 zeros, a bomb for 64 MB",
        expected="516 at once, old value stays and runs",
    ),
    FaultRow(
        id=56, name="definition-that-cannot-be", inject=_bad_definitions,
        injected="pushes pipelines with unknown modules, 21 modules, empty names, ../, slot 21;"
        " sends batches for pipelines 7, 0 and an unconfigured one",
        expected="501 or 518 as a whole, batches quarantined with 500, old value runs",
    ),
    FaultRow(
        id=57, name="parameter-of-another-type", inject=_wrong_type,
        injected="gives text, a float, a bool to a parameter that is an int",
        expected="504 with pipeline and module; the right type passes",
    ),
    FaultRow(
        id=58, name="update-in-mid-pipeline", inject=_update_in_mid_pipeline,
        injected="pushes another pipeline while a module of the old one runs",
        expected="the batch under way ends on the old one, the next runs on the new one",
    ),
    FaultRow(
        id=59, name="power-cut-while-writing", inject=_power_cut,
        injected="SIGKILL at every file operation of a save, a write half done first",
        expected="old or new configuration, whole",
    ),
    FaultRow(
        id=60, name="bit-flip-in-stored-configuration", inject=_stored_bit_flip,
        injected=f"flips {_SWEPT_BITS} bits of storage.vmem, one at a time; starts a node on one",
        expected="every one noticed, the previous copy used",
    ),
)  # fmt: skip
