"""Words in encoders: letters beside them, unknown ones in training, and batches of sentences of like length."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch.nn import functional

from mtl_runner.batch import Split, StreamSpec
from mtl_runner.encoders.mlp import MLP
from mtl_runner.encoders.rnn import RNN
from mtl_runner.encoders.transformer import Transformer
from mtl_runner.encoders.words import KERNEL, UNKNOWN, LetterFilters, WordDropout
from mtl_runner.errors import UserError
from mtl_runner.loader import POOL, IndexLoader, alike
from mtl_runner.predict import predict

LENGTH, LETTERS = 6, 5
SPEC = StreamSpec({"tokens": (LENGTH,), "characters": (LENGTH, LETTERS)}, vocabulary=20, characters=9)


def sentences(rows: int = 4) -> dict[str, torch.Tensor]:
    """Sentences of 1 to 6 words of 1 to 5 letters."""
    draws = torch.Generator().manual_seed(0)
    length = torch.randint(1, LENGTH, (rows, 1), generator=draws)
    there = torch.arange(LENGTH) < length
    size = torch.randint(1, LETTERS + 1, (rows, LENGTH, 1), generator=draws)
    letters = torch.randint(2, 9, (rows, LENGTH, LETTERS), generator=draws) * (torch.arange(LETTERS) < size)
    return {
        "tokens": torch.randint(2, 20, (rows, LENGTH), generator=draws) * there,
        "characters": (letters * there[..., None]).to(torch.int16),
    }


def test_letters_are_read_as_by_loops() -> None:
    filters, characters = LetterFilters(9, 4, 3), sentences()["characters"]
    found = filters(characters)
    for sentence, row in zip(characters, found, strict=True):
        for word, vector in zip(sentence, row, strict=True):
            letters = word[word != 0].long()
            if not len(letters):
                assert (vector == 0).all()
                continue
            between = functional.pad(filters.embedding(letters), (0, 0, KERNEL // 2, KERNEL // 2))
            responses = torch.stack(
                [
                    (filters.filters.weight * between[place : place + KERNEL].T).sum((1, 2)) + filters.filters.bias
                    for place in range(len(letters))
                ]
            )
            torch.testing.assert_close(vector, responses.amax(0))
    assert filters(characters[:0]).shape == (0, LENGTH, 3)  # of a stream that has run out of rows before another one has


@pytest.mark.parametrize("encoder", [RNN, Transformer])
@pytest.mark.parametrize("pool", ["mean", "none"])
def test_features_do_not_depend_on_padding(encoder: Any, pool: str) -> None:
    torch.manual_seed(0)
    made = encoder({"input": SPEC}, width=8, layers=1, pool=pool, character_filters=3).eval()
    fields = sentences()
    longest = int((fields["tokens"] != 0).sum(1).max())
    short = {name: value[:, :longest] for name, value in fields.items()}
    whole, cut = made("input", fields), made("input", short)
    torch.testing.assert_close(whole[:, :longest] if pool == "none" else whole, cut)
    changed = fields | {"characters": fields["characters"].clone()}
    changed["characters"][0, 0, 0] = 2 + (int(changed["characters"][0, 0, 0]) - 1) % 7
    assert not torch.equal(made("input", changed)[0], whole[0]) and torch.equal(made("input", changed)[1], whole[1])
    if encoder is Transformer:
        with pytest.raises(UserError, match="has learned 6 positions"):
            made("input", {name: torch.cat([value, value], 1) for name, value in fields.items()})


def test_a_bag_of_words_is_their_mean() -> None:
    torch.manual_seed(0)
    encoder, fields = MLP({"input": SPEC}, hidden=[7], embedding_size=5), sentences()
    stem = encoder.stems["input"]
    expected = [stem.embedding(row[row != 0]).mean(0) for row in fields["tokens"]]
    torch.testing.assert_close(stem(fields), torch.stack(expected))


def test_words_are_forgotten_in_training_alone() -> None:
    tokens = torch.arange(10_000).remainder(7)
    forget = WordDropout(0.3)
    forgotten = forget(tokens)
    assert (forgotten[tokens == 0] == 0).all() and torch.equal(forget.eval()(tokens), tokens)
    assert set(forgotten[forgotten != tokens].tolist()) == {UNKNOWN}
    assert (forgotten[tokens > 1] == UNKNOWN).float().mean() == pytest.approx(0.3, abs=0.02)


def test_batches_have_sentences_of_like_length_and_all_of_them() -> None:
    draws = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 60, (2 * POOL * 8 + 13,), generator=draws)
    order = torch.randperm(len(lengths), generator=draws)
    new = alike(order, lengths[order], 8, draws)
    assert torch.equal(new.sort().values, order.sort().values)
    assert set(new[: POOL * 8].tolist()) == set(order[: POOL * 8].tolist())  # chance still says which rows can meet

    def padded(rows: torch.Tensor) -> int:
        return sum(int(lengths[batch].max()) * len(batch) for batch in rows.split(8))

    assert padded(new) < 1.15 * int(lengths.sum()) < padded(order)
    tokens = (torch.arange(60) < lengths[:, None]).long()
    split = Split({"input": {"tokens": tokens}}, {}, {}, {})
    loader = IndexLoader(8, 0, torch.device("cpu"))
    first, again, other = ([batch.inputs["input"]["tokens"] for batch in loader.epoch(split, epoch)] for epoch in (1, 1, 2))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(first, other, strict=True))
    assert len(first[-1]) == 5


TAGS = {"the": "DET", "dog": "NOUN", "cat": "NOUN", "runs": "VERB", "sleeps": "VERB", "Anna": "PROPN"}
NAMES = {"DET": "O", "NOUN": "O", "VERB": "O", "PROPN": "B-PER"}


def corpus(path: Path) -> None:
    lines = ["# form\tupos\tner"]
    for place in range(60):
        words = ["the", ("dog", "cat")[place % 2], ("runs", "sleeps")[place % 3 > 0]] if place % 4 else ["Anna", "sleeps"]
        lines += [f"{word}\t{TAGS[word]}\t{NAMES[TAGS[word]]}" for word in words] + [""]
    path.write_text("\n".join(lines) + "\n")


def test_a_run_on_tags_and_what_it_predicts(
    tmp_path: Path, train: Callable[..., Path], make_config: Callable[..., DictConfig]
) -> None:
    corpus(tmp_path / "tags.tsv")
    chosen = ["dataset=conll", f"dataset.path={tmp_path / 'tags.tsv'}", "dataset.tasks={upos:{output:crf},ner:{output:softmax}}"]
    encoder = ["encoder=rnn", "encoder.pool=none", "encoder.width=16", "encoder.layers=1", "encoder.embedding_size=8"]
    folder = train(*chosen, *encoder, "trainer.epochs=8", "trainer.batch_size=8", "optimizer.lr=0.03")
    results = json.loads((folder / "test_metrics.json").read_text())
    assert results["primary"] == {"upos": "accuracy", "ner": "entity_f1"}
    assert results["tasks"]["upos"]["accuracy"] == results["tasks"]["ner"]["entity_f1"] == 1
    matrix = json.loads((folder / "confusion.json").read_text())["upos"]
    assert sum(map(sum, matrix["matrix"])) == sum(matrix["matrix"][place][place] for place in range(len(matrix["classes"])))
    (tmp_path / "new.txt").write_text("Anna\nruns\n\nthe\ncat\nsleeps\n")
    predict(folder, tmp_path / "new.txt", tmp_path / "new.csv")
    lines = (tmp_path / "new.csv").read_text().splitlines()
    assert lines[0] == '"upos","upos_probability","ner","ner_probability"'
    assert lines[1].startswith('"[""PROPN"", ""VERB""]"') and '"[""O"", ""O"", ""O""]"' in lines[2]


def test_a_run_on_texts_and_what_it_predicts(tmp_path: Path, train: Callable[..., Path]) -> None:
    rows = [f"a {word} film,{mood}" for word, mood in (("good", "glad"), ("bad", "sad")) for _ in range(30)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,mood", *rows]) + "\n")
    chosen = ["dataset=text", f"dataset.path={tmp_path / 'rows.csv'}", "dataset.tasks=[mood]", "optimizer.lr=0.03"]
    folder = train(*chosen, "encoder=rnn", "encoder.width=8", "encoder.layers=1", "trainer.epochs=6", "trainer.batch_size=8")
    assert json.loads((folder / "test_metrics.json").read_text())["tasks"]["mood"]["accuracy"] == 1
    (tmp_path / "new.jsonl").write_text('{"text": "good good"}\n{"text": ""}\n{"text": "bad, and much longer than any other"}\n')
    predict(folder, tmp_path / "new.jsonl", tmp_path / "new.csv")
    lines = (tmp_path / "new.csv").read_text().splitlines()
    assert lines[0].startswith('"mood"') and lines[1].startswith('"glad"') and lines[3].startswith('"sad"') and len(lines) == 4


@pytest.mark.slow
def test_letters_and_a_chain_tag_english_web_text(shared_data: Path, train: Callable[..., Path]) -> None:
    """``experiments/pos_ner_on_ewt.yaml`` with half of its epochs; the commonest tag of each word is right for 80.3 %."""
    import yaml

    node = yaml.safe_load((Path(__file__).parents[2] / "experiments" / "pos_ner_on_ewt.yaml").read_text())
    node = copy.deepcopy(node)
    node["trainer"]["epochs"] = 6

    def flat(values: dict[str, Any], place: str) -> list[str]:
        return [f"{place}.{key}={json.dumps(value).replace(chr(34), '')}" for key, value in values.items()]

    groups = ("dataset", "encoder", "optimizer", "trainer")
    values = [each for group in groups for each in flat(node[group], group)]
    folder = train("dataset=conll", "encoder=rnn", f"data_dir={shared_data}", *values)
    scores = json.loads((folder / "test_metrics.json").read_text())["tasks"]
    assert scores["upos"]["accuracy"] > 0.88 and scores["ner"]["entity_f1"] > 0.3
