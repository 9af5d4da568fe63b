"""Trained weights from a file on this machine."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file
from torch import Tensor

from mtl_runner.errors import UserError


def read_state(path: str, key: str) -> dict[str, Tensor]:
    """The tensors of a file by name: safetensors if its name ends so, else a state dict of torch; runs no code from it.

    Args:
        path: of the file; ``~`` is the home folder.
        key: of the configuration, for messages.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"{key}={path}: there is no such file")
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the pickle's protocol
                state = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # torch's own message advises to run what is in the file
        said = "not a readable file of weights: it is no state dict of tensors alone, and no code in a file is run"
        raise UserError(f"{key}={path}: {said}") from error
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{key}={path}: not a readable file of weights ({type(error).__name__}: {reason})") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{key}={path}: not a state dict, which has a tensor for each name")
    return dict(state)


def fill(own: Mapping[str, Tensor], state: Mapping[str, Tensor], place: str) -> None:
    """Copy ``state`` into the tensors of a network, which have the same names.

    A count of batches that is not there, as in files from before torch 0.4.1, stays 0; it is not used.

    Args:
        own: parameters and buffers of the network by name.
        state: what they are to become.
        place: the key and its value, for messages.

    Raises:
        UserError: a name is missing or too many, or a shape is another one; nothing is copied then.
    """
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    extra = [name for name in state if name not in own]
    other = [name for name in own if name in state and own[name].shape != state[name].shape]
    found = [f"{name} has shape {list(state[name].shape)}, expected {list(own[name].shape)}" for name in other[:1]]
    found += [f"{name} is missing" for name in missing[:1]] + [f"{name} is not expected" for name in extra[:1]]
    if found:
        count = len(missing) + len(extra) + len(other) - len(found)
        raise UserError(f"{place}: {'; '.join(found)}{f' (and {count} more)' if count else ''}")
    with torch.no_grad():
        for name in own.keys() & state.keys():
            own[name].copy_(state[name])
