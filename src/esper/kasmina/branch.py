"""A seed's module: a body beside a layer, its alpha, and the guard that keeps a non-finite value of its own away from the host.

For the body, a Linear's leading dimensions are flattened into the batch.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esper.kasmina.blueprints import Layer
from esper.kasmina.health.formulas import sample


@dataclass(slots=True, eq=False)
class Trace:
    """Samples of a body's last pass: hidden units, delta, the gradient at the delta times its samples, and how long the pass took."""

    hidden: Tensor | None = None
    delta: Tensor | None = None
    gradient: Tensor | None = None
    samples: int = 0
    latency_ms: float | None = None

    def record(self, hidden: Tensor, delta: Tensor) -> None:
        """Keeps samples of a pass, of its gradient once there is one."""
        self.hidden, self.delta = (sample(values.detach(), channels_first=True) for values in (hidden, delta))
        self.samples, self.gradient = delta.shape[0], None
        if delta.requires_grad:
            delta.register_hook(self._on_gradient)

    def _on_gradient(self, gradient: Tensor) -> None:
        self.gradient = sample(gradient.detach(), channels_first=True)


class Branch(nn.Module):
    """`alpha * last(features(x))`, to be added to a layer's output. `strength` mirrors the 0-dim buffer alpha without asking a device."""

    alpha: Tensor

    def __init__(self, features: nn.Sequential, last: Layer) -> None:
        super().__init__()
        self.features, self.last = features, last
        self.register_buffer("alpha", torch.zeros(()))
        self.strength = 0.0
        self._all_finite: Tensor | None = None
        self.trace: Trace | None = None

    def set_alpha(self, alpha: float) -> None:
        """Sets alpha and its mirror, rounded as alpha is, so that a checkpoint's alpha gives the same mirror."""
        self.strength = float(torch.tensor(alpha, dtype=self.alpha.dtype))
        self.alpha.fill_(alpha)

    def body(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(last hidden features, delta) for the layer's input; both with a Linear's leading dimensions flattened into one."""
        entry = x.reshape(-1, x.shape[-1]) if isinstance(self.last, nn.Linear) else x
        started = time.perf_counter()
        hidden = self.features(entry)
        delta: Tensor = self.last(hidden)
        if self.trace is not None:
            # On CUDA a clock here would time the launch of kernels, not their work: absent is better than wrong.
            self.trace.latency_ms = 1e3 * (time.perf_counter() - started) if entry.device.type == "cpu" else None
            self.trace.record(hidden, delta)
        return hidden, delta

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """`y` plus this branch. A non-finite delta counts as zero, and so does a non-finite gradient that would flow back through it.

        Masks, not conditions: no device is waited for here. Whether all was finite is kept for `Host.end_step`.
        """
        learns = torch.is_grad_enabled() and x.requires_grad
        entry = x.view_as(x) if learns else x
        delta = self.body(entry)[1]
        all_finite = torch.isfinite(delta.detach()).all()
        self._note(all_finite)
        if learns:
            self._guard(entry, delta, all_finite)
        return y + self.alpha * torch.where(all_finite, delta, torch.zeros_like(delta)).reshape(y.shape)

    def _note(self, all_finite: Tensor) -> None:
        """Adds a 0-dim bool to the result of the next `take_all_finite`."""
        self._all_finite = all_finite if self._all_finite is None else self._all_finite & all_finite

    def take_all_finite(self) -> bool:
        """False if the branch made a non-finite value since the last call. The CPU waits for the device here."""
        all_finite, self._all_finite = self._all_finite, None
        return all_finite is None or bool(all_finite)

    def _guard(self, entry: Tensor, delta: Tensor, all_finite: Tensor) -> None:
        """Stops a non-finite gradient before it leaves the branch; it is this branch's fault only if what came in was finite."""
        incoming: list[Tensor] = []

        def keep(gradient: Tensor) -> Tensor:
            healthy = torch.isfinite(gradient).all()
            self._note(healthy | ~incoming[0])
            return torch.where(all_finite & healthy, gradient, torch.zeros_like(gradient))

        delta.register_hook(lambda gradient: incoming.append(torch.isfinite(gradient).all()))
        entry.register_hook(keep)
