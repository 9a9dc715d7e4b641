"""The findings of the checks of a training's wiring, in words: how bad it is, what usually causes it, and what to look at first."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from esper.events.kinds.wiring_findings import WiringCheck, WiringFound

_MOST_PLACES = 16
_MOST_SHOWN = 4


class Explanation(NamedTuple):
    """A check: its severity, what it finds in a few words, what usually causes that, and what to look at first."""

    severity: Literal["critical", "warning", "info"]
    finds: str
    causes: str
    look_at: str


class Finding(NamedTuple):
    """A finding of a check: what was measured, in which modules or parameters, in which parameter groups."""

    check: WiringCheck
    measured: str
    places: Sequence[str] = ()
    groups: Sequence[int] = ()


EXPLANATIONS: Mapping[WiringCheck, Explanation] = {
    "learning-rate-zero": Explanation(
        "warning",
        "a learning rate is 0 and no schedule raises it",
        "a setting that was left at 0, a schedule that has come to its end, a parameter group that was made to be filled in later",
        "the learning rate of each parameter group; what is meant not to learn is frozen by requires_grad_(False)",
    ),
    "learning-rate-absurd": Explanation(
        "critical",
        "the loss explodes in the first steps",
        "a learning rate that is far too high, a loss that is summed where it should be averaged, inputs or targets that are not scaled",
        "the learning rate: try a hundredth of it; then the size of inputs, targets and loss",
    ),
    "loss-upside-down": Explanation(
        "critical",
        "the loss is lower for wrong predictions than for right ones",
        "a minus sign too many or too few, a score that should be high given as a loss",
        "the sign of the loss: call it with a right and with a wrong prediction",
    ),
    "steps-too-small": Explanation(
        "warning",
        "all planned steps together cannot change the weights",
        "a learning rate that is far too small, gradients that are clipped to next to nothing, a loss that is divided twice",
        "the learning rate, and clip= beside the gradient norm of the first steps",
    ),
    "decay-too-strong": Explanation(
        "warning",
        "the weight decay is stronger than the gradient",
        "a weight decay that was meant for another optimizer or learning rate, or multiplied twice",
        "weight_decay of the optimizer's parameter groups",
    ),
    "not-in-optimizer": Explanation(
        "warning",
        "parameters get a gradient, and no optimizer changes them",
        "the optimizer was made before a layer was added, replaced, copied or untied; or of a part of the model alone",
        "which parameters the optimizer was made of; what is meant not to learn is frozen by requires_grad_(False)",
    ),
    "nothing-changes": Explanation(
        "warning",
        "no parameter changes",
        "optimizer steps that are skipped, a learning rate of 0, a model that computes with a copy of its weights, a loss that does not "
        "depend on them",
        "whether optimizer.step does anything, then which parameters get a gradient",
    ),
    "layer-unchanged": Explanation(
        "info",
        "a layer gets a gradient and is in the optimizer, and does not change",
        "updates that are smaller than the parameters' number format can hold (bfloat16, float16), a hook that undoes them",
        "the type of its parameters: float32 with autocast instead of a model in half precision",
    ),
    "updates-lost": Explanation(
        "warning",
        "most numbers of the parameters no longer change, though the learning rate is above 0",
        "updates that are smaller than the parameters' number format can hold (bfloat16, float16), gradients that underflow to 0 in half "
        "precision",
        "the type of the parameters and the size of their updates: float32 weights with autocast, a gradient scaler",
    ),
    "weights-faded": Explanation(
        "warning",
        "the weights of a layer have shrunk to next to nothing",
        "a weight decay that is too strong, weights that are overwritten or multiplied, a part that has grown beside the layer and takes "
        "its place",
        "weight_decay of its parameter group, and what else writes to the weights",
    ),
    "weights-equal": Explanation(
        "warning",
        "all weights of several layers begin with the same number: their units stay equal",
        "an initialisation that was forgotten, or that fills with a constant",
        "the initialisation of the weights: random numbers",
    ),
    "layer-without-gradient": Explanation(
        "warning",
        "a layer is called and gets no gradient, or only zeros",
        "a .detach(), .item(), .data or numpy between the layer and the loss; units that are all dead; a branch that is multiplied by 0",
        "what stands between the layer's output and the loss",
    ),
    "layer-unused": Explanation(
        "info",
        "a layer that could learn takes no part in training",
        "a layer that forward does not call, or calls under no_grad; a head for another task",
        "forward; what is meant not to learn is frozen by requires_grad_(False)",
    ),
    "gradients-kept": Explanation(
        "warning",
        "gradients are still there after they were set to zero: they add up",
        "an optimizer or a wrapper whose zero_grad does nothing, a hook that puts gradients back",
        "optimizer.zero_grad, and who else writes .grad; accumulate= is the way to several batches a step",
    ),
    "normalisation-on-eval": Explanation(
        "warning",
        "a normalisation trains in eval mode with statistics that it never measured",
        "a train() of one's own that does not reach its parts, .eval() in forward",
        "train() of the module and of those above it",
    ),
    "dropout-on-eval": Explanation(
        "info",
        "a dropout is off while its layers train",
        "a train() of one's own that does not reach its parts, .eval() in forward",
        "train() of the module and of those above it",
    ),
    "dropout-in-validation": Explanation(
        "warning",
        "dropout is on while validation is measured",
        "F.dropout without training=self.training, a module whose eval() does not reach its parts",
        "the dropout that forward calls; Monte Carlo dropout is meant so: then switch this rule off",
    ),
    "layer-dead": Explanation(
        "warning",
        "a layer's output is zero, all or nearly all of it, for every sample",
        "biases that begin far below zero, weights or inputs that are far too large, a dropout that leaves next to nothing",
        "the layer before it: its bias, its initialisation, the size of its inputs",
    ),
    "layer-saturated": Explanation(
        "warning",
        "a layer's units stand at the ends of their activation, where it is flat",
        "weights that begin too large, inputs that are not scaled",
        "the size of the layer's inputs and weights",
    ),
    "output-saturated": Explanation(
        "warning",
        "outputs stand at the ends of 0..1 or -1..1, where the activation is flat, and are no better than guessing",
        "weights that begin too large, inputs that are not scaled, a sigmoid or tanh that the loss does not expect",
        "the last activation, and the size of what goes into it",
    ),
    "output-constant": Explanation(
        "warning",
        "the prediction is the same for every sample",
        "dead or saturated layers, a weight decay that is too strong, inputs that do not reach the output",
        "the layers' outputs from the first on: where do samples stop to differ",
    ),
    "output-clipped": Explanation(
        "warning",
        "outputs are cut off at 0, and the loss needs numbers below 0",
        "an activation after the last layer",
        "the model's last line: a ReLU does not belong there",
    ),
    "probabilities-as-logits": Explanation(
        "warning",
        "the loss takes logits and is given probabilities",
        "a softmax in the model and another one in the loss",
        "the model's last line: cross entropy takes what stands before the softmax",
    ),
    "targets-not-paired": Explanation(
        "warning",
        "the loss is the same whichever target belongs to which sample",
        "outputs of shape (N, 1) against targets of shape (N), which compares each with all; a mean that is taken too early",
        "the shapes of output and target in the loss; a loss that compares sets is meant so: then switch this rule off",
    ),
    "targets-ignored": Explanation(
        "info",
        "the loss takes no notice of most targets",
        "a mask or an ignore_index over most places, padding that is counted in the mean",
        "the mask, and what the loss's mean divides by; a hinge or epsilon-insensitive loss takes no notice of what is predicted well "
        "enough, and is meant so",
    ),
    "targets-constant": Explanation(
        "warning",
        "every target is the same",
        "labels that were read from the wrong column, a default that was never replaced",
        "a few targets of the training data",
    ),
    "starts-far-off": Explanation(
        "warning",
        "the first loss is many times that of guessing",
        "weights that begin too large, inputs that are not scaled, logits that are multiplied",
        "the initialisation of the weights, and the size of inputs",
    ),
    "guessing": Explanation(
        "info",
        "after the first epoch the loss is that of the best constant output",
        "targets that do not belong to their inputs, a wrong learning rate, a model that is too small; or it just takes longer",
        "a few samples with their targets, as the model gets them; then whether the model can learn ten of them by heart",
    ),
    "still-guessing": Explanation(
        "warning",
        "after several epochs neither training nor validation is better than the best constant output",
        "targets that do not belong to their inputs, a wrong learning rate or decay, weights that begin alike, a model that is too small",
        "a few samples with their targets, as the model gets them; then whether the model can learn ten of them by heart",
    ),
    "input-constant": Explanation(
        "warning",
        "every input is the same, and the targets differ",
        "a transform that overwrites its input, a mask over everything, a loader that reads one file",
        "a batch as the model gets it",
    ),
    "inputs-differ": Explanation(
        "warning",
        "training and validation inputs are of different size",
        "a normalisation or a transform that one of the two has and the other has not",
        "the transforms of both data sets",
    ),
    "splits-overlap": Explanation(
        "info",
        "samples of the validation data are in the training data",
        "one data set that was given for both, a split after samples were doubled, a split by row of what belongs together",
        "how the data were split; what validation says is too good",
    ),
    "target-among-inputs": Explanation(
        "info",
        "one input gives the target away",
        "a column that was made from the target, or is known only after it",
        "this input: is it known when the model is asked",
    ),
}
"""Every check by name."""


def event_of(finding: Finding) -> WiringFound:
    """The event that says what was found."""
    check = EXPLANATIONS[finding.check]
    return WiringFound(
        check=finding.check,
        severity=check.severity,
        places=tuple(finding.places[:_MOST_PLACES]),
        groups=tuple(finding.groups),
        measured=finding.measured,
        causes=check.causes,
        look_at=check.look_at,
    )


def in_words(event: WiringFound) -> str:
    """The finding in one line: what, where, what was measured, what to look at first."""
    where = ", ".join(event.places[:_MOST_SHOWN]) + (", ..." if len(event.places) > _MOST_SHOWN else "")
    return f"{EXPLANATIONS[event.check].finds}{f' ({where})' if where else ''}: {event.measured}; look at {event.look_at}"
