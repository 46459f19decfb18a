"""Pipeline definitions and module parameters as values. Source: dipp.md 1 and 5."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from enum import IntEnum

from dipp.errors import Code, MisuseError

PIPELINE_COUNT = 6
PARAM_SLOT_COUNT = 20
MAX_MODULES = 20
NO_PARAMS = 0


class Fallback(IntEnum):
    """What happens instead of a module that has failed too often; the numbers are on the wire.

    UNSET leaves it to the parameter slot, and there it means SKIP. NONE never stops trying.
    """

    UNSET = 0
    PREVIOUS = 1
    IDENTITY = 2
    SKIP = 3
    NONE = 4


FALLBACK_NAMES = {each.name.lower(): each for each in Fallback if each is not Fallback.UNSET}

ConfigValue = bool | int | float | str

# A module name becomes a file name: no separator, no dot, so no traversal (defect D21).
MODULE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# The key by which a ground station whose files know no `fallback` sets it in a parameter slot.
FALLBACK_KEY = "_fallback"
_INT32 = range(-(2**31), 2**31)
_FLOAT = struct.Struct("<f")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleStep:
    """One module of a pipeline. `param_id` is a parameter slot 1..20, 0 = no parameters.

    `order` is what the operator numbered; execution follows the order in the definition.
    """

    name: str
    param_id: int = NO_PARAMS
    order: int = 0
    fallback: Fallback = Fallback.UNSET

    def __post_init__(self) -> None:
        if not MODULE_NAME.fullmatch(self.name):
            raise invalid(f"module name {self.name!r} is not 1..64 of A-Z a-z 0-9 _ -")
        if not NO_PARAMS <= self.param_id <= PARAM_SLOT_COUNT:
            raise invalid(f"param_id {self.param_id} is outside 0..{PARAM_SLOT_COUNT}")
        if self.order not in _INT32:
            raise invalid(f"order {self.order} is beyond int32")


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineDefinition:
    """A chain of modules in order of execution; none = images pass unprocessed."""

    modules: tuple[ModuleStep, ...] = ()

    def __post_init__(self) -> None:
        if len(self.modules) > MAX_MODULES:
            raise invalid(f"{len(self.modules)} modules, at most {MAX_MODULES}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleConfig:
    """The parameters of a module in order; of equal keys the first counts.

    Floats are rounded to float32, so a value equals its decoded form.
    """

    parameters: tuple[tuple[str, ConfigValue], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", tuple(_normal(k, v) for k, v in self.parameters))
        for key, value in self.parameters:
            if key == FALLBACK_KEY:
                read_fallback(value)

    @property
    def fallback(self) -> Fallback:
        """What the slot says under `_fallback`."""
        values = (value for key, value in self.parameters if key == FALLBACK_KEY)
        return read_fallback(next(values, ""))

    @property
    def for_module(self) -> tuple[tuple[str, ConfigValue], ...]:
        """The parameters without the one that is not the module's business."""
        return tuple(pair for pair in self.parameters if pair[0] != FALLBACK_KEY)


def read_fallback(value: ConfigValue) -> Fallback:
    """Return the fallback of that name; an empty text is UNSET. Raises MisuseError (518)."""
    if value == "":
        return Fallback.UNSET
    if not isinstance(value, str) or value not in FALLBACK_NAMES:
        raise invalid(f"fallback {value!r} is not one of {', '.join(FALLBACK_NAMES)}")
    return FALLBACK_NAMES[value]


def _normal(key: str, value: ConfigValue) -> tuple[str, ConfigValue]:
    if not key:
        raise invalid("parameter without a key")
    if isinstance(value, float):
        return key, _round_to_float32(key, value)
    if not isinstance(value, bool | str) and value not in _INT32:
        raise invalid(f"parameter {key!r}: {value} is beyond int32")
    return key, value


def _round_to_float32(key: str, value: float) -> float:
    try:
        rounded: float = _FLOAT.unpack(_FLOAT.pack(value))[0]
    except OverflowError as error:
        raise invalid(f"parameter {key!r}: {value} is beyond float range") from error
    if not math.isfinite(rounded):
        raise invalid(f"parameter {key!r}: {value} is not a finite number")
    return rounded


def invalid(text: str) -> MisuseError:
    """Make the error for a value that breaks a limit (518)."""
    return MisuseError(text, Code.CONFIG_INVALID)
