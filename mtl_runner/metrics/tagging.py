"""Metrics of tags: of single tokens from their confusion matrix, and of entities as seqeval and conlleval count them.

Shape legend: T tasks, N sentences, L positions, C tags.

A tag is ``O`` or a prefix and an entity's type, ``B-PER``. An entity is right if its first token, its last token and its type
are. Precision, recall and F1 are over all entities of all types together (micro average).

- ``entity_f1`` (seqeval's default, that of conlleval: Tjong Kim Sang & De Meulder, "Introduction to the CoNLL-2003 shared
  task", 2003): an entity begins at B or S, at any tag of another type than the one before, and at I or E behind O, E or S; it
  ends behind E or S, or where the next token begins another one or is O. Stray ``I-PER`` is an entity.
- ``entity_f1_strict`` (seqeval's ``mode="strict", scheme=IOB2``): an entity is B and the I of the same type that follow it
  without a gap. Stray ``I-PER`` is none.

A token without a label counts as ``O``, whatever was predicted there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mtl_runner.metrics.base import Metric
from mtl_runner.metrics.classes_and_numbers import of_confusion

TOKENS = ("accuracy", "balanced_accuracy", "f1")
ENTITIES = ("entity_f1", "entity_precision", "entity_recall", "entity_f1_strict")
TAGGING = tuple(Metric(name, True, "classes") for name in (*TOKENS, *ENTITIES))
"""The primary metric first. Metrics of entities are NaN for tags that are none, and where there is no entity."""

_PREFIXES = "OBIES"
_O, _B, _I, _E, _S = range(len(_PREFIXES))
_OTHER = len(_PREFIXES)


@dataclass(frozen=True)
class Scheme:
    """Prefix and type of each of C tags, as numbers."""

    prefixes: Tensor
    """[C]: the place in ``_PREFIXES``, or behind the last for any other letter."""
    types: Tensor
    """[C]: equal for tags of one type; that of ``O`` is its own."""

    @classmethod
    def of(cls, tags: Sequence[str]) -> "Scheme":
        """The first letter, and what stands behind the first hyphen after it."""
        names = [tag[1:].split("-", 1)[-1] or "_" for tag in tags]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(["_", *names]))}
        prefixes = [_PREFIXES.find(tag[:1]) if tag[:1] and tag[:1] in _PREFIXES else _OTHER for tag in tags]
        return cls(torch.tensor(prefixes), torch.tensor([numbers[name] for name in names]))


def is_of_entities(tags: Sequence[str]) -> bool:
    """Whether tags are ``O`` and a letter and a type (``B-PER``), at least one of them."""
    marked = [tag for tag in tags if tag != "O"]
    return bool(marked) and all(tag[:2] in ("B-", "I-", "E-", "S-", "L-", "U-") and len(tag) > 2 for tag in marked)


def entity_counts(predicted: Tensor, true: Tensor, known: Tensor, tags: Sequence[Sequence[str]]) -> Tensor:
    """How many entities are right, predicted and true, by default and in strict mode: [T, 2, 3].

    Args:
        predicted, true: tags [T, N, L]; any where they are not known.
        known: boolean [T, N, L].
        tags: names of the C tags of each of the T tasks.
    """
    counts = torch.zeros(len(tags), 2, 3, dtype=torch.long, device=true.device)
    for task, names in enumerate(tags):
        if is_of_entities(names):
            scheme = Scheme.of(names)
            for mode in (0, 1):
                one, other = (
                    _entities(values[task].cpu(), known[task].cpu(), scheme, bool(mode)) for values in (predicted, true)
                )
                right = (one > 0) & (one == other)
                counts[task, mode] = torch.stack([right.sum(), (one > 0).sum(), (other > 0).sum()])
    return counts


def _entities(tags: Tensor, known: Tensor, scheme: Scheme, strict: bool) -> Tensor:
    """At each last token of an entity a number that says its type and its first token, elsewhere 0: [N, L]."""
    prefix = functional.pad(torch.where(known, scheme.prefixes[tags], _O), (1, 1), value=_O)
    kind = functional.pad(torch.where(known, scheme.types[tags], 0), (1, 1))
    begins, ends = _borders(prefix, kind, strict)
    place = torch.arange(1, begins.shape[1] + 1)
    first = torch.where(begins, place, 0).cummax(1).values[:, :-1]  # [N, L]: of each token, where the latest began, from 1
    last = ends[:, 1:] & (first > 0)
    if strict:
        last &= prefix.gather(1, first) == _B
    return torch.where(last, kind[:, 1:-1] * (len(place) + 1) + first, 0)


def _borders(prefix: Tensor, kind: Tensor, strict: bool) -> tuple[Tensor, Tensor]:
    """[N, L + 1]: whether tokens that belong together begin at this token, and whether some end at the token before it.

    ``prefix`` and ``kind`` [N, L + 2] have a token outside any entity at each end of the sentence.
    """
    before, now = prefix[:, :-1], prefix[:, 1:]
    same = kind[:, :-1] == kind[:, 1:]

    def either(values: Tensor, *wanted: int) -> Tensor:
        return torch.isin(values, torch.tensor(wanted))

    if strict:
        continues = (now == _I) & either(before, _B, _I) & same
        begins, ends = (now != _O) & ~continues, (before != _O) & ~continues
    else:
        begins = either(now, _B, _S) | (either(before, _E, _S, _O) & either(now, _E, _I)) | ((now != _O) & ~same)
        ends = either(before, _E, _S) | (either(before, _B, _I) & either(now, _B, _S, _O)) | ((before != _O) & ~same)
    return begins, ends


def tagging(confusion: Tensor, entities: Tensor) -> dict[str, Tensor]:
    """The metrics of T tasks, each [T].

    Args:
        confusion: of tokens, [T, C, C], rows true.
        entities: from ``entity_counts``, summed over batches, [T, 2, 3].
    """
    right, predicted, true = entities.double().unbind(-1)  # each [T, 2]
    f1 = (2 * right / (predicted + true)).unbind(-1)
    precision, recall = (
        (right / count.clamp(min=1)).masked_fill(f1[0].isnan()[:, None], math.nan) for count in (predicted, true)
    )
    of_tokens = of_confusion(confusion)
    return {name: of_tokens[name] for name in TOKENS} | {
        "entity_f1": f1[0],
        "entity_precision": precision[:, 0],
        "entity_recall": recall[:, 0],
        "entity_f1_strict": f1[1],
    }
