"""Encoders of images: streams of different size, ResNet with torchvision's names, U-Net as the paper draws it."""

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from mtl_runner.batch import StreamSpec
from mtl_runner.encoders.base import Encoder
from mtl_runner.encoders.cnn import CNN
from mtl_runner.encoders.resnet import ResNet, torchvision_name
from mtl_runner.encoders.stems import image_stems
from mtl_runner.encoders.unet import UNet
from mtl_runner.errors import UserError

State = dict[str, Tensor]
SMALL: dict[str, Callable[..., Encoder]] = {
    "cnn": lambda streams: CNN(streams, channels=(3, 4), width=5),
    "resnet": lambda streams: ResNet(streams, width=2),
    "unet": lambda streams: UNet(streams, channels=2, depth=2),
}
encoders = pytest.mark.parametrize("name", SMALL)


def stream(*shape: int) -> StreamSpec:
    return StreamSpec({"image": shape})


def images(*shape: int, rows: int = 3) -> State:
    return {"image": torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0))}


def randomised(encoder: Encoder) -> Encoder:
    """With batch statistics and biases that are not those of a new network."""
    draws = torch.Generator().manual_seed(1)
    for name, value in encoder.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            value.copy_(torch.randn(value.shape, generator=draws) / 5)
        elif name.endswith("running_var") or value.dim() == 1:
            value.copy_(torch.rand(value.shape, generator=draws) + 0.5)
    return encoder


# ---- stems --------------------------------------------------------------------------------------------------------


@encoders
def test_streams_of_one_shape_have_no_weights_of_their_own(name: str) -> None:
    one, two = SMALL[name]({"a": stream(2, 8, 6)}), SMALL[name]({"a": stream(2, 8, 6), "b": stream(2, 8, 6)})
    assert list(one.state_dict()) == list(two.state_dict())
    assert all(name.startswith("stages.") for name in two.state_dict())
    assert torch.equal(two.stem("a", images(2, 8, 6)), images(2, 8, 6)["image"])


@encoders
def test_streams_of_different_shape_have_features_of_one_shape(name: str) -> None:
    shapes = {"grey": (1, 8, 6), "colour": (3, 5, 9), "same": (3, 8, 9)}
    encoder = SMALL[name]({key: stream(*shape) for key, shape in shapes.items()}).train()
    assert encoder.shapes()[0] == (3, 8, 9)
    for key, shape in shapes.items():
        assert encoder(key, images(*shape)).shape == (3, *encoder.features.shape)
    own = [name for name in encoder.state_dict() if name.startswith("stems.")]
    assert own == ["stems.grey.mix.weight", "stems.grey.mix.bias"]
    encoder("colour", images(3, 5, 9)).sum().backward()
    assert encoder.stems["grey"].mix.weight.grad is None
    encoder("grey", images(1, 8, 6)).square().sum().backward()
    assert encoder.stems["grey"].mix.weight.grad.abs().sum() > 0


def test_an_image_is_interpolated_and_its_channels_are_mixed() -> None:
    stems, common = image_stems("cnn", {"a": stream(1, 2, 2), "b": stream(2, 4, 2)})
    assert common == (2, 4, 2)
    image = torch.tensor([[1.0, 2.0], [5.0, 10.0]])[None, None]
    # the centres of the four new rows lie at -1/4, 1/4, 3/4 and 5/4 of the old ones; beyond the border its value holds
    rows = torch.stack([image[0, 0, 0].lerp(image[0, 0, 1], share) for share in (0, 0.25, 0.75, 1)])
    weight, bias = stems["a"].mix.weight.flatten(), stems["a"].mix.bias
    expected = torch.stack([weight[channel] * rows + bias[channel] for channel in range(2)])
    torch.testing.assert_close(stems["a"]({"image": image})[0], expected)


