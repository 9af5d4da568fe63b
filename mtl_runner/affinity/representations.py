"""How alike networks that were trained alone represent the same inputs.

Shape legend: N rows, C features.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from mtl_runner.affinity.base import ROWS, Measure
from mtl_runner.affinity.matrices import centred, flat, pairwise, ranks
from mtl_runner.fetching import as_tensors
from mtl_runner.seeding import generator
from mtl_runner.training import Training


class _OfFeatures(Measure):
    """Compares the features that the tasks' networks have of the same validation rows, labelled or not; at most 1,000, drawn.

    NaN for tasks of different input streams.
    """

    watches = "none"

    def begin(self, training: Training) -> None:
        self.training = training

    def result(self) -> Tensor:
        targets = self.setting.data.targets
        features = {task: self.prepared(self._features(task)) for task in self.tasks}

        def of(one: str, other: str) -> float:
            return self.compare(features[one], features[other]) if targets[one].stream == targets[other].stream else torch.nan

        return pairwise(self.tasks, of)

    @abstractmethod
    def prepared(self, features: Tensor) -> Tensor:
        """What is compared of the features [N, C]."""

    @abstractmethod
    def compare(self, one: Tensor, other: Tensor) -> float:
        """Of what ``prepared`` gave for two tasks."""

    @torch.no_grad()
    def _features(self, task: str) -> Tensor:
        stream, part = self.setting.data.targets[task].stream, self.setting.data.splits["validation"]
        draws = generator(self.setting.seed, "affinity", "representations", stream)
        rows = torch.randperm(part.size(stream), generator=draws)[:ROWS]
        fields = {name: value[rows].to(self.training.device) for name, value in part.inputs[stream].items()}
        network = self.training.model.sharing.network(task).eval()
        return flat(network(stream, as_tensors(fields))).double().cpu()


class Representations(_OfFeatures):
    """Linear CKA of the features X and Y, centred: ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖) in Frobenius norms, from 0 to 1.

    Neither rotations nor the scale of features matter. With more features than rows it is near 1 whatever the networks are.

    Kornblith et al., Similarity of neural network representations revisited, ICML 2019.
    """

    title = "CKA of the features"

    def prepared(self, features: Tensor) -> Tensor:
        """Centred; of more features than rows, N that have the same inner products of rows."""
        features = centred(features)
        return features if features.shape[1] <= len(features) else torch.linalg.qr(features.T).R.T

    def compare(self, one: Tensor, other: Tensor) -> float:
        norm = torch.linalg.matrix_norm
        return float(norm(one.T @ other) ** 2 / (norm(one.T @ one) * norm(other.T @ other)))


class RSA(_OfFeatures):
    """Spearman's ρ of the dissimilarities 1 - r of all pairs of rows, r being Pearson's correlation of their features.

    Dwivedi & Roig, Representation similarity analysis for efficient task taxonomy & transfer learning, CVPR 2019.
    """

    title = "RSA of the features"

    def prepared(self, features: Tensor) -> Tensor:
        """The ranks of the pairs' dissimilarities, centred, of length 1."""
        rows = torch.nn.functional.normalize(features - features.mean(1, keepdim=True), dim=1)
        count = min(len(rows), ROWS // 2)
        pairs = (1 - rows[:count] @ rows[:count].T)[torch.triu_indices(count, count, 1).unbind()]
        return torch.nn.functional.normalize(centred(ranks(pairs[:, None]))[:, 0], dim=0)

    def compare(self, one: Tensor, other: Tensor) -> float:
        return float(one @ other)
