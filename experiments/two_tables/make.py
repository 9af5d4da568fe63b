"""Two tables of made-up people that have no row and hardly a column in common: patients of a clinic, and members of a gym.

python experiments/two_tables/make.py [FOLDER] writes clinic.csv and gym.csv. Both are about fitness, which no column states:
an unknown function of age, weight and height, and how much one exercises. The clinic knows whether somebody was ill within the
year and how often they came; the gym how far they run in an hour, and for how long they stay a member.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def tables(rows: int = 1500, seed: int = 0) -> dict[str, dict[str, NDArray[np.generic]]]:
    """The columns of both tables."""
    draws = np.random.default_rng(seed)
    return {"clinic": _clinic(rows, draws), "gym": _gym(rows, draws)}


def _clinic(rows: int, draws: np.random.Generator) -> dict[str, NDArray[np.generic]]:
    age, height, weight, hours = _people(rows, draws)
    pulse = 72 - 6 * _fitness(age, height, weight, hours) + draws.normal(0, 6, rows)
    smoker = draws.random(rows) < 0.3
    risk = -1.5 * _fitness(age, height, weight, hours) + 0.8 * smoker
    ill = draws.random(rows) < 1 / (1 + np.exp(-2 * risk))
    visits = draws.poisson(np.exp(0.5 + 0.6 * risk))
    words = np.where(smoker, "smoker", "non-smoker")
    return {"age": age.round(), "height_cm": (100 * height).round(), "weight_kg": weight.round(), "pulse": pulse.round(),
            "smoking": words, "exercise_hours": hours.round(1), "ill": np.where(ill, "yes", "no"), "visits": visits}  # fmt: skip


def _gym(rows: int, draws: np.random.Generator) -> dict[str, NDArray[np.generic]]:
    age, height, weight, hours = _people(rows, draws)
    fitness = _fitness(age, height, weight, hours)
    born, bmi = 2024 - age.round(), weight / height**2
    plan = draws.choice(["basic", "team", "gold"], rows)
    distance = 9 + 2 * fitness + draws.normal(0, 0.5, rows)
    stays = draws.exponential(12 * np.exp(0.7 * fitness))
    asked = draws.uniform(2, 40, rows)
    return {"born": born, "bmi": bmi.round(1), "training": hours.round(1), "plan": plan, "distance_km": distance.round(2),
            "months": np.minimum(stays, asked).round(1), "left": (stays <= asked).astype(np.int64)}  # fmt: skip


def _people(rows: int, draws: np.random.Generator) -> tuple[Floats, Floats, Floats, Floats]:
    age, height = draws.uniform(18, 80, rows), draws.normal(1.72, 0.09, rows)
    return age, height, draws.normal(24, 4, rows).clip(16, 40) * height**2, draws.gamma(2, 1.5, rows)


def _fitness(age: Floats, height: Floats, weight: Floats, hours: Floats) -> Floats:
    """Best at 30, at a body mass index of 22, and with five hours of exercise a week; about 0 on average."""
    bmi = weight / height**2
    return 1.5 - np.abs(age - 30) / 25 - ((bmi - 22) / 5) ** 2 / 2 - ((hours - 5) / 3) ** 2 / 2 + (hours > 1)


def write(folder: Path, rows: int = 1500) -> None:
    """Both tables as CSV files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in tables(rows).items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
