"""FT-Transformer and embeddings: against their formulas by hand."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mtl_runner.batch import StreamSpec
from mtl_runner.encoders.base import Encoder
from mtl_runner.encoders.embedding import Embedding
from mtl_runner.encoders.ft_transformer import FeatureTokenizer, FTTransformer
from mtl_runner.errors import UserError
from mtl_runner.seeding import seeded

BOTH = StreamSpec({"numeric": (3,), "categorical": (3,)}, (4, 100, 6))
NUMBERS = StreamSpec({"numeric": (3,)})
CATEGORIES = StreamSpec({"categorical": (2,)}, (5, 7))
ONE = StreamSpec({"categorical": (1,), "numeric": (2,)}, (5,))
IMAGE = StreamSpec({"image": (1, 4, 4)})
SPECS = {"both": BOTH, "numbers": NUMBERS, "categories": CATEGORIES, "one": ONE}


def rows(spec: StreamSpec, count: int = 6) -> dict[str, Tensor]:
    """The first row's categories are unknown."""
    draws = torch.Generator().manual_seed(0)
    fields = {}
    if "numeric" in spec.fields:
        fields["numeric"] = torch.randn(count, *spec.fields["numeric"], generator=draws)
    if spec.cardinalities:
        columns = [torch.randint(1, size, (count,), generator=draws) for size in spec.cardinalities]
        fields["categorical"] = torch.stack(columns, 1)
        fields["categorical"][0] = 0
    return fields


def ft(spec: StreamSpec = BOTH, **options: Any) -> FTTransformer:
    with seeded(0, "ft"):
        return FTTransformer({"input": spec}, **{"width": 8, "layers": 2, "heads": 2, "hidden": 5, **options})


def embedding(spec: StreamSpec = BOTH, **options: Any) -> Embedding:
    with seeded(0, "embedding"):
        return Embedding({"input": spec}, **{"size": 3, "hidden": [6, 4], **options})


# ---- FT-Transformer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_column_is_its_value_times_its_vector_or_its_categorys_vector_and_its_bias(spec: StreamSpec) -> None:
    with seeded(0, "ft"):
        tokenizer = FeatureTokenizer(spec, 8)
    fields, biases = rows(spec), list(tokenizer.bias)
    out = tokenizer(fields)
    for row in range(6):
        expected = [tokenizer.cls[0]]
        for j, value in enumerate(fields.get("numeric", torch.zeros(6, 0))[row]):
            expected.append(value * tokenizer.weight[j] + biases[j])
        start, place = 0, len(expected) - 1
        for k, size in enumerate(spec.cardinalities):
            category = int(fields["categorical"][row, k])
            vector = tokenizer.table[start + category] if category else torch.zeros(8)
            expected.append(vector + biases[place + k])
            start += size
        torch.testing.assert_close(out[row], torch.stack(expected))


def attended(x: Tensor, block: Any, heads: int) -> Tensor:
    """Multi-head attention example by example and head by head."""
    query, key, value = (x @ block.attention.inward.weight.T + block.attention.inward.bias).chunk(3, -1)
    size = x.shape[-1] // heads
    out = torch.zeros_like(x)
    for n in range(len(x)):
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            weights = torch.softmax(query[n, :, part] @ key[n, :, part].T / size**0.5, -1)
            out[n, :, part] = weights @ value[n, :, part]
    return out @ block.attention.outward.weight.T + block.attention.outward.bias


def normal(x: Tensor, norm: Any) -> Tensor:
    return functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias)


@torch.no_grad()
def test_an_ft_transformer_is_the_papers() -> None:
    encoder, draws = ft(layers=3).eval(), torch.Generator().manual_seed(1)
    for parameter in encoder.parameters():
        parameter.copy_(0.5 * torch.randn(parameter.shape, generator=draws))
    x = encoder.stem("input", rows(BOTH))
    for number, stage in enumerate(encoder.stages):
        block = getattr(stage, "stage", stage)
        x = x + attended(normal(x, block.attention_norm) if number else x, block, 2)
        first, *_, second = block.feedforward
        inside = normal(x, block.feedforward_norm) @ first.weight.T + first.bias
        x = x + (inside[..., :5] * inside[..., 5:].clamp(min=0)) @ second.weight.T + second.bias
    norm, _ = encoder.stages[-1].after
    torch.testing.assert_close(encoder("input", rows(BOTH)), normal(x[:, 0], norm).clamp(min=0))


def test_the_papers_default_has_its_number_of_parameters() -> None:
    """d = 192, 3 blocks, hidden 256: per block 4 d² + 4 d, the gated layers, and norms; the first block has one norm."""
    encoder, d, hidden = FTTransformer({"input": BOTH}), 192, 256
    block = 4 * d * d + 4 * d + (d + 1) * 2 * hidden + (hidden + 1) * d
    stem = d + 3 * d + 110 * d + 6 * d
    assert sum(value.numel() for value in encoder.parameters()) == stem + 3 * block + (1 + 2 + 2 + 1) * 2 * d
    assert encoder.features.shape == (192,) and len(encoder.stages) == 3


@pytest.mark.parametrize("place", ["attention_dropout", "hidden_dropout", "dropout"])
def test_each_dropout_acts_and_leaves_the_global_generator_alone(place: str) -> None:
    none = {"attention_dropout": 0.0, "hidden_dropout": 0.0, "dropout": 0.0}
    fields, quiet, encoder = rows(BOTH), ft(**none).train(), ft(**none | {place: 0.5}).train()
    before = torch.get_rng_state()
    assert not torch.equal(encoder("input", fields), encoder("input", fields))
    assert torch.equal(quiet("input", fields), quiet("input", fields))
    torch.testing.assert_close(encoder.eval()("input", fields), quiet("input", fields))
    assert torch.equal(torch.get_rng_state(), before)


