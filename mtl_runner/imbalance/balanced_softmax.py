"""Balanced softmax."""

from collections.abc import Sequence

from mtl_runner.imbalance.logit_adjustment import LogitAdjustment


class BalancedSoftmax(LogitAdjustment):
    """-log of n_y e^(z_y) / Σ_c n_c e^(z_c): the softmax of the true class y with each class counted n_c times.

    n_c is the number of labelled training examples of class c. A binary task has the two logits 0 and z, thus the logit
    z + log(n_1 / n_0). Equally frequent classes give the cross-entropy. Ren et al., Balanced Meta-Softmax for Long-Tailed Visual
    Recognition, NeurIPS 2020, whose other half, a learnt sampler, is not part of it.

    It is ``logit_adjustment`` with τ = 1, reached by another way; size, cost and classes without an example are as there.

    Args:
        tasks: limit it to these tasks; all binary and multiclass tasks otherwise.
    """

    def __init__(self, *, tasks: Sequence[str] | None = None) -> None:
        super().__init__(tau=1.0, tasks=tasks)
