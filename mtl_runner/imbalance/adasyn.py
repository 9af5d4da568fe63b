"""ADASYN: the more new rows, the more neighbours of other classes a row has."""

from collections.abc import Sequence
from typing import Annotated, Any

from annotated_types import Ge

from mtl_runner.imbalance.synthetic import Amount, Others, Request, Synthetic
from mtl_runner.imbalance.tables import Table


class ADASYN(Synthetic):
    """SMOTE in which row i of a class gets round(G · r_i / Σ r) of its G new rows, r_i the share of others among its neighbours.

    He, Bai, Garcia and Li, ADASYN: Adaptive Synthetic Sampling Approach for Imbalanced Learning, IJCNN 2008, as in
    imbalanced-learn. By the rounding a class comes out near the wanted size, not exactly at it. A class gets no new rows where
    the method has none to give: no row has a neighbour of another class, or all its shares round to 0. Neighbours are
    searched among all rows: O(n² D) for each class at worst.

    For numbers only. What holds for every strategy that makes rows (few examples of a class, several tasks, columns with two
    values) is said in ``Synthetic``.

    Args:
        n_neighbors: neighbours by which r_i is taken, and towards which new rows go.
        sampling_strategy: ``auto`` or ``not majority``: every class as frequent as the largest; ``minority``: the smallest
            class only; a number r, for tasks with two classes: ⌊r · n_max⌋ rows of the rarer one.
        others: what new rows have for the other tasks: no label, or that of the nearest row of the class.
        tasks: act on these tasks only; on all binary and multiclass tasks otherwise.

    Raises:
        UserError: there are categories; or a number as ``sampling_strategy`` for a task with more than two classes.
    """

    option = "adasyn"
    nominal = False

    def __init__(
        self,
        *,
        n_neighbors: Annotated[int, Ge(1)] = 5,
        sampling_strategy: Amount = "auto",
        others: Others = "missing",
        tasks: Sequence[str] | None = None,
    ) -> None:
        super().__init__(sampling_strategy, others, tasks)
        self.n_neighbors = n_neighbors

    def sampler(self, request: Request) -> Any:
        from imblearn import over_sampling

        return over_sampling.ADASYN(
            sampling_strategy=request.amount,
            random_state=request.random,  # one for all classes, as imbalanced-learn has it here
            n_neighbors=min(self.n_neighbors, request.own - 1),
        )

    def made(self, request: Request) -> Table:
        try:
            return super().made(request)
        except (RuntimeError, ValueError) as error:
            if not str(error).startswith(("Not any neigbours", "No samples will be generated")):
                raise
            return request.problem.table[:0]