@encoders
@pytest.mark.parametrize("fields", [{}, {"numeric": (3,)}, {"image": (1, 8, 8), "numeric": (2,)}])
def test_what_is_no_image_is_refused_by_the_encoders_name(name: str, fields: Mapping[str, tuple[int, ...]]) -> None:
    for streams in ({"a": StreamSpec(fields)}, {"b": stream(1, 8, 8), "a": StreamSpec(fields)}):
        with pytest.raises(UserError, match=f"encoder={name} reads one image.*gives {', '.join(fields) or 'none'}"):
            SMALL[name](streams)


# ---- ResNet -------------------------------------------------------------------------------------------------------

GROUPS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def torchvision_shapes(depth: int, channels: int = 3, width: int = 64) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the state dict of ``torchvision.models.resnet<depth>``, compared with torchvision 0.28."""
    found: dict[str, tuple[int, ...]] = {}

    def layer(convolution: str, norm: str, outputs: int, inputs: int, size: int) -> None:
        found[f"{convolution}.weight"] = (outputs, inputs, size, size)
        found.update({f"{norm}.{name}": (outputs,) for name in ("weight", "bias", "running_mean", "running_var")})
        found[f"{norm}.num_batches_tracked"] = ()

    layer("conv1", "bn1", width, channels, 7)
    inputs = width
    for group, blocks in enumerate(GROUPS[depth]):
        size = width * 2**group
        sizes = [(size, 1), (size, 3), (4 * size, 1)] if depth == 50 else [(size, 3), (size, 3)]
        for block in range(blocks):
            before = inputs
            for number, (outputs, kernel) in enumerate(sizes, 1):
                place = f"layer{group + 1}.{block}"
                layer(f"{place}.conv{number}", f"{place}.bn{number}", outputs, before, kernel)
                before = outputs
            if block == 0 and (group or depth == 50):
                layer(f"{place}.downsample.0", f"{place}.downsample.1", before, inputs, 1)
            inputs = before
    return found | {"fc.weight": (1000, inputs), "fc.bias": (1000,)}


def torchvision_state(depth: int, **sizes: int) -> State:
    """Random weights, as a file of torchvision's has them."""
    draws, state = torch.Generator().manual_seed(depth), {}
    for name, shape in torchvision_shapes(depth, **sizes).items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif len(shape) == 1:
            state[name] = torch.rand(shape, generator=draws) + 0.5
        else:
            state[name] = torch.randn(shape, generator=draws) * (2 / (shape[0] * torch.Size(shape[2:]).numel())) ** 0.5
    return state


