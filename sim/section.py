"""Read settings out of parsed YAML with clear complaints: the tool of `sim.config`. Pure.

A `Section` remembers where it stands in the file, so every message names the setting in full:
`payload.yaml: link.downlink.rate_bps must be above 0, not -1`. Settings never asked for are
reported by `done` as unknown: a typing error must not silently leave a default in force.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import TracebackType

from sim.errors import ConfigError


class Section:
    """A mapping from the file, at `path`. Use as a context manager: leaving it calls `done`.

    Raises ConfigError if the value is not a mapping with text keys.
    """

    def __init__(self, value: object, path: str, prefix: str = "") -> None:
        if value is None:
            value = {}
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise ConfigError(f"{path} must be a section of `name: value` lines, not {value!r:.60}")
        self._prefix = prefix or f"{path}: "
        self._values: Mapping[str, object] = value
        self._asked: set[str] = set()

    def __enter__(self) -> Section:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: object, __: TracebackType | None
    ) -> None:
        if kind is None:
            self.done()

    def names(self) -> tuple[str, ...]:
        """Return the names in this section, in the order of the file."""
        return tuple(self._values)

    def where(self, name: str) -> str:
        """Return the full name of a setting."""
        return f"{self._prefix}{name}"

    def _take(self, name: str, default: object) -> object:
        self._asked.add(name)
        value = self._values.get(name, default)
        if value is None:
            raise ConfigError(f"{self.where(name)} is missing")
        return value

    def number(
        self,
        name: str,
        default: float | None = None,
        *,
        low: float = -math.inf,
        high: float = math.inf,
    ) -> float:
        """Return a finite number within low..high (inclusive)."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"{self.where(name)} must be a number, not {value!r:.60}")
        if not math.isfinite(value) or not low <= value <= high:
            raise ConfigError(f"{self.where(name)} must be {_range(low, high)}, not {value}")
        return float(value)

    def integer(
        self, name: str, default: int | None = None, *, low: int = -(2**63), high: int = 2**63
    ) -> int:
        """Return a whole number within low..high (inclusive)."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{self.where(name)} must be a whole number, not {value!r:.60}")
        if not low <= value <= high:
            raise ConfigError(f"{self.where(name)} must be {_range(low, high)}, not {value}")
        return value

    def boolean(self, name: str, default: bool | None = None) -> bool:
        """Return true or false."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.where(name)} must be true or false, not {value!r:.60}")
        return value

    def text(self, name: str, default: str | None = None, *, of: Sequence[str] = ()) -> str:
        """Return text; one of `of` if that is given."""
        value = self._take(name, default)
        if not isinstance(value, str):
            raise ConfigError(f"{self.where(name)} must be text, not {value!r:.60}")
        if of and value not in of:
            raise ConfigError(f"{self.where(name)} must be one of {', '.join(of)}, not {value!r}")
        return value

    def numbers(self, name: str, default: Sequence[float] | None = None) -> tuple[float, ...]:
        """Return a list of finite numbers."""
        value = self._take(name, default)
        if not isinstance(value, (list, tuple)) or not all(
            isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
            for v in value
        ):
            raise ConfigError(f"{self.where(name)} must be a list of numbers, not {value!r:.60}")
        return tuple(float(v) for v in value)

    def texts(self, name: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
        """Return a list of texts."""
        value = self._take(name, default)
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
            raise ConfigError(f"{self.where(name)} must be a list of texts, not {value!r:.60}")
        return tuple(value)

    def has(self, name: str) -> bool:
        """Tell whether a setting is there (and mark it as known)."""
        self._asked.add(name)
        return self._values.get(name) is not None

    def section(self, name: str) -> Section:
        """Return a section below this one; an absent one is empty."""
        self._asked.add(name)
        return self._below(self._values.get(name), self.where(name))

    def sections(self, name: str) -> tuple[Section, ...]:
        """Return a list of sections."""
        value = self._take(name, ())
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{self.where(name)} must be a list, not {value!r:.60}")
        return tuple(self._below(v, f"{self.where(name)}[{i}]") for i, v in enumerate(value))

    @staticmethod
    def _below(value: object, path: str) -> Section:
        return Section(value, path, f"{path}.")

    def raw(self, name: str) -> Mapping[str, object]:
        """Return a section for somebody else to read."""
        return self.section(name)._values

    def done(self) -> None:
        """Raise ConfigError if there is a setting that nobody asked for."""
        unknown = [name for name in self._values if name not in self._asked]
        if unknown:
            known = ", ".join(sorted(self._asked)) or "none"
            raise ConfigError(f"{self.where(unknown[0])} is not a setting; known here: {known}")


def _range(low: float, high: float) -> str:
    if high in (math.inf, 2**63):
        return f"{low:g} or more"
    if low in (-math.inf, -(2**63)):
        return f"{high:g} or less"
    return f"{low:g} to {high:g}"
