"""Texts as sequences of numbers: words, characters, or the pieces of a tokenizer that comes as a file.

Shape legend: N examples, L positions. Number 0 is padding. Of words and characters 1 is what training did not know.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mtl_runner.batch import StreamSpec
from mtl_runner.datasets.words.vocabulary import FIRST, PADDING, Letters, Vocabulary, Words, padded
from mtl_runner.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Level = Literal["words", "characters"]
Texts = Sequence[Sequence[str | None]]
"""Of each example one text, or the two of a pair."""
BETWEEN = "\x1f"
"""Stands between the two texts of a pair: ASCII's unit separator, which is white space, and so no word or character of a text."""
_WORD = re.compile(r"\w+|[^\w\s]")


def units(text: str | None, level: Level) -> list[str]:
    """Words (letters, digits and _ in a row) and single punctuation marks, or all characters; white space is none of either."""
    if text is None:
        return []
    return _WORD.findall(text) if level == "words" else [character for character in text if not character.isspace()]


def paired(first: Sequence[str], second: Sequence[str], length: int) -> list[str]:
    """Both with ``BETWEEN`` between them, at most ``length`` units: the longer one is cut before the other."""
    room = length - 1
    kept = min(len(second), max(room - len(first), room // 2))
    return [*first[: room - kept], BETWEEN, *second[:kept]]


@dataclass(frozen=True)
class UnitReader:
    """Words or characters, numbered by a vocabulary."""

    level: Level
    words: Words
    length: int
    """L: what is longer is cut."""

    @classmethod
    def fitted(
        cls, texts: Texts, training: Sequence[int], level: Level, longest: int, letters: int | None, **vocabulary: Any
    ) -> "UnitReader":
        """The vocabulary of the ``training`` rows; L is the length of the longest of all texts, and not above ``longest``."""
        sequences = [_sequence(cells, level, longest) for cells in texts]
        seen = [unit for row in training for unit in sequences[row]]
        known = Vocabulary.of((unit for unit in seen if unit != BETWEEN), **vocabulary)
        if any(len(cells) > 1 for cells in texts):
            known = Vocabulary((BETWEEN, *known.words), known.lowercase)
        of_letters = None if letters is None else Letters.of((unit for unit in seen if unit != BETWEEN), letters)
        return cls(level, Words(known, of_letters), max(1, max(map(len, sequences), default=1)))

    @property
    def spec(self) -> StreamSpec:
        """Shapes and sizes of the stream."""
        letters = self.words.letters
        fields: dict[str, tuple[int, ...]] = {"tokens": (self.length,)}
        if letters is not None:
            fields["characters"] = (self.length, letters.most)
        return StreamSpec(fields, vocabulary=self.words.vocabulary.size, characters=0 if letters is None else letters.known.size)

    def fields(self, texts: Texts) -> dict[str, NDArray[Any]]:
        """``tokens`` [N, L] and, where letters are read, ``characters`` [N, L, W]; a text without any unit is an unknown one."""
        return self.words.fields([_sequence(cells, self.level, self.length) or [""] for cells in texts], self.length)

    def cut(self, texts: Texts) -> int:
        """How many examples are longer than what is read of them."""
        return sum(sum(len(units(cell, self.level)) for cell in cells) + len(cells) - 1 > self.length for cells in texts)

    def to_json(self) -> dict[str, Any]:
        letters = self.words.letters
        return {
            "level": self.level,
            "vocabulary": list(self.words.vocabulary.words),
            "lowercase": self.words.vocabulary.lowercase,
            "letters": None if letters is None else {"known": list(letters.known.words), "most": letters.most},
            "length": self.length,
        }


def _sequence(cells: Sequence[str | None], level: Level, length: int) -> list[str]:
    first, *rest = (units(cell, level) for cell in cells)
    return paired(first, rest[0], length) if rest else first[:length]


@dataclass(frozen=True)
class PieceReader:
    """The pieces of a tokenizer file (``tokenizer.json`` of the library ``tokenizers``), with the special ones that it adds.

    Numbers are the tokenizer's own where its padding is number 0, as a pretrained encoder needs it; else they begin behind 1.
    """

    tokenizer: str
    """What is in the file."""
    length: int

    @classmethod
    def of(cls, path: str, longest: int) -> "PieceReader":
        """From a file.

        Raises:
            UserError: it is not there, is none, or the library is not installed.
        """
        file = Path(path).expanduser()
        file = file / "tokenizer.json" if file.is_dir() else file
        if not file.is_file():
            raise UserError(f"dataset.tokenizer={path}: there is no file {file}")
        reader = cls(file.read_text(encoding="utf-8"), longest)
        try:
            _ = reader._made
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - the library raises nothing more special than this
            raise UserError(f"dataset.tokenizer={path} is no tokenizer file: {error}") from None
        return reader

    @cached_property
    def _made(self) -> "Tokenizer":
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise UserError("dataset.tokenizer needs the library tokenizers: pip install 'mtl-runner[text]'") from None
        made = Tokenizer.from_str(self.tokenizer)
        made.enable_truncation(self.length)
        made.no_padding()
        return made

    @property
    def _shift(self) -> int:
        return 0 if any(self._made.token_to_id(name) == PADDING for name in ("[PAD]", "<pad>")) else FIRST

    @property
    def spec(self) -> StreamSpec:
        """Shapes and sizes of the stream."""
        return StreamSpec({"tokens": (self.length,)}, vocabulary=self._made.get_vocab_size() + self._shift)

    def fields(self, texts: Texts) -> dict[str, NDArray[Any]]:
        """``tokens`` [N, L]; a text without any piece is an unknown one."""
        rows = [[number + self._shift for number in encoded.ids] or [1] for encoded in self._encoded(texts)]
        return {"tokens": padded(rows, self.length, PADDING)}

    def cut(self, texts: Texts) -> int:
        """How many examples are longer than what is read of them."""
        return int(np.sum([bool(encoded.overflowing) for encoded in self._encoded(texts)]))

    def _encoded(self, texts: Texts) -> list[Any]:
        given = [tuple(cell or "" for cell in cells) if len(cells) > 1 else cells[0] or "" for cells in texts]
        return self._made.encode_batch(given)

    def to_json(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer, "length": self.length}


Reader = UnitReader | PieceReader


def read_reader(stored: dict[str, Any]) -> Reader:
    """What ``to_json`` wrote."""
    if "tokenizer" in stored:
        return PieceReader(stored["tokenizer"], stored["length"])
    letters = stored["letters"]
    of_letters = None if letters is None else Letters(Vocabulary(tuple(letters["known"])), letters["most"])
    words = Words(Vocabulary(tuple(stored["vocabulary"]), stored["lowercase"]), of_letters)
    return UnitReader(stored["level"], words, stored["length"])
