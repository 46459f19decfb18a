"""Name what can be wrong with a parameter or with a value for it."""

from __future__ import annotations

from csp.errors import MisuseError


class ParamError(MisuseError):
    """A parameter, or a value for one, was used wrongly."""


class SpecError(ParamError):
    """A parameter definition is not usable: id, name, size or text out of bounds, or twice."""


class UnknownParam(ParamError):
    """No parameter has that name or id."""


class ReadOnlyParam(ParamError):
    """A client wrote to a parameter with the read-only bit."""


class TypeMismatch(ParamError):
    """The value is of another kind than the parameter, such as text for a number."""


class OutOfRange(ParamError):
    """The value does not fit: too big, too small, too long."""


class BadIndex(ParamError):
    """The element does not exist."""
