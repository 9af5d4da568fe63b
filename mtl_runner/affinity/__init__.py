"""How related tasks are, and which of them should share a network: ``mtl affinity``."""

from mtl_runner.affinity.base import Measure
from mtl_runner.affinity.gradients import Gradients
from mtl_runner.affinity.grouping import proposed, score
from mtl_runner.affinity.inputs import Inputs
from mtl_runner.affinity.labels import Labels
from mtl_runner.affinity.lookahead import Lookahead
from mtl_runner.affinity.measuring import Affinity, measured
from mtl_runner.affinity.output import show, write
from mtl_runner.affinity.parameters import Parameters
from mtl_runner.affinity.representations import RSA, Representations

__all__ = ["MEASURES", "Affinity", "Measure", "measured", "proposed", "score", "show", "write"]

MEASURES: dict[str, type[Measure]] = {
    "labels": Labels,
    "inputs": Inputs,
    "parameters": Parameters,
    "gradients": Gradients,
    "representations": Representations,
    "rsa": RSA,
    "lookahead": Lookahead,
}
