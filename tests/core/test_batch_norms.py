"""What batch norms normalise by: a policy for any model, with the exact gradient, whatever mode it is put into."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from oracles import relative
from torch import Tensor, nn
from torch.nn import functional
from unrolling import unrolled
from update_rules import sgd

from cases import OUTER, Outer
from litmaml.inner import SGD
from litmaml.inner.batch_norms import has_new_statistics, normalisation_policy, settle, shared_statistics
from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.learner.trial.modes import put
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks

STEPS, RATE, TASKS = 3, 0.1, 3


class BatchNormAct2d(nn.BatchNorm2d):
    """Norm and activation in one layer, as in timm."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.Softplus()

    def forward(self, x: Tensor) -> Tensor:
        normalised = functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training or self.running_mean is None
        )
        activated: Tensor = self.act(self.drop(normalised))
        return activated


class TimmsNormAct(BatchNormAct2d):
    """Under timm's names."""


@pytest.fixture(scope="module", autouse=True)
def as_in_timm() -> Iterator[None]:
    """Only here, since the command line looks for every module in the place that it names."""
    before = TimmsNormAct.__name__, TimmsNormAct.__module__
    TimmsNormAct.__name__, TimmsNormAct.__module__ = "BatchNormAct2d", "timm.layers.norm_act"
    yield
    TimmsNormAct.__name__, TimmsNormAct.__module__ = before
    for made in (*TimmsNormAct.__subclasses__(), *nn.GroupNorm.__subclasses__()):  # by the policies, of its name
        if made.__module__ == "timm.layers.norm_act":
            made.__module__ = before[1]


def pretrained(*norms: nn.Module, head: int = 64) -> nn.Module:
    """A network with these norms, whose running statistics and weights are no longer those of new layers."""
    torch.manual_seed(0)
    body: list[nn.Module] = []
    for k, norm in enumerate(norms):
        body += [nn.Conv2d(8 if k else 1, 8, 3, 2, 1), norm, nn.Softplus()]
    model = nn.Sequential()
    model.add_module("body", nn.Sequential(*body, nn.Flatten()))
    model.add_module("head", nn.Linear(head, 1))
    for norm in norms:
        for name, statistic in norm.named_buffers():
            if statistic.is_floating_point():
                statistic.copy_(torch.rand_like(statistic) + (name == "running_var") * 0.5)
        with torch.no_grad():
            for weight in norm.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm2d": lambda: pretrained(nn.BatchNorm2d(8), nn.BatchNorm2d(8), head=32),
    "SyncBatchNorm": lambda: pretrained(nn.SyncBatchNorm(8), head=128),
    "norm and activation": lambda: pretrained(TimmsNormAct(8), head=128),
    "without affine": lambda: pretrained(nn.BatchNorm2d(8, affine=False), head=128),
    "beside instance norm": lambda: pretrained(
        nn.InstanceNorm2d(8, track_running_stats=True, affine=True), nn.BatchNorm2d(8), head=32
    ),
}
POLICIES = {
    "batch": "batch statistics (transductive)",
    "frozen": "frozen statistics (inductive)",
    "group": "group norm",
}


def tasks_of(examples: int = 5) -> Tasks:
    def batch() -> Batch:
        return Batch(torch.randn(TASKS, examples, 1, 8, 8), torch.randn(TASKS, examples, 1))

    torch.manual_seed(1)
    return Tasks((batch(),), batch(), torch.arange(TASKS))


def as_written(model: nn.Module, policy: str) -> nn.Module:
    """The same function of layers that torch's user would have made himself, in training mode."""

    def other(layer: Any) -> nn.Module:
        made: nn.Module
        if isinstance(layer, nn.InstanceNorm2d):
            made = Affine(layer) if policy == "frozen" else nn.InstanceNorm2d(8, affine=True)
        elif policy == "frozen":
            made = Affine(layer)
        elif policy == "group":
            made = nn.GroupNorm(2, 8, affine=layer.affine)
        else:
            made = nn.BatchNorm2d(8, affine=layer.affine, track_running_stats=False)
        if policy != "frozen" and layer.affine:
            made.load_state_dict({"weight": layer.weight, "bias": layer.bias})
        if isinstance(layer, BatchNormAct2d):
            made.register_forward_hook(lambda module, args, out: functional.softplus(out))
        return made

    model = copy.deepcopy(model)
    for name, layer in [*model.get_submodule("body").named_children()]:
        if isinstance(layer, nn.modules.batchnorm._NormBase):
            setattr(model.body, name, other(layer))
    return model


