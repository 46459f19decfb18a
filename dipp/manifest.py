"""What a module declares about itself, and the parameters it is run with.

Theory of operation: the manifest is the one place where keys, kinds, defaults, ranges and error
numbers of a module are written down; `Params` reads defaults and ranges from it, `dipp check` and
the documentation print it. Pure. Source: dipp.md 11 and 13.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal

from dipp.errors import Code
from dipp.workspace import ModuleError

ParamValue = bool | int | float | str
Kind = Literal["bool", "int", "float", "string"]

# Version of the contract between runner and module file (`run`, `Batch`, `Params`).
ABI_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")


class _Required(Enum):
    REQUIRED = "required"


REQUIRED: Final = _Required.REQUIRED

# kind -> (Python type, code if the parameter is missing or of another type)
_KINDS: Final[Mapping[str, tuple[type, Code]]] = {
    "bool": (bool, Code.PARAM_BOOL),
    "int": (int, Code.PARAM_INT),
    "float": (float, Code.PARAM_FLOAT),
    "string": (str, Code.PARAM_STRING),
}


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter. `low` and `high` are inclusive and apply to int and float."""

    key: str
    kind: Kind
    default: ParamValue | _Required = REQUIRED
    help: str = ""
    low: float | None = None
    high: float | None = None

    def problem(self, value: ParamValue) -> str | None:
        """Say what is wrong with a value, or None."""
        if type(value) is not _KINDS[self.kind][0]:
            return f"{self.key} is {value!r}, wanted {self.kind}"
        if isinstance(value, int | float) and not isinstance(value, bool):
            if self.low is not None and value < self.low:
                return f"{self.key} is {value}, lowest is {self.low:g}"
            if self.high is not None and not value <= self.high:
                return f"{self.key} is {value}, highest is {self.high:g}"
        return None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A module's description of itself.

    `adds` lists the metadata items it sets as (key, kind, meaning), `errors` its own numbers 1..99.
    """

    name: str
    version: str
    summary: str
    params: tuple[Param, ...] = ()
    adds: tuple[tuple[str, str, str], ...] = ()
    errors: Mapping[int, str] = field(default_factory=dict)
    abi: int = ABI_VERSION

    def param(self, key: str) -> Param | None:
        """Return the declaration of a key, or None."""
        return next((param for param in self.params if param.key == key), None)

    def problems(self) -> list[str]:
        """Return everything that is wrong with the manifest itself."""
        found = [] if _NAME.fullmatch(self.name) else [f"name {self.name!r} is not allowed"]
        if self.abi != ABI_VERSION:
            found.append(f"abi {self.abi}, this runner has {ABI_VERSION}")
        keys = [param.key for param in self.params]
        found += [f"parameter {key!r} is declared twice" for key in keys if keys.count(key) > 1]
        for param in self.params:
            if param.kind not in _KINDS:
                found.append(f"parameter {param.key!r} has kind {param.kind!r}")
            elif not isinstance(param.default, _Required):
                text = param.problem(param.default)
                found += [f"default: {text}"] if text else []
        found += [f"error number {n} is not in 1..99" for n in self.errors if not 1 <= n <= 99]
        return found


class Params(Mapping[str, ParamValue]):
    """The parameters of one module in one pipeline; of duplicate keys the first counts.

    `params["key"]` gives the configured value or the manifest's default; the getters also work
    without a manifest, as the flown helpers do.
    """

    def __init__(
        self, values: Iterable[tuple[str, ParamValue]] = (), manifest: Manifest | None = None
    ) -> None:
        self._values: dict[str, ParamValue] = {}
        for key, value in values:
            self._values.setdefault(key, value)
        self._manifest = manifest
        for param in manifest.params if manifest else ():
            if not isinstance(param.default, _Required):
                self._values.setdefault(param.key, param.default)

    def __getitem__(self, key: str) -> ParamValue:
        param = self._manifest.param(key) if self._manifest else None
        if param is not None:
            return self._get(key, param.kind, None)
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def get_bool(self, key: str, default: bool | None = None) -> bool:
        """Return a bool. Ends the module with 503 if it is missing or of another type."""
        return bool(self._get(key, "bool", default))

    def get_int(self, key: str, default: int | None = None) -> int:
        """Return an int. Ends the module with 504 if it is missing or of another type."""
        return int(self._get(key, "int", default))

    def get_float(self, key: str, default: float | None = None) -> float:
        """Return a float. Ends the module with 505 if it is missing or of another type."""
        return float(self._get(key, "float", default))

    def get_string(self, key: str, default: str | None = None) -> str:
        """Return a string. Ends the module with 506 if it is missing or of another type."""
        return str(self._get(key, "string", default))

    def problems(self) -> list[tuple[Code, str]]:
        """Return what the manifest does not allow, each with the code it would end with."""
        if self._manifest is None:
            return []
        found = []
        for param in self._manifest.params:
            try:
                self._get(param.key, param.kind, None)
            except ModuleError as error:
                found.append((Code(error.code), error.reason))
        return found

    def _get(self, key: str, kind: Kind, default: ParamValue | None) -> ParamValue:
        wanted, code = _KINDS[kind]
        value = self._values.get(key, default)
        if value is None:
            raise ModuleError(code, f"parameter {key!r} is missing")
        if type(value) is not wanted:
            raise ModuleError(code, f"parameter {key!r} is {value!r}, wanted {kind}")
        param = self._manifest.param(key) if self._manifest else None
        text = param.problem(value) if param else None
        if text:
            raise ModuleError(code, text)
        return value
