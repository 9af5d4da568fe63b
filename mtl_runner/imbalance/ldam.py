"""Label-distribution-aware margins."""

from collections.abc import Sequence
from typing import Annotated, Any, cast

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from mtl_runner.errors import NotApplicable
from mtl_runner.imbalance.base import Criterion, class_counts, cross_entropy, of_class
from mtl_runner.imbalance.class_weights import effective_number


class LDAM(Criterion):
    """Cross-entropy of s cos θ_c, with the true class y at s (cos θ_y - m_y): a rare class is kept at a larger distance.

    cos θ_c is that of the angle between an example's features and the weights of class c, and m_c ∝ n_c^(-1/4) for the n_c
    training examples of class c, with ``margin`` for the rarest. The last epochs weigh classes by their effective number
    (deferred re-weighting, see ``class_weights``). Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware
    Margin Loss, NeurIPS 2019. Margin 0 without re-weighting is the cross-entropy of the head's outputs.

    Binary, with one logit: two classes whose weights are v and -v have the logits ± s cos θ, whose difference z = 2 s cos θ
    is the head's output. Their softmax with margins is the cross-entropy of z - s m_1 for a positive and z + s m_0 for a
    negative.

    The head is a cosine times s without a bias, so that outputs are logits as everywhere. Weights average 1 over the training
    examples of the task. A class without an example has the largest margin (it is never looked up in training).

    Size: larger than a cross-entropy at first: where all cosines are 0 about s m_y + log(C - 1), 15 for the rarest of two
    classes with the defaults; near 0 once cosines differ by more than the margin. Cost: normalised features and weights, one
    addition per label.

    Args:
        margin: m of the rarest class, a difference of cosines.
        scale: s.
        start: share of the budget of epochs after which classes are weighed; 1: never. The paper's is 160 of 200 epochs.
        beta: β of the effective number.
        tasks: limit it to these tasks; all binary and multiclass tasks otherwise.
    """

    kinds = frozenset({"binary", "multiclass"})
    margins: Tensor
    weights: Tensor

    def __init__(
        self,
        *,
        margin: Annotated[float, Ge(0)] = 0.5,
        scale: Annotated[float, Gt(0)] = 30.0,
        start: Annotated[float, Ge(0), Le(1)] = 0.8,
        beta: Annotated[float, Ge(0), Lt(1)] = 0.9999,
        tasks: Sequence[str] | None = None,
    ) -> None:
        super().__init__(tasks)
        self.margin = margin
        self.scale = scale
        self.start = start
        self.beta = beta
        self.reweighted = start == 0
        self.register_buffer("margins", torch.zeros(1, 1), persistent=False)
        self.register_buffer("weights", torch.ones(1, 1), persistent=False)

    def head(self, head: nn.Module) -> nn.Module:
        """The cosine form of a linear head, with its weights.

        Raises:
            NotApplicable: it is none.
        """
        if not hasattr(head, "positions") or not hasattr(head, "weight"):
            raise NotApplicable(
                f"imbalance.ldam: normalises linear heads, and {type(head).__name__} is none; choose another loss"
            )
        return CosineHeads(head, self.scale)

    def before_epoch(self, epoch: int, epochs: int) -> None:
        self.reweighted = epoch > round(self.start * epochs)

    def fit(self, targets: Tensor, classes: int) -> None:
        counts = class_counts(targets, classes)
        fewest = torch.where(counts > 0, counts, torch.inf).amin(1, keepdim=True)
        margins = self.scale * self.margin * (fewest / torch.maximum(counts, fewest)).nan_to_num(1) ** 0.25
        # what is added to the logit of the true class, or to that of the positive class, by true class
        self.margins = margins * torch.tensor([1.0, -1.0], device=counts.device) if targets.is_floating_point() else -margins
        self.weights = effective_number(targets, classes, self.beta)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.is_floating_point():
            low, high = self.margins.view(len(targets), 2, *(1,) * (targets.ndim - 1)).unbind(1)
            loss = cross_entropy(outputs + torch.addcmul(low, high - low, targets), targets)
        else:
            margins = of_class(self.margins, targets).to(outputs.dtype).unsqueeze(-1)
            loss = cross_entropy(outputs.scatter_add(-1, targets.unsqueeze(-1), margins), targets)
        return of_class(self.weights, targets) * loss if self.reweighted else loss


class CosineHeads(nn.Module):
    """s cos θ for each class of T tasks of the same size, as one matrix; of a task with one output, 2 s cos θ.

    Args:
        head: the linear heads, whose weights [T, O, width] it takes; their biases have no place in it.
        scale: s.
    """

    def __init__(self, head: nn.Module, scale: float) -> None:
        super().__init__()
        self.positions = cast(tuple[int, ...], head.positions)
        self.weight = cast(nn.Parameter, head.weight)
        self.register_parameter("bias", None)
        self.scale = 2 * scale if self.weight.shape[1] == 1 else scale

    def forward(self, features: Tensor, apart: bool = False) -> Tensor:
        """Outputs [T, N, O] from features [N, …] that all T tasks share, or, ``apart``, from features [T, N, …] of each."""
        if self.positions:
            features = features.mean(self.positions)
        features = features.flatten(2 if apart else 1).to(self.weight.dtype)
        tasks, outputs, _ = self.weight.shape
        if apart:
            return _cosines(features, self.weight, self.scale)
        flat = _cosines(features, self.weight.flatten(0, 1), self.scale)
        return flat.view(-1, tasks, outputs).transpose(0, 1)


class _Cosines(torch.autograd.Function):
    """s x·w / (|x| |w|) of all x [..., N, D] and w [..., O, D], in two passes over the features where autograd has a dozen.

    With x̂ = x / |x| and ŵ = w / |w| the derivatives of x̂·ŵ are (ŵ - x̂·ŵ x̂) / |x| and (x̂ - x̂·ŵ ŵ) / |w|; there is no second one.
    |x|² is larger by 10^-8, for features that are all 0.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, scale: float) -> Tensor:
        # lengths divide the outputs, of which there are fewer than features
        per_feature = torch.linalg.vector_norm(features, dim=-1, keepdim=True).square_().add_(1e-8).rsqrt_()
        per_weight = torch.linalg.vector_norm(weight, dim=-1, keepdim=True).clamp_min_(1e-12).reciprocal_()
        unit = weight * per_weight
        outputs: Tensor = features @ unit.mT * (scale * per_feature)
        ctx.save_for_backward(features, unit, outputs, per_feature, per_weight)
        ctx.scale = scale
        return outputs

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        features, unit, outputs, per_feature, per_weight = ctx.saved_tensors
        each, along = (upstream * per_feature).mul_(ctx.scale), upstream * outputs
        inward = along.sum(-1, keepdim=True).mul_(per_feature).mul_(per_feature)
        to_features = (each @ unit).addcmul_(features, inward, value=-1)
        to_weight = (each.mT @ features).addcmul_(unit, along.sum(-2).unsqueeze(-1), value=-1).mul_(per_weight)
        return to_features, to_weight, None


def _cosines(features: Tensor, weight: Tensor, scale: float) -> Tensor:
    values: Tensor = _Cosines.apply(features, weight, scale)  # type: ignore[no-untyped-call]
    return values
