"""What procedures would cost on the board."""

from __future__ import annotations

import pytest

from dish.asm import assemble_one
from dish.errors import StoreError
from dish.heap import Heap, OutOfHeap, block_bytes, run_bytes, stored_bytes, structure_bytes
from dish.link import CallGraph, link
from dish.profile import PROFILES, Profile
from dish.program import Procedure

M7, DEFAULT = PROFILES["m7"], PROFILES["default"]
ROOT = "set _zero 0\nset rx0 0\nset rx1 1\nifelse n > _zero\ncall 26"
LOOP = (
    "binop rx0 + rx1 rx2\nunop rx1 idt rx0\nunop rx2 idt rx1\nunop n -- n\n"
    "ifelse n == _zero\nnoop\ncall 26"
)
FIBONACCI = {25: assemble_one(ROOT), 26: assemble_one(LOOP)}


def test_blocks_are_rounded_as_heap_4_does():
    assert [block_bytes(size) for size in (1, 4, 5, 12, 13, 1004)] == [16, 16, 24, 24, 32, 1016]


def test_structure_sizes_are_those_measured():
    assert structure_bytes(M7) == 1004
    assert structure_bytes(DEFAULT) == 5104


def test_a_run_of_the_fibonacci_pair_takes_about_4_1_kilobytes():
    assert 4000 <= run_bytes(link(25, FIBONACCI.get), M7) <= 4200


def test_14_fibonacci_runs_fit_and_the_15th_is_refused():
    heap = Heap(M7)
    heap.set_stored(FIBONACCI)
    graph = link(25, FIBONACCI.get)
    for run_id in range(14):
        heap.begin_run(run_id, heap.admit_run(graph))
    with pytest.raises(OutOfHeap, match="needs"):
        heap.admit_run(graph)
    heap.end_run(3)
    heap.end_run(3)
    assert heap.admit_run(graph) > 4000


def test_the_static_store_only_takes_strings():
    procedure = FIBONACCI[25]
    assert stored_bytes(procedure, M7) == 6 * 16 + 2 * 24
    dynamic = Profile(name="x", max_instructions=50, heap_bytes=61440)
    assert stored_bytes(procedure, dynamic) == 1016 + 6 * 16 + 2 * 24
    assert stored_bytes(Procedure(), M7) == 0


def test_pushes_are_refused_when_strings_fill_the_heap():
    heap = Heap(Profile(name="x", heap_bytes=200, is_static=True))
    heap.admit_push(1, FIBONACCI[25])
    heap.set_stored({1: FIBONACCI[25]})
    assert heap.free == 200 - 144
    with pytest.raises(StoreError, match="144 bytes of heap, 56 are left"):
        heap.admit_push(2, FIBONACCI[25])


def test_without_a_limit_everything_is_admitted():
    heap = Heap(DEFAULT)
    graph = CallGraph(root=3, procedures={}, natives=frozenset({3}))
    for run_id in range(100):
        heap.begin_run(run_id, heap.admit_run(graph))
    assert heap.free == 0
