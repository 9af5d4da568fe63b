"""Generated interactions of users with items, imbalanced as in life: rare clicks, rarer purchases, stars by some."""

from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray

from mtl_runner.datasets.recsys import Recsys
from mtl_runner.datasets.stratify import Floats, Ints
from mtl_runner.seeding import derive

DAY = np.array(["morning", "noon", "evening", "night"])
POSITIONS = 10


class Interactions(Recsys):
    """Impressions: each row shows an item to a user, at a position of a list and at a time of the day.

    User u and item i have vectors a_u, b_i ~ N(0, I) of ``factors`` numbers, a tendency c_u and a quality d_i ~ N(0, 1).
    With the affinity s = a_u · b_i / √factors and f the position from -1 (last) to 1 (first):

        click              σ(1.5 s + 0.6 c_u + 0.6 d_i + 0.5 f + a constant); more in the evening, less at night
        purchase, clicked  σ(s + 0.4 c_u - 0.6 price_i + a constant)
        stars, clicked     2.8 + 0.8 s + 0.4 c_u + 0.4 d_i + 0.5 N(0, 1), rounded, 1 … 5

    The constants are such that the shares come out. What is shown follows the long tail: the r-th item in proportion to 1 / √r.
    Neither the mean of an item nor a linear model of user and item knows s.

    Args:
        rows: number of impressions.
        n_users, n_items: how many there are.
        factors: of the affinity.
        click_share: clicks among all rows.
        purchase_share: purchases among the clicks.
        rated_share: clicks with stars among the clicks.
        tasks, only, split, fold, folds, split_seed, stream: as of ``recsys``; ``time`` is a column that can be split by. The seed
            moves the data, too.
    """

    def __init__(
        self,
        *,
        rows: Annotated[int, Ge(100)] = 10_000,
        n_users: Annotated[int, Ge(2)] = 300,
        n_items: Annotated[int, Ge(2)] = 200,
        factors: Annotated[int, Ge(1)] = 2,
        click_share: Annotated[float, Gt(0), Lt(1)] = 0.15,
        purchase_share: Annotated[float, Gt(0), Lt(1)] = 0.2,
        rated_share: Annotated[float, Gt(0), Lt(1)] = 0.5,
        tasks: dict[str, dict[str, Any] | None],
        only: list[str] | None = None,
        split: dict[str, Any] | None = None,
        fold: Annotated[int, Ge(0)] | None = None,
        folds: Annotated[int, Ge(2)] = 5,
        split_seed: int = 0,
        stream: str = "input",
    ) -> None:
        ignore = [] if (split or {}).get("column") == "time" else ["time"]
        super().__init__(
            "", tasks, only=only, ignore=ignore, split=split, fold=fold, folds=folds, split_seed=split_seed, stream=stream
        )
        self.size, self.factors = (rows, n_users, n_items), factors
        self.shares = click_share, purchase_share, rated_share
        self.seed = split_seed

    def _interactions(self) -> tuple[pa.Table, Ints | None]:
        """All rows, in the order of their time."""
        draws = np.random.default_rng(derive(self.seed, "interactions"))
        rows, users, items = self.size
        clicks, purchases, rated = self.shares
        a, b = draws.normal(size=(users, self.factors)), draws.normal(size=(items, self.factors))
        tendency, quality, price = draws.normal(size=users), draws.normal(size=items), draws.normal(size=items)
        shown = 1 / np.sqrt(np.arange(1, items + 1))
        u, i = draws.integers(0, users, rows), draws.choice(items, rows, p=shown / shown.sum())
        position, day = draws.integers(1, POSITIONS + 1, rows), draws.integers(0, len(DAY), rows)
        s = (a[u] * b[i]).sum(1) / np.sqrt(self.factors)
        front = 1 - 2 * (position - 1) / (POSITIONS - 1)
        clicked = _event(
            1.5 * s + 0.6 * tendency[u] + 0.6 * quality[i] + 0.5 * front + np.array([0, 0, 0.4, -0.4])[day], clicks, draws
        )
        bought = np.zeros(rows, bool)
        bought[clicked] = _event((s + 0.4 * tendency[u] - 0.6 * price[i])[clicked], purchases, draws)
        stars = 2.8 + 0.8 * s + 0.4 * tendency[u] + 0.4 * quality[i] + 0.5 * draws.normal(size=rows)
        has_stars = clicked & (draws.random(rows) < rated)
        return pa.table(
            {
                "user": np.char.add("u", u.astype(str)),
                "item": np.char.add("i", i.astype(str)),
                "price": np.round(10 * np.exp(0.5 * price[i]), 2),
                "position": position,
                "day": DAY[day],
                "time": np.arange(rows),
                "click": clicked.astype(np.int64),
                "purchase": pa.array(bought.astype(np.int64), mask=~clicked),
                "rating": pa.array(np.clip(np.round(stars), 1, 5), mask=~has_stars),
            }
        ), None


def _event(scores: Floats, share: float, draws: np.random.Generator) -> NDArray[np.bool_]:
    """True with probability σ(score + constant), the constant such that this is ``share`` on average."""
    low, high = -50.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if (1 / (1 + np.exp(-scores - middle))).mean() > share else (middle, high)
    return draws.random(len(scores)) < 1 / (1 + np.exp(-scores - low))
