"""Encoders: stems, stages, and dropout that draws from a generator of its own."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_runner.batch import StreamSpec
from mtl_runner.encoders.base import Dropout, Encoder
from mtl_runner.encoders.cnn import CNN
from mtl_runner.encoders.mlp import MLP, Residual
from mtl_runner.encoders.stems import VectorStem, embedding_width
from mtl_runner.errors import UserError
from mtl_runner.seeding import seeded

TABLE = StreamSpec({"numeric": (3,), "categorical": (2,)}, (4, 100))
IMAGE = StreamSpec({"image": (2, 8, 6)})


def table(rows: int = 5) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(0)
    categories = [torch.randint(size, (rows,), generator=draws) for size in TABLE.cardinalities]
    return {"numeric": torch.randn(rows, 3, generator=draws), "categorical": torch.stack(categories, 1)}


def images(rows: int = 5) -> dict[str, Tensor]:
    return {"image": torch.randn(rows, 2, 8, 6, generator=torch.Generator().manual_seed(0))}


# ---- stems --------------------------------------------------------------------------------------------------------


def test_a_table_stem_puts_numbers_and_the_vectors_of_the_categories_side_by_side() -> None:
    stem, fields = VectorStem(TABLE), table()
    out = stem(fields)
    first, second = stem.embeddings
    columns = [fields["numeric"], first.weight[fields["categorical"][:, 0]], second.weight[fields["categorical"][:, 1]]]
    assert torch.equal(out, torch.cat(columns, 1))
    assert out.shape[1] == stem.width == 3 + embedding_width(4) + embedding_width(100)


def test_the_fields_come_in_the_order_of_the_specification_and_not_of_the_batch() -> None:
    stem, fields = VectorStem(TABLE), table()
    assert torch.equal(stem(fields), stem(dict(reversed(fields.items()))))


@pytest.mark.parametrize(("cardinality", "size"), [(1, 2), (2, 2), (10, 6), (100, 21), (1000, 64), (10**6, 64)])
def test_embedding_sizes_follow_fastais_rule_within_bounds(cardinality: int, size: int) -> None:
    assert embedding_width(cardinality) == size


def test_a_given_embedding_size_is_taken_for_every_column() -> None:
    assert [embedding.embedding_dim for embedding in VectorStem(TABLE, 7).embeddings] == [7, 7]


def test_a_gradient_reaches_only_the_categories_in_the_batch() -> None:
    stem, fields = VectorStem(TABLE), table()
    stem(fields).sum().backward()
    touched = stem.embeddings[1].weight.grad.abs().sum(1).nonzero().squeeze(1)
    assert torch.equal(touched, fields["categorical"][:, 1].unique())


# ---- MLP ----------------------------------------------------------------------------------------------------------


def test_an_mlp_is_the_layers_that_it_says() -> None:
    encoder = MLP({"input": TABLE}, hidden=(8, 6), activation="tanh", norm="layer")
    x = VectorStem.forward(encoder.stems["input"], table())  # type: ignore[arg-type]
    for stage in encoder.stages:
        linear, norm, _ = stage
        x = torch.tanh(nn.functional.layer_norm(x @ linear.weight.T + linear.bias, (len(linear.bias),), norm.weight, norm.bias))
    torch.testing.assert_close(encoder("input", table()), x)
    assert encoder.features.shape == (6,) and len(encoder.stages) == 2


def test_an_mlp_takes_an_image_pixel_by_pixel() -> None:
    encoder = MLP({"input": IMAGE}, hidden=[4])
    flat = MLP({"input": StreamSpec({"numeric": (96,)})}, hidden=[4])
    flat.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder("input", images()), flat("input", {"numeric": images()["image"].flatten(1)}))


def test_streams_of_different_width_meet_in_the_first_hidden_layers_space() -> None:
    encoder = MLP({"a": TABLE, "b": IMAGE}, hidden=[8, 4])
    assert encoder("a", table()).shape == (5, 4)
    assert encoder("b", images(3)).shape == (3, 4)
    assert encoder.stages[0][0].weight.shape == (8, 8)


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_a_residual_layer_adds_its_input_where_the_width_stays(norm: Any) -> None:
    def make(residual: bool) -> MLP:
        with seeded(3, "encoder"):
            return MLP({"input": IMAGE}, hidden=(8, 8, 8, 5), norm=norm, residual=residual)

    plain, encoder = make(False), make(True)
    assert [isinstance(stage, Residual) for stage in encoder.stages] == [False, True, True, False]
    for one, other in zip(plain.parameters(), encoder.parameters(), strict=True):
        assert torch.equal(one, other)  # the same layers, drawn in the same order
    x = images()["image"].flatten(1)
    for stage, layer in zip(encoder.stages, plain.stages, strict=True):
        expected = x + layer(x) if layer[0].in_features == layer[0].out_features else layer(x)
        torch.testing.assert_close(stage(x), expected)
        x = expected
    torch.testing.assert_close(encoder("input", images()), x)


def test_the_gradient_of_a_residual_layer_reaches_its_input_where_the_layer_is_silent() -> None:
    encoder = MLP({"input": IMAGE}, hidden=(6, 6), residual=True)
    torch.nn.init.constant_(encoder.stages[1].layers[0].bias, -1e6)  # behind ReLU: 0, with gradient 0
    x = torch.randn(4, 6, requires_grad=True)
    encoder.stages[1](x).sum().backward()
    assert torch.equal(x.grad, torch.ones(4, 6))


def test_dropout_in_a_residual_layer_spares_the_input() -> None:
    encoder = MLP({"input": IMAGE}, hidden=(50, 50), residual=True, dropout=0.5).train()
    x = torch.full((20, 50), -3.0)
    out = encoder.stages[1](x).detach()
    assert float((out == x).float().mean()) > 0.45 and float(out.min()) == -3


def test_residual_layers_that_could_not_be_are_refused() -> None:
    with pytest.raises(UserError, match=r"residual=true: no hidden layer keeps its input's width \(96, 8, 4\)"):
        MLP({"input": IMAGE}, hidden=(8, 4), residual=True)


def test_the_names_of_a_plain_mlps_weights_stay_as_they_are_in_finished_runs() -> None:
    encoder = MLP({"input": IMAGE}, hidden=(8, 8), norm="layer")
    expected = [f"stages.{stage}.{layer}.{name}" for stage in (0, 1) for layer in (0, 1) for name in ("weight", "bias")]
    assert list(encoder.state_dict()) == expected


@pytest.mark.parametrize("streams", [{"a": StreamSpec({})}, {"a": TABLE, "b": StreamSpec({})}])
def test_an_input_without_columns_is_refused(streams: Mapping[str, StreamSpec]) -> None:
    with pytest.raises(UserError, match="no columns"):
        MLP(streams)


# ---- CNN ----------------------------------------------------------------------------------------------------------


def test_a_cnn_is_the_layers_that_it_says() -> None:
    encoder = CNN({"input": IMAGE}, channels=(3, 5), width=7, norm="none")
    x = images()["image"]
    for stage in list(encoder.stages)[:2]:
        x = nn.functional.max_pool2d(nn.functional.conv2d(x, stage[0].weight, stage[0].bias, padding=1).relu(), 2)
    last = encoder.stages[2][1]
    torch.testing.assert_close(encoder("input", images()), (x.flatten(1) @ last.weight.T + last.bias).relu())
    assert last.in_features == 5 * 2 * 1 and encoder.features.shape == (7,)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (1, 1, 9), (1, 2, 1), (4, 1, 1)])
def test_any_image_goes_through_any_number_of_stages(norm: Any, shape: tuple[int, int, int]) -> None:
    encoder = CNN({"input": StreamSpec({"image": shape})}, channels=(4, 4, 4, 4, 4), width=6, norm=norm)
    assert encoder("input", {"image": torch.randn(3, *shape)}).shape == (3, 6)


def test_with_group_or_no_normalisation_an_image_does_not_see_the_others_of_its_batch() -> None:
    for norm in ("group", "none"):
        encoder = CNN({"input": IMAGE}, norm=norm).train()  # type: ignore[arg-type]
        torch.testing.assert_close(encoder("input", images())[:2], encoder("input", {"image": images()["image"][:2]}))


@pytest.mark.parametrize(
    ("streams", "said"),
    [
        ({"a": TABLE}, "numeric, categorical"),
        ({"a": StreamSpec({"image": (1, 8, 8), "numeric": (2,)})}, "image, numeric"),
        ({"a": IMAGE, "b": TABLE}, "numeric, categorical"),
    ],
)
def test_a_cnn_says_what_it_cannot_read(streams: Mapping[str, StreamSpec], said: str) -> None:
    with pytest.raises(UserError, match=said):
        CNN(streams)


# ---- all encoders -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: MLP({"input": IMAGE}, dropout=0.5), lambda: CNN({"input": IMAGE}, dropout=0.5)])
def test_an_encoders_initial_weights_and_masks_depend_on_the_generator_alone(make: Any) -> None:
    def one(seed: int) -> tuple[Tensor, Tensor]:
        with seeded(seed, "encoder"):
            encoder = make()
        return encoder.eval()("input", images()), encoder.train()("input", images())

    plain, masked = one(0)
    torch.rand(5)
    assert torch.equal(one(0)[0], plain) and torch.equal(one(0)[1], masked)
    assert not torch.equal(one(1)[0], plain)
    assert not torch.equal(plain, masked)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_a_frozen_stage_stays_in_evaluation_mode_and_the_others_do_not(frozen: int) -> None:
    encoder = MLP({"input": TABLE}, hidden=[8, 8], norm="batch", dropout=0.5)
    for parameter in encoder.stages[:frozen].parameters():
        parameter.requires_grad_(False)
    before = {name: value.clone() for name, value in encoder.state_dict().items() if "running" in name}
    encoder.train()
    encoder("input", table())
    moved = {int(name.split(".")[1]) for name, value in before.items() if not torch.equal(value, encoder.state_dict()[name])}
    assert moved == set(range(frozen, 2))
    assert [stage[3].training for stage in encoder.stages] == [i >= frozen for i in range(2)]
    assert not any(module.training for module in encoder.eval().modules())


# ---- dropout ------------------------------------------------------------------------------------------------------


def dropout(p: float = 0.3, seed: int = 0) -> Dropout:
    with seeded(seed, "dropout"):
        return Dropout(p)


def test_dropout_zeroes_a_share_p_and_keeps_the_expected_value() -> None:
    out = dropout(0.3)(torch.full((1000, 1000), 2.0))
    assert out.unique().tolist() == pytest.approx([0, 2 / 0.7])
    assert float((out == 0).float().mean()) == pytest.approx(0.3, abs=5 * (0.21 / 1e6) ** 0.5)
    assert float(out.mean()) == pytest.approx(2, abs=0.01)


def test_dropout_passes_a_gradient_through_what_it_kept_alone() -> None:
    x = torch.ones(1000, requires_grad=True)
    out = dropout()(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())  # d(out)/d(x) = mask / (1 - p)


def test_dropout_is_the_identity_in_evaluation_and_for_p_0_and_draws_nothing() -> None:
    x, module = torch.randn(50), dropout()
    assert module.eval()(x) is x and dropout(0.0)(x) is x
    fresh = dropout()
    assert torch.equal(module.train()(x), fresh(x))  # the evaluation took nothing from the sequence


def test_dropout_masks_do_not_depend_on_other_random_numbers_nor_on_other_modules() -> None:
    x = torch.ones(200)
    alone = dropout()
    expected = [alone(x) for _ in range(3)]
    beside, other = dropout(), dropout(seed=1)
    torch.manual_seed(99)
    for mask in expected:
        torch.rand(7)
        other_mask = other(x)
        assert torch.equal(beside(x), mask) and not torch.equal(other_mask, mask)
    assert not torch.equal(expected[0], expected[1])


@pytest.mark.parametrize("drawn", [0, 1, 5])
def test_dropout_goes_on_from_a_state_dict_where_the_saved_one_stood(drawn: int) -> None:
    x = torch.ones(100)
    saved = nn.Sequential(dropout())
    for _ in range(drawn):
        saved(x)
    state = {name: value.clone() for name, value in saved.state_dict().items()}
    expected = [saved(x) for _ in range(3)]

    used, fresh = nn.Sequential(dropout()), nn.Sequential(dropout())
    for _ in range(7):
        used(x)
    for module in (used, fresh):
        module.load_state_dict(state)
        assert torch.equal(module.state_dict()["0._extra_state"], state["0._extra_state"])  # also before its first use
        assert all(torch.equal(module(x), mask) for mask in expected)


def test_dropout_saved_on_another_kind_of_device_begins_anew() -> None:
    module, fresh = dropout(), dropout()
    module.set_extra_state(torch.zeros(16, dtype=torch.uint8))  # as long as CUDA's
    assert torch.equal(module(torch.ones(50)), fresh(torch.ones(50)))


def test_dropout_works_in_a_stage_without_parameters_too() -> None:
    encoder = MLP({"input": IMAGE}, hidden=[4])
    encoder.stages.append(dropout(0.9))
    encoder.train()
    assert (encoder("input", images(100)) == 0).float().mean() > 0.8


def test_every_encoders_state_dict_has_its_dropouts_place() -> None:
    encoder: Encoder = MLP({"input": TABLE}, hidden=[4, 4], dropout=0.1)
    assert sum(name.endswith("_extra_state") for name in encoder.state_dict()) == 2
