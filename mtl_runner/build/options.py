"""Typed options and the device."""

import os

import torch

from mtl_runner.build.words import Node
from mtl_runner.config import TrainerConfig
from mtl_runner.config.schema import EarlyStopping
from mtl_runner.errors import UserError


def trainer_options(node: Node) -> TrainerConfig:
    """The checked ``trainer`` node, typed."""
    return TrainerConfig(**{**node, "early_stopping": EarlyStopping(**node["early_stopping"])})


def set_up_torch(options: TrainerConfig) -> None:
    """What holds for the whole process: threads, and whether operations have to be deterministic."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if options.deterministic != torch.are_deterministic_algorithms_enabled():  # the call imports torch's compiler: seconds
        torch.use_deterministic_algorithms(options.deterministic)


def make_device(name: str) -> torch.device:
    """The device: ``auto`` takes CUDA, then Apple's, then the CPU.

    Raises:
        UserError: it is not there, or there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"trainer.device={name}: {str(error).splitlines()[0]}; allowed are auto, cpu, cuda, cuda:N, mps"
        ) from error
    return device
