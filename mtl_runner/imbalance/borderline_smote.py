"""Borderline-SMOTE: new rows where a rare class meets the others."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge

from mtl_runner.imbalance.synthetic import Amount, Others, Request, Synthetic


class BorderlineSMOTE(Synthetic):
    """SMOTE from those rows of a class only that are in danger: at least half of their m neighbours, but not all, are of others.

    Han, Wang and Mao, Borderline-SMOTE: A New Over-Sampling Method in Imbalanced Data Sets Learning, ICIC 2005, as in
    imbalanced-learn: ``borderline-1`` goes from such a row towards its neighbours of the same class, ``borderline-2`` towards
    those of any class, towards other classes at most half the way. A class with no row in danger gets no new ones. Neighbours
    are searched among all rows: O(n² D) for each class at worst.

    For numbers only. What holds for every strategy that makes rows (few examples of a class, several tasks, columns with two
    values) is said in ``Synthetic``; of fewer than m + 1 rows in all, m is one less than they are.

    Args:
        k_neighbors: k, among which the other end is drawn.
        m_neighbors: m.
        kind: ``borderline-1`` or ``borderline-2``.
        sampling_strategy: ``auto`` or ``not majority``: every class as frequent as the largest; ``minority``: the smallest
            class only; a number r, for tasks with two classes: ⌊r · n_max⌋ rows of the rarer one.
        others: what new rows have for the other tasks: no label, or that of the nearest row of the class.
        tasks: act on these tasks only; on all binary and multiclass tasks otherwise.

    Raises:
        UserError: there are categories; or a number as ``sampling_strategy`` for a task with more than two classes.
    """

    option = "borderline_smote"
    nominal = False

    def __init__(
        self,
        *,
        k_neighbors: Annotated[int, Ge(1)] = 5,
        m_neighbors: Annotated[int, Ge(1)] = 10,
        kind: Literal["borderline-1", "borderline-2"] = "borderline-1",
        sampling_strategy: Amount = "auto",
        others: Others = "missing",
        tasks: Sequence[str] | None = None,
    ) -> None:
        super().__init__(sampling_strategy, others, tasks)
        self.k_neighbors = k_neighbors
        self.m_neighbors = m_neighbors
        self.kind = kind

    def sampler(self, request: Request) -> Any:
        from imblearn import over_sampling

        rows = len(request.problem.table)
        return over_sampling.BorderlineSMOTE(
            sampling_strategy=request.amount,
            random_state=request.seed,
            k_neighbors=min(self.k_neighbors, (request.own if self.kind == "borderline-1" else rows) - 1),
            m_neighbors=min(self.m_neighbors, rows - 1),
            kind=self.kind,
        )
