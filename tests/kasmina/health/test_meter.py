"""What a host measures of its sites and seeds, against the same taken by hand from a whole forward and backward."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esper.events.kinds.control import Command
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.telemetry import HealthColumns
from esper.kasmina.health.meter import Health
from esper.kasmina.host import Host
from tests.kasmina.health.test_formulas import as_rows, slow_correlation, slow_dead_ratio, slow_effective_rank, slow_pressure, slow_variance
from tests.kasmina.training import LR, Loop, batch, branch_of, conv_model, host_of, into, into_training, linear_model

HOST_MODELS = {"linear": ("0", linear_model), "conv": ("3", conv_model)}


def measured_step(host: Host, kind: str, *, step: int = 0, scale: float = 1.0, parts: int = 1) -> None:
    host.begin_step(epoch=1, step=step, measure=True)
    for part in range(parts):
        x, t = batch(kind, 100 * step + part)
        (scale * nn.functional.cross_entropy(host.model(x), t) / parts).backward()
    host.end_step(lr=LR, scale=scale)


def columns_of(host: Host) -> HealthColumns:
    sample = host.measure_health()
    assert sample is not None
    return sample.columns({})


def by_hand(model: nn.Sequential, site: str, kind: str, after: str) -> tuple[Tensor, Tensor, Tensor]:
    """(output, gradient at the output per sample, activation) of the site in a whole forward and backward."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> None:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], y: Tensor) -> None:
            kept[name] = y.detach().clone()
            if name == site:
                y.register_hook(lambda gradient: kept.__setitem__("gradient", gradient * len(gradient)))

        model.get_submodule(name).register_forward_hook(hook)

    keep(site)
    keep(after)
    x, t = batch(kind, 0)
    nn.functional.cross_entropy(model(x), t).backward()
    return kept[site], kept["gradient"], kept[after]


@pytest.mark.parametrize(("kind", "site", "after"), [("linear", "0", "2"), ("linear", "4", "5"), ("conv", "3", "5"), ("conv", "0", "1")])
def test_a_sites_health_is_what_its_output_and_gradient_say(kind: str, site: str, after: str) -> None:
    model = HOST_MODELS[kind][1]()
    for module in model:
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    y, g, a = by_hand(HOST_MODELS[kind][1]().apply(no_dropout), site, kind, after)
    host = host_of(model, sites=site)
    measured_step(host, kind)
    columns, health = columns_of(host), host.epoch_health()[site, None]
    assert columns.site == (site,)
    assert [columns.seed, columns.stage, columns.alpha, columns.ready] == [(None,)] * 4
    whole = {
        "activation_variance": slow_variance(as_rows(y)),
        "gradient_variance": slow_variance(as_rows(g)),
        "dead_neuron_ratio": slow_dead_ratio(as_rows(a)),
        "avg_correlation": slow_correlation(as_rows(y)),
    }
    tolerance = 1e-3 if y[..., 0].numel() * (y.dim() == 4) <= 256 else 0.2
    for name, value in whole.items():
        assert getattr(columns, name)[0] == pytest.approx(value, rel=tolerance, abs=0.02 if tolerance > 0.01 else 1e-6)
        assert np.float32(getattr(health, name)) == np.float32(getattr(columns, name)[0])
    assert health.gradient_pressure == pytest.approx(slow_pressure(g), rel=1e-4)
    assert health.effective_rank == pytest.approx(slow_effective_rank(as_rows(y)), rel=tolerance)
    assert columns.health_score[0] is not None


def no_dropout(module: nn.Module) -> None:
    if isinstance(module, nn.Dropout | nn.Dropout2d):
        module.p = 0.0


@pytest.mark.parametrize("options", [{"scale": 1024.0}, {"parts": 2}], ids=["loss scale", "accumulation"])
def test_gradients_are_per_sample_whatever_the_loss_is_multiplied_by(options: dict[str, float]) -> None:
    plain, other = (host_of(linear_model().apply(no_dropout), sites="4") for _ in range(2))
    for host in (plain, other):
        host.model.eval()
        host.model.get_submodule("4").train()
    measured_step(plain, "linear")
    measured_step(other, "linear", **options)  # type: ignore[arg-type] # Options of measured_step.
    one, two = plain.epoch_health()["4", None], other.epoch_health()["4", None]
    assert two.gradient_pressure == pytest.approx(one.gradient_pressure, rel=0.5 if "parts" in options else 1e-5)
    assert two.gradient_variance == pytest.approx(one.gradient_variance, rel=0.8 if "parts" in options else 1e-5)


