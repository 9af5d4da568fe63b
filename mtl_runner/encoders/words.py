"""Words as vectors: a learned one for each known word, and one read off its letters.

Shape legend: N examples, L positions, W letters of a word.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtl_runner.batch import Fields, StreamSpec
from mtl_runner.encoders import pooling
from mtl_runner.encoders.base import Dropout
from mtl_runner.encoders.stems import embedding_width
from mtl_runner.encoders.tokens import TokenStem
from mtl_runner.seeding import Draws

KERNEL = 3
"""Letters that a filter sees at once."""
UNKNOWN = 1


@dataclass(frozen=True)
class Words:
    """How tokens are read."""

    letter_size: int
    """Size of a letter's vector."""
    filters: int
    """Numbers that are read off the letters of a token."""
    forgotten: float = 0.0
    """Probability that a token is read as an unknown one, in training."""
    dropout: float = 0.0
    """Probability of setting an entry of the vectors to zero, in training."""

    def stem(self, spec: StreamSpec, size: int, scale: float = 1.0) -> "TokenStem | WordStem":
        """Tokens as vectors of ``size`` entries (of standard deviation ``scale`` at first), that of their letters behind them."""
        plain = TokenStem(spec.vocabulary, size, scale)
        if "characters" not in spec.fields and not self.forgotten and not self.dropout:
            return plain
        return WordStem(plain, LetterFilters(spec.characters, self.letter_size, self.filters) if spec.characters else None, self)


class WordStem(nn.Module):
    """The vector of the token, then that of its letters where the stream has ``characters``: [N, L, width]; zero at padding."""

    def __init__(self, words: TokenStem, letters: "LetterFilters | None", how: Words) -> None:
        super().__init__()
        self.words = words
        self.letters = letters
        self.forget = WordDropout(how.forgotten)
        self.dropout = Dropout(how.dropout)

    def forward(self, fields: Fields) -> Tensor:
        vectors = self.words({"tokens": self.forget(fields["tokens"])})
        if self.letters is not None:
            vectors = torch.cat([vectors, self.letters(fields["characters"])], -1)
        return self.dropout(vectors)  # type: ignore[no-any-return]


class BagStem(nn.Module):
    """The mean of the vectors of an example's tokens, [N, width]; their order and their letters are not read.

    Joulin et al., "Bag of tricks for efficient text classification", EACL 2017, without its n-grams.
    """

    def __init__(self, spec: StreamSpec, size: int | None = None) -> None:
        super().__init__()
        self.width = size or embedding_width(spec.vocabulary)
        self.embedding = nn.Embedding(spec.vocabulary, self.width, padding_idx=0)

    def forward(self, fields: Fields) -> Tensor:
        tokens = fields["tokens"]
        return pooling.mean(self.embedding(tokens), tokens != 0)


class LetterFilters(nn.Module):
    """The largest response of each filter along a word, [N, L, filters], from the letters' vectors, three at a time.

    dos Santos & Zadrozny, "Learning character-level representations for part-of-speech tagging", ICML 2014; in front of a
    recurrent network: Ma & Hovy, "End-to-end sequence labeling via bi-directional LSTM-CNNs-CRF", ACL 2016. Zeros stand before
    and after a word, so that a filter can tell its ends. A word without letters gets zeros.

    Cost per different word of a batch: W · 3 · size · filters multiplications, W the length of its longest word.
    """

    def __init__(self, letters: int, size: int, filters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(letters, size, padding_idx=0)
        self.filters = nn.Conv1d(size, filters, KERNEL, padding=KERNEL // 2)

    def forward(self, characters: Tensor) -> Tensor:
        words, place = characters.flatten(0, 1).unique(dim=0, return_inverse=True)
        words = words[:, : max(1, int((words != 0).any(0).sum()))].long()  # of no word, too: a shorter stream has run out of rows
        responses: Tensor = self.filters(self.embedding(words).transpose(1, 2))
        there = (words != 0).unsqueeze(1)
        largest = responses.masked_fill(~there, torch.finfo(responses.dtype).min).amax(-1).masked_fill(~there.any(-1), 0)
        return functional.embedding(place.view(characters.shape[:2]), largest)


class WordDropout(Draws):
    """Tokens become unknown with probability ``p``, in training only: what is read in place of an unknown one is learned thereby.

    Kiperwasser & Goldberg, "Simple and accurate dependency parsing using bidirectional LSTM feature representations", TACL 2016,
    where frequent words are dropped less often; here all alike, as Iyyer et al. (ACL 2015).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, tokens: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return tokens
        drop = torch.empty(tokens.shape, device=tokens.device).bernoulli_(self.p, generator=self.generator(tokens.device))
        return tokens.masked_fill((drop > 0) & (tokens != 0), UNKNOWN)

    def extra_repr(self) -> str:
        return f"p={self.p}"
