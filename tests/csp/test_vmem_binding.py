"""Parameters kept in areas: loading, write-through, one flush per packet, writes from outside."""

from __future__ import annotations

import struct

import pytest

from csp.errors import MisuseError
from csp.param.codec import QueueWriter
from csp.param.errors import SpecError
from csp.param.msgpack import encode_value
from csp.param.server import ParamServer
from csp.param.table import ParamSpec, ParamTable
from csp.param.types import TYPES, ParamType
from csp.vmem.area import RamArea, StoreError
from csp.vmem.binding import Binding
from csp.vmem.file import FileArea
from csp.vmem.testing import CountingFileOps, FailingFileOps, SimulatedDisk

# As the flown DIPP: parameters packed without alignment (dipp.md 4).
SPECS = [
    ParamSpec(id=10, name="config", type=ParamType.DATA, array_size=188, area="storage", address=0),
    ParamSpec(id=2, name="log", type=ParamType.U32, area="storage", address=0x1318, default=9),
    ParamSpec(id=3, name="radio", type=ParamType.U8, area="storage", address=0x131C),
    ParamSpec(id=4, name="timeout", type=ParamType.U32, area="storage", address=0x131D),
    ParamSpec(id=5, name="gains", type=ParamType.I16, array_size=4, area="storage", address=0x1401),
    ParamSpec(
        id=6, name="title", type=ParamType.STRING, array_size=8, area="storage", address=0x1500
    ),
    ParamSpec(id=7, name="ram", type=ParamType.U8),
]
SIZE = 10000


class Node:
    """A table bound to a file area on a simulated disk."""

    def __init__(self, disk=None):
        self.disk = disk if disk is not None else SimulatedDisk()
        self.ops = CountingFileOps(self.disk)
        self.table = ParamTable(SPECS)
        self.file = FileArea("storage", "storage.vmem", SIZE, ops=self.ops)
        self.binding = Binding(self.table, [self.file])
        self.seen = []
        for parameter in self.table:
            self.table.on_write(parameter.name, lambda p, i: self.seen.append((p.name, i)))

    def reboot(self):
        return Node(SimulatedDisk(self.disk.files))

    def push(self, *items):
        writer = QueueWriter()
        for number, kind, value in items:
            writer.add(number, node=0, value=encode_value(TYPES[kind], value))
        server = ParamServer(self.table, commit=self.binding.flush)
        return server.answer(b"\x07\x00" + writer.take())


def test_values_survive_a_reboot_little_endian_at_their_addresses():
    node = Node()
    node.table["timeout"].set(0x11223344)
    node.table["gains"].set([1, -2, 3, -4])
    node.table["title"].set("abc")
    node.table["config"].set(b"\x05hello")
    node.binding.flush()
    raw = node.disk.files["storage.vmem"]
    assert raw[0x131D:0x1321] == bytes.fromhex("44332211")
    assert raw[0x1401:0x1409] == struct.pack("<4h", 1, -2, 3, -4)
    assert raw[0x1500:0x1508] == b"abc\0\0\0\0\0"
    again = node.reboot()
    for name in ("timeout", "gains", "title", "config", "log"):
        assert again.table[name].get_all() == node.table[name].get_all()
    assert again.seen == []


def test_fresh_area_gets_the_defaults_and_an_old_one_wins_over_them():
    node = Node()
    assert node.table["log"].get() == 9
    node.binding.flush()
    assert node.disk.files["storage.vmem"][0x1318] == 9
    node.table["log"].set(0)
    node.binding.flush()
    assert node.reboot().table["log"].get() == 0


def test_flown_file_is_loaded():
    image = bytearray(SIZE)
    image[0x131D:0x1321] = (30).to_bytes(4, "little")
    node = Node(SimulatedDisk({"storage.vmem": bytes(image)}))
    assert node.table["timeout"].get() == 30
    assert node.table["log"].get() == 0


def test_one_push_packet_costs_one_flush_and_is_durable_before_its_answer():
    node = Node()
    node.binding.flush()
    flushes = node.ops.names.count("rename")
    assert node.push((3, 0, 7), (4, 2, 60), (10, 15, b"\x01x"))
    assert node.ops.names.count("rename") == flushes + 2
    again = node.reboot()
    assert [again.table[n].get_all() for n in ("radio", "timeout")] == [7, 60]
    assert node.push((7, 0, 1)) == [b"\x03\x80"]
    assert node.ops.names.count("rename") == flushes + 2


