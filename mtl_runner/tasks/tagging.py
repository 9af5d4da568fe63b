"""A class for each token of a sentence."""

from collections.abc import Sequence
from typing import Literal, get_args

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_runner import crf
from mtl_runner.batch import Fields, TargetSpec, labelled
from mtl_runner.crf import ChainHeads, PositionHeads
from mtl_runner.encoders.base import FeatureSpec
from mtl_runner.errors import NotApplicable, UserError, choices
from mtl_runner.metrics import Metric, tagging
from mtl_runner.tasks.base import Summary, Task, counted

Output = Literal["softmax", "crf"]


class Tagging(Task):
    """One logit per tag and token, each token by itself or all of a sentence as a chain.

    - ``output: softmax``: loss -log softmax(z_l)_y; the tag with the largest logit.
    - ``output: crf``: loss -log p(y_1 … y_L) of a linear-chain conditional random field (``crf.py``); the best sequence of tags.

    Both losses are sums over the tokens, divided by their number, so that a chain whose transitions are 0 has the loss of the
    softmax. A token without a tag counts nowhere: a chain is summed over what it could be, and ends at its last tag.

    The primary metric of tags such as ``B-PER`` is the F1 of entities; other tags have no metrics of entities.

    Args:
        output: softmax or crf.
    """

    kind = "tagging"
    streaming = True
    per_position = True

    def __init__(self, name: str, spec: TargetSpec, *, output: Output = "softmax") -> None:
        super().__init__(name, spec)
        if output not in get_args(Output):
            raise UserError(f"dataset.tasks.{name}.output={output}: allowed are {choices(get_args(Output))}")
        self.chain = output == "crf"
        self.metrics = _metrics(name, spec, self.metrics)

    @property
    def width(self) -> int:
        return len(self.spec.classes)

    def head(self, features: FeatureSpec, names: Sequence[str], seed: int) -> nn.Module:
        if len(features.shape) != 2:
            raise NotApplicable(
                f"dataset.tasks.{self.name}: tagging needs features of each position of a sequence, and the encoder gives one "
                "vector for all; encoder=rnn and encoder=transformer give them with encoder.pool=none"
            )
        return (ChainHeads if self.chain else PositionHeads)(features.shape[1], self.width, names, seed)

    def no_outputs(self) -> Tensor:
        return torch.zeros(0, 1 + (1 + self.width) * self.chain, self.width)

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.movedim(-1, 1), targets, reduction="none")

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        if not self.chain:
            return super().loss(outputs, targets, weights)
        each = torch.ones_like(targets, dtype=torch.float) if weights is None else weights
        losses = crf.negative_log_likelihood(crf.unpacked(outputs), targets, each > 0)
        return (losses * each.amax(-1)).sum(1) / each.sum((1, 2)).clamp(min=torch.finfo(each.dtype).tiny), counted(
            targets, weights
        )

    def tags(self, outputs: Tensor, context: Fields | None = None) -> Tensor:
        """The predicted tags [T, N, L] of outputs [T, N, …]; behind a sentence's ``length`` they mean nothing."""
        if not self.chain:
            return outputs.argmax(-1)
        chain = crf.unpacked(outputs)
        return crf.viterbi(chain, self._inside(chain.emissions, context))

    @staticmethod
    def _inside(values: Tensor, context: Fields | None) -> Tensor:
        """Boolean, the shape of ``values`` [T, N, L, C] without its last axis: the positions before a sentence's ``length``."""
        place = torch.arange(values.shape[2], device=values.device)
        if context is None or "length" not in context:
            return (place >= 0).expand(values.shape[:3])
        return (place < context["length"].to(values.device)[:, None]).expand(values.shape[:3])

    def summarise(
        self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec], context: Fields | None = None
    ) -> dict[str, Tensor]:
        known, predicted = labelled(targets), self.tags(outputs, context)
        pairs = torch.where(known, targets * self.width + predicted, self.width**2)
        counts = torch.stack([torch.bincount(row.flatten(), minlength=self.width**2 + 1)[:-1] for row in pairs])
        true = torch.where(known, targets, 0)
        entities = tagging.entity_counts(predicted, true, known, [spec.classes for spec in specs])
        return {"confusion": counts.unflatten(1, (self.width, self.width)), "entities": entities}

    def evaluated(self, summary: Summary, specs: Sequence[TargetSpec]) -> dict[str, Tensor]:
        return tagging.tagging(summary["confusion"], summary["entities"])

    def predictions(self, outputs: Tensor, context: Fields | None = None) -> dict[str, pa.Array]:
        """``<task>``: the tags of each sentence; ``<task>_probability``: how probable each is. Null where it was cut."""
        tags = self.tags(outputs[None], context)[0]
        if self.chain:
            chain = crf.unpacked(outputs[None])
            shares = crf.marginals(chain, self._inside(chain.emissions, context))[0]
        else:
            shares = outputs.softmax(-1)
        sure = shares.gather(-1, tags.unsqueeze(-1)).squeeze(-1)
        lengths = self._inside(shares[None], context)[0].sum(-1)
        words = lengths if context is None else context.get("words", lengths)
        offsets, read, there = _layout(lengths.cpu(), words.cpu(), tags.shape[1])
        places = pa.array(tags.cpu().flatten()[read].numpy(), mask=~there.numpy())
        named = pa.array(self.spec.classes, pa.string()).take(places)
        probabilities = pa.array(sure.float().cpu().flatten()[read].numpy(), mask=~there.numpy())
        return {
            self.name: pa.ListArray.from_arrays(offsets, named),
            f"{self.name}_probability": pa.ListArray.from_arrays(offsets, probabilities),
        }


def _metrics(name: str, spec: TargetSpec, metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    of_entities = [metric for metric in metrics if metric.name in tagging.ENTITIES]
    rest = [metric for metric in metrics if metric not in of_entities]
    if tagging.is_of_entities(spec.classes):
        return tuple(metrics) if spec.metric else (*of_entities, *rest)
    if metrics[0] in of_entities:
        raise UserError(f"dataset.tasks.{name}.metric={spec.metric}: its tags, {choices(spec.classes, 3)}, are not of entities")
    return tuple(rest)


def _layout(lengths: Tensor, words: Tensor, positions: int) -> tuple[pa.Array, Tensor, Tensor]:
    """Where the list of each sentence begins, and of each entry the place in a flat [N · positions], and whether it was read."""
    place = torch.arange(int(words.max()) if len(words) else 0)
    kept = place < words[:, None]
    row = torch.arange(len(words))[:, None] * positions
    read = (row + place.clamp(max=max(positions - 1, 0)))[kept]
    offsets = torch.nn.functional.pad(words.cumsum(0), (1, 0)).to(torch.int32)
    return pa.array(offsets.numpy()), read, (place < lengths[:, None])[kept]
