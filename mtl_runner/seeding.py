"""Randomness by name: every consumer draws from its own stream, so that adding one never moves another.

A network initialised as ``("init", "digit")`` gets the same weights whether its task is trained alone or beside others.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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


class Draws(nn.Module):
    """Draws from a generator of its own, which takes its seed from torch's when it is made.

    Its place in the sequence is part of the state dict.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seed = int(torch.randint(2**62, ()))
        self._state: Tensor | None = None
        self._generator: torch.Generator | None = None

    def generator(self, device: torch.device) -> torch.Generator:
        """The generator; made on first use, when the device is known."""
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device).manual_seed(self._seed)
            if self._state is not None and len(self._state) == len(self._generator.get_state()):
                self._generator.set_state(self._state)  # that of another kind of device says nothing here
            self._state = None
        return self._generator

    def get_extra_state(self) -> Tensor:
        if self._generator is not None:
            return self._generator.get_state()
        return torch.empty(0, dtype=torch.uint8) if self._state is None else self._state

    def set_extra_state(self, state: Tensor) -> None:
        self._generator = None
        self._state = state.cpu() if len(state) else None


class Replay:
    """Lets a module do again what it did since ``mark``.

    Args:
        module: with all its parts; their generators and buffers are looked up once.
    """

    def __init__(self, module: nn.Module) -> None:
        self.draws = [each for each in module.modules() if isinstance(each, Draws)]
        self.buffers = list(module.buffers())
        self._marked: list[Tensor] = []

    def states(self) -> list[Tensor]:
        """Where the generators are."""
        return [each.get_extra_state() for each in self.draws]

    def mark(self) -> None:
        """Remember where the generators are."""
        self._marked = self.states()

    @contextmanager
    def again(self) -> Iterator[None]:
        """Inside, the module draws what it drew from the mark on; outside, generators and buffers are as they were."""
        now, marked, kept = self.states(), self._marked, [buffer.clone() for buffer in self.buffers]
        self._go_to(marked)
        try:
            yield
        finally:
            self._go_to(now)
            self._marked = marked
            for buffer, value in zip(self.buffers, kept, strict=True):
                buffer.copy_(value)

    def _go_to(self, states: Sequence[Tensor]) -> None:
        for each, state in zip(self.draws, states, strict=True):
            each.set_extra_state(state)
