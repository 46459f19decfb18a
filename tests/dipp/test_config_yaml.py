"""Ground files: what is accepted, and the words for what is not."""

from __future__ import annotations

import pytest

from dipp.config.codec import encode_pipeline
from dipp.config.definition import Fallback, ModuleConfig
from dipp.config.yaml import TEXT_LIMIT_CHARACTERS, parse_module, parse_pipeline
from dipp.errors import Code, ContentError

PIPELINE = """
- order: 1
  param_id: 1
  name: demosaic
- name: encode
  order: 2
  param_id: 2
"""
MODULE = """
- key: "distance"
  type: 4        # 2 bool, 3 int, 4 float, 5 string
  value: 0.50
- key: "lossless"
  type: 2
  value: false
- value: mobilenet_v2.tflite
  type: string
  key: model
- {key: effort, type: 3, value: -7}
"""


def test_a_pipeline_file() -> None:
    steps = parse_pipeline(PIPELINE).modules
    assert [(s.order, s.name, s.param_id) for s in steps] == [(1, "demosaic", 1), (2, "encode", 2)]


def test_modules_are_sorted_by_order() -> None:
    text = "- {order: 2, param_id: 1, name: b}\n- {order: 1, param_id: 2, name: a}\n"
    assert [s.name for s in parse_pipeline(text).modules] == ["a", "b"]


def test_a_module_file() -> None:
    assert parse_module(MODULE) == ModuleConfig(
        parameters=(
            ("distance", 0.5),
            ("lossless", False),
            ("model", "mobilenet_v2.tflite"),
            ("effort", -7),
        )
    )


def test_no_yaml_type_rule_touches_a_value() -> None:
    text = "- {key: a, type: 5, value: no}\n- {key: b, type: 3, value: 010}\n"
    assert parse_module(text).parameters == (("a", "no"), ("b", 10))


def test_reading_stops_at_the_end_of_the_sequence() -> None:
    assert parse_pipeline("[]\n--- \n{never: read}\n").modules == ()


PIPELINE_ERRORS = [
    ("- {order: 1, name: a}", "Missing param_id"),
    ("- {order: 1, param_id: 1}", "Missing name"),
    ("- {name: a, param_id: 1}", "Missing order"),
    ("- {order: 1, param_id: 0, name: a}", "Error: Param_id is invalid. Range is 1-20"),
    ("- {order: 1, param_id: 21, name: a}", "Error: Param_id is invalid. Range is 1-20"),
    ("- {order: 2, param_id: 1, name: a}", "Order values must be 1..1"),
    ("- {order: 1x, param_id: 1, name: a}", "order: '1x'"),
    ("- {order: 0x1, param_id: 1, name: a}", "order: '0x1'"),
    ("- {order: 99999999999, param_id: 1, name: a}", "order: '99999999999'"),
    ("- {order: 1, param_id: 1, name: ../a}", "module name"),
    (
        "- {order: 1, colour: 1, name: a}",
        "Unexpected YAML scalar value format: colour\nAllowed values are: order, name, param_id",
    ),
    ("- {order: 1, order: 1}", "given twice"),
    ("- {order: [1]}", "Only scalars"),
    ("- {[1]: 1}", "Only scalars"),
    ("- a", "Expected a mapping"),
    ("- [a]", "Expected a mapping"),
    ("a: b", "Expected a sequence"),
    ("a", "Expected a sequence"),
    ("", "Expected a sequence"),
    ("- {order: &x 1, name: *x}", "Only scalars"),
    ("- {order: 1", "Not YAML"),
    ("\0", "Not YAML"),
    ("[" * 5000, "Expected a mapping"),
    (" " * (TEXT_LIMIT_CHARACTERS + 1), "at most"),
    ("".join(f"- {{order: {i}, param_id: 1, name: a}}\n" for i in range(1, 22)), "Too many"),
]
MODULE_ERRORS = [
    ("- {key: a, type: 1, value: 1}", "Type '1' is invalid"),
    ("- {key: a, type: 2, value: yes}", "not true or false"),
    ("- {key: a, type: 3, value: 1.0}", "not a 32-bit"),
    ("- {key: a, type: 3, value: 2147483648}", "not a 32-bit"),
    ("- {key: a, type: 4, value: 1.0x}", "not a number"),
    ("- {key: a, type: 4, value: 1_0}", "not a number"),
    ("- {key: a, type: 4, value: nan}", "not a number"),
    ("- {key: a, type: 4, value: 1e39}", "float range"),
    ("- {key: a, type: 4, value: 1e999}", "finite"),
    ("- {key: a, type: 4}", "Missing value"),
    ("- {type: 4, value: 1}", "Missing key"),
    ("- {key: a, value: 1}", "Missing type"),
    ("- {key: '', type: 3, value: 1}", "without a key"),
]


@pytest.mark.parametrize(("text", "words"), PIPELINE_ERRORS)
def test_pipeline_files_that_are_refused(text: str, words: str) -> None:
    with pytest.raises(ContentError) as caught:
        parse_pipeline(text)
    assert words in str(caught.value)
    assert caught.value.code == Code.CONFIG_INVALID


@pytest.mark.parametrize(("text", "words"), MODULE_ERRORS)
def test_module_files_that_are_refused(text: str, words: str) -> None:
    with pytest.raises(ContentError) as caught:
        parse_module(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(("text", "value"), [("1", 1.0), (".5", 0.5), ("-2.", -2.0), ("1e3", 1e3)])
def test_spellings_of_floats(text: str, value: float) -> None:
    assert parse_module(f"- {{key: a, type: float, value: {text}}}").parameters == (("a", value),)


def test_a_fallback_is_optional_and_changes_nothing_if_it_is_not_there() -> None:
    plain = "- {order: 1, param_id: 1, name: demosaic}\n- {order: 2, param_id: 2, name: encode}\n"
    # The flown bytes of dipp.md 17.
    golden = "228b0e800a0e0801120864656d6f7361696318010a0c08021206656e636f6465180203"
    assert encode_pipeline(parse_pipeline(plain)).hex().startswith(golden)
    with_one = plain.replace("demosaic", "demosaic, fallback: previous")
    steps = parse_pipeline(with_one).modules
    assert [step.fallback for step in steps] == [Fallback.PREVIOUS, Fallback.UNSET]
    with pytest.raises(ContentError, match="fallback 'maybe' is not one of previous, identity"):
        parse_pipeline(plain.replace("encode", "encode, fallback: maybe"))
