"""The pretrained encoder: what transformers itself gives for the same folder."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_runner.batch import StreamSpec
from mtl_runner.encoders.base import Dropout
from mtl_runner.encoders.pretrained import FAMILIES, Pretrained
from mtl_runner.errors import UserError
from mtl_runner.seeding import seeded

transformers = pytest.importorskip("transformers", reason="the optional extra 'transformers' is not installed")

SMALL = {"vocab_size": 30, "max_position_embeddings": 12, "pad_token_id": 0}
BERT = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 10}
CONFIGS = {
    "bert": ("BertConfig", SMALL | BERT),
    "camembert": ("CamembertConfig", SMALL | BERT | {"pad_token_id": 1}),
    "distilbert": ("DistilBertConfig", SMALL | {"dim": 8, "n_layers": 3, "n_heads": 2, "hidden_dim": 10}),
    "electra": ("ElectraConfig", SMALL | BERT | {"embedding_size": 6}),
    "roberta": ("RobertaConfig", SMALL | BERT | {"pad_token_id": 1}),
    "xlm-roberta": ("XLMRobertaConfig", SMALL | BERT | {"pad_token_id": 1}),
}
LENGTHS = (7, 3, 1, 5)
SPEC = StreamSpec({"tokens": (7,)}, vocabulary=30)


def tokens() -> Tensor:
    values = torch.randint(2, 30, (4, 7), generator=torch.Generator().manual_seed(0))
    for row, count in enumerate(LENGTHS):
        values[row, count:] = 0
    return values


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random model of each family, as a user would find it."""
    made = {}
    for family, (config, values) in CONFIGS.items():
        made[family] = tmp_path_factory.mktemp(family)
        with seeded(0, family):
            model = transformers.AutoModel.from_config(getattr(transformers, config)(**values))
            for parameter in model.parameters():  # no bias is zero and no scale one
                matrix = parameter.ndim > 1
                parameter.data = (0.0 if matrix else parameter.data) + (0.6 if matrix else 0.3) * torch.randn(parameter.shape)
        model.save_pretrained(made[family])
    return made


def encoder(folder: Path, **options: Any) -> Pretrained:
    with seeded(0, "encoder"):
        return Pretrained({"input": SPEC}, path=str(folder), **options)


def test_the_families_are_all_tested() -> None:
    assert set(CONFIGS) == set(FAMILIES)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_features_are_those_of_the_model(family: str, pool: Any, folders: dict[str, Path]) -> None:
    model = transformers.AutoModel.from_pretrained(folders[family], attn_implementation="eager").eval()
    padding = CONFIGS[family][1]["pad_token_id"]
    mask = tokens() != 0
    with torch.no_grad():
        hidden = model(tokens().where(mask, padding), attention_mask=mask.long()).last_hidden_state
        features = encoder(folders[family], pool=pool).eval()("input", {"tokens": tokens()})
    expected = hidden[:, 0] if pool == "cls" else (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(features, expected)
    assert features.std(0).min() > 0.01


def test_padding_changes_places_with_what_has_its_index(folders: dict[str, Path]) -> None:
    """RoBERTa's padding is 1, and its 0 is <s>: here 0 is padding, so 1 is <s>."""
    model = transformers.AutoModel.from_pretrained(folders["roberta"]).eval()
    values = tokens()
    values[:, 0] = 1
    theirs = torch.where(values == 0, 1, values)
    theirs[:, 0] = 0
    with torch.no_grad():
        hidden = model(theirs, attention_mask=(values != 0).long()).last_hidden_state
        features = encoder(folders["roberta"], pool="cls").eval()("input", {"tokens": values})
    torch.testing.assert_close(features, hidden[:, 0])


@pytest.mark.parametrize("family", CONFIGS)
def test_dropout_is_this_programs_own(family: str, folders: dict[str, Path]) -> None:
    network, quiet = encoder(folders[family], dropout=0.5).train(), encoder(folders[family], dropout=0.0).train()
    before = torch.get_rng_state()
    first, second = network("input", {"tokens": tokens()}), network("input", {"tokens": tokens()})
    assert torch.equal(torch.get_rng_state(), before) and not torch.equal(first, second)
    torch.testing.assert_close(quiet("input", {"tokens": tokens()}), network.eval()("input", {"tokens": tokens()}))
    assert sum(isinstance(module, Dropout) and module.p == 0.5 for module in network.modules()) >= 3
    assert not any(type(module) is torch.nn.Dropout for module in network.modules())


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("trainable", [None, 0, 1, 3])
def test_what_is_trained_is_what_was_asked_for(family: str, trainable: int | None, folders: dict[str, Path]) -> None:
    network = encoder(folders[family], trainable_layers=trainable).train()
    assert len(network.stages) == 3
    parts = [network.stems["input"], *network.stages]
    trained = [True] * 4 if trainable is None else [place > 3 - trainable for place in range(4)]
    for part, expected in zip(parts, trained, strict=True):
        assert {parameter.requires_grad for parameter in part.parameters()} == {expected}
        assert part.training == expected
    if trainable != 0:
        network("input", {"tokens": tokens()}).square().sum().backward()
        used = [value for value in network.parameters() if value.requires_grad]
        assert all(value.grad is not None and value.grad.isfinite().all() for value in used)


def test_streams_start_from_the_same_embeddings_and_have_their_own(folders: dict[str, Path]) -> None:
    network = Pretrained({"a": SPEC, "b": StreamSpec({"tokens": (4,)}, vocabulary=20)}, path=str(folders["bert"]))
    short = {"tokens": tokens()[:, :4]}
    network.eval()
    assert torch.equal(network("a", short), network("b", short))
    ours = [{id(parameter) for parameter in stem.parameters()} for stem in network.stems.values()]
    assert not ours[0] & ours[1]


def test_an_example_of_padding_alone_is_finite(folders: dict[str, Path]) -> None:
    for family in CONFIGS:
        network = encoder(folders[family]).eval()
        features = network("input", {"tokens": torch.zeros(2, 7, dtype=torch.long)})
        features.sum().backward()
        assert features.isfinite().all()
        assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_weights_of_a_model_with_a_head_are_taken_without_it(folders: dict[str, Path], tmp_path: Path, capfd: Any) -> None:
    config = transformers.BertConfig(**CONFIGS["bert"][1])
    model = transformers.BertForMaskedLM(config)
    model.half().save_pretrained(tmp_path)
    capfd.readouterr()
    network = encoder(tmp_path).eval()
    assert capfd.readouterr() == ("", "")
    weight = network.stems["input"].embeddings.word_embeddings.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, model.bert.embeddings.word_embeddings.weight.float())
    assert network.shapes() == [(7, 8), (7, 8), (7, 8), (8,)]


