"""The first phase: scales of one block at a time, fitted to what the float block makes of its input."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from qexp.methods.base import Batch, Report, untold
from qexp.methods.quadapter.settings import Settings
from qexp.models import qat
from qexp.models.blocks import BlockCall, advance, block_paths, first_inputs, run_block
from qexp.models.sites import AdaptedModel

Bounded = Callable[[], None]


def fit_blocks(
    model: AdaptedModel,
    batches: Sequence[Batch],
    parameters: Sequence[Sequence[Tensor]],
    settings: Settings,
    report: Report = untold,
) -> list[tuple[float, float]]:
    """Fit ``parameters[layer]`` of every block, in forward order; the blocks' mean squared errors before and after.

    The float stream always is the target; ``settings.input`` says what the quantized block reads. One block's inputs
    and targets are kept at a time, and the cost is linear in blocks. No parameters leave a block as it is.
    """
    with qat.floating(model):
        floats = first_inputs(model.module, model, batches)
    stream = floats if settings.input == "float" else first_inputs(model.module, model, batches)
    errors = []
    for layer, path in enumerate(block_paths(model)):
        block = model.module.get_submodule(path)
        with qat.floating(model):
            targets = _outputs(block, floats)
        errors.append(_fit(block, stream, targets, parameters[layer], settings))
        if stream is not floats:
            advance(block, stream)
        for call, target in zip(floats, targets, strict=True):
            call.hidden = target
        report(layer + 1, len(parameters))
    return errors


@torch.no_grad()
def _outputs(block: nn.Module, calls: Sequence[BlockCall]) -> list[Tensor]:
    return [run_block(block, call, call.hidden) for call in calls]


def _fit(
    block: nn.Module,
    calls: Sequence[BlockCall],
    targets: Sequence[Tensor],
    chosen: Sequence[Tensor],
    settings: Settings,
) -> tuple[float, float]:
    """Adam on one batch a step; of all passes over the batches the best parameters are kept, the first included."""
    first = best = _error(block, calls, targets)
    if not chosen:
        return first, first
    kept = [parameter.detach().clone() for parameter in chosen]
    optimizer = torch.optim.Adam(list(chosen), lr=settings.learning_rate)
    for step in range(settings.steps):
        index = step % len(calls)
        output = run_block(block, calls[index], calls[index].hidden)
        gradients = torch.autograd.grad((output - targets[index]).square().mean(), list(chosen))
        for parameter, gradient in zip(chosen, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        if index == len(calls) - 1 or step == settings.steps - 1:
            error = _error(block, calls, targets)
            if error < best:
                best, kept = error, [parameter.detach().clone() for parameter in chosen]
    with torch.no_grad():
        for parameter, value in zip(chosen, kept, strict=True):
            parameter.copy_(value)
            parameter.grad = None
    return first, best


def _error(block: nn.Module, calls: Sequence[BlockCall], targets: Sequence[Tensor]) -> float:
    found = _outputs(block, calls)
    squares = [(one - other).square().mean() for one, other in zip(found, targets, strict=True)]
    return float(torch.stack(squares).mean())