class Functional(nn.Module):
    """A model that calls its activation as a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.site, self.head, self.function = nn.Linear(20, 12), nn.Linear(12, 4), function
        with torch.no_grad():
            self.site.bias[:3] = -100.0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.function(self.site(x)))}


@pytest.mark.parametrize("function", [torch.relu, nn.functional.gelu, nn.functional.silu, torch.sigmoid, torch.relu_])
def test_an_activation_called_as_a_function_is_found(function: Callable[[Tensor], Tensor]) -> None:
    host = host_of(Functional(function), sites="site")
    for step in range(2):
        host.begin_step(epoch=1, step=step, measure=True)
        host.model(batch("linear", 0)[0])["logits"].square().sum().backward()
        host.end_step(lr=LR)
        assert columns_of(host).dead_neuron_ratio == (0.25,)


def test_a_dead_ratio_without_a_known_activation_is_not_measured() -> None:
    host = host_of(Functional(torch.sin), sites="site")
    host.begin_step(epoch=1, step=0, measure=True)
    host.model(batch("linear", 0)[0])["logits"].square().sum().backward()
    host.end_step(lr=LR)
    columns = columns_of(host)
    assert (columns.dead_neuron_ratio, columns.units) == ((None,), (None,))
    assert columns.activation_variance[0] is not None


def test_a_function_behind_a_normalisation_module_is_not_taken_for_the_sites() -> None:
    norm = nn.BatchNorm1d(12)
    model = Functional(lambda y: torch.relu(norm(y)))
    model.norm = norm
    host = host_of(model, sites="site")
    host.begin_step(epoch=1, step=0, measure=True)
    host.model(batch("linear", 0)[0])["logits"].square().sum().backward()
    host.end_step(lr=LR)
    assert columns_of(host).dead_neuron_ratio == (None,)


class SharedActivation(nn.Module):
    """One activation module after two sites, as residual blocks have it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.head, self.act = nn.Linear(20, 12), nn.Linear(12, 8), nn.Linear(8, 4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.act(self.b(self.act(self.a(x)))))
        assert isinstance(y, Tensor)
        return y


def test_one_activation_module_serves_many_sites() -> None:
    model = SharedActivation()
    with torch.no_grad():
        model.a.bias[:3] = -100.0
        model.b.bias[:1] = -100.0
    host = host_of(model)
    measured_step(host, "linear")
    columns = columns_of(host)
    assert columns.dead_neuron_ratio == (0.25, 0.125)
    assert columns.units == (12, 8)


@pytest.mark.parametrize("commands", [(), (Command.GRAFT,)], ids=["training", "grafting"])
def test_a_seeds_health_stands_beside_its_site(commands: tuple[Command, ...]) -> None:
    host = host_of(linear_model(), sites="0")
    into(host, "0", 1, "mlp:24", *commands)
    host.state()[0]["0/1/last.weight"].normal_(generator=torch.Generator().manual_seed(0))
    host.state()[0]["0/1/features.0.bias"][:6] = -100.0
    x, _ = batch("linear", 0)
    with torch.no_grad():
        hidden, delta = branch_of(host.model.get_submodule("0"), 1).body(x)
    measured_step(host, "linear")
    sample = host.measure_health()
    assert sample is not None
    columns = sample.columns({("0", 1): True})
    assert (columns.site, columns.seed) == (("0", "0"), (None, 1))
    assert columns.stage == (None, Stage.GRAFTING if commands else Stage.TRAINING)
    assert columns.alpha == (None, 1.0 if commands else 0.0)
    assert columns.ready == (None, True)
    assert columns.activation_variance[1] == pytest.approx(slow_variance(as_rows(delta)), rel=1e-4)
    assert columns.dead_neuron_ratio[1] == pytest.approx(slow_dead_ratio(as_rows(hidden)))
    assert columns.dead_neuron_ratio[1] == 0.25
    assert columns.units[1] == hidden.shape[1]
    assert columns.avg_correlation[1] == pytest.approx(slow_correlation(as_rows(hidden)), rel=1e-3)
    assert columns.gradient_variance[1] is not None
    assert columns.gradient_variance[1] > 0
    assert columns.latency_ms[1] is not None


