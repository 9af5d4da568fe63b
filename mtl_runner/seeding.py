"""Randomness by name: every consumer draws from its own stream, so that adding one never moves another.

A network initialised as ``("init", "digit")`` gets the same weights whether its task is trained alone or beside others.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed that depends on ``seed`` and on every name, and on nothing else (not on the process or platform)."""
    digest = hashlib.sha256(repr((seed, *map(str, names))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for the stream ``names``."""
    return torch.Generator(device).manual_seed(derive(seed, *names))


@contextmanager
def seeded(seed: int, *names: object) -> Iterator[None]:
    """Inside, torch's global CPU generator is the stream ``names``; outside, it is as it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, *names))  # torch.manual_seed would move every device's
        yield
