"""Names of groups in a sentence."""

from collections.abc import Iterable, Mapping

_NAMED = 4


def by_value(of: Mapping[str, str]) -> str:
    """``30 (hard, soft), 60 (none)``."""
    names: dict[str, list[str]] = {}
    for name, value in of.items():
        names.setdefault(value, []).append(name)
    return ", ".join(f"{value} ({listed(some)})" for value, some in names.items())


def listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def quoted(name: str) -> str:
    return f"'{name}'"
