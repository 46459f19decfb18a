"""The error table and the status word."""

from __future__ import annotations

import pytest

from dipp.errors import Code, custom_code, describe, is_retryable, split_status, status_word

WORDS = [
    ((600, 1, 2), 600102),
    ((708, 1, 4), 708104),
    ((516, 0, 0), 516000),
    ((201, 0, 0), 201000),
    ((602, 6, 20), 602620),
]


@pytest.mark.parametrize(("parts", "word"), WORDS)
def test_status_word_and_back(parts: tuple[int, int, int], word: int) -> None:
    assert status_word(*parts) == word
    status = split_status(word)
    assert (status.code, status.pipeline, status.module) == parts


@pytest.mark.parametrize("pipeline", [10, -1, 4711])
def test_a_pipeline_out_of_range_never_changes_the_code_digits(pipeline: int) -> None:
    assert status_word(500, pipeline, 100) == 500000


def test_status_word_fits_its_parameter() -> None:
    assert status_word(10**9, 9, 99) < 2**32
    assert status_word(-5) == 0


@pytest.mark.parametrize(
    ("number", "code"), [(0, 700), (8, 708), (99, 799), (100, 100), (507, 507)]
)
def test_custom_numbers(number: int, code: int) -> None:
    assert custom_code(number) == code


def test_every_row_has_a_meaning_of_its_own() -> None:
    meanings = [code.meaning for code in Code]
    assert all(meanings)
    assert len(set(meanings)) == len(meanings)


def test_codes_of_modules_are_described_too() -> None:
    assert describe(708) == "module's own error 8"
    assert "unknown" in describe(4711)
    assert "2" in str(split_status(600102))


def test_a_crash_is_not_worth_a_retry_but_a_timeout_is() -> None:
    assert is_retryable(Code.TIMEOUT)
    assert not is_retryable(Code.SIGNAL)
    assert not is_retryable(708)
    assert not is_retryable(9999)
