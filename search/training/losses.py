"""What a model is trained and scored by: the loss of each example, and for training its derivative by the logits.

Cross-entropy's derivative is written down and takes shares of classes too, which mixup and label smoothing need; that
of every other loss comes from autograd.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.training.kernels.compiled import compiled_for

Loss = Callable[[Tensor, Tensor], Tensor]
"""Losses [n] of logits [n, classes] whose classes are [n], int64."""

CROSS_ENTROPY: Loss = partial(F.cross_entropy, reduction="none")

LOSSES: Mapping[str, Loss] = {
    "cross_entropy": CROSS_ENTROPY,
    "multi_margin": partial(F.multi_margin_loss, reduction="none"),
}


def on_device(loss: Loss, device: torch.device | str) -> Loss:
    """Return a user's loss with what it holds, such as weights of classes, on a device."""
    return copy.deepcopy(loss).to(device) if isinstance(loss, nn.Module) else loss


def loss_gradients(loss: Loss, logits: Tensor, targets: Tensor) -> Tensor:
    """Return the derivative of each slot's mean loss by its logits, in their type.

    Shapes: logits [slots, batch, classes]; targets are classes [slots, batch], or for cross-entropy also shares of them
    [slots, batch, classes]. For a single slot all are without the first dimension.
    """
    if loss is CROSS_ENTROPY:
        return cross_entropy_gradients(logits, targets)
    flat = logits.detach().flatten(0, -2)
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32)).requires_grad_()
    (gradients,) = torch.autograd.grad(loss(flat, targets.flatten()).sum() / logits.shape[-2], flat)
    return gradients.to(logits.dtype).view_as(logits)


def cross_entropy_gradients(logits: Tensor, targets: Tensor) -> Tensor:
    """Return softmax minus targets; see `loss_gradients`.

    Written down, since nobody asks for the loss itself in training, and finding this from it takes four times as long.
    """
    shares = targets.dim() == logits.dim()
    kernels = None if shares else compiled_for(logits)
    if kernels is not None:
        return kernels.loss_gradients(logits.detach(), targets)
    flat = logits.detach().flatten(0, -2)
    gradients = flat.softmax(1, dtype=torch.promote_types(flat.dtype, torch.float32))
    if shares:
        gradients -= targets.flatten(0, -2)
    else:
        gradients.scatter_add_(1, targets.view(-1, 1), gradients.new_full((1, 1), -1.0).expand(len(flat), 1))
    return (gradients / logits.shape[-2]).to(logits.dtype).view_as(logits)
