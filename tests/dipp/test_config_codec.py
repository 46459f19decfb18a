"""Configuration slots: golden bytes, damage, bombs."""

from __future__ import annotations

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipp.config.codec import (
    EMPTY_SLOT,
    SLOT_SIZE_BYTES,
    decode_module,
    decode_pipeline,
    decode_slot,
    encode_module,
    encode_pipeline,
    encode_slot,
)
from dipp.config.definition import (
    FALLBACK_NAMES,
    Fallback,
    ModuleConfig,
    ModuleStep,
    PipelineDefinition,
)
from dipp.errors import Code, ContentError, DippError, MisuseError

PIPELINE = PipelineDefinition(
    modules=(
        ModuleStep(name="demosaic", param_id=1, order=1),
        ModuleStep(name="encode", param_id=2, order=2),
    )
)
PIPELINE_PROTO = "0a0e0801120864656d6f7361696318010a0c08021206656e636f64651802"
PIPELINE_SLOT = bytes.fromhex("228b0e80" + PIPELINE_PROTO + "03").ljust(SLOT_SIZE_BYTES, b"\0")
MODULE = ModuleConfig(parameters=(("distance", 0.5), ("effort", 7), ("resampling", 1)))
MODULE_STREAM = bytes.fromhex(
    "1b2c00f88d54b53ff85fde4faa7b50420967349c6c891106d79298c20b50d20a596e922675242de079090adef9dd2f"
    "200c"
)
MODULE_SLOT = (bytes([len(MODULE_STREAM)]) + MODULE_STREAM).ljust(SLOT_SIZE_BYTES, b"\0")

_names = st.from_regex(r"\A[A-Za-z0-9_-]{1,8}\Z")
_definitions = st.builds(
    PipelineDefinition,
    modules=st.lists(
        st.builds(
            ModuleStep,
            name=_names,
            param_id=st.integers(0, 20),
            order=st.integers(1, 20),
            fallback=st.sampled_from(Fallback),
        ),
        max_size=8,
    ).map(tuple),
)
_values = st.one_of(
    st.booleans(),
    st.integers(-(2**31), 2**31 - 1),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)
_configs = st.builds(
    ModuleConfig,
    parameters=st.lists(st.tuples(st.text(min_size=1, max_size=6), _values), max_size=4).map(tuple),
)


def slot(stream: bytes, padding: bytes = b"\0") -> bytes:
    return (bytes([len(stream)]) + stream).ljust(SLOT_SIZE_BYTES, padding)


def test_golden_slots_both_ways() -> None:
    assert encode_pipeline(PIPELINE) == PIPELINE_SLOT
    assert decode_pipeline(PIPELINE_SLOT) == PIPELINE
    assert encode_module(MODULE) == MODULE_SLOT
    assert decode_module(MODULE_SLOT) == MODULE


@settings(max_examples=30)
@given(_definitions)
def test_pipelines_round_trip(definition: PipelineDefinition) -> None:
    assert decode_pipeline(encode_pipeline(definition)) == definition


@settings(max_examples=30)
@given(_configs)
def test_module_parameters_round_trip(config: ModuleConfig) -> None:
    decoded = decode_module(encode_module(config))
    assert decoded == config
    assert decoded is not None
    kinds = [type(v) for _, v in config.parameters]
    assert [type(v) for _, v in decoded.parameters] == kinds


def test_all_zero_is_not_configured_but_an_empty_message_is() -> None:
    assert decode_pipeline(EMPTY_SLOT) is None
    assert decode_module(EMPTY_SLOT) is None
    for stream in (b"\x06", b"\x3b"):
        assert decode_pipeline(slot(stream)) == PipelineDefinition()
        assert decode_module(slot(stream)) == ModuleConfig()


def test_the_clients_memory_after_the_stream_is_ignored() -> None:
    assert decode_pipeline(slot(PIPELINE_SLOT[1:35], b"\xaa")) == PIPELINE


@pytest.mark.parametrize("length", [*range(34), *range(35, 188), *range(188, 256)])
def test_a_wrong_length_byte_is_refused(length: int) -> None:
    value = bytes([length]) + PIPELINE_SLOT[1:35] + bytes(153)
    with pytest.raises(ContentError) as caught:
        decode_pipeline(value)
    assert caught.value.code == Code.BROTLI


@pytest.mark.parametrize("golden", [PIPELINE_SLOT, MODULE_SLOT], ids=["pipeline", "module"])
def test_every_bit_flip_is_a_value_or_a_named_error(golden: bytes) -> None:
    decode = decode_pipeline if golden is PIPELINE_SLOT else decode_module
    for bit in range((golden[0] + 1) * 8):
        flipped = bytearray(golden)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            decode(bytes(flipped))
        except ContentError as error:
            code = error.code
        else:
            continue
        assert code in (Code.BROTLI, Code.CONFIG_INVALID)


@given(st.binary(max_size=200))
def test_garbage_is_a_value_or_a_named_error(data: bytes) -> None:
    for decode in (decode_pipeline, decode_module):
        try:
            decode(data)
        except ContentError:
            continue


