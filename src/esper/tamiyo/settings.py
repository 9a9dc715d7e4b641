"""The settings of the plateau policy, checked when they are made. They are recorded in RunStarted, never read from anywhere here."""

from typing import Annotated

from pydantic import Field

from esper.events.fields import Count, Finite, Part, Positive
from esper.events.kinds.epoch import KEPT_LOSSES

_Share = Annotated[Finite, Field(gt=0, le=1)]


class PolicySettings(Part):
    """Settings of the plateau policy; the defaults were measured on digits and mnist1d.

    The limits of the gate are not here: a policy sees those in force as `SystemState.gate`.
    """

    window: Annotated[int, Field(ge=3, le=KEPT_LOSSES)] = 5
    """The last validation losses that are compared with all before them, 3 to 32: a line is fitted through them, and so many are kept."""

    tolerance: Annotated[Finite, Field(gt=0, lt=1)] = 0.15
    """A plateau: the best loss of the window is less than this share better than the best before it. Between 0 and 1, both excluded."""

    noise: _Share = 0.005
    """The least standard deviation that a loss is believed to have around its trend, as a share of it."""

    wish: Annotated[Finite, Field(ge=0, le=1)] = 0.5
    """A germination is wished for from this confidence on, also where the gate will refuse it. 0 to 1."""

    train_epochs: Positive = 3
    """Epochs that a seed learns in isolation before it may be grafted."""

    graft_epochs: Positive = 3
    """Epochs over which alpha goes from 0 to 1."""

    stabilize_epochs: Positive = 1
    """Epochs that the host settles with the seed frozen."""

    evaluate_epochs: Positive = 1
    """Epochs before a grafted seed's worth is judged."""

    fine_tune_epochs: Positive = 10
    """Epochs that a kept seed trains with the host before it is part of it for good."""

    patience: Positive = 3
    """A stage that has lasted this many times its planned epochs ends: the seed is removed."""

    race: Positive = 3
    """Blueprints that are tried at once at one site."""

    max_germinations: Count | None = None
    """Races a run may start; None: as many as the limits allow."""

    alphas: Annotated[tuple[_Share, ...], Field(min_length=1)] = (0.25, 0.5, 1.0)
    """The alphas of a shadow validation, each above 0 and at most 1. Whoever measures reads them; the policy sees what was best."""

    least_pairs: Annotated[int, Field(ge=2)] = 8
    """With fewer pairs of losses than this there is no confidence in a difference."""

    needed_z: Annotated[Finite, Field(ge=0, le=100)] = 1.6
    """A grafted seed whose gain is below this many standard errors is not shown to be needed (one-sided 5 %)."""

    worse: Annotated[Finite, Field(ge=0)] = 0.05
    """A seed that is not shown to be needed goes when the loss is more than this share above that before its graft."""

    @property
    def cycle(self) -> int:
        """Epochs from the first of isolated training to the end of the evaluation."""
        return self.train_epochs + self.settling

    @property
    def settling(self) -> int:
        """Epochs from a graft to the end of the evaluation."""
        return self.graft_epochs + self.stabilize_epochs + self.evaluate_epochs
