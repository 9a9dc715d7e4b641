"""Learning of seeds: the isolated step in TRAINING, and the step in the task graph, each with its own optimizer and clip.

**Isolation.** A seed in TRAINING learns from its site's captures, after the host's own step: `autograd.grad` on detached tensors, in
float32, within `forked`: host parameters, buffers, optimizer state and random state go exactly where they would have gone without it.
**Objective: local.** Regress t = -g * std(y) / rms(g), g = dL/dy, on the layer's input: the direction in which the output should move, at
the output's own size. Not the raw gradient (its size is about 1/batch), not the straight-through estimator (alpha 1 after 12 isolated
epochs multiplied the loss by 13.5), not self-reconstruction (no gain): measured.
**Accumulation.** Each micro-batch has its own target; their gradients are averaged and the seed steps once per step of the host, so that
accumulating changes neither the number of its steps nor what its learning rate means.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esper.kasmina.branch import Branch
from esper.kasmina.site_layer import Capture
from esper.kasmina.slots import Slot


@dataclass(frozen=True, slots=True)
class _Target:
    """Training example of one micro-batch at a site: the detached input and the descent direction at the output's size."""

    x: Tensor
    t: Tensor


def targets_of(captures: list[Capture], dtype: torch.dtype) -> tuple[list[_Target], int]:
    """(targets, micro-batches skipped): one whose gradient is non-finite or zero, or whose input was changed in place, teaches nothing."""
    targets = []
    for capture in captures:
        if capture.x is None or capture.spread is None or capture.gradient is None:
            continue
        gradient = capture.gradient.float()
        scale = capture.spread / gradient.square().mean().sqrt()
        # The CPU waits for the device here, once a micro-batch: whether to skip decides what the optimizer does.
        if capture.x._version == capture.version and bool(torch.isfinite(scale)):
            targets.append(_Target(capture.x.to(dtype), (gradient * -scale).to(dtype)))
    return targets, len(captures) - len(targets)


def isolated_step(slot: Slot, targets: list[_Target], clip: float | None) -> None:
    """Step of a seed in TRAINING on its local objective; a non-finite loss or gradient disables it instead.

    To be called within `forked`: a body may draw random numbers.
    """
    assert slot.branch is not None
    parameters = slot.parameters
    device = parameters[0].device.type
    with torch.enable_grad(), torch.autocast(device, enabled=False):
        losses = [_local_loss(slot.branch, target) for target in targets]
        loss = torch.stack(losses).mean()
        gradients = torch.autograd.grad(loss, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    _step(slot, parameters, clip, loss.detach())


def _local_loss(branch: Branch, target: _Target) -> Tensor:
    delta = branch.body(target.x)[1]
    return nn.functional.mse_loss(delta, target.t.reshape(delta.shape))


def task_step(slot: Slot, clip: float | None, scale: float) -> None:
    """Step of a seed in the task graph on the gradients of the host's backward pass; `scale` is the factor of the loss."""
    parameters = [parameter for parameter in slot.parameters if parameter.grad is not None]
    if not parameters:
        return
    if scale != 1.0:
        torch._foreach_mul_([parameter.grad for parameter in parameters if parameter.grad is not None], 1.0 / scale)
    _step(slot, parameters, clip, torch.zeros((), device=parameters[0].device))


def _step(slot: Slot, parameters: list[nn.Parameter], clip: float | None, loss: Tensor) -> None:
    """Clips by the seed's own norm and steps its own optimizer, unless something is not finite. The CPU waits for the device here."""
    assert slot.optimizer is not None
    norm = nn.utils.clip_grad_norm_(parameters, float("inf") if clip is None else clip)
    if bool(torch.isfinite(norm + loss)):
        slot.optimizer.step()
    else:
        slot.fail()
    slot.clear_gradients()
