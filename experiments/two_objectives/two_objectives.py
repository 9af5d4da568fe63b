"""Every weighting on the two objectives of CAGrad's paper, from five starting points, on one figure.

    python experiments/two_objectives/two_objectives.py

Writes ``trajectories.png`` and ``results.csv`` into ``--output``, and prints the table. Each weighting of ``conf/weighting`` runs
with its own defaults, through the same interface that the trainer uses; the shared parameter θ is all there is of a model.

The problem is that of Liu et al., Conflict-Averse Gradient Descent, NeurIPS 2021, as Navon et al., Multi-Task Learning as a
Bargaining Game, ICML 2022, changed it: the first objective has a tenth of its size, and there are five starts. Both papers take
35,000 and more steps of Adam with a learning rate of 0.001; here it is 30 times as large, for 1/30 of the steps, and Adam's
second average is as many times shorter, which leaves the trajectories much as they are.
"""

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from omegaconf import DictConfig, OmegaConf
from panels import trajectories_figure
from torch import Tensor, nn

from mtl_runner.config import config_dir, plug
from mtl_runner.config.schema import plain
from mtl_runner.errors import UserError
from mtl_runner.seeding import seeded
from mtl_runner.weighting.base import Objectives, Weighting

HERE = Path(__file__).resolve().parent
STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
UNITS = torch.tensor([0.1, 1.0])
"""What the objectives are multiplied by."""
SIDES = torch.tensor([1.0, -1.0])
LOWEST = -21.0
"""Below both objectives, before their unit: what weightings see is L - LOWEST · unit, as many need positive losses."""
EPOCH = 50
"""Steps after which weightings that look at the losses of an epoch see them."""
NEAR = 0.2
"""An end this near to a point of the Pareto front is on it."""


def losses(points: Tensor, units: Tensor = UNITS) -> Tensor:
    """Both objectives [..., 2], each at its own point [..., 2, 2].

    With s = 1 for the first and -1 for the second:
    L = max(tanh(y / 2), 0) · (log max(|(7 + s·x) / 2 - tanh y|, 5e-6) + 6)
    + max(tanh(-y / 2), 0) · (((7 - s·x)² + (y + 8)² / 10) / 10 - 20).
    """
    x, y = points.unbind(-1)
    across, half = x * SIDES, (y / 2).tanh()
    valley = (0.5 * (7 + across) - y.tanh()).abs().clamp_min(5e-6).log() + 6
    bowl = ((7 - across).square() + 0.1 * (y + 8).square()) / 10 - 20
    return (half.clamp_min(0) * valley + (-half).clamp_min(0) * bowl) * units


def at(points: Tensor, units: Tensor = UNITS) -> Tensor:
    """Both objectives [..., 2] at the same points [..., 2]."""
    return losses(points[..., None, :].expand(*points.shape[:-1], 2, 2), units)


def pareto_front(spacing: float = 0.02, reach: float = 11.0) -> Tensor:
    """[n, 2], by brute force: the best points of a grid for each of many weighted means of the objectives.

    No point is worth a look that another beats in one objective without losing in the other. Objectives without their
    units, so that even weights give an even curve; the front is convex, so that weighted means find all of it.
    """
    axis = torch.arange(-reach, reach + spacing / 2, spacing, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    values = at(grid, torch.ones(2))
    order = values[:, 0].argsort(stable=True)
    grid, values = grid[order], values[order]
    best_before = torch.cat([values.new_tensor([torch.inf]), values[:, 1].cummin(0).values[:-1]])
    kept = values[:, 1] < best_before
    weights = torch.linspace(0, 1, int(14 / spacing) + 1, dtype=torch.float64)
    best = (values[kept] @ torch.stack([weights, 1 - weights])).argmin(0)
    return grid[kept][best]


class Problem(nn.Module):
    """θ, which both objectives share; there is nothing else."""

    def __init__(self, start: Sequence[float], units: Tensor = UNITS) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(start))
        self.units = units
        self.active = torch.ones(2, dtype=torch.bool)
        self.shift = LOWEST * units

    def objectives(self, apart: bool) -> Objectives:
        """The positive losses; ``apart`` lets each objective read a copy of θ."""
        reads = self.theta.expand(2, 2)
        if apart:
            reads = reads.detach().requires_grad_()
        parts = [losses(reads, self.units) - self.shift]
        return Objectives(parts, self.active, [self.theta], (), (self.theta,), [(reads,)] if apart else ())

    @torch.no_grad()
    def losses_again(self) -> Tensor:
        return at(self.theta, self.units) - self.shift