def test_a_gigabyte_bomb_is_refused_at_once() -> None:
    bomb = brotli.compress(bytes(2**26), quality=5, lgwin=24)
    assert len(bomb) <= 187
    with pytest.raises(ContentError, match="expands") as caught:
        decode_slot(slot(bomb))
    assert caught.value.code == Code.BROTLI


@pytest.mark.parametrize(("size", "fits"), [(188, True), (189, False)])
def test_the_decoded_message_has_at_most_188_bytes(size: int, fits: bool) -> None:
    value = slot(brotli.compress(b"a" * size))
    if fits:
        assert decode_slot(value) == b"a" * size
    else:
        with pytest.raises(ContentError):
            decode_slot(value)


def test_the_words_of_csh_for_what_does_not_fit() -> None:
    encode_slot(b"a" * 186)
    with pytest.raises(MisuseError, match=r"^Packed configuration too large$"):
        encode_slot(b"a" * 187)
    noise = bytes(i * 89 % 251 for i in range(186))
    size = len(brotli.compress(noise, quality=11, lgwin=22)) + 1
    assert size > SLOT_SIZE_BYTES
    words = (
        rf"^Packed and encoded configuration is size {size} bytes which exceeds max size of 188$"
    )
    with pytest.raises(MisuseError, match=words):
        encode_slot(noise)


BAD_DEFINITIONS = {
    "not protobuf": b"\xff\xff",
    "traversal": b"\x0a\x06\x12\x04../x",
    "no name": b"\x0a\x02\x18\x01",
    "param_id 21": b"\x0a\x05\x12\x01a\x18\x15",
    "param_id -1": b"\x0a\x0e\x12\x01a\x18" + b"\xff" * 9 + b"\x01",
    "21 modules": b"\x0a\x03\x12\x01a" * 21,
    "25 empty modules": b"\x0a\x00" * 25,
    "name not text": b"\x0a\x03\x12\x01\xff",
}


@pytest.mark.parametrize("message", BAD_DEFINITIONS.values(), ids=BAD_DEFINITIONS)
def test_bad_definitions_are_refused_as_a_whole(message: bytes) -> None:
    with pytest.raises(ContentError) as caught:
        decode_pipeline(encode_slot(message))
    assert caught.value.code == Code.CONFIG_INVALID


@pytest.mark.parametrize(
    "message",
    [b"\xff\xff", b"\x0a\x03\x0a\x01a", b"\x0a\x02\x10\x01", b"\x0a\x08\x0a\x01a\x25\0\0\xc0\x7f"],
    ids=["not protobuf", "no value", "no key", "NaN"],
)
def test_bad_parameters_are_refused_as_a_whole(message: bytes) -> None:
    with pytest.raises(ContentError) as caught:
        decode_module(encode_slot(message))
    assert caught.value.code == Code.CONFIG_INVALID


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 1e39, float("inf"), float("nan")])
def test_values_without_a_wire_form_do_not_exist(value: float) -> None:
    with pytest.raises(DippError):
        ModuleConfig(parameters=(("a", value),))


def test_twenty_modules_are_allowed() -> None:
    steps = tuple(ModuleStep(name="a", order=i) for i in range(1, 21))
    decoded = decode_pipeline(encode_pipeline(PipelineDefinition(modules=steps)))
    assert decoded is not None
    assert len(decoded.modules) == 20


def test_a_fallback_takes_three_bytes_that_a_flown_reader_skips() -> None:
    steps = (ModuleStep(name="a", param_id=1, order=1, fallback=Fallback.IDENTITY),)
    data = decode_slot(encode_pipeline(PipelineDefinition(modules=steps)))
    # The flown bytes, then field 100 as a varint: tag a0 06, value 2.
    assert data == bytes.fromhex("0a0a" + "0801120161" + "1801" + "a00602")
    assert decode_pipeline(encode_pipeline(PipelineDefinition(modules=steps))) == (
        PipelineDefinition(modules=steps)
    )


def test_a_fallback_that_nobody_knows_is_refused() -> None:
    value = encode_slot(bytes.fromhex("0a0a" + "0801120161" + "1801" + "a00609"))
    with pytest.raises(ContentError, match="fallback 9 is unknown") as caught:
        decode_pipeline(value)
    assert caught.value.code == Code.CONFIG_INVALID


def test_a_parameter_slot_may_name_the_fallback() -> None:
    config = ModuleConfig(parameters=(("gain", 2), ("_fallback", "identity")))
    assert decode_module(encode_module(config)) == config
    assert config.fallback is Fallback.IDENTITY
    assert config.for_module == (("gain", 2),)
    assert ModuleConfig().fallback is Fallback.UNSET


@pytest.mark.parametrize("value", ["twice", "UNSET", "unset", 2, True])
def test_a_parameter_slot_with_a_wrong_fallback_is_refused(value: object) -> None:
    with pytest.raises(MisuseError, match="previous, identity, skip, none") as caught:
        ModuleConfig(parameters=(("_fallback", value),))  # type: ignore[arg-type]
    assert caught.value.code == Code.CONFIG_INVALID
    assert set(FALLBACK_NAMES) == {"previous", "identity", "skip", "none"}
