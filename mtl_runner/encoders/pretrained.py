"""A language model from a local folder in the format of Hugging Face, through ``transformers``, an optional dependency."""

import copy
import importlib
import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from mtl_runner.batch import Fields
from mtl_runner.encoders import pooling
from mtl_runner.encoders.attention import visible
from mtl_runner.encoders.base import Dropout, Encoder, FeatureSpec, StreamSpecs
from mtl_runner.encoders.pooling import Pooled
from mtl_runner.encoders.tokens import only_field, token_mask
from mtl_runner.errors import UserError, choices

FAMILIES = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
"""``model_type`` of the models whose layers take (x, mask) and nothing else; others compute biases or states beside."""
POSITIONS_AFTER_PADDING = ("camembert", "roberta", "xlm-roberta")
"""Those that count positions from the index of padding on."""


class Pretrained(Encoder):
    """The embeddings of a pretrained Transformer are the stem, each of its layers is a stage; the last one ends in the pooling.

    For models of the BERT family (bert, roberta, xlm-roberta, camembert, distilbert, electra) in a folder that
    ``save_pretrained`` wrote: ``config.json`` and weights as safetensors. Pickled weights are refused, as they can carry
    code; code in the folder is never run, and nothing is downloaded. The folder has to stay where it is for as long as the
    run is used: the network is made from it, then takes the run's weights. Devlin et al., "BERT: Pre-training of deep
    bidirectional Transformers", NAACL 2019; Liu et al., "RoBERTa", 2019; Sanh et al., "DistilBERT", 2019; Clark et al.,
    "ELECTRA", ICLR 2020.

    ``tokens`` are indices of the model's own tokenizer, with 0 for padding. Where padding has another index p in the
    model, 0 and p change places. Several streams start from the same embeddings and train a copy each.

    Dropout acts where the model has it, with the probability ``dropout`` in place of the model's own, but not on the
    attention's weights, which would be drawn from the global generator. The model's pooling layer and heads are left out.

    Args:
        streams: the input streams; each has ``tokens``.
        path: the folder.
        trainable_layers: number of layers, from the last one down, that are trained; null trains everything, the embeddings
            included, 0 nothing.
        pool: mean (over all positions that are there) or cls (the first position, where such a model has [CLS] or <s>).
        dropout: probability of setting an entry to zero in training; layers that are not trained drop nothing.
    """

    needs = ("tokens",)

    def __init__(
        self,
        streams: StreamSpecs,
        *,
        path: str,
        trainable_layers: Annotated[int, Ge(0)] | None = None,
        pool: Literal["mean", "cls"] = "mean",
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.1,
    ) -> None:
        super().__init__(streams)
        only_field(streams, self.needs, "pretrained")
        model = load(path)
        layers = model.transformer.layer if hasattr(model, "transformer") else model.encoder.layer
        _check_fit(streams, model.config, path)
        stem = EmbeddingStem(model)
        self.stems = nn.ModuleDict({name: copy.deepcopy(stem) for name in streams})
        self.stages = nn.ModuleList(Layer(layer) for layer in layers)
        self.stages[-1] = Pooled(self.stages[-1], pooling.mean if pool == "mean" else pooling.first)
        self.features = FeatureSpec((model.config.hidden_size,))
        _own_dropout(self, dropout)
        _freeze(self, trainable_layers)

    def mask(self, fields: Fields) -> Tensor | None:
        return token_mask(fields)


class EmbeddingStem(nn.Module):
    """The model's embeddings of the tokens, [N, L, width]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.embeddings = model.embeddings
        self.project = getattr(model, "embeddings_project", nn.Identity())
        self.padding = model.config.pad_token_id or 0

    def forward(self, fields: Fields) -> Tensor:
        tokens = fields["tokens"]
        if self.padding:
            swapped = torch.where(tokens == self.padding, 0, tokens)
            tokens = torch.where(tokens == 0, self.padding, swapped)
        return self.project(self.embeddings(tokens))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """A layer of the model as a stage."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.layer(x, None if mask is None else visible(mask))  # type: ignore[no-any-return]


def load(path: str) -> Any:
    """The model in a folder, with 32-bit weights.

    Raises:
        UserError: ``transformers`` is not installed, or the folder does not hold such a model.
    """
    if importlib.util.find_spec("transformers") is None:
        raise UserError("encoder=pretrained needs transformers; install it with: pip install 'mtl-runner[transformers]'")
    folder = Path(path).expanduser()
    _check_folder(folder, path)
    transformers: Any = importlib.import_module("transformers")  # seconds, and its types would take mypy minutes
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    options |= {"dtype": torch.float32, "attn_implementation": "sdpa", "output_loading_info": True}
    try:
        with _quiet(transformers.logging):
            model, info = transformers.AutoModel.from_pretrained(str(folder), **options)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"encoder.path={path}: transformers cannot read it ({type(error).__name__}: {reason})") from error
    if missing := sorted(name for name in info["missing_keys"] if not name.startswith("pooler.")):
        raise UserError(f"encoder.path={path}: its weights lack {choices(missing, 3)}")
    return model


def _check_folder(folder: Path, path: str) -> None:
    place = f"encoder.path={path}:"
    if not (folder / "config.json").is_file():
        raise UserError(f"{place} no folder with a config.json, which save_pretrained of transformers writes beside the weights")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, decoder = config.get("model_type"), config.get("is_decoder")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{place} its config.json is not readable: {error}") from error
    if kind not in FAMILIES or decoder:
        raise UserError(f"{place} a model of type {kind}{' that decodes' if decoder else ''}; supported are {choices(FAMILIES)}")
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{place} it holds an adapter beside the model, whose weights may be pickled; merge it and save the model"
        )
    if not [*folder.glob("*.safetensors")]:
        reason = "pickled weights can carry code and are not read; AutoModel.from_pretrained(…).save_pretrained(…) writes others"
        raise UserError(f"{place} no *.safetensors in it\n{reason}")


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Without the report on weights that are left out, and without a bar."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _check_fit(streams: StreamSpecs, config: Any, path: str) -> None:
    most = config.max_position_embeddings
    if config.model_type in POSITIONS_AFTER_PADDING:
        most -= config.pad_token_id + 1
    for name, spec in streams.items():
        if spec.vocabulary > config.vocab_size:
            words = f"knows {config.vocab_size} tokens, and stream {name} has {spec.vocabulary}"
            raise UserError(f"encoder.path={path}: the model {words}; the data set needs the model's own tokenizer")
        if spec.fields["tokens"][0] > most:
            raise UserError(
                f"encoder.path={path}: the model reads {most} tokens at most, and stream {name} has {spec.fields['tokens'][0]}"
            )


def _own_dropout(encoder: nn.Module, p: float) -> None:
    """In place of torch's; on the attention's weights none."""
    for parent in list(encoder.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Dropout):
                setattr(parent, name, Dropout(0.0 if type(parent).__name__.endswith("SelfAttention") else p))


def _freeze(encoder: Pretrained, trainable: int | None) -> None:
    count = len(encoder.stages)
    if trainable is None:
        return
    if trainable > count:
        raise UserError(f"encoder.trainable_layers={trainable}: the model has {count} layers; null trains all and the embeddings")
    for part in (*encoder.stems.values(), *encoder.stages[: count - trainable]):
        part.requires_grad_(False)