# ---- what is refused ----------------------------------------------------------------------------------------------


def refused(folder: Path, said: str, spec: StreamSpec = SPEC, **options: Any) -> None:
    with pytest.raises(UserError, match=said) as error:
        Pretrained({"input": spec}, path=str(folder), **options)
    assert len(str(error.value).splitlines()) <= 2


def copied(folder: Path, to: Path, **changes: Any) -> Path:
    shutil.copytree(folder, to, dirs_exist_ok=True)
    config = json.loads((to / "config.json").read_text()) | changes
    (to / "config.json").write_text(json.dumps(config))
    return to


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", r"encoder.path=.*nothing: no folder with a config.json")
    refused(tmp_path, "no folder with a config.json")


def test_a_folder_with_pickled_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["bert"], tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    refused(folder, "no \\*.safetensors in it\npickled weights can carry code")


def test_another_kind_of_model(folders: dict[str, Path], tmp_path: Path) -> None:
    refused(copied(folders["bert"], tmp_path / "a", model_type="gpt2"), "a model of type gpt2; supported are bert, camembert")
    refused(copied(folders["bert"], tmp_path / "b", is_decoder=True), "a model of type bert that decodes")
    (tmp_path / "b" / "config.json").write_text("[1")
    refused(tmp_path / "b", "config.json is not readable")


def test_weights_that_lack_something_or_have_another_shape(folders: dict[str, Path], tmp_path: Path) -> None:
    refused(copied(folders["bert"], tmp_path / "a", num_hidden_layers=4), "its weights lack encoder.layer.3")
    refused(copied(folders["bert"], tmp_path / "b", intermediate_size=11), "transformers cannot read it")
    (tmp_path / "b" / "model.safetensors").write_bytes(b"no weights")
    refused(tmp_path / "b", "transformers cannot read it")


def test_tokens_that_the_model_does_not_have(folders: dict[str, Path]) -> None:
    refused(folders["bert"], "knows 30 tokens, and stream input has 31", StreamSpec({"tokens": (7,)}, vocabulary=31))
    refused(folders["bert"], "reads 12 tokens at most", StreamSpec({"tokens": (13,)}, vocabulary=30))
    refused(folders["roberta"], "reads 10 tokens at most", StreamSpec({"tokens": (11,)}, vocabulary=30))
    refused(folders["bert"], "reads tokens alone, and the data set gives image", StreamSpec({"image": (1, 2, 2)}))
    refused(folders["bert"], "trainable_layers=4: the model has 3 layers", trainable_layers=4)
    longest = StreamSpec({"tokens": (10,)}, vocabulary=30)
    network = Pretrained({"input": longest}, path=str(folders["roberta"]))
    assert network("input", {"tokens": torch.full((1, 10), 5)}).isfinite().all()


def test_without_transformers_the_message_says_how_to_get_it(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(folders["bert"], r"pip install 'mtl-runner\[transformers\]'")


def test_transformers_is_imported_by_its_first_use_alone() -> None:
    import subprocess

    code = "import sys, mtl_runner.encoders.pretrained; print('transformers' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"
