"""Configuration files of the ground: a small, exactly defined part of YAML.

Theory of operation: a file is one sequence of flat mappings with scalars only, read from the event
stream so that no YAML type rule ever touches a value ("no" stays text, 010 stays decimal). The
messages are those operators know from csh. Source: dipp.md 6.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import yaml

from dipp.config.definition import (
    MAX_MODULES,
    PARAM_SLOT_COUNT,
    ConfigValue,
    ModuleConfig,
    ModuleStep,
    PipelineDefinition,
    read_fallback,
)
from dipp.errors import Code, ContentError, DippError

# A slot holds 188 bytes; a file of this size is certainly not one.
TEXT_LIMIT_CHARACTERS = 65536
_INTEGER = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# csh knows the first three; `fallback` is ours and may be left out.
_PIPELINE_KEYS = ("order", "name", "param_id", "fallback")
_MODULE_KEYS = ("key", "type", "value")
_TYPE_NAMES = {"2": "bool", "3": "int", "4": "float", "5": "string"}


def parse_pipeline(text: str) -> PipelineDefinition:
    """Read a pipeline file; modules come back in the order of their `order`.

    Raises ContentError (518).
    """
    steps = [_read_step(entry) for entry in _read_entries(text, _PIPELINE_KEYS)]
    orders = sorted(step.order for step in steps)
    if orders != list(range(1, len(steps) + 1)):
        raise _bad(f"Order values must be 1..{len(steps)}, each once; got {orders}")
    if len(steps) > MAX_MODULES:
        raise _bad(f"Too many modules: {len(steps)}, at most {MAX_MODULES}")
    return PipelineDefinition(modules=tuple(sorted(steps, key=lambda step: step.order)))


def parse_module(text: str) -> ModuleConfig:
    """Read a module parameter file. Raises ContentError (518)."""
    entries = _read_entries(text, _MODULE_KEYS)
    try:
        return ModuleConfig(parameters=tuple(_read_parameter(entry) for entry in entries))
    except DippError as error:
        raise _bad(str(error)) from error


def _read_step(entry: dict[str, str]) -> ModuleStep:
    param_id = _int32("param_id", _required(entry, "param_id"))
    if not 1 <= param_id <= PARAM_SLOT_COUNT:
        raise _bad(f"Error: Param_id is invalid. Range is 1-{PARAM_SLOT_COUNT}")
    order = _int32("order", _required(entry, "order"))
    try:
        return ModuleStep(
            name=_required(entry, "name"),
            param_id=param_id,
            order=order,
            fallback=read_fallback(entry.get("fallback", "")),
        )
    except DippError as error:
        raise _bad(str(error)) from error


def _read_parameter(entry: dict[str, str]) -> tuple[str, ConfigValue]:
    key, kind, text = (_required(entry, name) for name in _MODULE_KEYS)
    read = _READERS.get(_TYPE_NAMES.get(kind, kind))
    if read is None:
        raise _bad(f"Type {kind!r} is invalid. Use 2 bool, 3 int, 4 float or 5 string")
    return key, read(key, text)


def _int32(name: str, text: str) -> int:
    if not _INTEGER.fullmatch(text) or len(text) > 12 or not -(2**31) <= int(text) < 2**31:
        raise _bad(f"{name}: {text!r} is not a 32-bit decimal integer")
    return int(text)


def _float(name: str, text: str) -> float:
    if not _FLOAT.fullmatch(text):
        raise _bad(f"{name}: {text!r} is not a number")
    return float(text)


def _bool(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise _bad(f"{name}: {text!r} is not true or false")
    return text == "true"


def _string(name: str, text: str) -> str:
    return text


_READERS: dict[str, Callable[[str, str], ConfigValue]] = {
    "bool": _bool,
    "int": _int32,
    "float": _float,
    "string": _string,
}


def _required(entry: dict[str, str], name: str) -> str:
    if name not in entry:
        raise _bad(f"Missing {name} in entry {entry}")
    return entry[name]


def _read_entries(text: str, allowed: tuple[str, ...]) -> list[dict[str, str]]:
    if len(text) > TEXT_LIMIT_CHARACTERS:
        raise _bad(f"File of {len(text)} characters, at most {TEXT_LIMIT_CHARACTERS}")
    try:
        return _read_sequence(yaml.parse(text, Loader=yaml.SafeLoader), allowed)
    except yaml.YAMLError as error:
        raise _bad(f"Not YAML: {error}") from error


def _read_sequence(events: Iterator[yaml.Event], allowed: tuple[str, ...]) -> list[dict[str, str]]:
    for event in events:
        if isinstance(event, yaml.SequenceStartEvent):
            break
        if not isinstance(event, yaml.StreamStartEvent | yaml.DocumentStartEvent):
            raise _bad("Expected a sequence of mappings")
    entries: list[dict[str, str]] = []
    # Reading stops at the first end of a sequence, as in csh.
    for event in events:
        if isinstance(event, yaml.SequenceEndEvent):
            return entries
        if not isinstance(event, yaml.MappingStartEvent):
            raise _bad(f"Expected a mapping{_place(event)}")
        entries.append(_read_mapping(events, allowed))
    raise _bad("Expected a sequence of mappings")


def _read_mapping(events: Iterator[yaml.Event], allowed: tuple[str, ...]) -> dict[str, str]:
    entry: dict[str, str] = {}
    for event in events:
        if isinstance(event, yaml.MappingEndEvent):
            break
        key = _scalar(event)
        if key not in allowed:
            raise _bad(
                f"Unexpected YAML scalar value format: {key}\n"
                f"Allowed values are: {', '.join(allowed)}"
            )
        if key in entry:
            raise _bad(f"Key {key} given twice{_place(event)}")
        entry[key] = _scalar(next(events))
    return entry


def _scalar(event: yaml.Event) -> str:
    if not isinstance(event, yaml.ScalarEvent):
        raise _bad(f"Only scalars are allowed{_place(event)}")
    value: str = event.value
    return value


def _place(event: yaml.Event) -> str:
    mark = event.start_mark
    return f" in line {mark.line + 1}" if mark is not None else ""


def _bad(text: str) -> ContentError:
    return ContentError(text, Code.CONFIG_INVALID)