def plain_resnet(state: State, x: Tensor, stem: str) -> Tensor:
    """The network in evaluation mode as functions of the weights, by torchvision's names."""

    def layer(x: Tensor, convolution: str, norm: str, stride: int = 1) -> Tensor:
        weight = state[f"{convolution}.weight"]
        x = functional.conv2d(x, weight, stride=stride, padding=(weight.shape[-1] - 1) // 2)
        mean, var, gain, bias = (state[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        return (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * gain[:, None, None] + bias[:, None, None]

    x = layer(x, "conv1", "bn1", 2 if stem == "imagenet" else 1).relu()
    if stem == "imagenet":
        x = functional.max_pool2d(x, 3, 2, 1)
    for place in dict.fromkeys(re.findall(r"layer\d\.\d+", " ".join(state))):
        stride = 2 if place.endswith(".0") and place[5] != "1" else 1
        convolutions = [number for number in (1, 2, 3) if f"{place}.conv{number}.weight" in state]
        y = x
        for number in convolutions:
            wide = state[f"{place}.conv{number}.weight"].shape[-1] == 3
            first = number == next(n for n in convolutions if state[f"{place}.conv{n}.weight"].shape[-1] == 3)
            y = layer(y, f"{place}.conv{number}", f"{place}.bn{number}", stride if wide and first else 1)
            y = y if number == convolutions[-1] else y.relu()
        down = f"{place}.downsample"
        x = (y + (layer(x, f"{down}.0", f"{down}.1", stride) if f"{down}.0.weight" in state else x)).relu()
    return x.mean((2, 3))


def by_torchvisions_names(encoder: ResNet) -> State:
    return {torchvision_name(name): value for name, value in encoder.state_dict().items()}


@pytest.mark.parametrize(("depth", "published"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)])
def test_a_resnet_has_torchvisions_weights_by_name_shape_and_number(depth: Any, published: int) -> None:
    with torch.device("meta"):
        encoder = ResNet({"input": stream(3, 32, 32)}, depth=depth, stem="imagenet")
    shapes = {name: tuple(value.shape) for name, value in by_torchvisions_names(encoder).items()}
    expected = torchvision_shapes(depth)
    last = [expected.pop(name) for name in ("fc.weight", "fc.bias")]
    assert shapes == expected
    assert encoder.features.shape == (last[0][1],)
    assert sum(value.numel() for value in encoder.parameters()) + sum(torch.Size(shape).numel() for shape in last) == published


@pytest.mark.parametrize("depth", GROUPS)
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_a_resnet_is_the_layers_that_the_paper_says(depth: Any, stem: Any) -> None:
    encoder = randomised(ResNet({"input": stream(2, 21, 32)}, depth=depth, stem=stem, width=4)).double().eval()
    x = images(2, 21, 32)["image"].double()
    torch.testing.assert_close(encoder("input", {"image": x}), plain_resnet(by_torchvisions_names(encoder), x, stem))
    sizes = [(21, 32), (21, 32), (11, 16), (6, 8)] if stem == "cifar" else [(6, 8), (6, 8), (3, 4), (2, 2)]
    wide = 4 if depth == 50 else 1
    channels = [4, 4 * wide, 8 * wide, 16 * wide]
    assert encoder.float().shapes()[1:] == [(c, *size) for c, size in zip(channels, sizes, strict=True)] + [(32 * wide,)]


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 8, 8), (1, 1, 9), (2, 33, 5)])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_a_resnet_takes_an_image_of_any_size_and_every_weight_learns(shape: tuple[int, int, int], stem: Any) -> None:
    encoder = ResNet({"input": stream(*shape)}, width=2, stem=stem).train()
    encoder("input", images(*shape, rows=6)).square().sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in encoder.parameters())


def test_a_resnet_starts_with_variance_2_by_the_outgoing_connections() -> None:
    torch.manual_seed(0)
    encoder = ResNet({"input": stream(3, 8, 8)}, depth=50, width=32)
    for name, value in encoder.state_dict().items():
        if value.dim() == 4:
            expected = 2 / (len(value) * value.shape[2] * value.shape[3])
            assert float(value.var()) == pytest.approx(expected, rel=6 * (2 / value.numel()) ** 0.5), name
        elif name.endswith("weight"):
            assert torch.equal(value, torch.ones_like(value))


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_resnet_starts_from_torchvisions_file(ending: str, tmp_path: Path) -> None:
    state, path = torchvision_state(18, width=8), str(tmp_path / f"weights.{ending}")
    save_file(state, path) if ending == "safetensors" else torch.save(state, path)
    encoder = ResNet({"input": stream(3, 32, 32), "grey": stream(1, 9, 9)}, stem="imagenet", width=8, weights=path).eval()
    x = images(3, 32, 32)
    torch.testing.assert_close(encoder("input", x), plain_resnet(state, x["image"], "imagenet"))
    assert all(value.requires_grad for value in encoder.parameters())
    assert int(encoder.state_dict()["stages.0.1.num_batches_tracked"]) == 7


def test_a_grey_image_gives_with_such_weights_what_three_copies_of_it_give(tmp_path: Path) -> None:
    state, path = torchvision_state(18, width=8), str(tmp_path / "weights.pt")
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}  # as before torch 0.4.1
    torch.save(old, path)
    encoder = ResNet({"input": stream(1, 32, 32)}, stem="imagenet", width=8, weights=path).eval()
    x = images(1, 32, 32)
    expected = plain_resnet(state, x["image"].expand(-1, 3, -1, -1), "imagenet")
    torch.testing.assert_close(encoder("input", x), expected, rtol=1e-4, atol=1e-4)


