"""The 188-byte configuration slot: length byte, brotli stream, padding.

Theory of operation: a slot is decoded as a whole before anything uses it, and nothing in it can
make the decoder work or grow beyond a fixed bound: the stream is fed byte by byte and dropped as
soon as it has produced more than a message may have. All zeros mean "not configured", which is
not the same as a stored empty message (defect D7). Source: dipp.md 5 and 6.
"""

from __future__ import annotations

import brotli
from google.protobuf.message import DecodeError as ProtobufDecodeError

from dipp.config.definition import (
    ConfigValue,
    Fallback,
    ModuleConfig,
    ModuleStep,
    PipelineDefinition,
    invalid,
)
from dipp.errors import Code, ContentError, MisuseError
from dipp.pb import module_pb2, pipeline_pb2

SLOT_SIZE_BYTES = 188
STREAM_MAX_BYTES = SLOT_SIZE_BYTES - 1
MESSAGE_MAX_BYTES = 188
# The csh client refuses to pack more than this; ours keeps its limit. Source: dipp.md 6.
PACKED_MAX_BYTES = 186
EMPTY_SLOT = bytes(SLOT_SIZE_BYTES)


def encode_pipeline(definition: PipelineDefinition) -> bytes:
    """Return the slot value. Raises MisuseError (518) with csh's words if it does not fit."""
    message = pipeline_pb2.PipelineDefinition()
    for step in definition.modules:
        message.modules.add(
            order=step.order,
            name=step.name,
            param_id=step.param_id,
            fallback=pipeline_pb2.Fallback.ValueType(step.fallback),
        )
    return encode_slot(message.SerializeToString())


def decode_pipeline(slot: bytes) -> PipelineDefinition | None:
    """Parse a slot value; None = not configured. Raises ContentError (516 or 518)."""
    data = decode_slot(slot)
    if data is None:
        return None
    message = pipeline_pb2.PipelineDefinition()
    _parse(message, data)
    try:
        return PipelineDefinition(modules=tuple(_read_step(module) for module in message.modules))
    except MisuseError as error:
        raise ContentError(str(error), error.code) from error


def encode_module(config: ModuleConfig) -> bytes:
    """Return the slot value. Raises MisuseError (518) with csh's words if it does not fit."""
    message = module_pb2.ModuleConfig()
    for key, value in config.parameters:
        _add_parameter(message, key, value)
    return encode_slot(message.SerializeToString())


def decode_module(slot: bytes) -> ModuleConfig | None:
    """Parse a slot value; None = not configured. Raises ContentError (516 or 518)."""
    data = decode_slot(slot)
    if data is None:
        return None
    message = module_pb2.ModuleConfig()
    _parse(message, data)
    try:
        return ModuleConfig(parameters=tuple(_read_parameter(p) for p in message.parameters))
    except MisuseError as error:
        raise ContentError(str(error), error.code) from error


def encode_slot(message: bytes) -> bytes:
    """Compress a message into a slot value, padded with zeros. Raises MisuseError (518)."""
    if len(message) > PACKED_MAX_BYTES:
        raise MisuseError("Packed configuration too large", Code.CONFIG_INVALID)
    stream: bytes = brotli.compress(message, quality=11, lgwin=22)
    if len(stream) > STREAM_MAX_BYTES:
        raise MisuseError(
            f"Packed and encoded configuration is size {len(stream) + 1} bytes"
            f" which exceeds max size of {SLOT_SIZE_BYTES}",
            Code.CONFIG_INVALID,
        )
    return (bytes([len(stream)]) + stream).ljust(SLOT_SIZE_BYTES, b"\0")


def decode_slot(slot: bytes) -> bytes | None:
    """Return the message in a slot value; None = all zero. Raises ContentError (516).

    Bytes after the stream are ignored: csh sends whatever was in its memory there. A value shorter
    than a slot counts as if zeros followed.
    """
    if len(slot) > SLOT_SIZE_BYTES:
        raise _bad_stream(f"{len(slot)} bytes, a slot has {SLOT_SIZE_BYTES}")
    if not any(slot):
        return None
    length, stream = slot[0], slot[1 : 1 + slot[0]]
    if length == 0 or len(stream) < length:
        raise _bad_stream(f"length byte {length}, {len(slot) - 1} bytes follow")
    return _decompress(stream)


def _decompress(stream: bytes) -> bytes:
    decoder = brotli.Decompressor()
    message = bytearray()
    for offset, byte in enumerate(stream):
        if decoder.is_finished():
            raise _bad_stream(f"ends at byte {offset} of {len(stream)}")
        try:
            message += decoder.process(bytes([byte]))
        except brotli.error as error:
            raise _bad_stream(f"byte {offset}: {error}") from error
        if len(message) > MESSAGE_MAX_BYTES:
            raise _bad_stream(f"expands to more than {MESSAGE_MAX_BYTES} bytes")
    if not decoder.is_finished():
        raise _bad_stream(f"incomplete after {len(stream)} bytes")
    return bytes(message)


def _bad_stream(text: str) -> ContentError:
    return ContentError(f"configuration stream: {text}", Code.BROTLI)


def _parse(message: pipeline_pb2.PipelineDefinition | module_pb2.ModuleConfig, data: bytes) -> None:
    try:
        message.ParseFromString(data)
    except ProtobufDecodeError as error:
        raise ContentError(f"configuration: {error}", Code.CONFIG_INVALID) from error


def _read_step(module: pipeline_pb2.ModuleDefinition) -> ModuleStep:
    try:
        fallback = Fallback(module.fallback)
    except ValueError:
        raise invalid(f"module {module.name!r}: fallback {module.fallback} is unknown") from None
    return ModuleStep(
        name=module.name, param_id=module.param_id, order=module.order, fallback=fallback
    )


def _add_parameter(message: module_pb2.ModuleConfig, key: str, value: ConfigValue) -> None:
    # bool before int: every bool is an int. A false or zero member is still written.
    if isinstance(value, bool):
        message.parameters.add(key=key, bool_value=value)
    elif isinstance(value, int):
        message.parameters.add(key=key, int_value=value)
    elif isinstance(value, float):
        message.parameters.add(key=key, float_value=value)
    else:
        message.parameters.add(key=key, string_value=value)


def _read_parameter(parameter: module_pb2.ConfigParameter) -> tuple[str, ConfigValue]:
    member = parameter.WhichOneof("value")
    if member is None:
        raise ContentError(f"parameter {parameter.key!r} has no value", Code.CONFIG_INVALID)
    value: ConfigValue = getattr(parameter, member)
    return parameter.key, value
