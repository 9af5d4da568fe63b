"""SMOTE: new rows between a row of a rare class and one of its neighbours."""

from collections.abc import Sequence
from typing import Annotated, Any

from annotated_types import Ge

from mtl_runner.imbalance.synthetic import Amount, Others, Request, Synthetic


class SMOTE(Synthetic):
    """New row = x + u (x' - x): x a row of the class, x' one of its k nearest of the same class, u uniform in [0, 1).

    Chawla et al., SMOTE: Synthetic Minority Over-sampling Technique, JAIR 2002, as in imbalanced-learn. Streams with numbers
    and categories take the paper's SMOTE-NC (a differing category counts as the median of the numbers' standard deviations in
    the class; new rows have the neighbours' most frequent category), streams with categories only its SMOTE-N (distances by
    the classes' shares in each category). Neighbours are searched among the rows of one class: O(n_c² (D + K)) each at worst.

    What holds for every strategy that makes rows (few examples of a class, several tasks, columns with two values) is said in
    ``Synthetic``.

    Args:
        k_neighbors: k.
        sampling_strategy: ``auto`` or ``not majority``: every class as frequent as the largest; ``minority``: the smallest
            class only; a number r, for tasks with two classes: ⌊r · n_max⌋ rows of the rarer one.
        others: what new rows have for the other tasks: no label, or that of the nearest row of the class.
        tasks: act on these tasks only; on all binary and multiclass tasks otherwise.

    Raises:
        UserError: a number as ``sampling_strategy`` for a task with more than two classes.
    """

    option = "smote"
    nominal = True

    def __init__(
        self,
        *,
        k_neighbors: Annotated[int, Ge(1)] = 5,
        sampling_strategy: Amount = "auto",
        others: Others = "missing",
        tasks: Sequence[str] | None = None,
    ) -> None:
        super().__init__(sampling_strategy, others, tasks)
        self.k_neighbors = k_neighbors

    def sampler(self, request: Request) -> Any:
        from imblearn import over_sampling

        neighbors = min(self.k_neighbors, request.own - 1)
        options = {"sampling_strategy": request.amount, "random_state": request.seed, "k_neighbors": neighbors}
        if not request.categories:
            return over_sampling.SMOTE(**options)
        if not request.problem.numbers:
            return over_sampling.SMOTEN(**options)
        return over_sampling.SMOTENC(request.categories, **options)