def test_push_that_cannot_be_stored_is_not_acknowledged_and_stored_by_the_next_one():
    node = Node()
    node.binding.flush()
    node.file._ops = FailingFileOps(1, base=node.disk)
    assert node.push((3, 0, 7)) == []
    assert node.table["radio"].get() == 7
    assert node.reboot().table["radio"].get() == 0
    assert node.push((4, 2, 60)) == [b"\x03\x80"]
    again = node.reboot()
    assert [again.table[n].get() for n in ("radio", "timeout")] == [7, 60]


def test_single_element_of_an_array_is_written_through():
    node = Node()
    node.table["gains"].set(-5, 2)
    assert node.file.read(0x1401, 8) == struct.pack("<4h", 0, 0, -5, 0)


def test_write_from_outside_reaches_parameters_at_flush_and_calls_back_what_changed():
    node = Node()
    area = node.binding.area("storage")
    node.table["gains"].set([1, 2, 3, 4])
    area.write(0x1401, struct.pack("<4h", 1, 20, 3, 40))
    area.write(0x1500, b"new\0")
    area.write(0, b"\x02hi")
    assert node.table["gains"].get_all() == [1, 2, 3, 4]
    area.flush()
    assert node.table["gains"].get_all() == [1, 20, 3, 40]
    assert node.table["title"].get() == "new"
    assert node.table["config"].get()[:3] == b"\x02hi"
    assert node.seen == [("config", 0), ("gains", 1), ("gains", 3), ("title", 0)]
    assert node.reboot().table["gains"].get_all() == [1, 20, 3, 40]
    area.flush()
    assert len(node.seen) == 4


def test_write_over_a_part_of_a_parameter_changes_that_part():
    node = Node()
    node.table["timeout"].set(0x11223344)
    node.binding.area("storage").write(0x131E, b"\xff")
    node.binding.flush()
    assert node.table["timeout"].get() == 0x1122FF44
    assert node.table["radio"].get() == 0


def test_callback_that_corrects_the_value_is_stored_too():
    node = Node()
    node.table.on_write("radio", lambda p, i: p.set(min(p.get(), 100)))
    node.binding.area("storage").write(0x131C, b"\xff")
    node.binding.flush()
    assert node.reboot().table["radio"].get() == 100


def test_all_areas_are_tried_when_one_fails():
    table = ParamTable(
        [
            ParamSpec(id=1, name="a", type=ParamType.U8, area="one", address=0),
            ParamSpec(id=2, name="b", type=ParamType.U8, area="two", address=0),
        ]
    )
    bad, good = SimulatedDisk(), SimulatedDisk()
    areas = [
        FileArea("one", "one", 4, ops=FailingFileOps(4, forever=True, base=bad)),
        FileArea("two", "two", 4, ops=good),
    ]
    binding = Binding(table, areas)
    table["a"].set(4)
    table["b"].set(5)
    with pytest.raises(StoreError):
        binding.flush()
    assert good.files["two"][0] == 5
    assert binding.kinds == {"one": 7, "two": 7}


@pytest.mark.parametrize(
    "specs",
    [
        [ParamSpec(id=1, name="a", type=ParamType.U8, area="nowhere", address=0)],
        [ParamSpec(id=1, name="a", type=ParamType.U64, area="ram", address=9)],
        [
            ParamSpec(id=1, name="a", type=ParamType.U32, area="ram", address=0),
            ParamSpec(id=2, name="b", type=ParamType.U8, area="ram", address=3),
        ],
    ],
)
def test_parameters_in_impossible_places_are_refused(specs):
    with pytest.raises(SpecError):
        Binding(ParamTable(specs), [RamArea("ram", 16)])


def test_parameters_side_by_side_up_to_the_last_byte_are_fine():
    specs = [
        ParamSpec(id=1, name="a", type=ParamType.U32, area="ram", address=0),
        ParamSpec(id=2, name="b", type=ParamType.U32, area="ram", address=12),
        ParamSpec(id=3, name="c", type=ParamType.U64, area="ram", address=4),
    ]
    binding = Binding(table := ParamTable(specs), [RamArea("ram", 16)])
    table["b"].set(0x01020304)
    assert binding.area("ram").read(12, 4) == bytes.fromhex("04030201")


def test_areas_are_found_by_name_and_names_are_unique():
    binding = Binding(ParamTable([]), [RamArea("ram", 16)])
    assert binding.area("ram").size == 16
    with pytest.raises(MisuseError):
        binding.area("rom")
    with pytest.raises(MisuseError):
        Binding(ParamTable([]), [RamArea("ram", 16), RamArea("ram", 4)])
