"""How far networks that were trained alone have gone the same way.

Shape legend: T tasks.
"""

import torch
from torch import Tensor

from mtl_runner.affinity.base import Measure
from mtl_runner.training import Training


class Parameters(Measure):
    """cos(θ_t - θ_0, θ_u - θ_0): θ_t are the parameters of task t's encoder after training alone, θ_0 those all start from.

    Heads of equal shape start alike as well, as what they read decides where an encoder goes. Of encoders for different inputs
    the parameters of equal name and shape are compared; NaN where there are none, or one of the two has not moved.

    Ilharco et al., Editing models with task arithmetic, ICLR 2023, compare these displacements ("task vectors") in the same way.
    """

    title = "cosine of the parameters' displacements"
    watches = "none"

    def begin(self, training: Training) -> None:
        self.networks = {task: training.model.sharing.network(task) for task in self.tasks}
        self.start = {
            task: {name: value.detach().clone() for name, value in network.named_parameters()}
            for task, network in self.networks.items()
        }

    def result(self) -> Tensor:
        by_kind: dict[tuple[str, torch.Size], dict[int, Tensor]] = {}
        for place, (task, network) in enumerate(self.networks.items()):
            for name, value in network.named_parameters():
                moved = (value.detach() - self.start[task][name]).flatten().double().cpu()
                by_kind.setdefault((name, value.shape), {})[place] = moved
        products = torch.zeros(2, len(self.tasks), len(self.tasks), dtype=torch.float64)
        for each in by_kind.values():
            places, moves = torch.tensor(list(each)), torch.stack(list(each.values()))
            inner = moves @ moves.T
            products[0][places[:, None], places] += inner
            products[1][places[:, None], places] += inner.diagonal()[:, None]  # only of what both have
        return (products[0] / (products[1] * products[1].T).sqrt()).clamp(-1, 1)