@dataclass(frozen=True)
class Run:
    """What came of one weighting."""

    option: str
    needs: str
    trajectories: Tensor
    """[starts, steps + 1, 2]"""


def descend(problem: Problem, weighting: Weighting, steps: int, lr: float) -> Tensor:
    """The trajectory [steps + 1, 2] of θ."""
    groups = [{"params": [problem.theta]}, *weighting.parameter_groups()]
    optimizer = torch.optim.Adam(groups, lr=lr, betas=(0.5, 1 - lr), fused=True)
    trajectory, total = [problem.theta.detach().clone()], torch.zeros(2)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        draws = [problem.objectives(weighting.apart) for _ in range(weighting.draws)]
        weights = weighting.backward(*draws)
        if weights.isfinite().all():
            optimizer.step()
            weighting.after_step(problem.losses_again)
        trajectory.append(problem.theta.detach().clone())
        total += draws[0].losses
        if step % EPOCH == 0:
            weighting.after_epoch(total / EPOCH)
            total.zero_()
    return torch.stack(trajectory)


def make(option: str) -> Weighting:
    """The weighting of ``conf/weighting/<option>.yaml`` with the defaults that stand there."""
    with seeded(0, "weighting"):
        node = plain(cast(DictConfig, OmegaConf.load(config_dir() / "weighting" / f"{option}.yaml")))
        return cast(Weighting, plug(node, "weighting")(["first", "second"]))


def run(option: str, steps: int, lr: float) -> Run:
    trajectories = [descend(Problem(start), make(option), steps, lr) for start in STARTS]
    return Run(option, make(option).needs, torch.stack(trajectories))


def table(runs: Sequence[Run], front: Tensor) -> list[dict[str, str | float]]:
    """A row for each weighting and start: where it ended, with which losses, and how far from the Pareto front."""
    rows: list[dict[str, str | float]] = []
    for each in runs:
        ends = each.trajectories[:, -1].double()
        distances = torch.cdist(ends, front).min(-1).values
        for start, end, loss, distance in zip(STARTS, ends, at(ends), distances, strict=True):
            names = ("start_x", "start_y", "end_x", "end_y", "loss_1", "loss_2", "distance")
            values = (round(float(value), 3) for value in (*start, *end, *loss, distance))
            rows.append({"weighting": each.option, **dict(zip(names, values, strict=True)), "on_front": int(distance < NEAR)})
    return rows


def write(rows: Sequence[dict[str, str | float]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def on_front(rows: Sequence[dict[str, str | float]]) -> dict[str, int]:
    """How many starts of each weighting ended on the front."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[str(row["weighting"])] = counts.get(str(row["weighting"]), 0) + int(row["on_front"])
    return counts


def main() -> None:
    known = sorted(path.stem for path in (config_dir() / "weighting").glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=known, choices=known, metavar="NAME", help="options of conf/weighting")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--lr", type=float, default=0.03, help="of Adam")
    parser.add_argument("--output", type=Path, default=HERE)
    arguments = parser.parse_args()
    front = pareto_front()
    runs = []
    print(f"{'weighting':18} on the front   mean losses at the end   largest distance")
    for option in arguments.methods:
        try:
            runs.append(run(option, arguments.steps, arguments.lr))
        except UserError as error:  # an optional dependency that is absent
            print(f"{option:18} left out: {error}")
            continue
        rows = table(runs[-1:], front)
        first, second, far = (torch.tensor([float(row[key]) for row in rows]) for key in ("loss_1", "loss_2", "distance"))
        reached = f"{on_front(rows)[option]} of {len(rows)}"
        print(f"{option:18} {reached:>12} {first.mean():15.2f} {second.mean():8.2f} {far.max():18.2f}", flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = table(runs, front)
    write(rows, arguments.output / "results.csv")
    figure = trajectories_figure(runs, on_front(rows), front, lambda points: at(points).mean(-1))
    figure.savefig(arguments.output / "trajectories.png")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
