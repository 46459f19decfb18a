"""Make the pages of our own code this process's own, before a batch has to wait for that.

Driver. A process that has forked shares all its memory with its child, and whoever writes first
copies the page: for a Python program to use an object is to write, because it counts references.
Every such copy costs microseconds, and the way of a batch through a host touches dozens of pages.
To go through a list of the objects touches all of them at once. Source: performance.md 2.
"""

from __future__ import annotations

import functools
import sys
import types

_OURS = "dipp."
# What our own code calls into.
_OTHERS = (
    "array",
    "contextlib",
    "dataclasses",
    "os",
    "select",
    "signal",
    "socket",
    "struct",
    "time",
)


@functools.cache
def own_parts() -> tuple[object, ...]:
    """Return the objects that our own code consists of: functions, their code, classes.

    To find them takes some 20 ms, so the forge does it, for all its hosts.
    """
    names = [name for name in sys.modules if name.startswith(_OURS) or name in _OTHERS]
    parts: list[object] = [sys.modules[name].__dict__ for name in names]
    seen = set(map(id, parts))
    for part in parts:
        for inner in _inside(part):
            if id(inner) not in seen:
                seen.add(id(inner))
                parts.append(inner)
    return tuple(parts)


def touch(parts: tuple[object, ...]) -> None:
    """Write into every one of them, without changing it."""
    for _ in parts:
        pass


def _inside(part: object) -> list[object]:
    """Return what an object consists of, as far as it is code."""
    if type(part) is dict:
        return list(part.values())
    if isinstance(part, types.FunctionType):
        return [part.__code__, part.__dict__, part.__defaults__, part.__kwdefaults__]
    if isinstance(part, types.CodeType):
        return list(part.co_consts)
    if isinstance(part, type) and part.__module__.startswith(_OURS):
        return [*part.__dict__.values(), part.__mro__]
    if isinstance(part, property):
        return [part.fget]
    if isinstance(part, classmethod | staticmethod):
        return [part.__func__]
    return []