# ---- embeddings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combine", ["concat", "interaction"])
@pytest.mark.parametrize("name", ["both", "categories", "one"])
def test_the_stem_is_products_vectors_and_numbers(combine: Any, name: str) -> None:
    spec = SPECS[name]
    encoder, fields = embedding(spec, combine=combine), rows(spec)
    stem = encoder.stems["input"]
    vectors = [look.weight[fields["categorical"][:, k]] for k, look in enumerate(stem.embeddings)]
    parts = [*vectors, fields["numeric"]] if "numeric" in fields else vectors
    if combine == "interaction" and len(vectors) > 1:
        parts = [sum(a * b for a, b in combinations(vectors, 2)), *parts]
    expected = torch.cat(parts, 1)
    torch.testing.assert_close(stem(fields), expected)
    for stage in encoder.stages:
        expected = (expected @ stage[0].weight.T + stage[0].bias).relu()
    torch.testing.assert_close(encoder("input", fields), expected)
    assert encoder.features.shape == (4,) and len(encoder.stages) == 2


def test_without_hidden_layers_the_features_are_the_stem() -> None:
    encoder = embedding(CATEGORIES, hidden=[])
    assert torch.equal(encoder("input", rows(CATEGORIES)), encoder.stem("input", rows(CATEGORIES)))
    assert encoder.features.shape == (9,) and encoder.shapes() == [(9,), (9,)]


def test_a_product_learns_what_users_like_and_sums_cannot() -> None:
    """Ratings that are a product of the user's and the item's vector: least squares on the features, before any training."""
    users, items = (torch.arange(1, 5).repeat_interleave(6), torch.arange(1, 7).repeat(4))
    fields = {"categorical": torch.stack([users, items], 1)}
    spec = StreamSpec({"categorical": (2,)}, (5, 7))
    left: dict[str, float] = {}
    for combine in ("concat", "interaction"):
        encoder = embedding(spec, hidden=[], combine=combine, size=2)
        first, second = encoder.stems["input"].embeddings
        ratings = (first(users) * second(items)).sum(1, keepdim=True).detach()
        features = torch.cat([encoder("input", fields).detach(), torch.ones(24, 1)], 1)
        left[combine] = float((features @ torch.linalg.pinv(features) @ ratings - ratings).norm() / ratings.norm())
    assert left["interaction"] < 1e-5 and left["concat"] > 0.1


def test_streams_of_different_width_meet_in_one_space() -> None:
    encoder = Embedding({"a": BOTH, "b": CATEGORIES}, size=3, hidden=[6, 4])
    assert encoder("a", rows(BOTH)).shape == (6, 4) and encoder("b", rows(CATEGORIES)).shape == (6, 4)
    linear = Embedding({"a": BOTH, "b": CATEGORIES}, size=3, hidden=[])
    assert linear("a", rows(BOTH)).shape == linear("b", rows(CATEGORIES)).shape == (6, *linear.features.shape) == (6, 3)


# ---- both ---------------------------------------------------------------------------------------------------------

every = pytest.mark.parametrize("make", [ft, embedding])


@every
def test_an_unknown_category_is_zero_and_no_gradient_goes_to_it(make: Any) -> None:
    encoder: Encoder = make(BOTH)
    encoder("input", rows(BOTH)).square().sum().backward()
    if make is ft:
        gradient = encoder.stems["input"].table.grad
        unknown = encoder.stems["input"].offsets
        assert gradient[unknown].eq(0).all() and gradient.ne(0).any()
    else:
        for table in encoder.stems["input"].embeddings:
            assert table.weight[0].eq(0).all() and table.weight.grad[0].eq(0).all() and table.weight.grad.ne(0).any()


@every
@pytest.mark.parametrize("spec", [BOTH, CATEGORIES, ONE])
def test_shapes_and_streams_without_a_mask(make: Any, spec: StreamSpec) -> None:
    encoder: Encoder = make(spec)
    shapes = encoder.shapes()
    assert len(shapes) == len(encoder.stages) + 1 and shapes[-1] == encoder.features.shape
    assert encoder.mask(rows(spec)) is None


@every
def test_an_example_does_not_see_the_others(make: Any) -> None:
    encoder: Encoder = make(BOTH).eval()
    some = {name: value[2:4] for name, value in rows(BOTH).items()}
    torch.testing.assert_close(encoder("input", some), encoder("input", rows(BOTH))[2:4])


@pytest.mark.parametrize(
    ("kind", "streams", "said"),
    [
        (FTTransformer, {"a": IMAGE}, "encoder=ft_transformer .* gives image"),
        (FTTransformer, {"a": StreamSpec({"image": (1, 4, 4), "numeric": (2,)})}, "gives image, numeric"),
        (FTTransformer, {"a": StreamSpec({"numeric": (0,)})}, "gives no column"),
        (Embedding, {"a": NUMBERS}, "encoder=embedding reads categorical columns.* gives numeric"),
        (Embedding, {"a": CATEGORIES, "b": IMAGE}, "gives image"),
    ],
)
def test_what_cannot_be_read_is_said(kind: Any, streams: Mapping[str, StreamSpec], said: str) -> None:
    with pytest.raises(UserError, match=said):
        kind(streams)
