"""Recurrent and Transformer encoders: against torch's own layers, and nothing that padding could change."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_runner.batch import StreamSpec
from mtl_runner.encoders import pooling
from mtl_runner.encoders.attention import Attention
from mtl_runner.encoders.base import Encoder, run_stages
from mtl_runner.encoders.rnn import RNN, reading_order
from mtl_runner.encoders.tokens import PatchStem
from mtl_runner.encoders.transformer import Transformer
from mtl_runner.errors import UserError
from mtl_runner.seeding import seeded

LENGTHS = (5, 1, 7, 0, 3)
IMAGE = StreamSpec({"image": (2, 6, 5)})
TABLE = StreamSpec({"numeric": (3,)})


def text(length: int = 7, vocabulary: int = 11) -> StreamSpec:
    return StreamSpec({"tokens": (length,)}, vocabulary=vocabulary)


def tokens(length: int = 7) -> dict[str, Tensor]:
    """Five sequences of LENGTHS tokens."""
    values = torch.randint(1, 11, (5, 7), generator=torch.Generator().manual_seed(0))
    for row, count in enumerate(LENGTHS):
        values[row, count:] = 0
    return {"tokens": nn.functional.pad(values, (0, length - 7))}


def images(rows: int = 4) -> dict[str, Tensor]:
    return {"image": torch.randn(rows, 2, 6, 5, generator=torch.Generator().manual_seed(0))}


def rnn(spec: StreamSpec | None = None, **options: Any) -> RNN:
    with seeded(0, "rnn"):
        return RNN({"input": spec or text()}, **{"width": 4, "embedding_size": 3, **options})


def transformer(spec: StreamSpec | None = None, **options: Any) -> Transformer:
    with seeded(0, "transformer"):
        return Transformer({"input": spec or text()}, **{"width": 8, "layers": 2, "heads": 2, "feedforward": 2, **options})


# ---- recurrent ----------------------------------------------------------------------------------------------------


def theirs(encoder: RNN, cell: str, directions: int, layers: int) -> nn.GRU | nn.LSTM:
    """torch's own layers with the encoder's weights."""
    inputs = encoder.shapes()[0][1]
    network = (nn.GRU if cell == "gru" else nn.LSTM)(inputs, 4, layers, batch_first=True, bidirectional=directions == 2)
    for layer, stage in enumerate(encoder.stages):
        for way, part in enumerate(getattr(stage, "stage", stage).ways):
            for name, value in part.named_parameters():
                getattr(network, name.replace("l0", f"l{layer}") + ("_reverse" if way else "")).data.copy_(value)
    return network


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layers", [1, 3])
def test_an_rnn_on_padded_tokens_is_torchs_on_packed_ones(cell: Any, directions: int, layers: int) -> None:
    options = {"cell": cell, "bidirectional": directions == 2, "layers": layers}
    encoder, fields = rnn(pool="none", **options), tokens()
    there = [row for row, count in enumerate(LENGTHS) if count]
    lengths = torch.tensor([LENGTHS[row] for row in there])
    network = theirs(encoder, cell, directions, layers)
    vectors = encoder.stem("input", fields)[there]
    packed = nn.utils.rnn.pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
    outputs, state = network(packed)
    expected, _ = nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True, total_length=7)
    torch.testing.assert_close(encoder("input", fields)[there], expected)

    last = rnn(pool="last", **options)
    hidden = state if cell == "gru" else state[0]
    torch.testing.assert_close(last("input", fields)[there], torch.cat(list(hidden[-directions:]), 1))
    mean, largest = rnn(pool="mean", **options)("input", fields), rnn(pool="max", **options)("input", fields)
    for row, (place, count) in enumerate(zip(there, lengths, strict=True)):
        torch.testing.assert_close(mean[place], expected[row, :count].mean(0))
        torch.testing.assert_close(largest[place], expected[row, :count].amax(0))


@pytest.mark.parametrize("pool", ["last", "mean", "max", "none"])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_an_rnn_reads_an_image_row_by_row(cell: Any, pool: Any) -> None:
    encoder = rnn(IMAGE, cell=cell, pool=pool)
    rows = torch.stack([images()["image"][:, :, row].flatten(1) for row in range(6)], 1)
    outputs, state = theirs(encoder, cell, 2, 2)(rows)
    hidden = state if cell == "gru" else state[0]
    expected = {"last": torch.cat(list(hidden[-2:]), 1), "mean": outputs.mean(1), "max": outputs.amax(1), "none": outputs}[pool]
    torch.testing.assert_close(encoder("input", images()), expected)
    assert encoder.features.shape == expected.shape[1:] and encoder.mask(images()) is None


@pytest.mark.parametrize("pool", ["last", "mean", "max", "none"])
def test_padding_changes_nothing_wherever_it_stands(pool: Any) -> None:
    encoder, plain = rnn(pool=pool), tokens()["tokens"]
    features = encoder("input", {"tokens": plain})
    longer = encoder("input", tokens(12))
    torch.testing.assert_close(longer[:, :7] if pool == "none" else longer, features)
    in_front = encoder("input", {"tokens": torch.stack([row.roll(7 - count) for row, count in zip(plain, LENGTHS, strict=True)])})
    if pool == "none":
        in_front = torch.stack([row.roll(count - 7, 0) for row, count in zip(in_front, LENGTHS, strict=True)])
    torch.testing.assert_close(in_front, features)
    assert features[LENGTHS.index(0)].eq(0).all()


def test_reading_order_goes_over_the_tokens_first_in_both_directions() -> None:
    mask = torch.tensor([[True, True, False, True], [False, True, True, False]])
    assert [row[:n] for row, n in zip(reading_order(mask, False).tolist(), (3, 2), strict=True)] == [[0, 1, 3], [1, 2]]
    assert [row[:n] for row, n in zip(reading_order(mask, True).tolist(), (3, 2), strict=True)] == [[3, 1, 0], [2, 1]]


def test_rows_of_different_width_and_tokens_meet_in_one_space() -> None:
    encoder = RNN({"a": IMAGE, "b": StreamSpec({"image": (1, 6, 9)}), "c": text()}, width=4, embedding_size=3)
    assert encoder.stem("a", images()).shape == (4, 6, 3) and encoder.stem("c", tokens()).shape == (5, 7, 3)
    assert encoder("a", images()).shape == (4, 8) and encoder("c", tokens()).shape == (5, 8)
    assert encoder("b", {"image": torch.randn(2, 1, 6, 9)}).shape == (2, 8)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_recurrent_layer_runs_under_autocast_and_frozen_above_a_trained_stem(cell: Any) -> None:
    encoder, fields = rnn(cell=cell), tokens()
    plain = encoder("input", fields)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(encoder("input", fields).float(), plain, atol=0.03, rtol=0)
    encoder.stages.requires_grad_(False)
    encoder.train()("input", fields).square().sum().backward()
    assert not encoder.stages[0].training and encoder.stems["input"].embedding.weight.grad.ne(0).any()


def test_dropout_acts_between_layers_alone() -> None:
    one, two = rnn(layers=1, dropout=0.5), rnn(layers=2, dropout=0.5)
    assert torch.equal(one.train()("input", tokens()), one.eval()("input", tokens()))
    assert not torch.equal(two.train()("input", tokens()), two.eval()("input", tokens()))


# ---- attention and Transformer blocks -----------------------------------------------------------------------------


def torchs_block(block: Any, width: int) -> nn.TransformerEncoderLayer:
    layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    first, *_, second = block.feedforward
    pairs = {
        layer.self_attn.in_proj_weight: block.attention.inward.weight,
        layer.self_attn.in_proj_bias: block.attention.inward.bias,
        layer.self_attn.out_proj.weight: block.attention.outward.weight,
        layer.self_attn.out_proj.bias: block.attention.outward.bias,
    }
    parts = [(layer.linear1, first), (layer.linear2, second), (layer.norm1, block.attention_norm)]
    for own, other in [*parts, (layer.norm2, block.feedforward_norm)]:
        pairs |= {own.weight: other.weight, own.bias: other.bias}
    for target, value in pairs.items():
        target.data.copy_(value)
    return layer


def randomize(module: nn.Module) -> None:
    """So that no bias is zero and no scale one."""
    draws = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=draws)


@pytest.mark.parametrize("pool", ["cls", "mean", "none"])
def test_a_transformer_on_tokens_is_torchs_layers(pool: Any) -> None:
    encoder, fields = transformer(pool=pool).eval(), tokens()
    randomize(encoder)
    stem, there = encoder.stems["input"], [row for row, count in enumerate(LENGTHS) if count]
    x = stem.stem.embedding.weight[fields["tokens"]]
    missing = fields["tokens"] == 0
    if pool == "cls":
        x = torch.cat([stem.cls.expand(5, 1, 8), x], 1)
        missing = torch.cat([torch.zeros(5, 1, dtype=torch.bool), missing], 1)
    x = x + stem.positions
    for stage in encoder.stages:
        x = torchs_block(getattr(stage, "stage", stage), 8)(x, src_key_padding_mask=missing)
    x = encoder.stages[-1].before(x)
    expected = {"cls": x[:, 0], "mean": (x * ~missing[..., None]).sum(1) / (~missing).sum(1)[:, None], "none": x}[pool]
    if pool == "none":
        expected = expected.masked_fill(missing[..., None], 0)
    torch.testing.assert_close(encoder("input", fields)[there], expected[there])
    assert encoder.features.shape == expected.shape[1:]


def test_patches_are_cut_row_by_row_and_filled_with_zeros() -> None:
    stem, image = PatchStem((2, 6, 5), 8, 4), images()["image"]
    filled = torch.zeros(4, 2, 8, 8)
    filled[:, :, :6, :5] = image
    corners = [(0, 0), (0, 4), (4, 0), (4, 4)]
    patches = torch.stack([filled[:, :, i : i + 4, j : j + 4].flatten(1) for i, j in corners], 1)
    torch.testing.assert_close(stem(images()), patches @ stem.project.weight.flatten(1).T + stem.project.bias)
    assert stem.length == 4


@pytest.mark.parametrize(("sides", "patches"), [((8, 8), 16), ((28, 28), 196), ((32, 32), 121), ((224, 224), 196), ((3, 7), 8)])
def test_the_patch_grows_with_the_image(sides: tuple[int, int], patches: int) -> None:
    assert transformer(StreamSpec({"image": (1, *sides)}), pool="none").features.shape == (patches, 8)


@pytest.mark.parametrize("pool", ["cls", "mean", "none"])
def test_what_stands_at_padding_is_not_seen(pool: Any) -> None:
    """Neither by the features nor by any gradient; and a longer sequence with the same positions gives the same."""
    encoder, longer = transformer(pool=pool).eval(), transformer(text(12), pool=pool).eval()
    weights = encoder.state_dict()
    head = len(weights["stems.input.positions"])
    state = longer.state_dict()
    state["stems.input.positions"][:head] = weights["stems.input.positions"]
    longer.load_state_dict(weights | {"stems.input.positions": state["stems.input.positions"]})
    kept = [row for row, count in enumerate(LENGTHS) if count or pool == "cls"]
    features, others = encoder("input", tokens())[kept], longer("input", tokens(12))[kept]
    torch.testing.assert_close(others[:, :7] if pool == "none" else others, features)

    x, mask = encoder.stem("input", tokens()).detach().requires_grad_(), encoder.mask(tokens())
    (gradient,) = torch.autograd.grad(run_stages(encoder.stages, x, mask)[kept].square().sum(), x)
    assert gradient[kept][~mask[kept]].eq(0).all() and gradient[kept][mask[kept]].ne(0).any()


@torch.no_grad()
def test_attention_with_dropout_is_that_without_in_expectation() -> None:
    """The explicit softmax and torch's fused one agree, by the mean over many masks."""
    with seeded(0, "attention"):
        attention = Attention(8, 2, 0.3)
    x, mask = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(2)), torch.ones(3, 5, dtype=torch.bool)
    mask[0, 2:], mask[1] = False, False
    fused = attention.eval()(x, mask)
    many = attention.train()(x.repeat(4000, 1, 1), mask.repeat(4000, 1)).view(4000, 3, 5, 8)
    error = many.std(0) / 4000**0.5
    assert ((many.mean(0) - fused).abs() < 5 * error + 1e-6).all() and float(error.mean()) < 0.01