class Affine(nn.Module):
    """w (x - mean) / sqrt(variance + eps) + b with constant mean and variance, written out."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.mean, self.variance, self.eps = norm.running_mean, norm.running_var, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, 1, 1)
        normal = (x - self.mean.view(shape)) / (self.variance.view(shape) + self.eps).sqrt()
        scaled: Tensor = normal if self.weight is None else self.weight.view(shape) * normal + self.bias.view(shape)
        return scaled


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_is_that_of_the_model_written_out(name: str, policy: str) -> None:
    model, tasks = MODELS[name](), tasks_of()
    plain = as_written(model, policy)
    assert settle(model, policy) == policy  # type: ignore[arg-type]
    assert not shared_statistics(model)
    before = copy.deepcopy(model.state_dict())
    names = [n for n, _ in model.named_parameters()]
    assert names == [n for n, _ in plain.named_parameters()]
    true = None
    for outer, row in OUTER.items():
        if row.hop is not None or row.kind.sampled:
            continue
        loop = InnerLoop(model, nn.MSELoss(), SGD(RATE), ["*"], STEPS)
        try_first_batch(loop, tasks, row.make())
        true = true or unrolled(loop, tasks, STEPS, names, sgd(), model=plain)
        for chunk in (1, TASKS):
            found = MetaGradientOf(loop, row.make(), STEPS, chunk)(tasks)
            torch.testing.assert_close(found.losses, true.losses, rtol=1e-10, atol=0)
            assert relative(found.gradients, true.gradients) < row.tolerance, (outer, chunk)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in OUTER.items()])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_outer_gradient_batched_and_looped(policy: str, row: Outer) -> None:
    model, tasks = MODELS["BatchNorm2d"](), tasks_of()
    settle(model, policy)  # type: ignore[arg-type]
    loop = InnerLoop(model, nn.MSELoss(), SGD(RATE), ["*"], STEPS)
    one, all_at_once = (MetaGradientOf(loop, row.make(samples=2), STEPS, chunk)(tasks) for chunk in (1, TASKS))
    assert relative(all_at_once.gradients, one.gradients) < row.rounding * 10
    if row.hop is not None and not row.kind.sampled:
        plain = as_written(MODELS["BatchNorm2d"](), policy)
        true = unrolled(loop, tasks, STEPS, loop.fast_names, sgd(), row.hop, model=plain)
        assert relative(one.gradients, true.gradients) < row.tolerance


@pytest.mark.parametrize("name", MODELS)
def test_a_frozen_layer_predicts_as_in_evaluation_for_ever(name: str) -> None:
    model, x = MODELS[name](), tasks_of().query.inputs[0]
    names = [*model.state_dict()]
    wanted = copy.deepcopy(model).eval()(x)
    assert not torch.equal(copy.deepcopy(model)(x), wanted)
    settle(model, "frozen")
    again = [model.train(), copy.deepcopy(model).train(), copy.deepcopy(copy.deepcopy(model))]
    if name != "norm and activation":  # whose class is of no module
        torch.save(model, file := io.BytesIO())
        again += [
            pickle.loads(pickle.dumps(model)).train(),
            torch.load(io.BytesIO(file.getvalue()), weights_only=False),
        ]
    for one in again:
        put(one, [])  # whoever keeps the modes of parts sets them one by one
    for one in again:
        assert [*one.state_dict()] == names
        assert torch.equal(one(x), wanted)
        assert settle(one, "frozen") == settle(one, None) == "frozen"  # again
        assert torch.equal(one.train()(x), wanted)


def test_pretrained_weights_load_into_every_policy() -> None:
    """Each under its own name; those that are not frozen have no statistics to load."""
    state = MODELS["BatchNorm2d"]().state_dict()
    for policy in POLICIES:
        model = pretrained(nn.BatchNorm2d(8), nn.BatchNorm2d(8), head=32)
        settle(model, policy)  # type: ignore[arg-type]
        nn.init.zeros_(model.head.weight)  # type: ignore[arg-type, union-attr]
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not missing
        assert all("running_" in key or "num_batches" in key for key in unexpected)
        assert bool(unexpected) == (policy != "frozen")
        assert torch.equal(model.get_parameter("head.weight"), state["head.weight"])


def test_a_layer_in_two_places_stays_one() -> None:
    norm = nn.BatchNorm1d(8)
    for policy in POLICIES:
        model = nn.Sequential(nn.Linear(1, 8), copy.deepcopy(norm), nn.Tanh())
        model.append(model[1])
        settle(model, policy)  # type: ignore[arg-type]
        assert model[1] is model[3]
        assert normalisation_policy(model) == POLICIES[policy]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", MODELS)
def test_the_policy_is_seen_in_the_model(name: str, policy: str) -> None:
    model = MODELS[name]()
    settle(model, policy)  # type: ignore[arg-type]
    assert POLICIES[policy] in normalisation_policy(model)


def test_models_in_evaluation_are_frozen_without_being_asked() -> None:
    model = MODELS["BatchNorm2d"]().eval()
    assert settle(model, None) == "frozen"
    assert not shared_statistics(model.train())
    some = MODELS["BatchNorm2d"]()
    some.body[1].eval()  # type: ignore[index, union-attr]
    assert settle(some, None) is None
    assert shared_statistics(some) == ["body.4 (BatchNorm2d)"]
    without = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8, track_running_stats=False)).eval()
    assert settle(without, None) is None
    assert without[1].train().training


def test_statistics_of_new_layers_are_seen() -> None:
    assert has_new_statistics(nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm2d(3)))
    assert not has_new_statistics(MODELS["BatchNorm2d"]())
    assert not has_new_statistics(nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(2, track_running_stats=False)))


@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (4, 1), (12, 2), (24, 4), (64, 16), (128, 32), (320, 32)])
def test_groups_have_at_least_four_channels(channels: int, groups: int) -> None:
    model = nn.Sequential(nn.BatchNorm1d(channels))
    settle(model, "group")
    assert type(model[0]) is nn.GroupNorm
    assert model[0].num_groups == groups
    torch.testing.assert_close(model(x := torch.randn(5, channels)), nn.GroupNorm(groups, channels)(x))


def test_one_channel_needs_places_to_normalise() -> None:
    model = nn.Sequential(nn.BatchNorm1d(1))
    settle(model, "group")
    torch.testing.assert_close(model(x := torch.randn(5, 1, 4)), nn.GroupNorm(1, 1)(x))
    for constant in (torch.randn(5, 1), torch.randn(5, 1, 1)):
        with pytest.raises(ValueError, match=r"batch_norm: .* one number of each example, .*set batch_norm to"):
            model(constant)


def test_what_no_policy_fits_is_refused() -> None:
    class Own(nn.BatchNorm1d):
        pass

    class OwnSync(nn.SyncBatchNorm):
        pass

    with pytest.raises(ValueError, match=r"batch_norm: 1 \(Own\) is of a class of its own.*; set batch_norm to"):
        settle(nn.Sequential(nn.Linear(1, 8), Own(8)), "group")
    with pytest.raises(ValueError, match=r"batch_norm: 0 \(OwnSync\) takes the statistics of several processes"):
        settle(nn.Sequential(OwnSync(8)), "batch")
    with pytest.raises(ValueError, match=r"batch_norm: frozen needs running statistics, and 0 \(Batch.* has none"):
        settle(nn.Sequential(nn.BatchNorm1d(8, track_running_stats=False)), "frozen")
    with pytest.raises(ValueError, match=r"batch_norm: got 'layer'; one of batch, frozen, group, or null"):
        settle(nn.Linear(1, 1), "layer")  # type: ignore[arg-type]


def test_the_activation_stays_where_group_norm_takes_over() -> None:
    layer = TimmsNormAct(8)
    settle(nn.Sequential(layer), "group")
    assert isinstance(layer, nn.GroupNorm)
    x = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(layer(x), functional.softplus(nn.GroupNorm(2, 8)(x)))


def test_synchronised_layers_are_told_even_without_statistics() -> None:
    model = nn.Sequential(nn.Linear(1, 8), nn.SyncBatchNorm(8, track_running_stats=False))
    assert shared_statistics(model) == ["1 (SyncBatchNorm)"]
    settle(model, "batch")
    assert shared_statistics(model) == []
    with pytest.raises(ValueError, match="expected at least 2 dimensions, got 1"):
        model[1](torch.ones(8))
