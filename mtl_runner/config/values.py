"""Checks one value against one annotation, and says in a line what is wrong."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from mtl_runner.errors import nearest


@dataclass(frozen=True)
class Matches:
    """Annotation of a text that has a form: ``Annotated[str, Matches(r"cpu|cuda(:\\d+)?", "cpu, cuda, cuda:N")]``."""

    pattern: str
    allowed: str
    """What is allowed, in words."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise ValueError(f"choose from {self.allowed}")
        return value


_PLAIN = {
    "Value error, ": "",
    "Input should be": "must be",
    "a valid integer": "a whole number",
    "a valid array": "a list",
    "a valid dictionary": "a mapping",
    "an object": "a mapping",
    "a valid ": "a ",
}


def validate(value: Any, annotation: Any) -> Any:
    """``value`` (plain YAML data) as the type ``annotation``: a list becomes a tuple, and no more than that.

    Raises ``pydantic.ValidationError``. Strict as JSON is: ``"3"``, ``3.0`` and ``true`` are no integers, ``3`` is a float.
    """
    return _adapter(annotation).validate_json(json.dumps(value), strict=True)


def complaints(key: str, value: Any, annotation: Any) -> list[str]:
    """What is wrong with ``key=value``, a line for each wrong part; empty where nothing is."""
    from pydantic import ValidationError

    try:
        validate(value, annotation)
    except ValidationError as error:
        return _lines(key, value, error.errors(include_url=False))
    except TypeError as error:  # a mapping's key that no text can be
        return [f"{key}={show(value)}: {error}"]
    return []


def show(value: Any) -> str:
    """``value`` as one types it on the command line, shortened; a text that looks like something else in quotes."""
    plain = isinstance(value, str) and not _looks_otherwise(value)
    text = value if plain else json.dumps(value, default=str, ensure_ascii=False, skipkeys=True)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _looks_otherwise(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return text == ""
    return True


@cache
def _adapter(annotation: Any) -> Any:
    from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter

    try:
        return TypeAdapter(annotation)
    except PydanticSchemaGenerationError:  # a class that pydantic does not know, such as a tensor in `float | Tensor`
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))


def _lines(key: str, value: Any, errors: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each place in ``value``: what the members of a union say of it is joined by "or".

    Where one of them has something against a part, the whole is of the kind that this one takes: what others say is left out.
    """
    places: dict[str, list[str]] = {}
    for error in errors:
        if error["type"] != "needs_python_object":  # a tensor, say: nothing that one types can be that
            place, said = _said(key, value, error)
            if said not in places.setdefault(place, []):
                places[place].append(said)
    inner = [place for place in places if not any(other.startswith(f"{place.partition('=')[0]}.") for other in places)]
    return [f"{place}: {' or '.join([places[place][0], *map(_more, places[place][1:])])}" for place in inner]


def _more(said: str) -> str:
    return said.removeprefix("must be ")


def _said(key: str, value: Any, error: Mapping[str, Any]) -> tuple[str, str]:
    """The innermost part of ``value`` that the error is about, as ``key=value``, and what is wrong with it."""
    for step in error["loc"]:  # the names of a union's members are steps as well, and stepped over
        if step in (value if isinstance(value, Mapping) else range(len(value)) if isinstance(value, list) else ()):
            key, value = f"{key}.{step}", value[step]
    if error["type"] in ("missing", "missing_argument"):
        return f"{key}.{error['loc'][-1]}", "is missing"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return key, "there is no such key"
    return f"{key}={show(value)}", _expected(value, error)


def _expected(value: Any, error: Mapping[str, Any]) -> str:
    if error["type"] == "literal_error":
        allowed = str(error["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        return f"choose from {', '.join(allowed)}{nearest(value, allowed) if isinstance(value, str) else ''}"
    text = str(error["msg"])
    for clumsy, plain in _PLAIN.items():
        text = text.replace(clumsy, plain)
    return text
