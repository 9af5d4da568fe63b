"""Words and letters as numbers: 0 is padding, 1 is what training did not know, the others follow the vocabulary.

Shape legend: N examples, L positions, W letters of a word.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
PADDING, UNKNOWN = 0, 1
FIRST = 2
"""Number of the first entry of a vocabulary."""


@dataclass(frozen=True)
class Vocabulary:
    """The known words, the most frequent first."""

    words: tuple[str, ...]
    lowercase: bool = False
    """Whether words are compared in lower case."""

    @classmethod
    def of(cls, words: Iterable[str], *, min_count: int = 1, most: int | None = None, lowercase: bool = False) -> "Vocabulary":
        """The words that come up at least ``min_count`` times, at most the ``most`` most frequent; ties in alphabetical order."""
        counts = Counter(word.lower() for word in words) if lowercase else Counter(words)
        ranked = sorted((word for word, count in counts.items() if count >= min_count), key=lambda word: (-counts[word], word))
        return cls(tuple(ranked[:most]), lowercase)

    @property
    def size(self) -> int:
        """How many different numbers there are."""
        return FIRST + len(self.words)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, start=FIRST)}

    def number(self, word: str) -> int:
        """Of a word."""
        return self._index.get(word.lower() if self.lowercase else word, UNKNOWN)


@dataclass(frozen=True)
class Letters:
    """The known letters, and how many of a word are read."""

    known: Vocabulary
    most: int
    """W: of a longer word, the first ⌈W / 2⌉ letters and the last ⌊W / 2⌋, where prefixes and endings are."""

    @classmethod
    def of(cls, words: Iterable[str], most: int) -> "Letters":
        """Those of these words; W is their longest word's length, and not above ``most``."""
        different = set(words)
        known = Vocabulary.of(sorted(chain.from_iterable(different)))
        return cls(known, min(most, max(map(len, different), default=1)))

    def numbers(self, word: str) -> list[int]:
        """Of the letters of a word that are read."""
        half = self.most // 2
        if len(word) > self.most:
            word = word[: self.most - half] + (word[-half:] if half else "")
        return [self.known.number(letter) for letter in word]


@dataclass(frozen=True)
class Words:
    """A vocabulary, and letters where they are read, too: fitted on training sentences, applied to any."""

    vocabulary: Vocabulary
    letters: Letters | None = None

    def fields(self, sentences: Sequence[Sequence[str]], length: int) -> dict[str, NDArray[Any]]:
        """``tokens`` [N, length] and ``characters`` [N, length, W] of the first ``length`` words of each sentence."""
        different: dict[str, int] = {}
        for word in chain.from_iterable(sentences):
            different.setdefault(word, len(different))
        tokens = np.array([self.vocabulary.number(word) for word in different] + [PADDING], np.int64)
        rows = padded([[different[word] for word in sentence] for sentence in sentences], length, len(different))
        found: dict[str, NDArray[Any]] = {"tokens": tokens[rows]}
        if self.letters is not None:
            letters = padded([*(self.letters.numbers(word) for word in different), []], self.letters.most, PADDING)
            found["characters"] = letters.astype(np.int16)[rows]
        return found


def padded(rows: Sequence[Sequence[int]], length: int, fill: int) -> Ints:
    """The rows side by side, [N, length]: cut to that length, or with ``fill`` behind them."""
    sizes = np.fromiter((min(len(row), length) for row in rows), np.int64, len(rows))
    table = np.full((len(rows), length), fill, np.int64)
    flat = np.fromiter(chain.from_iterable(row[:length] for row in rows), np.int64, int(sizes.sum()))
    table[np.arange(length) < sizes[:, None]] = flat
    return table
