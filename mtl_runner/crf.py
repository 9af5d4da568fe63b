"""Linear-chain conditional random fields: likelihood, decoding, marginals.

Lafferty, McCallum & Pereira, "Conditional random fields", ICML 2001; as the last layer of a network: Lample et al., "Neural
architectures for named entity recognition", NAACL 2016. The score of the tags y_1 … y_L of a sentence is

    s(y) = start[y_1] + Σ_{l > 1} transition[y_(l-1), y_l] + Σ_l emission[l, y_l],    p(y) = exp s(y) / Σ_y' exp s(y').

Shape legend: T tasks, N sentences, L positions, C tags. A head's outputs carry its transitions along, so that loss and decoding
need nothing else. The functions go position by position, on all T · N chains at once: O(L · C²) for each.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mtl_runner.heads import LinearHeads

_NEVER = -1e9
"""Added to the score of a tag that is ruled out: finite, as an infinite one has no gradient; exp of it is 0."""


class Chain(NamedTuple):
    """The scores of T · N chains."""

    start: Tensor
    """[T, N, C]"""
    transitions: Tensor
    """[T, N, C, C]: of the tag of the second axis after that of the first."""
    emissions: Tensor
    """[T, N, L, C]"""


def unpacked(outputs: Tensor) -> Chain:
    """The chain in what ``ChainHeads`` give, in float32 at least."""
    outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
    start, transitions, emissions = outputs.split([1, outputs.shape[-1], outputs.shape[2] - 1 - outputs.shape[-1]], 2)
    return Chain(start.squeeze(2), transitions, emissions)


def negative_log_likelihood(chain: Chain, tags: Tensor, known: Tensor) -> Tensor:
    """-log p of the tags that are known, [T, N], summed over those that are not; 0 where none is.

    Tsuboi et al., "Training conditional random fields using incomplete annotations", COLING 2008. The chain ends at the last
    known tag: what follows it is padding, or says as little.

    Args:
        chain: the scores.
        tags: [T, N, L]; any tag where it is not known.
        known: boolean [T, N, L].
    """
    inside = known.flip(-1).cummax(-1).values.flip(-1)
    total = log_partition(chain, inside)
    if bool((known == inside).all()):
        told = _score(chain, tags, inside)
    else:
        every = torch.arange(chain.emissions.shape[-1], device=tags.device)
        ruled_out = known.unsqueeze(-1) & (tags.unsqueeze(-1) != every)
        told = log_partition(chain._replace(emissions=chain.emissions + _NEVER * ruled_out), inside)
    return torch.where(inside[..., 0], total - told, 0)


def log_partition(chain: Chain, inside: Tensor) -> Tensor:
    """log Σ_y exp s(y) over the positions ``inside`` [T, N, L], which are the first ones of each chain: [T, N]."""
    return _forward(chain, inside)[-1].logsumexp(-1)


def viterbi(chain: Chain, inside: Tensor) -> Tensor:
    """The tags with the highest score, [T, N, L], of the positions ``inside`` [T, N, L]; after them, the last tag again.

    Viterbi, "Error bounds for convolutional codes", IEEE Transactions on Information Theory 1967.
    """
    first, *others = chain.emissions.unbind(2)
    score, pointers = chain.start + first, []
    stay = torch.arange(first.shape[-1], device=first.device)
    for emission, there in zip(others, inside.unbind(-1)[1:], strict=True):
        best, before = (score.unsqueeze(-1) + chain.transitions).max(-2)
        score = torch.where(there.unsqueeze(-1), best + emission, score)
        pointers.append(torch.where(there.unsqueeze(-1), before, stay))
    path = [score.argmax(-1)]
    for pointer in reversed(pointers):
        path.append(pointer.gather(-1, path[-1].unsqueeze(-1)).squeeze(-1))
    return torch.stack(path[::-1], -1)


def marginals(chain: Chain, inside: Tensor) -> Tensor:
    """p(y_l = c), [T, N, L, C], by the forward-backward algorithm; after the positions ``inside``, those of the last one."""
    forward = _forward(chain, inside)
    ahead = [torch.zeros_like(forward[0])]
    for emission, there in zip(reversed(chain.emissions.unbind(2)[1:]), reversed(inside.unbind(-1)[1:]), strict=True):
        before = (chain.transitions + (emission + ahead[-1]).unsqueeze(-2)).logsumexp(-1)
        ahead.append(torch.where(there.unsqueeze(-1), before, ahead[-1]))
    return (torch.stack(forward, 2) + torch.stack(ahead[::-1], 2)).softmax(-1)


def _forward(chain: Chain, inside: Tensor) -> list[Tensor]:
    """log Σ exp s over all ways to each tag of each position, L times [T, N, C]; behind those ``inside`` as at the last."""
    # the gradient of ``unbind`` is one stack; that of L slices would be L whole tensors
    first, *others = chain.emissions.unbind(2)
    ways = [chain.start + first]
    for emission, there in zip(others, inside.unbind(-1)[1:], strict=True):
        reached = (ways[-1].unsqueeze(-1) + chain.transitions).logsumexp(-2) + emission
        ways.append(torch.where(there.unsqueeze(-1), reached, ways[-1]))
    return ways


def _score(chain: Chain, tags: Tensor, inside: Tensor) -> Tensor:
    """s(y) over the positions ``inside``, [T, N]."""
    emitted = chain.emissions.gather(-1, tags.unsqueeze(-1)).squeeze(-1)
    classes = chain.start.shape[-1]
    steps = chain.transitions.flatten(-2).gather(-1, tags[..., :-1] * classes + tags[..., 1:])
    started = chain.start.gather(-1, tags[..., :1])
    return ((emitted + torch.cat([started, steps], -1)) * inside).sum(-1)


class PositionHeads(nn.Module):
    """T linear layers that read each position of a sequence: [T, N, L, C].

    Args:
        width: of the features.
        outputs: numbers per position and task, C.
        tasks: names of the T tasks; the initial weights of a head depend on its task's name and ``seed`` alone.
        seed: of the run.
    """

    def __init__(self, width: int, outputs: int, tasks: Sequence[str], seed: int) -> None:
        super().__init__()
        self.linear = LinearHeads(width, outputs, tasks, seed)

    def forward(self, features: Tensor, apart: bool = False) -> Tensor:
        """Outputs from features [N, L, width] that all T tasks share, or, ``apart``, from features [T, N, L, width] of each."""
        flat: Tensor = self.linear(features.flatten(-3, -2), apart)
        return torch.unflatten(flat, 1, features.shape[-3:-1])


class ChainHeads(PositionHeads):
    """The scores of a chain, packed: [T, N, 1 + C + L, C]. Start and transitions begin at 0: as a softmax at each position."""

    def __init__(self, width: int, outputs: int, tasks: Sequence[str], seed: int) -> None:
        super().__init__(width, outputs, tasks, seed)
        self.transitions = nn.Parameter(torch.zeros(len(tasks), 1 + outputs, outputs))

    def forward(self, features: Tensor, apart: bool = False) -> Tensor:
        emissions = super().forward(features, apart)
        rows = self.transitions.to(emissions.dtype).unsqueeze(1).expand(-1, emissions.shape[1], -1, -1)
        return torch.cat([rows, emissions], 2)