@torch.no_grad()
def test_attention_with_dropout_does_not_see_padding() -> None:
    x, mask = torch.randn(1, 5, 8), torch.tensor([[True, True, True, False, False]])
    features = []
    for value in (0.0, 9.0):
        with seeded(0, "attention"):
            attention = Attention(8, 2, 0.3).train()
        features.append(attention(x.index_fill(1, torch.tensor([3, 4]), value), mask)[:, :3])
    assert torch.equal(*features)


def test_heads_divide_the_width() -> None:
    with pytest.raises(UserError, match=r"encoder.width=10 is not a multiple of encoder.heads=4"):
        transformer(width=10, heads=4)


# ---- both ---------------------------------------------------------------------------------------------------------

ALL = [
    *(lambda spec, pool=pool, **more: rnn(spec, pool=pool, **more) for pool in ("last", "mean", "max", "none")),
    *(lambda spec, pool=pool, **more: transformer(spec, pool=pool, **more) for pool in ("cls", "mean", "none")),
]
every = pytest.mark.parametrize("make", ALL)


@every
def test_an_example_of_padding_alone_and_one_of_full_length_are_finite(make: Any) -> None:
    encoder: Encoder = make(text(), dropout=0.2).train()
    features = encoder("input", tokens())
    features.square().sum().backward()
    assert features.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


