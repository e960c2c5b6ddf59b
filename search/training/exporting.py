"""A trained model as a program that needs PyTorch alone, by torch.export."""

from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor, nn

from search.places import replace_file


def write_program(model: nn.Module, example: Tensor, path: Path) -> None:
    """Write a model in evaluation mode for any number of inputs like those of `example` [batch, ...]."""
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    program = BytesIO()
    torch.export.save(torch.export.export(model, (example,), dynamic_shapes=shapes), program)
    replace_file(path, program.getvalue())
