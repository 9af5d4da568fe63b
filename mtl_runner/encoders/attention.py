"""Multi-head self-attention and the block around it.

Shape legend: N examples, L positions, h heads, d the width.
"""

from torch import Tensor, nn
from torch.nn import functional

from mtl_runner.encoders.base import Dropout
from mtl_runner.errors import UserError


def check_heads(width: int, heads: int) -> None:
    """Raises unless the heads divide the width."""
    if width % heads:
        raise UserError(f"encoder.width={width} is not a multiple of encoder.heads={heads}")


def visible(mask: Tensor) -> Tensor:
    """[N, 1, 1, L] from the mask [N, L]: what each position looks at; everything where nothing is there, as a softmax needs."""
    return (mask | ~mask.any(1, keepdim=True))[:, None, None]


class Attention(nn.Module):
    """softmax(Q Kᵀ / √(d / h)) V for each head, side by side, times a matrix.

    Args:
        width: d.
        heads: h.
        dropout: probability of setting an entry of the softmax to zero in training. torch's fused kernel would draw these
            from its global generator, so that with it a training step computes the softmax by itself, L² numbers per head.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.inward = nn.Linear(width, 3 * width)
        self.outward = nn.Linear(width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, value = self.inward(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [N, h, L, d / h]
        seen = None if mask is None else visible(mask)
        if self.training and self.dropout.p:
            scores = query @ key.mT * query.shape[-1] ** -0.5
            if seen is not None:
                scores = scores.masked_fill(~seen, float("-inf"))
            mixed = self.dropout(scores.softmax(-1)) @ value
        else:
            mixed = functional.scaled_dot_product_attention(query, key, value, seen)
        return self.outward(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm: x + dropout(attention(norm(x))), then x + dropout(feedforward(norm(x))).

    Args:
        attention: made for the width.
        feedforward: from vectors to vectors of the width.
        width: d.
        dropout: on what is added.
        normalize: whether the attention reads normalised vectors.
    """

    def __init__(self, attention: Attention, feedforward: nn.Module, width: int, dropout: float, normalize: bool = True) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width) if normalize else nn.Identity()
        self.attention = attention
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = feedforward
        self.dropouts = nn.ModuleList([Dropout(dropout), Dropout(dropout)])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        first, second = self.dropouts
        x = x + first(self.attention(self.attention_norm(x), mask))
        return x + second(self.feedforward(self.feedforward_norm(x)))  # type: ignore[no-any-return]
