"""Tagging: chains against all of their sequences one by one, entities by hand, batches of tasks against single ones."""

import math
from collections.abc import Iterator
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from mtl_runner import crf
from mtl_runner.batch import MISSING, Split, TargetSpec, labelled
from mtl_runner.crf import Chain
from mtl_runner.encoders.base import FeatureSpec
from mtl_runner.errors import NotApplicable, UserError
from mtl_runner.metrics.tagging import entity_counts, tagging
from mtl_runner.tasks import make_tasks
from mtl_runner.tasks.group import TaskGroup, masked, pack

TASKS, ROWS, LENGTH, TAGS = 2, 3, 4, 3
LENGTHS = torch.tensor([4, 2, 1])
INSIDE = (torch.arange(LENGTH) < LENGTHS[:, None]).expand(TASKS, ROWS, LENGTH)
CLASSES = ("O", "B-X", "I-X")


def some_chain() -> Chain:
    draws = torch.Generator().manual_seed(0)
    packed = torch.randn(TASKS, ROWS, 1 + TAGS + LENGTH, TAGS, generator=draws, dtype=torch.float64)
    return crf.unpacked(packed)


def enumerated(chain: Chain, task: int, row: int, length: int) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Every sequence of tags of a sentence with its score, added up by hand."""
    for tags in product(range(TAGS), repeat=length):
        score = chain.start[task, row, tags[0]] + chain.emissions[task, row, range(length), tags].sum()
        for before, after in pairwise(tags):
            score = score + chain.transitions[task, row, before, after]
        yield tags, score


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_likelihood_of_a_chain_is_that_of_enumeration(share: float) -> None:
    """Also of sentences of which some tags are not known: it is then the sum over all that they could be."""
    draws = torch.Generator().manual_seed(3)
    tags = torch.randint(TAGS, INSIDE.shape, generator=draws)
    known = INSIDE & (torch.rand(INSIDE.shape, generator=draws) >= share)
    chain = some_chain()
    losses = crf.negative_log_likelihood(chain, tags, known)
    assert (losses != 0).any()
    for task, row in product(range(TASKS), range(ROWS)):
        places = known[task, row].nonzero()[:, 0].tolist()
        if not places:
            assert losses[task, row] == 0
            continue
        pairs = list(enumerated(chain, task, row, places[-1] + 1))
        told = [score for each, score in pairs if all(each[place] == tags[task, row, place] for place in places)]
        expected = torch.stack([score for _, score in pairs]).logsumexp(0) - torch.stack(told).logsumexp(0)
        torch.testing.assert_close(losses[task, row], expected)


def test_the_best_sequence_and_the_marginals_are_those_of_enumeration() -> None:
    chain = some_chain()
    best, shares = crf.viterbi(chain, INSIDE), crf.marginals(chain, INSIDE)
    for task, row in product(range(TASKS), range(ROWS)):
        length = int(LENGTHS[row])
        every, scores = zip(*enumerated(chain, task, row, length), strict=True)
        probability = torch.stack(scores).softmax(0)
        assert tuple(best[task, row, :length].tolist()) == every[int(probability.argmax())]
        for place, tag in product(range(length), range(TAGS)):
            expected = sum(p for p, tags in zip(probability, every, strict=True) if tags[place] == tag)
            torch.testing.assert_close(shares[task, row, place, tag], expected)


def test_the_best_sequence_of_a_short_sentence_does_not_depend_on_what_follows_it() -> None:
    draws = torch.Generator().manual_seed(0)
    chain = crf.unpacked(3 * torch.randn(20, ROWS, 1 + TAGS + LENGTH, TAGS, generator=draws, dtype=torch.float64))
    best = crf.viterbi(chain, INSIDE[:1].expand(20, -1, -1))
    for task, row in product(range(20), range(ROWS)):
        every, scores = zip(*enumerated(chain, task, row, int(LENGTHS[row])), strict=True)
        expected = every[int(torch.stack(scores).argmax())]
        assert tuple(best[task, row].tolist()) == expected + expected[-1:] * (LENGTH - len(expected))


def test_the_loss_has_the_gradient_of_its_differences() -> None:
    packed = torch.randn(1, 2, 1 + TAGS + 3, TAGS, dtype=torch.float64, requires_grad=True)
    tags, known = torch.tensor([[[0, 2, 1], [1, 1, 0]]]), torch.tensor([[[True, False, True], [True, True, False]]])
    assert torch.autograd.gradcheck(lambda x: crf.negative_log_likelihood(crf.unpacked(x), tags, known), packed)


def test_the_loss_of_chains_is_the_mean_over_tags_each_with_the_weight_of_its_sentence() -> None:
    """Also of a sentence whose first tag is not known."""
    (task,) = make_tasks({"tags": TargetSpec("tagging", classes=CLASSES, options={"output": "crf"})})
    packed = torch.randn(1, ROWS, 1 + TAGS + LENGTH, TAGS, generator=torch.Generator().manual_seed(1))
    tags = torch.randint(TAGS, (1, ROWS, LENGTH), generator=torch.Generator().manual_seed(2))
    known = INSIDE[:1].clone()
    known[0, 0, 0] = False
    weight = torch.tensor([0.5, 2.0, 3.0])
    each = crf.negative_log_likelihood(crf.unpacked(packed), tags, known)[0]
    expected = (weight * each).sum() / (weight * known[0].sum(-1)).sum()
    torch.testing.assert_close(task.loss(packed, tags, known * weight[:, None])[0][0], expected)


def tagged(*sentences: str) -> list[list[str]]:
    return [sentence.split() for sentence in sentences]


def counts_of(true: list[list[str]], predicted: list[list[str]]) -> tuple[list[int], list[int]]:
    """Right, predicted and true entities, by default and strict."""
    names = sorted({tag for sentences in (true, predicted) for sentence in sentences for tag in sentence} | {"O"})
    length = max(map(len, true))

    def numbers(sentences: list[list[str]]) -> Tensor:
        return torch.tensor([[[names.index(tag) for tag in s] + [0] * (length - len(s)) for s in sentences]])

    known = torch.tensor([[[place < len(s) for place in range(length)] for s in true]])
    default, strict = entity_counts(numbers(predicted), numbers(true), known, [names])[0].tolist()
    return default, strict


@pytest.mark.parametrize(
    ("true", "predicted", "default", "strict"),
    [
        (["B-PER I-PER O B-LOC"], ["B-PER I-PER O B-LOC"], [2, 2, 2], [2, 2, 2]),
        (["B-PER I-PER O"], ["B-PER O O"], [0, 1, 1], [0, 1, 1]),  # another end
        (["B-PER I-PER"], ["B-LOC I-LOC"], [0, 1, 1], [0, 1, 1]),  # another type
        (["B-PER B-PER"], ["B-PER I-PER"], [0, 1, 2], [0, 1, 2]),  # two in a row are not one
        (["O I-PER I-PER"], ["O B-PER I-PER"], [1, 1, 1], [0, 1, 0]),  # stray tags are an entity by default alone
        (["B-PER I-LOC I-LOC"], ["B-PER I-LOC I-LOC"], [2, 2, 2], [1, 1, 1]),  # another type begins one by default
        (["B-PER", "I-PER O"], ["B-PER", "I-PER O"], [2, 2, 2], [1, 1, 1]),  # no entity goes on in the next sentence
        (["S-PER B-LOC E-LOC"], ["S-PER B-LOC E-LOC"], [2, 2, 2], [1, 1, 1]),
        (["B-PER I-LOC"], ["B-PER O"], [1, 1, 2], [1, 1, 1]),
        (["B-PER S-PER"], ["O S-PER"], [1, 1, 2], [0, 0, 1]),
        (["B-PER I-PER"], ["O B-LOC"], [0, 1, 1], [0, 1, 1]),  # another type from another token to the same end
        (["O O"], ["B-PER O"], [0, 1, 0], [0, 1, 0]),
    ],
)
def test_entities_by_hand(true: list[str], predicted: list[str], default: list[int], strict: list[int]) -> None:
    """What seqeval 1.2.2 gives with its defaults, and, of IOB2 tags, with mode="strict", scheme=IOB2."""
    assert counts_of(tagged(*true), tagged(*predicted)) == (default, strict)


def test_the_example_of_seqevals_documentation() -> None:
    true = tagged("O O O B-MISC I-MISC I-MISC O", "B-PER I-PER O")
    predicted = tagged("O O B-MISC I-MISC I-MISC I-MISC O", "B-PER I-PER O")
    counts = torch.tensor([counts_of(true, predicted)])
    values = tagging(torch.eye(2, dtype=torch.long)[None], counts)
    assert [values[f"entity_{name}"].item() for name in ("f1", "precision", "recall", "f1_strict")] == [0.5] * 4


def test_without_an_entity_their_metrics_are_undefined() -> None:
    values = tagging(torch.eye(2, dtype=torch.long)[None], torch.zeros(1, 2, 3, dtype=torch.long))
    assert all(math.isnan(values[f"entity_{name}"]) for name in ("f1", "precision", "recall", "f1_strict"))
    assert values["accuracy"] == 1


def group_of(output: str, tasks: int = 2) -> TaskGroup:
    specs = {f"t{i}": TargetSpec("tagging", classes=CLASSES, options={"output": output}) for i in range(tasks)}
    group = TaskGroup(make_tasks(specs), FeatureSpec((LENGTH, 5)), 0)
    if output == "crf":
        torch.nn.init.normal_(group.head.transitions, generator=torch.Generator().manual_seed(1))
    return group


def split_of(tasks: int = 2) -> Split:
    """Sentences of 4, 2 and 1 words; of the first task one tag is missing, of the second all of a sentence."""
    draws = torch.Generator().manual_seed(7)
    targets = {f"t{i}": torch.randint(3, (ROWS, LENGTH), generator=draws).masked_fill(~INSIDE[0], MISSING) for i in range(2)}
    targets["t0"][0, 1] = MISSING
    targets["t1"][1] = MISSING
    targets = {name: targets[name] for name in list(targets)[:tasks]}
    inputs = {"input": {"tokens": INSIDE[0].long()}}
    return Split(inputs, targets, dict.fromkeys(targets, "input"), {}, {"input": {"length": LENGTHS}})


@pytest.mark.parametrize("output", ["softmax", "crf"])
def test_tasks_together_are_each_task_alone_whatever_the_padding(output: str) -> None:
    features = torch.randn(ROWS, LENGTH, 5, generator=torch.Generator().manual_seed(2))
    group, alone = group_of(output), group_of(output, 1)
    if output == "crf":
        alone.head.transitions.data = group.head.transitions.data[:1]
    whole, single = pack(split_of(), {"g": group}), pack(split_of(1), {"g": alone})
    outputs = group(features)
    both, active = group.losses(outputs, *(getattr(masked(whole), name)["g"] for name in ("targets", "weights")))
    one, _ = alone.losses(alone(features), *(getattr(masked(single), name)["g"] for name in ("targets", "weights")))
    assert active.all()
    torch.testing.assert_close(both[:1], one)
    summary = group.summarise(outputs, whole.targets["g"], whole.context["input"])
    parts = [whole.take({"input": torch.tensor(rows)}) for rows in ([0], [1, 2])]
    pieces = [
        group.summarise(
            group(features[part.context["input"]["length"].new_tensor(rows)]), part.targets["g"], part.context["input"]
        )
        for part, rows in zip(parts, ([0], [1, 2]), strict=True)
    ]
    merged = group.kind.merged(*pieces)
    assert all(torch.equal(merged[name], summary[name]) for name in summary)
    assert summary["confusion"].sum((1, 2)).tolist() == [int(labelled(target).sum()) for target in split_of().targets.values()]
    # positions behind all sentences change nothing
    longer = torch.cat([features, torch.randn(ROWS, 2, 5)], 1)
    padded = torch.nn.functional.pad(whole.targets["g"], (0, 2), value=MISSING)
    again = group.losses(group(longer), padded.clamp(min=0), labelled(padded).float())[0]
    torch.testing.assert_close(again, both)
    task = group.tasks[0]
    context = {"length": LENGTHS, "words": torch.tensor([4, 2, 3])}
    with torch.no_grad():
        first, second = (task.predictions(group(x)[0], context) for x in (features, longer))
    assert first["t0"].to_pylist() == second["t0"].to_pylist()
    assert [len(row) for row in first["t0"].to_pylist()] == [4, 2, 3] and first["t0"].to_pylist()[2][1:] == [None, None]
    assert all(1 / 3 < value <= 1 for value in first["t0_probability"].to_pylist()[1]) or output == "crf"


def test_a_chain_without_transitions_is_a_softmax() -> None:
    features = torch.randn(ROWS, LENGTH, 5)
    chain, plain = group_of("crf"), group_of("softmax")
    chain.head.transitions.data.zero_()
    batch = masked(pack(split_of(), {"g": plain}))
    losses = [group.losses(group(features), batch.targets["g"], batch.weights["g"])[0] for group in (chain, plain)]
    torch.testing.assert_close(*losses)


def test_the_primary_metric_and_what_tags_cannot_have() -> None:
    words = TargetSpec("tagging", classes=("ADJ", "NOUN"))
    entities, parts = make_tasks({"ner": TargetSpec("tagging", classes=CLASSES), "pos": words})
    assert entities.primary.name == "entity_f1" and parts.primary.name == "accuracy"
    assert not any(metric.name.startswith("entity") for metric in parts.metrics)
    with pytest.raises(UserError, match=r"dataset.tasks.pos.metric=entity_f1: its tags, ADJ, NOUN, are not of entities"):
        make_tasks({"pos": TargetSpec("tagging", classes=("ADJ", "NOUN"), metric="entity_f1")})
    with pytest.raises(UserError, match=r"dataset.tasks.pos.output=beam: allowed are softmax, crf"):
        make_tasks({"pos": TargetSpec("tagging", classes=("ADJ", "NOUN"), options={"output": "beam"})})
    with pytest.raises(NotApplicable, match=r"encoder.pool=none"):
        parts.head(FeatureSpec((8,)), ["pos"], 0)
