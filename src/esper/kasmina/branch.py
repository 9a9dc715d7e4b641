"""A seed's module: a body beside a layer, its alpha, and the guard that keeps a non-finite value of its own away from the host.

Letters: B batch, I inputs, O outputs; a Linear's leading dimensions are flattened into B for the body.
"""

import torch
from torch import Tensor, nn

from esper.kasmina.blueprints import Built


class Branch(nn.Module):
    """`alpha * last(features(x))`, to be added to a layer's output. `strength` mirrors the 0-dim buffer alpha without asking a device."""

    alpha: Tensor

    def __init__(self, built: Built) -> None:
        super().__init__()
        self.features = built.features
        self.last = built.last
        self.register_buffer("alpha", torch.zeros(()))
        self.strength = 0.0
        self.fine: Tensor | None = None

    def set_alpha(self, alpha: float) -> None:
        """Sets alpha and its mirror."""
        self.strength = alpha
        self.alpha.fill_(alpha)

    def body(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(last hidden features, delta) for the layer's input; both with a Linear's leading dimensions flattened into one."""
        hidden = self.features(x.reshape(-1, x.shape[-1]) if isinstance(self.last, nn.Linear) else x)
        return hidden, self.last(hidden)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """`y` plus this branch. A non-finite delta counts as zero, and so does a non-finite gradient that would flow back through it.

        Masks, not conditions: no device is waited for here. Whether all was finite is kept in `fine` for `Host.end_step`.
        """
        learns = torch.is_grad_enabled() and x.requires_grad
        entry = x.view_as(x) if learns else x
        delta = self.body(entry)[1]
        fine = torch.isfinite(delta.detach()).all()
        self.note(fine)
        if learns:
            self._guard(entry, delta, fine)
        return y + self.alpha * torch.where(fine, delta, torch.zeros_like(delta)).reshape(y.shape)

    def note(self, fine: Tensor) -> None:
        """Adds a 0-dim bool to what is known since the last `take_fine`."""
        self.fine = fine if self.fine is None else self.fine & fine

    def take_fine(self) -> bool:
        """False if the branch made a non-finite value since it was last asked. The CPU waits for the device here."""
        fine, self.fine = self.fine, None
        return fine is None or bool(fine)

    def _guard(self, entry: Tensor, delta: Tensor, fine: Tensor) -> None:
        """Stops a non-finite gradient before it leaves the branch; it is this branch's fault only if what came in was finite."""
        incoming: list[Tensor] = []

        def keep(gradient: Tensor) -> Tensor:
            healthy = torch.isfinite(gradient).all()
            self.note(healthy | ~incoming[0])
            return torch.where(fine & healthy, gradient, torch.zeros_like(gradient))

        delta.register_hook(lambda gradient: incoming.append(torch.isfinite(gradient).all()))
        entry.register_hook(keep)
