"""One value against one annotation."""

import math
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Lt, MinLen

from mtl_runner.config.values import Matches, complaints, show, validate

COUNT = Annotated[int, Ge(1)]
WIDTHS = Annotated[list[COUNT], MinLen(1)]
DEVICE = Annotated[str, Matches(r"cpu|cuda(:\d+)?", "cpu, cuda, cuda:N")]


class Unknown:
    """A class that pydantic cannot check, as torch's tensors."""


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (3, float, 3.0),
        (3, COUNT | None, 3),
        (None, COUNT | None, None),
        ([1, 2], tuple[int, ...], (1, 2)),
        ([0.9, 0.999], tuple[float | Unknown, float | Unknown], (0.9, 0.999)),
        ({"a": [1]}, dict[str, list[int]], {"a": [1]}),
        ("cuda:3", DEVICE, "cuda:3"),
        (math.inf, float, math.inf),
        ("x", Any, "x"),
        (None, float | Unknown | None, None),
    ],
)
def test_what_fits(value: Any, annotation: Any, expected: Any) -> None:
    result = validate(value, annotation)
    assert result == expected and type(result) is type(expected)
    assert complaints("key", value, annotation) == []


@pytest.mark.parametrize(
    ("value", "annotation", "line"),
    [
        ("3", int, 'key="3": must be a whole number'),
        (True, int, "key=true: must be a whole number"),
        (3.0, int, "key=3.0: must be a whole number"),
        (True, float, "key=true: must be a number"),
        (3, str, "key=3: must be a string"),
        (0, COUNT, "key=0: must be greater than or equal to 1"),
        (None, int, "key=null: must be a whole number"),
        (1.0, Annotated[float, Lt(1)], "key=1.0: must be less than 1"),
        ("fast", float | Unknown, "key=fast: must be a number"),
        (20, Literal[18, 34, 50], "key=20: choose from 18, 34, 50"),
        ("adm", Literal["adam", "sgd"], "key=adm: choose from adam, sgd (did you mean 'adam'?)"),
        ([1, 0], WIDTHS, "key.1=0: must be greater than or equal to 1"),
        ({"a": {"b": "x"}}, dict[str, dict[str, int]], "key.a.b=x: must be a whole number"),
        ("gpu", DEVICE, "key=gpu: choose from cpu, cuda, cuda:N"),
        ("cuda:", DEVICE, "key=cuda:: choose from cpu, cuda, cuda:N"),
        ("a", int | list[int], "key=a: must be a whole number or a list"),
        ({"a": "x"}, dict[str, dict[str, int] | None] | list[str], "key.a=x: must be a mapping"),
    ],
)
def test_what_does_not_fit_is_one_line(value: Any, annotation: Any, line: str) -> None:
    assert complaints("key", value, annotation) == [line]


def test_every_wrong_part_has_its_line() -> None:
    assert len(complaints("key", {"a": "x", "b": 1, "c": None}, dict[str, int])) == 2


def test_what_json_cannot_say() -> None:
    assert len(complaints("key", {(1, 2): 3}, Any)) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ("a b", "a b"),
        ("null", '"null"'),
        ("", '""'),
        ([1, "ä"], '[1, "ä"]'),
        ("x" * 99, "x" * 57 + "…"),
    ],
)
def test_values_are_shown_as_they_are_typed(value: Any, text: str) -> None:
    assert show(value) == text
