"""What adopting a layer changes, which is nothing, and what a capture hears."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from esper.errors import RuleError
from esper.events.kinds.control import Command
from esper.kasmina.host import Host
from esper.kasmina.site_layer import HostSite
from tests.kasmina.training import MODELS, Loop, batch, branch_of, conv_model, host_of, into, into_training, linear_model, site_of

GRAFTED = (Command.GRAFT, Command.STABILIZE)


def listening(model: nn.Module, site: str) -> tuple[Host, HostSite]:
    host = host_of(model, sites=site)
    into_training(host, site, 0, "lowrank:8")
    host.begin_step(epoch=1, step=1)
    return host, site_of(model.get_submodule(site))


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_an_adopted_model_looks_and_computes_as_before(kind: str) -> None:
    plain, grown = MODELS[kind](), MODELS[kind]()
    host = host_of(grown)
    assert host.sites
    assert list(plain.state_dict()) == list(grown.state_dict())
    assert [type(module).__qualname__ for module in grown.modules()] == [type(module).__qualname__ for module in plain.modules()]
    assert all(isinstance(new, type(old)) for new, old in zip(grown.modules(), plain.modules(), strict=True))
    assert repr(plain) == repr(grown)
    x, _ = batch(kind, 0)
    torch.manual_seed(0)
    expected = plain(x)
    torch.manual_seed(0)
    assert torch.equal(grown(x), expected)


def test_a_deep_copy_is_independent_and_computes_the_same() -> None:
    model = linear_model().eval()
    host = host_of(model)
    into(host, "0", 0, "mlp:24", *GRAFTED)
    host.state()[0]["0/0/last.bias"].fill_(1.0)
    x, _ = batch("linear", 0)
    twin = copy.deepcopy(model)
    expected = model(x)
    assert torch.equal(twin(x), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    branch_of(twin[0], 0).set_alpha(0.5)
    assert torch.equal(model(x), expected)


def test_a_copy_taken_in_training_hears_nothing() -> None:
    model = linear_model()
    host, growth = listening(model, "0")
    twin = copy.deepcopy(model)
    twin(batch("linear", 0)[0]).sum().backward()
    assert growth.captures == []
    assert site_of(twin[0]).captures == []
    host.end_step(lr=1e-3)


def test_pickling_a_host_says_what_to_pickle_instead() -> None:
    model = linear_model()
    host_of(model)
    with pytest.raises(RuleError, match=r"export_plain"):
        pickle.dumps(model)


def test_the_gradient_before_an_activation_in_place_is_the_outputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 12), nn.ReLU(inplace=True), nn.Linear(12, 4))
    _, growth = listening(model, "0")
    x, _ = batch("linear", 0)
    model(x).square().sum().backward()
    y = nn.Linear.forward(model.get_submodule("0"), x).detach().requires_grad_()  # type: ignore[arg-type] # It is a Linear.
    expected = torch.autograd.grad(model[2](torch.relu(y)).square().sum(), y)[0]
    capture = growth.captures[0]
    assert capture.gradient is not None
    assert capture.spread is not None
    torch.testing.assert_close(capture.gradient, expected)
    torch.testing.assert_close(capture.spread, y.detach().std())


def test_evaluation_leaves_nothing_behind() -> None:
    model = linear_model()
    _, growth = listening(model, "0")
    model.eval()
    model(batch("linear", 0)[0]).sum().backward()
    with torch.no_grad():
        model.train()(batch("linear", 0)[0])
    assert growth.captures == []


def test_a_forward_between_steps_leaves_nothing_behind() -> None:
    model = linear_model()
    host, growth = listening(model, "0")
    host.end_step(lr=1e-3)
    model(batch("linear", 0)[0]).sum().backward()
    assert growth.captures == []


def twice() -> nn.Sequential:
    """A model that calls its layer twice."""
    shared = nn.Linear(20, 20)
    return nn.Sequential(shared, nn.ReLU(), shared)


def test_a_site_that_one_loss_goes_through_twice_is_frozen_once_and_training_goes_on() -> None:
    model = twice()
    host, growth = listening(model, "0")
    for _ in range(2):
        model(batch("linear", 0)[0]).sum().backward()
        host.end_step(lr=1e-3)
        host.begin_step(epoch=1, step=2, measure=True)
    assert host.frozen == {"0": "one pass called it twice"}
    assert (host.take_frozen(), host.take_frozen()) == (host.frozen, {})
    assert (growth.captures, host.affordable("0")) == ([], ())


def test_a_site_called_twice_is_frozen_at_the_first_measured_step() -> None:
    model = twice()
    host = host_of(model, sites="0")
    host.begin_step(epoch=1, step=1, measure=True)
    model(batch("linear", 0)[0]).sum().backward()
    host.end_step(lr=1e-3)
    assert list(host.frozen) == ["0"]


def test_a_site_stays_frozen_when_the_host_is_restored_and_is_told_once() -> None:
    model, other = twice(), host_of(twice(), sites="0")
    host = host_of(model, sites="0")
    before = host.state()
    host.begin_step(epoch=1, step=1, measure=True)
    model(batch("linear", 0)[0]).sum().backward()
    host.end_step(lr=1e-3)
    host.take_frozen()
    other.restore(*host.state())
    host.restore(*before)
    assert list(host.frozen) == list(other.frozen) == ["0"]
    assert (host.take_frozen(), other.take_frozen()) == ({}, {})


def test_a_discarded_forward_is_not_a_second_call() -> None:
    model = linear_model()
    host, growth = listening(model, "0")
    model(batch("linear", 0)[0])
    model(batch("linear", 0)[0]).sum().backward()
    host.end_step(lr=1e-3)
    assert growth.captures == []


def test_a_frozen_site_before_a_new_head_has_a_gradient_to_learn_from_and_the_head_takes_the_same_steps() -> None:
    def trained(frozen: nn.Sequential, *, grow: bool) -> list[torch.Tensor]:
        frozen[0].requires_grad_(False).eval()
        host, growth = listening(frozen, "0") if grow else (None, None)
        x, _ = batch("linear", 0)
        frozen(x).square().sum().backward()
        if host is not None and growth is not None:
            assert [capture.gradient is not None for capture in growth.captures] == [True]
        return [parameter.grad for parameter in frozen.parameters() if parameter.grad is not None]

    alone, beside = trained(linear_model(), grow=False), trained(linear_model(), grow=True)
    assert len(alone) == len(beside) > 0
    for one, other in zip(alone, beside, strict=True):
        assert torch.equal(one, other)


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(20, 12), nn.GELU(), nn.Linear(12, 4))
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = checkpoint(self.inner, x.requires_grad_(), use_reentrant=self.reentrant)
        assert isinstance(y, torch.Tensor)
        return y


def test_a_recomputation_is_neither_counted_nor_measured() -> None:
    model = Checkpointed(reentrant=False)
    host, growth = listening(model, "inner.0")
    model(batch("linear", 0)[0]).square().sum().backward()
    assert len(growth.captures) == 1
    assert growth.captures[0].gradient is not None
    host.end_step(lr=1e-3)
    assert host.seeds["inner.0", 0].skipped == 0


def test_a_site_in_reentrant_checkpointing_is_frozen() -> None:
    model = Checkpointed(reentrant=True)
    host, _ = listening(model, "inner.0")
    model(batch("linear", 0)[0]).sum().backward()
    host.end_step(lr=1e-3)
    assert host.frozen == {"inner.0": "it is called in a backward pass (checkpointing with use_reentrant=True)"}


@pytest.mark.whole
@pytest.mark.parametrize("make", [linear_model, conv_model])
def test_a_compiled_model_computes_the_same(make: type[nn.Module]) -> None:
    kind = "linear" if make is linear_model else "conv"
    model = make().eval()
    host = host_of(model)
    into(host, "0", 0, "lowrank:8", *GRAFTED)
    host.state()[0]["0/0/last.bias"].fill_(1.0)
    x, _ = batch(kind, 0)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(torch.compile(model, backend="eager")(x), expected)
    torch.compiler.reset()


@pytest.mark.whole
def test_a_compiled_model_teaches_its_seeds() -> None:
    model = linear_model()
    host = host_of(model)
    into_training(host, "0", 0, "mlp:24")
    loop = Loop("linear", model, host, measure_every=1000)
    loop.model = torch.compile(model, backend="eager")  # type: ignore[assignment] # It keeps the module's interface.
    loop.run(1, 4)
    assert bool(host.state()[0]["0/0/last.weight"].any())
    torch.compiler.reset()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_bodies_follow_the_model_to_another_dtype_and_mode(dtype: torch.dtype) -> None:
    model = linear_model()
    host = host_of(model)
    into_training(host, "0", 0, "mlp:24")
    model.to(dtype)
    model.eval()
    branch = branch_of(model[0], 0)
    assert {parameter.dtype for parameter in branch.parameters()} == {dtype}
    assert not branch.training
    assert model.train()[0].training
    assert branch.training


class Explicit(nn.Module):
    """Calls its layers one by one: a loop over modules is not compiled at all where it breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(20, 12), nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.head(torch.relu(self.b(torch.relu(self.a(2 * x)))))
        assert isinstance(y, torch.Tensor)
        return y


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # The compiler looks at it at any break.
def test_a_compiled_model_breaks_once_per_site() -> None:
    from torch._dynamo.testing import CompileCounter  # A third of a second, for this test alone.

    model, graphs = Explicit(), CompileCounter()
    assert len(host_of(model).sites) == 2
    torch.compile(model, backend=graphs)(batch("linear", 0)[0])
    assert graphs.frame_count == 3
    torch.compiler.reset()