def test_a_frozen_seed_that_no_gradient_passes_has_none_measured() -> None:
    host = host_of(linear_model(), sites="0")
    into(host, "0", 0, "mlp:24", Command.GRAFT, Command.STABILIZE)
    measured_step(host, "linear")
    columns = columns_of(host)
    assert columns.gradient_variance[1] is None
    assert columns.activation_variance[1] is not None


def test_seeds_that_wait_are_in_the_rows_with_nothing_measured() -> None:
    host = host_of(linear_model(), sites="0")
    host.germinate("0", 0, life=1, blueprint="mlp:24", lr=LR)
    measured_step(host, "linear")
    columns = columns_of(host)
    assert columns.stage == (None, Stage.GERMINATED)
    assert columns.activation_variance[1] is columns.alpha[1] is columns.health_score[1] is None


def test_errors_are_counted_since_the_last_measurement() -> None:
    host = host_of(linear_model(), sites="0")
    into_training(host, "0", 0, "mlp:24")
    host.state()[0]["0/0/last.bias"].fill_(float("nan"))
    errors, recovering, scores = [], [], []
    for step in range(3):
        measured_step(host, "linear", step=step)
        columns = columns_of(host)
        errors.append(columns.errors[1])
        recovering.append(columns.recovering[1])
        scores.append(columns.health_score[1])
    assert (errors, recovering, scores) == ([1, 0, 0], [True, True, True], [0.0, 0.0, 0.0])
    assert host.seeds["0", 0].errors == 1


def test_an_error_that_was_told_is_not_told_again_after_a_restore() -> None:
    host = host_of(linear_model(), sites="0")
    into_training(host, "0", 0, "mlp:24")
    host.state()[0]["0/0/last.bias"].fill_(float("nan"))
    measured_step(host, "linear", step=1)
    assert columns_of(host).errors[1] == 1
    tensors, state = host.state()
    host.restore({name: tensor.clone() for name, tensor in tensors.items()}, state)
    measured_step(host, "linear", step=2)
    assert columns_of(host).errors[1] == 0


def test_a_measurement_is_given_once() -> None:
    host = host_of(linear_model())
    assert host.measure_health() is None
    measured_step(host, "linear")
    assert host.measure_health() is not None
    assert host.measure_health() is None


def test_an_epochs_health_is_its_own() -> None:
    host = host_of(linear_model(), sites="0")
    measured_step(host, "linear")
    assert host.epoch_health()["0", None] != Health()
    assert host.epoch_health() == {}


def test_gradient_pressure_is_the_mean_over_the_epochs_measurements() -> None:
    host = host_of(linear_model().apply(no_dropout), sites="4")
    each = []
    for step in range(3):
        measured_step(host, "linear", step=step)
        each.append(host.epoch_health()["4", None].gradient_pressure)
    for step in range(3):
        measured_step(host, "linear", step=step)
    assert host.epoch_health()["4", None].gradient_pressure == pytest.approx(np.mean(np.array(each, dtype=float)), rel=1e-5)


def test_a_skipped_step_has_no_gradients_to_measure() -> None:
    host = host_of(linear_model(), sites="0")
    host.begin_step(epoch=1, step=0, measure=True)
    (host.model(batch("linear", 0)[0]).sum() * float("inf")).backward()
    host.end_step(lr=LR, stepped=False)
    health = host.epoch_health()["0", None]
    assert health.gradient_variance is health.gradient_pressure is None
    assert health.activation_variance is not None


def test_a_site_that_was_not_called_has_nothing_measured() -> None:
    model = nn.ModuleDict({"used": nn.Linear(20, 12), "unused": nn.Linear(20, 12), "head": nn.Linear(12, 4)})
    host = host_of(model, sites="*used")
    host.begin_step(epoch=1, step=0, measure=True)
    model["used"](batch("linear", 0)[0]).sum().backward()
    host.end_step(lr=LR)
    health = host.epoch_health()
    assert health["unused", None] == Health()
    assert health["used", None].activation_variance is not None


def test_measuring_does_not_change_the_hosts_path() -> None:
    def path(every: int) -> list[str]:
        model = linear_model()
        return Loop("linear", model, host_of(model), measure_every=every).run(0, 6)

    assert path(1) == path(100)
