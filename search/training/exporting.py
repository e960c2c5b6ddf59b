"""A trained model as a program that needs PyTorch alone, by torch.export."""

from pathlib import Path

import torch
from torch import Tensor, nn


def write_program(model: nn.Module, example: Tensor, path: Path) -> None:
    """Write a model in evaluation mode for any number of inputs like those of `example` [batch, ...]."""
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    torch.export.save(torch.export.export(model, (example,), dynamic_shapes=shapes), path)