def without(state: State, name: str) -> State:
    return {key: value for key, value in state.items() if key != name}


BROKEN: dict[str, tuple[Callable[[State], object], dict[str, Any], str]] = {
    "other stem": (lambda state: state, {"stem": "cifar"}, r"conv1\.weight has shape \[8, 3, 7, 7\], expected \[8, 3, 3, 3\]$"),
    "other depth": (lambda state: state, {"depth": 34}, r"depth=34.*: layer1\.2\.conv1\.weight is missing \(and \d+ more\)"),
    "other width": (lambda state: state, {"width": 4}, r"width=4: conv1\.weight has shape \[8, 3, 7, 7\].*more"),
    "missing": (lambda state: without(state, "layer3.1.bn2.bias"), {}, r"layer3\.1\.bn2\.bias is missing$"),
    "unexpected": (lambda state: {**state, "head.bias": torch.zeros(2)}, {}, r": head\.bias is not expected$"),
    "wrapped": (lambda state: {"model": without(state, "fc.bias"), "epoch": 3}, {}, "not a state dict"),
    "no mapping": (lambda state: list(state.values()), {}, "not a state dict"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_does_not_fit_is_refused_in_a_line(case: str, tmp_path: Path) -> None:
    change, options, said = BROKEN[case]
    path = tmp_path / "weights.pt"
    torch.save(change(torchvision_state(18, width=8)), path)
    with pytest.raises(UserError, match=f"(?s)^encoder.weights={re.escape(str(path))}.*{said}") as refused:
        ResNet({"input": stream(3, 32, 32)}, **({"stem": "imagenet", "width": 8} | options), weights=str(path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_file_that_is_not_there_or_not_readable_is_refused(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{ending}"
    with pytest.raises(UserError, match="there is no such file"):
        ResNet({"input": stream(3, 8, 8)}, weights=str(path))
    path.write_bytes(b"not weights")
    with pytest.raises(UserError, match="not a readable file of weights"):
        ResNet({"input": stream(3, 8, 8)}, weights=str(path))


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm.txt"),)


@pytest.mark.parametrize("write", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state))])
@pytest.mark.filterwarnings("error")
def test_code_in_a_file_of_weights_is_neither_run_nor_recommended(
    write: Callable[[object, Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write({"conv1.weight": Harmful()}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"tensors alone, and no code in a file is run$"):
        ResNet({"input": stream(3, 8, 8)}, weights="weights.pt")
    assert not Path("harm.txt").exists()


# ---- U-Net --------------------------------------------------------------------------------------------------------


def plain_unet(encoder: UNet, x: Tensor, depth: int) -> Tensor:
    """The network with its skips in a list, and not in the stages' tensors."""
    height, width = x.shape[2:]
    low, left = -height % 2**depth, -width % 2**depth
    x = functional.pad(x, (left // 2, (left + 1) // 2, low // 2, (low + 1) // 2))
    first, *others = encoder.stages
    x, skips = first[1](x), []
    for stage in others[:depth]:
        skips.append(x)
        x = stage.layers(functional.max_pool2d(x, 2))
    for stage in others[depth:]:
        stage = stage if hasattr(stage, "up") else stage[0]
        x = stage.layers(torch.cat([skips.pop(), stage.up(x)], 1))
    assert not skips
    return x[:, :, low // 2 : low // 2 + height, left // 2 : left // 2 + width]


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize(("shape", "depth"), [((2, 8, 16), 3), ((1, 13, 9), 2), ((3, 5, 4), 1), ((1, 1, 1), 1), ((1, 7, 40), 4)])
def test_a_unet_with_the_skips_in_its_tensors_is_the_unet(norm: Any, shape: tuple[int, int, int], depth: int) -> None:
    encoder = randomised(UNet({"input": stream(*shape)}, channels=3, depth=depth, norm=norm)).double().train()
    x = {"image": images(*shape)["image"].double().requires_grad_()}
    out, expected = encoder("input", x), plain_unet(encoder, x["image"], depth)
    assert out.shape == (3, *encoder.features.shape) == (3, 3, *shape[1:])
    torch.testing.assert_close(out, expected)
    wanted = [x["image"], *encoder.parameters()]
    weights = torch.randn(out.shape, dtype=torch.float64)
    for one, other in zip(torch.autograd.grad(out, wanted, weights), torch.autograd.grad(expected, wanted, weights), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["cnn", "resnet", "unet"])
def test_no_image_gives_no_features(name: str) -> None:
    """Evaluation comes to the end of a shorter stream before it comes to that of a longer one."""
    encoder = {"cnn": CNN, "resnet": ResNet, "unet": UNet}[name]({"input": stream(1, 6, 6)}).eval()
    assert encoder("input", {"image": torch.zeros(0, 1, 6, 6)}).shape == (0, *encoder.features.shape)


def test_a_unets_stages_have_the_channels_that_its_description_says() -> None:
    encoder = UNet({"input": stream(1, 16, 32)}, channels=3, depth=3)
    down = [(2**k * 3 + 2 ** (k + 1) * (2**k - 1) * 3, 16 // 2**k, 32 // 2**k) for k in range(4)]
    assert encoder.shapes() == [(1, 16, 32), *down, *reversed(down[:3])]


def test_a_unet_of_the_papers_size_has_the_layers_of_its_figure() -> None:
    """Figure 1: 64, 128, 256, 512 and 1024 channels, 3 × 3 convolutions and 2 × 2 up-convolutions."""
    with torch.device("meta"):
        encoder = UNet({"input": stream(1, 16, 16)}, channels=64, depth=4, norm="none")
    convolutions = [tuple(m.weight.shape) for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    down = [(64, 1), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (512, 256), (512, 512), (1024, 512), (1024, 1024)]
    up = [(512, 1024), (512, 512), (256, 512), (256, 256), (128, 256), (128, 128), (64, 128), (64, 64)]
    assert convolutions == [(*each, 3, 3) for each in down + up]
    raised = [tuple(m.weight.shape) for m in encoder.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert raised == [(1024, 512, 2, 2), (512, 256, 2, 2), (256, 128, 2, 2), (128, 64, 2, 2)]


def test_a_unet_starts_with_variance_2_by_the_inputs_of_a_unit() -> None:
    torch.manual_seed(0)
    encoder = UNet({"input": stream(2, 8, 8)}, channels=16, depth=2, norm="none")
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            # of a transposed convolution whose stride is its size, one place of the kernel reaches each output
            inputs = module.weight[0].numel() if isinstance(module, nn.Conv2d) else module.in_channels
            slack = 6 * (2 / module.weight.numel()) ** 0.5
            assert float(module.weight.detach().var()) == pytest.approx(2 / inputs, rel=slack)
            assert not module.bias.any()


def test_with_group_or_no_normalisation_an_image_does_not_see_the_others_of_its_batch() -> None:
    for norm in ("group", "none"):
        encoder = UNet({"input": stream(1, 9, 8)}, channels=2, depth=2, norm=norm).train()  # type: ignore[arg-type]
        whole, part = encoder("input", images(1, 9, 8)), encoder("input", {"image": images(1, 9, 8)["image"][:2]})
        torch.testing.assert_close(whole[:2], part)


@pytest.mark.parametrize(("shape", "most"), [((1, 8, 8), 3), ((1, 5, 9), 4)])
def test_a_depth_that_leaves_less_than_a_pixel_is_refused(shape: tuple[int, int, int], most: int) -> None:
    UNet({"input": stream(*shape)}, channels=1, depth=most)
    with pytest.raises(UserError, match=rf"^encoder.depth={most + 1}: images of .* halved {most} times at most$"):
        UNet({"input": stream(*shape)}, channels=1, depth=most + 1)
