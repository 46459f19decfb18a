"""The filter, run by an interpreter of our own: every call of both architectures is decided."""

from __future__ import annotations

import errno

import pytest

from dipp.sandbox.bpf import ALLOW, INSTRUCTION, OWN_PID, Instruction, allow, assemble, choose, load
from dipp.sandbox.seccomp import ARCHITECTURES, build_filter
from dipp.sandbox.syscalls import GROUPS, SYSCALLS, Group, Unless, Who, rows_for

PID = 4711
EVERYBODY = (Who.PYTHON, Who.NATIVE, Who.HOST)
EPERM = 0x50000 | errno.EPERM


def decide(program, number, arguments=(), audit=None):
    """Run a program on a call and return its verdict."""
    words = {0: number, 4: audit}
    words.update({16 + 8 * index: value for index, value in enumerate(arguments)})
    code = program.finish(PID)
    place, accumulator = 0, 0
    while True:
        op, if_true, if_false, k = INSTRUCTION.unpack_from(code, place * INSTRUCTION.size)
        place += 1
        if op == 0x20:
            accumulator = words.get(k, 0)
        elif op == 0x06:
            return k
        elif op == 0x05:
            place += k
        else:
            holds = {
                0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)
            }[op]  # fmt: skip
            place += if_true if holds else if_false


@pytest.fixture(params=ARCHITECTURES.values(), ids=lambda a: a.name)
def architecture(request):
    return request.param


def number_of(row, architecture):
    return getattr(row, architecture.name)


@pytest.mark.parametrize("who", EVERYBODY)
def test_the_table_is_what_the_filter_does(who, architecture):
    program = build_filter(who, architecture)
    rows = {number_of(row, architecture): row for row in rows_for(who)}
    for number in range(600):
        row = rows.get(number)
        verdict = decide(program, number, (0x7E020000, 99, 99), architecture.audit)
        is_allowed = row is None or any(check.none_of for check in row.unless)
        assert verdict == (ALLOW if is_allowed else 0x50000 | row.errno), number


@pytest.mark.parametrize("who", [Who.PYTHON, Who.NATIVE])
def test_the_filters_of_host_and_child_add_up(who, architecture):
    outer = build_filter(Who.HOST, architecture)
    inner = build_filter(who, architecture, Who.HOST)
    both = build_filter(who, architecture)
    assert len(inner.code) < len(both.code) / 2
    for number in range(600):
        call = (number, (1, PID, 0), architecture.audit)
        verdicts = {decide(outer, *call), decide(inner, *call)}
        expected = decide(both, *call)
        # A host may do less of a group only if its children may not do it either.
        assert expected in verdicts
        assert expected != ALLOW or verdicts == {ALLOW}


@pytest.mark.parametrize("row", [row for row in SYSCALLS if row.unless], ids=lambda row: row.name)
def test_arguments_decide(row, architecture):
    program = build_filter(Who.PYTHON, architecture)
    good = {check.index: _good(check) for check in row.unless}
    arguments = [good.get(index, 12345) for index in range(6)]

    def verdict():
        return decide(program, number_of(row, architecture), arguments, architecture.audit)

    assert verdict() == ALLOW
    for check in row.unless:
        for value in check.values:
            arguments[check.index] = PID if value is OWN_PID else value
            assert verdict() == ALLOW
        for value in check.none_of or (check.no_bits or 0x7FFFFFFF,):
            arguments[check.index] = value
            assert verdict() == EPERM
        arguments[check.index] = good[check.index]


def _good(check: Unless) -> int:
    if not check.values:
        return 0
    return PID if check.values[0] is OWN_PID else check.values[0]


def test_calls_of_other_architectures_are_refused(architecture):
    program = build_filter(Who.PYTHON, architecture)
    assert decide(program, 0, audit=0x40000003) == EPERM
    if architecture.name == "x86_64":
        assert decide(program, 0x40000000, audit=architecture.audit) == EPERM


def test_a_module_may_signal_only_itself(architecture):
    program = build_filter(Who.PYTHON, architecture)
    (kill,) = [row for row in SYSCALLS if row.name == "kill"]
    for target in (0, 1, PID - 1, 0xFFFFFFFF, 0x100000000 - PID):
        number = number_of(kill, architecture)
        assert decide(program, number, (target, 9), architecture.audit) == EPERM


def test_native_modules_and_hosts_may_use_segments_and_only_hosts_signal():
    assert {GROUPS[row.group] for row in rows_for(Who.HOST)} == {Who.PYTHON | Who.NATIVE | Who.HOST}
    assert GROUPS[Group.SYSV] == Who.PYTHON
    assert not GROUPS[Group.SIGNALS] & Who.HOST


def test_every_call_is_in_a_group_once():
    for key in ("name", "x86_64", "aarch64"):
        values = [
            (getattr(row, key), row.group) for row in SYSCALLS if getattr(row, key) is not None
        ]
        assert len(values) == len(set(values))


def test_all_rows_about_a_call_hold(architecture):
    number = number_of(next(row for row in SYSCALLS if row.name == "clone"), architecture)
    new_namespace, other_parent = 0x20000000, 0x8000
    for who, refused in ((Who.PYTHON, (True, True)), (Who.HOST, (True, False))):
        program = build_filter(who, architecture)
        for flags, is_refused in zip((new_namespace, other_parent), refused, strict=True):
            code = decide(program, number, (flags,), architecture.audit)
            assert (code == EPERM) == is_refused
        assert decide(program, number, (17,), architecture.audit) != EPERM


def test_far_jumps_are_found_or_refused():
    far = [(number, [allow()]) for number in range(0, 2000, 2)]
    program = assemble([load(0), *choose(far, Instruction(0x06, 7))])
    assert all(decide(program, n) == (7 if n % 2 else ALLOW) for n in range(1999))
    with pytest.raises(ValueError, match="jumps 256"):
        assemble([Instruction(0x15, 1, 256), *[allow()] * 300])
    with pytest.raises(ValueError, match="jumps 1"):
        assemble([Instruction(0x15, 1, 1)])
