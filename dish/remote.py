"""Serve what running procedures ask of the rest of the network and of the owner's table.

Names are looked up in cached lists, both operands of an instruction come with one pull, and every
failure becomes a `Fault` with a reason instead of an exception. Source: dish.md 7.4, fault 89.
"""

from __future__ import annotations

from csp.errors import CspError
from csp.param.errors import ParamError
from csp.param.remote import RemoteTable
from csp.param.spec import decode_text, encode_text
from csp.param.table import Parameter, ParamTable
from csp.param.types import TYPES, Mask, ParamType, TypeClass
from csp.param.types import Value as ParamValue
from csp.sched import Timeout
from dish.effects import Fault, LocalWrite, Pull, Push, Reading, Remote, Reply, Resolve
from dish.values import Value

# An index goes over the wire as a signed byte; elements beyond come with the whole array.
_MAX_WIRE_INDEX = 127


class Broker:
    """The outside world of one node's procedures."""

    def __init__(self, table: ParamTable, remote: RemoteTable) -> None:
        self._table = table
        self._remote = remote

    async def serve(self, effect: Pull | Resolve | Push | LocalWrite) -> Reply:
        """Return the reply to an effect; never raises because of content or network."""
        try:
            match effect:
                case Pull():
                    return await self._pull(effect)
                case Resolve(node=node, name=name):
                    spec = (await self._remote.find(node, name)).spec
                    read_only = bool(spec.mask & Mask.READONLY)
                    return Remote(type=spec.type, count=spec.array_size, read_only=read_only)
                case Push(node=node, name=name, index=index, value=value):
                    spec = (await self._remote.find(node, name)).spec
                    await self._remote.set(node, name, to_param(spec.type, value), index)
                case LocalWrite(id=number, index=index, value=value):
                    parameter = self._table.by_id(number)
                    self._write(parameter, index, value)
        except (CspError, Timeout) as error:
            return Fault(reason=str(error))
        return None

    def _write(self, parameter: Parameter, index: int | None, value: Value) -> None:
        if parameter.is_readonly:
            raise ParamError(f"{parameter.name} is read-only")
        # Values arrive converted, infinity included, which `write` would refuse for a float.
        first, stop = parameter.store(to_param(parameter.spec.type, value), index)
        parameter.stored(first, stop)

    async def _pull(self, pull: Pull) -> Reply:
        specs = [(await self._remote.find(pull.node, read.name)).spec for read in pull.reads]
        wanted: list[tuple[str, int | None]] = []
        for read, spec in zip(pull.reads, specs, strict=True):
            elements = 1 if spec.row.is_text else spec.array_size
            if read.index < elements:
                is_whole = elements == 1 or read.index > _MAX_WIRE_INDEX
                wanted.append((read.name, None if is_whole else read.index))
        values = await self._remote.get_many(pull.node, wanted) if wanted else []
        answers = iter(zip(wanted, values, strict=True))
        readings: list[Reading] = []
        for read, spec in zip(pull.reads, specs, strict=True):
            elements = 1 if spec.row.is_text else spec.array_size
            value: Value | None = None
            if read.index < elements:
                (_, index), raw = next(answers)
                value = from_param(
                    raw[read.index] if isinstance(raw, list) and index is None else raw
                )
            readings.append(Reading(type=spec.type, value=value))
        return readings


def to_param(type_: ParamType, value: Value) -> ParamValue:
    """Return a machine value as the parameter code wants it: text as `str`."""
    if isinstance(value, bytes) and TYPES[type_].kind is TypeClass.STRING:
        return decode_text(value)
    return value


def from_param(value: ParamValue) -> Value:
    """Return a parameter value as the machine wants it. Raises ParamError for a list."""
    if isinstance(value, list):
        raise ParamError("an array where one element was expected")
    return encode_text(value) if isinstance(value, str) else value
