"""The methods of TorchJD, an optional dependency."""

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from mtl_runner.errors import UserError, choices, nearest
from mtl_runner.seeding import Draws
from mtl_runner.weighting.gradient import GradientOptions, JacobianWeighting

SEVERAL_DRAWS = {"MoDoWeighting": "modo", "SDMGradWeighting": "sdmgrad"}
"""Classes that want products of gradients on different batches: the options that give them these."""
OF_LOSSES = {
    "DWA": "dwa",
    "FAMO": "famo",
    "GeometricMean": "geometric",
    "IMTLL": "imtl_l",
    "STCH": "stch",
    "UW": "uncertainty",
}
"""Scalarizers of TorchJD, which see no gradients: the options that they are here."""


class TorchJD(JacobianWeighting):
    """Any aggregator or weighting of TorchJD: Quinton & Rey, Jacobian Descent for Multi-Objective Optimization, 2024.

    The object sees the gradients of the tasks with labels, in the order of the tasks, and nothing of the others. Those that
    need only inner products get the Gramian on the CPU, where their solvers run: on a GPU each step waits for it. Random ones
    draw from a generator of this option's own.

    On the comparable scale weights are divided by what the object gives to identical tasks; where that depends on the
    unit of the gradients (NashMTL, FairGrad), by their mean size in the step. An aggregator without weights, such as
    TrimmedMean, ConFIG or GradDrop, is scaled in the same way; ⟨update, g_t⟩ / (n ‖g_t‖²) is reported in place of its weights.

    What stateful objects carry from step to step is part of the checkpoint, except for NashMTL, whose solver cannot be
    saved: a run that goes on starts it anew (``weighting=nash_mtl`` goes on exactly). Some of them start anew whenever the number
    of tasks with labels changes. Heads take their own gradients. T backward passes through the trunk; 2 × T × P numbers.

    Args:
        tasks: names of the tasks.
        name: a class of ``torchjd.aggregation``.
        arguments: plain values for its constructor; a list becomes a tensor where one is expected.
        options: those of the gradient-based weightings.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        name: str = "UPGrad",
        arguments: Mapping[str, Any] | None = None,
        **options: Unpack[GradientOptions],
    ) -> None:
        super().__init__(tasks, **options)
        self.name = name
        self.make = _constructor(name, arguments or {})
        self.draws_of_method = Draws()
        self._held = [self.make()]  # in a list, as its state is none that ``load_state_dict`` could load before the first step
        self._units: dict[int, float | None] = {}
        self._try()

    def _try(self) -> None:
        """Find what is wrong before anything is trained."""
        if self.heads == "weighted" and not self._weighs:
            raise UserError(f"weighting.heads=weighted: {self.name} of TorchJD has no weights to give to heads; take heads=own")
        try:
            self._unit_of(len(self.tasks))
        except (TypeError, AttributeError, RuntimeError) as error:
            raise UserError(f"weighting.arguments: {self.name} of TorchJD does not run with these: {_line(error)}") from error

    @property
    def method(self) -> nn.Module:
        """TorchJD's object."""
        return self._held[0]

    @property
    def _weighs(self) -> bool:
        bases = importlib.import_module("torchjd.aggregation")
        return isinstance(self.method, bases.Weighting | bases.WeightedAggregator)

    def unit(self, weights: Tensor, active: Tensor) -> Tensor | float:
        """What identical tasks get; the mean size of this step's weights where that depends on the gradients' unit."""
        count = int(active.sum())
        if count and (known := self._unit_of(count)) is not None:
            return known
        mean = weights.abs().sum() / max(count, 1)
        return float(mean) or 1.0

    def aggregate(self, jacobian: Tensor, losses: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        chosen = jacobian[active]
        weights = losses.new_zeros(losses.shape)
        if not len(chosen):
            return jacobian.sum(0), weights
        with self._its_draws(jacobian.device):
            update, found = _applied(self.method, chosen, self.name)
        weights[active] = found.to(weights)
        return update, weights

    def _unit_of(self, count: int) -> float | None:
        """The weight of each of ``count`` identical tasks; None where it depends on the unit of their gradients."""
        if count not in self._units:
            alike = torch.eye(1, 3).expand(count, 3)
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                first, second = (float(_applied(self.make(), size * alike, self.name)[1].mean()) for size in (1, 2))
            fine = first > 0 and abs(first - second) <= 1e-3 * first
            self._units[count] = first if fine else None
        return self._units[count]

    @contextmanager
    def _its_draws(self, device: torch.device) -> Iterator[None]:
        """Inside, torch's global generators are this option's."""
        seed = int(torch.randint(2**62, (), generator=self.draws_of_method.generator(torch.device("cpu"))))
        cuda = device.type == "cuda"
        with torch.random.fork_rng(devices=[device] if cuda else []):
            torch.default_generator.manual_seed(seed)
            if cuda:
                torch.cuda.manual_seed(seed)
            yield

    def get_extra_state(self) -> dict[str, dict[str, Any]]:
        return {path: state for path, module in self.method.named_modules() if (state := _state(module))}

    def set_extra_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        modules = dict(self.method.named_modules())
        for path, values in state.items():
            for key, value in values.items():
                setattr(modules[path], key, value.clone() if isinstance(value, Tensor) else value)


def _applied(method: nn.Module, jacobian: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Update [P] and weights [n] from gradients [n, P]."""
    bases = importlib.import_module("torchjd.aggregation")
    weighting = method if isinstance(method, bases.Weighting) else None
    if isinstance(method, bases.WeightedAggregator):
        weighting = getattr(method, "gramian_weighting", method.weighting)
    try:
        if weighting is None:
            update = method(jacobian)
            squares = jacobian.square().sum(1)
            return update, jacobian @ update / (len(jacobian) * squares.masked_fill(squares == 0, 1))
        if any(base.__name__ == "_GramianWeighting" for base in type(weighting).__mro__):
            weights = weighting((jacobian @ jacobian.T).cpu())
        else:
            weights = weighting.to(jacobian.device)(jacobian)
    except ValueError as error:
        raise UserError(f"weighting.name={name}, with {len(jacobian)} tasks that have labels: {_line(error)}") from error
    weights = weights.to(jacobian)
    return weights @ jacobian, weights


def _constructor(name: str, arguments: Mapping[str, Any]) -> Callable[[], nn.Module]:
    """Makes the object; it was made once, so that errors are found here.

    Raises:
        UserError: TorchJD is not installed, it has no such class, or the class does not take these arguments.
    """
    cls = _class(name)
    values = _values(cls, arguments)

    def make() -> nn.Module:
        made: nn.Module = cls(**values)
        return made

    try:
        make()
    except (ValueError, TypeError, ImportError, AttributeError) as error:
        given = f"weighting.arguments={dict(arguments)}"
        raise UserError(f"{given}: {name} of TorchJD cannot be made of these: {_line(error)}") from error
    return make


def _class(name: str) -> type:
    try:
        module = importlib.import_module("torchjd.aggregation")
    except ImportError as error:
        raise UserError(
            f"weighting=torchjd: TorchJD cannot be imported ({_line(error)}); install it with: pip install 'mtl-runner[torchjd]'"
        ) from error
    if name in OF_LOSSES:
        raise UserError(f"weighting.name={name}: it looks at losses, not at gradients; take weighting={OF_LOSSES[name]}")
    if name in SEVERAL_DRAWS:
        raise UserError(f"weighting.name={name}: it needs several batches in a step; take weighting={SEVERAL_DRAWS[name]}")
    known = [
        each
        for each, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, module.Aggregator | module.Weighting)
        and value.__module__.partition(".")[0] == "torchjd"
        and not any(_takes(parameter, "Weighting") for parameter in _parameters(value).values())
        and not inspect.isabstract(value)
        and each not in SEVERAL_DRAWS
    ]
    if name not in known:
        raise UserError(f"weighting.name={name}: TorchJD has no such method; it has {choices(known, 50)}{nearest(name, known)}")
    cls: type = vars(module)[name]
    return cls


def _values(cls: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, with tensors where the constructor expects them."""
    known, lists = _parameters(cls), {}
    for key, value in arguments.items():
        if key not in known:
            allowed = f"it has {choices(known)}" if known else "it has none"
            raise UserError(f"weighting.arguments.{key}: {cls.__name__} has no such argument; {allowed}{nearest(key, known)}")
        lists[key] = torch.tensor(value) if isinstance(value, list) and _takes(known[key], "Tensor") else value
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in arguments:
            raise UserError(f"weighting.arguments.{key}: is missing; {cls.__name__} needs it: weighting.arguments={{{key}: …}}")
    return lists


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    return {
        name: each
        for name, each in inspect.signature(cls).parameters.items()
        if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    }


def _takes(parameter: inspect.Parameter, kind: str) -> bool:
    return kind in str(parameter.annotation)


def _state(module: nn.Module) -> dict[str, Any]:
    """What a stateful object of TorchJD carries from step to step; nothing where that is not all plain values and tensors."""
    stateful = importlib.import_module("torchjd").Stateful
    if not isinstance(module, stateful):
        return {}
    usual = vars(nn.Module())
    values = {key: value for key, value in vars(module).items() if key not in usual} | dict(module.named_buffers(recurse=False))
    return values if all(_plain(value) for value in values.values()) else {}


def _plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str | Tensor | torch.dtype | torch.device)


def _line(error: Exception) -> str:
    """The error in one line."""
    return " ".join(str(error).split())
