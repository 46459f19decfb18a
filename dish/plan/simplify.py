"""Join sequences, so that less is called and fewer slots are needed.

Each rule keeps what the code does: empty sequences are skipped, one that is used once moves to
where it is used, and a short one may be copied to where control jumps to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dish.plan.ir import Action, Code, Item, Jump, Op, Run, Sequence, Test, targets

# Far more rounds than the deepest plan needs; a bound against a rule that would undo another.
_MAX_ROUNDS = 1000


def simplify(code: Code, copy_items: int) -> Code:
    """Return joined code; sequences of at most `copy_items` items may be copied into jumps."""
    made = Code(root=code.root)
    for label, sequence in code.sequences.items():
        made.sequences[label] = Sequence(label, list(sequence.items), sequence.end)
    for _ in range(_MAX_ROUNDS):
        _drop_unused(made)
        if not (_thread(made) or _join(made) or _open_calls(made)):
            break
    _copy_short(made, copy_items)
    _drop_unused(made)
    return made


def _drop_unused(code: Code) -> None:
    used: set[int] = set()
    pending = [code.root]
    while pending:
        label = pending.pop()
        if label not in used:
            used.add(label)
            pending += targets(code.sequences[label])
    code.sequences = {label: code.sequences[label] for label in sorted(used)}


def _thread(code: Code) -> bool:
    """Skip sequences that do nothing but go elsewhere or return."""
    hollow = {
        label: sequence.end
        for label, sequence in code.sequences.items()
        if not sequence.items and (sequence.end is None or sequence.end.label != label)
    }
    if code.root in hollow and code.sequences[code.root].end is None:
        del hollow[code.root]
    changed = False

    def skip(action: Action) -> Action:
        nonlocal changed
        if not isinstance(action, (Run, Jump)) or action.label not in hollow:
            return action
        changed = True
        beyond = hollow[action.label]
        return None if beyond is None else replace(action, label=beyond.label)

    for sequence in code.sequences.values():
        sequence.items = _map_actions(sequence.items, skip)
        end = skip(sequence.end)
        sequence.end = end if isinstance(end, Jump) else None
    return changed


def _map_actions(items: list[Item], change: Callable[[Action], Action]) -> list[Item]:
    made: list[Item] = []
    for item in items:
        if isinstance(item, Test):
            test = replace(item, then=change(item.then), other=change(item.other))
            # Comparing has no effect of its own but that it can fail, for a node that is away.
            if test.then is not None or test.other is not None or test.node:
                made.append(test)
        else:
            changed = change(item)
            if isinstance(changed, (Op, Run)):
                made.append(changed)
    return made


def _join(code: Code) -> bool:
    """Append a sequence to the only one that ends in it."""
    counts = code.references()
    for sequence in code.sequences.values():
        if not sequence.items or sequence.end is not None:
            end = sequence.end
        else:
            last = sequence.items[-1]
            end = Jump(place=last.place, label=last.label) if isinstance(last, Run) else None
            if end is not None and counts[end.label] == 1 and end.label != sequence.label:
                sequence.items.pop()
        if end is not None and counts[end.label] == 1 and end.label != sequence.label:
            follower = code.sequences[end.label]
            sequence.items += follower.items
            sequence.end = follower.end
            return True
    return False


def _open_calls(code: Code) -> bool:
    """Put a sequence that is called once in the place of its call."""
    counts = code.references()
    for sequence in code.sequences.values():
        for number, item in enumerate(sequence.items):
            if not isinstance(item, Run) or counts[item.label] != 1:
                continue
            callee = code.sequences[item.label]
            if callee is sequence:
                continue
            body = _as_middle(callee)
            sequence.items[number : number + 1] = body
            return True
    return False


def _as_middle(sequence: Sequence) -> list[Item]:
    """Return items that do what the sequence does and then go on: jumps become calls."""

    def call(action: Action) -> Action:
        return Run(place=action.place, label=action.label) if isinstance(action, Jump) else action

    items = _map_actions(sequence.items, call)
    if sequence.end is not None:
        items.append(Run(place=sequence.end.place, label=sequence.end.label))
    return items


def _copy_short(code: Code, copy_items: int) -> None:
    """Replace jumps and calls to short sequences by copies of them."""
    short = {
        label: sequence
        for label, sequence in code.sequences.items()
        if len(sequence.items) <= copy_items and label != code.root
    }
    # A copy must not contain a jump to itself only to be copied again.
    for sequence in code.sequences.values():
        if sequence.end is not None and sequence.end.label in short:
            follower = short[sequence.end.label]
            if follower is not sequence:
                sequence.items += follower.items
                sequence.end = follower.end
        made: list[Item] = []
        for item in sequence.items:
            callee = short.get(item.label) if isinstance(item, Run) else None
            made += [item] if callee is None or callee is sequence else _as_middle(callee)
        sequence.items = made
