"""Errors that are meant for the person at the keyboard."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something that the user typed or supplied is wrong; the command ends with exit code 2 and no traceback.

    The message is one or two lines: the key, the value, what is allowed and the nearest match.
    """


class NotApplicable(UserError):
    """Each option is right by itself, and they exclude each other or do not fit the data.

    In a sweep, where all combinations are formed, such a job is listed and does not run; alone it is an error like others.
    """


def nearest(typed: object, allowed: Iterable[object]) -> str:
    """`` (did you mean 'x'?)`` for the closest of ``allowed``, whatever the case, or an empty string where none is close."""
    names = [str(name) for name in allowed]
    lower = {name.lower(): name for name in reversed(names)}
    close = difflib.get_close_matches(str(typed), names, n=1, cutoff=0.5)
    close = close or [lower[name] for name in difflib.get_close_matches(str(typed).lower(), lower, n=1, cutoff=0.5)]
    return f" (did you mean '{close[0]}'?)" if close else ""


def choices(allowed: Iterable[object], most: int = 20) -> str:
    """The allowed values as one readable list, shortened after ``most`` of them."""
    names = [str(name) for name in allowed]
    rest = f", … ({len(names) - most} more)" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
