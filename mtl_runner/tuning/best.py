"""A trial as a primary configuration of its own: ``mtl-run -cd FOLDER -cn best``."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

_SAME = object()


def primary(
    comments: Sequence[str],
    choices: Mapping[str, str],
    values: Mapping[str, Any],
    defaults: Mapping[str, Any],
    searchpath: Sequence[str] = (),
) -> str:
    """The text of the file: options by name and what differs from their own values, so that each can still be overridden.

    Args:
        comments: what the first lines say.
        choices: the options that are not the project's defaults, by group.
        values: the whole configuration, before interpolation.
        defaults: what the options by themselves would make of it.
        searchpath: folders of further options.
    """
    overridden = [
        {f"override {group}": yaml.safe_load(f"[{option}]") if "," in option else option} for group, option in choices.items()
    ]
    node: dict[str, Any] = {"defaults": ["config", "_self_", *overridden]}
    changed = difference(values, defaults)
    assert isinstance(changed, Mapping)
    node |= changed
    if searchpath:
        node["hydra"] = {"searchpath": list(searchpath)}
    text: str = yaml.safe_dump(node, sort_keys=False, allow_unicode=True, width=120)
    return "".join(f"# {line}\n" for line in comments) + text


def difference(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``values`` is not in ``defaults``, as merging it into them gives ``values``."""
    changed: dict[str, Any] = {}
    for name, value in values.items():
        known = defaults.get(name, _SAME)
        if isinstance(value, Mapping) and isinstance(known, Mapping):
            if inside := difference(value, known):
                changed[name] = inside
        elif value != known:
            changed[name] = value
    return changed


def removed(values: Mapping[str, Any], defaults: Mapping[str, Any], key: str = "") -> list[str]:
    """The keys of ``defaults`` that ``values`` lacks, which no merging takes away: ``~KEY`` on the command line does."""
    lines = []
    for name, known in defaults.items():
        place = f"{key}.{name}" if key else str(name)
        if name not in values:
            lines.append(place)
        elif isinstance(known, Mapping) and isinstance(values[name], Mapping):
            lines += removed(values[name], known, place)
    return lines
