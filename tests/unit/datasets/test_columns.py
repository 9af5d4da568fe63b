"""A typed column and its text mean the same."""

import numpy as np
import pyarrow as pa
import pytest

from mtl_runner.datasets.rows.columns import MISSING_TEXTS, BadValueError, canonical, categories, numbers, order


def decoded(column, missing=MISSING_TEXTS):
    values, rows = categories(column, missing)
    return [values[row] for row in rows]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_text_becomes_numbers(kind):
    column = pa.array([" 1", "2.5 ", "+3", "-4e2", "?", "", None, "nan"]).cast(kind)
    expected = [1, 2.5, 3, -400, np.nan, np.nan, np.nan, np.nan]
    np.testing.assert_array_equal(numbers(column, MISSING_TEXTS), expected)
    np.testing.assert_array_equal(numbers(pa.chunked_array([column.slice(0, 3), column.slice(3)]), MISSING_TEXTS), expected)


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.float32(), pa.float64(), pa.decimal128(21, 2)])
def test_typed_numbers_are_their_text(kind):
    typed = pa.array([3, None, -2]).cast(kind)
    np.testing.assert_array_equal(numbers(typed, MISSING_TEXTS), numbers(pa.array(["3", "", "-2"]), MISSING_TEXTS))


@pytest.mark.parametrize("row", [0, 17, 4096, 9999])
def test_the_first_text_that_is_no_number_is_named(row):
    texts = [str(number) for number in range(10_000)]
    texts[row] = "abc"
    if row < 9000:
        texts[9001] = "def"
    with pytest.raises(BadValueError, match="'abc' is not a number") as caught:
        numbers(pa.array(texts), MISSING_TEXTS)
    assert caught.value.row == row


@pytest.mark.parametrize("column", [pa.array(["1", "inf"]), pa.array([1.0, float("-inf")])])
def test_infinite_values_are_bad(column):
    with pytest.raises(BadValueError, match="not a finite number") as caught:
        numbers(column, MISSING_TEXTS)
    assert caught.value.row == 1


def test_nan_text_is_missing_only_where_listed():
    with pytest.raises(BadValueError, match="'nan' is not a number"):
        numbers(pa.array(["1", "nan"]), [""])


def test_one_category_has_one_spelling():
    assert decoded(pa.array(["2", "2.0", " 2 ", "+2", "02", "2e0", "a ", "True", "?", None])) == (
        ["2", "2", "2", "2", "02", "2e0", "a", "true", None, None]
    )
    assert decoded(pa.array([2, None])) == ["2", None]
    assert decoded(pa.array([2.0, 0.5, float("nan"), -0.0])) == ["2", "0.5", None, "0"]
    assert decoded(pa.array([True, False])) == ["true", "false"]
    assert decoded(pa.array(["x", None, "y"]).dictionary_encode()) == ["x", None, "y"]


def test_canonical_is_stable():
    for text in ["1.50", "-0.0", "100", "0010", "1.", "TRUE", " é "]:
        once = canonical(text, ())
        assert canonical(once, ()) == once


def test_numbers_come_first_by_value():
    assert order(["b", "10", "9", "a", "-1.5"]) == ["-1.5", "9", "10", "a", "b"]