@every
@pytest.mark.parametrize("spec", [text(), IMAGE])
def test_shapes_and_folding_tasks_into_the_batch(make: Any, spec: StreamSpec) -> None:
    encoder: Encoder = make(spec).eval()
    fields = tokens() if "tokens" in spec.fields else images()
    shapes, mask = encoder.shapes(), encoder.mask(fields)
    assert len(shapes) == len(encoder.stages) + 1 and shapes[-1] == encoder.features.shape
    x = encoder.stem("input", fields)
    twice = run_stages(encoder.stages, x.repeat(2, 1, 1), None if mask is None else mask.repeat(2, 1))
    torch.testing.assert_close(twice, encoder("input", fields).repeat(2, *[1] * len(encoder.features.shape)))


@every
def test_dropout_leaves_the_global_generator_alone(make: Any) -> None:
    encoder: Encoder = make(text(), dropout=0.5).train()
    before = torch.get_rng_state()
    first, second = encoder("input", tokens()), encoder("input", tokens())
    assert torch.equal(before, torch.get_rng_state()) and not torch.equal(first, second)


@every
def test_the_vector_of_padding_is_zero_and_stays_so(make: Any) -> None:
    encoder: Encoder = make(text())
    encoder("input", tokens()).square().sum().backward()
    (weight,) = (value for name, value in encoder.named_parameters() if name.endswith("embedding.weight"))
    assert weight[0].eq(0).all() and weight.grad[0].eq(0).all() and weight.grad[1:].ne(0).any()


@pytest.mark.parametrize("kind", [RNN, Transformer])
@pytest.mark.parametrize(
    ("streams", "options", "said"),
    [
        ({"a": TABLE}, {}, "reads tokens or image alone, and the data set gives numeric"),
        ({"a": StreamSpec({"tokens": (5,), "numeric": (2,)}, vocabulary=9)}, {}, "gives tokens, numeric"),
        ({"a": text(5), "b": text(6)}, {"pool": "none"}, "one length in all streams"),
    ],
)
def test_what_cannot_be_read_is_said(kind: Any, streams: Mapping[str, StreamSpec], options: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        kind(streams, **options)


def test_pooling_without_a_mask_is_pooling_over_all() -> None:
    x, mask = torch.randn(3, 4, 2), torch.ones(3, 4, dtype=torch.bool)
    for pool in (pooling.first, pooling.mean, pooling.largest, pooling.everywhere):
        torch.testing.assert_close(pool(x, None), pool(x, mask))
