"""Outer gradients on the device: those of the CPU, as precise as was asked for, by directions of the tasks' own."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from cases import SAMPLED, made
from gpu_checks.problems import METHODS, error, gradient, images, reference
from litmaml.engine.float32 import convolutions_round, set_float32_precision
from litmaml.engine.switches import without
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.outer import FiniteDifference, OuterGradient, SecondOrder
from litmaml.outer.convolution_choice import ConvolutionChoice
from litmaml.outer.memory import Held, free_memory, peak_of
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import select

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("name", METHODS)
def test_float64_is_that_of_the_cpu(name: str, norm: str, device: torch.device) -> None:
    problem, method = images(norm, small=True), METHODS[name]()
    found = gradient(problem.to(device, torch.float64), method)
    bound = {"FiniteDifference": 1e-6, "GaussianSmoothing": 1e-4, "ZerothOrder": 1e-4}.get(name, 1e-10)
    assert error(found, reference(problem, method)) < bound


@pytest.mark.parametrize(("autocast", "bound"), [(None, 1e-4), (torch.bfloat16, 0.1)], ids=["float32", "bf16-mixed"])
def test_shorter_formats_are_within_their_tolerance(
    autocast: torch.dtype | None, bound: float, device: torch.device
) -> None:
    problem = images("layer", small=True)
    found = gradient(problem.to(device, torch.float32), SecondOrder(), autocast)
    assert error(found, reference(problem, SecondOrder())) < bound


def test_float32_convolutions_do_not_round(device: torch.device) -> None:
    x, weight = torch.randn(8, 64, 14, 14), torch.randn(64, 64, 3, 3)
    true = nn.functional.conv2d(x.double(), weight.double())

    def off() -> float:
        found = nn.functional.conv2d(x.to(device), weight.to(device)).cpu().double()
        return float((found - true).norm() / true.norm())

    assert not convolutions_round()
    assert off() < 1e-5
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        set_float32_precision("high")
        assert 1e-5 < off() < 5e-3  # or the test above would hold of itself


def loop_of(method: OuterGradient, device: torch.device, norm: str = "batch") -> tuple[InnerLoop, MetaGradientOf]:
    problem = images(norm, small=True).to(device, torch.float64)
    loop = InnerLoop(problem.model, problem.loss, SGD(problem.rate), ["*"], problem.steps)
    return loop, MetaGradientOf(loop, method, problem.steps)


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "as a graph"])
def test_both_ways_of_convolutions_are_timed_and_agree(compile: bool, device: torch.device) -> None:
    problem = images("batch", small=True).to(device, torch.float64)
    compute = MetaGradientOf(problem.loop(), SecondOrder(), problem.steps, compile=compile)
    timed = ConvolutionChoice().choose(compute, problem.tasks, lambda measure: measure())
    assert timed is not None
    assert min(timed.grouped, timed.patches) > 0
    assert compute.inner_loop.grouped == (timed.grouped < timed.patches)
    found = []
    with without("program"):
        for compute.inner_loop.grouped in (False, True):
            found.append({n.removeprefix("model."): g for n, g in compute(problem.tasks).gradients.items()})
    assert error(found[1], found[0]) < 1e-10


@pytest.mark.parametrize("method", made(SAMPLED, samples=2))
def test_directions_are_those_of_the_tasks(method: OuterGradient, device: torch.device) -> None:
    """The same at every call, whatever was drawn before, and without moving the streams of others."""
    tasks = images("batch", small=True).to(device, torch.float64).tasks
    _, of = loop_of(method, device)
    first = of(tasks).gradients
    torch.randn(7, device=device)
    torch.randn(7)
    before = torch.get_rng_state(), torch.cuda.get_rng_state() if device.type == "cuda" else torch.tensor(0)
    again = of(tasks).gradients
    after = torch.get_rng_state(), torch.cuda.get_rng_state() if device.type == "cuda" else torch.tensor(0)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    double = {name: part.double() for name, part in first.items()}
    # The kernels that sum in no fixed order; other directions would be off by 1.
    assert error({name: part.double() for name, part in again.items()}, double) < 1e-6
    others = of(tasks._replace(numbers=tasks.numbers + 9)).gradients
    assert error({name: part.double() for name, part in others.items()}, double) > 1e-2


@pytest.mark.parametrize("method", [SecondOrder(), FiniteDifference()], ids=type)
def test_a_step_waits_for_the_device_once(method: OuterGradient, device: torch.device) -> None:
    """To learn whether all is finite."""
    if device.type != "cuda":
        pytest.skip("only CUDA counts its synchronisations")
    tasks = images("batch", small=True).to(device, torch.float64).tasks
    _, of = loop_of(method, device)
    of(tasks)
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")  # also that this mode is a prototype, which as an error would leave it on
        try:
            torch.cuda.set_sync_debug_mode("warn")
            of(tasks)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [str(warning.message) for warning in caught if "called a synchronizing" in str(warning.message)]
    assert len(waits) == 1, waits


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["float32", "bf16-mixed"])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_images_in_shorter_formats(
    channels_last: bool, norm: str, autocast: torch.dtype | None, device: torch.device
) -> None:
    """By cuDNN's kernels, of which float64 has none."""
    problem = images(norm, small=True)
    found = gradient(problem.to(device, torch.float32), SecondOrder(), autocast, channels_last=channels_last)
    # Kinks of ReLU and max-pooling lie on the other side of some numbers.
    assert error(found, reference(problem, SecondOrder())) < (1e-3 if autocast is None else 0.6)


@pytest.mark.parametrize("options", [{"channels_last": True}, {"compile": True}], ids=["channels last", "compiled"])
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # torch's compiler imports it
def test_switches(options: dict[str, Any], device: torch.device) -> None:
    problem = images("batch", small=True)
    found = gradient(problem.to(device, torch.float64), SecondOrder(), **options)
    assert error(found, reference(problem, SecondOrder())) < 1e-10


def test_as_many_tasks_as_memory_holds(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """What eight hold is foreseen from four and two, workspaces of kernels apart."""
    problem = images("batch").to(device, torch.float32)
    of = MetaGradientOf(problem.loop(), SecondOrder(), problem.steps)
    of(problem.tasks)

    def held(count: int) -> float:
        return peak_of(partial(of._of_few, select(problem.tasks, slice(count))), device)

    assert Held.of(held, 8).by(8) == pytest.approx(held(8), rel=0.3)
    assert (free_memory(device) is None) == (device.type == "cpu")
    monkeypatch.setattr("litmaml.outer.memory.free_memory", lambda _: int(held(8)))  # of which a share may be taken
    chosen = MetaGradientOf(problem.loop(), SecondOrder(), problem.steps).chunk_size(problem.tasks)
    assert chosen == 4


class Recurrent(nn.Module):
    """Rows of an image, one after another."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.body, self.head = kind(28, 8, batch_first=True), nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(images.flatten(1, 2))[0][:, -1])
        return logits


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM], ids=["GRU", "LSTM"])
def test_recurrent_layers(kind: type[nn.Module], device: torch.device) -> None:
    """cuDNN's own have no second derivative."""
    torch.manual_seed(0)
    model = Recurrent(kind).double()
    problem = images("batch", small=True)
    problem = type(problem)(model, problem.tasks)
    found = gradient(problem.to(device, torch.float64), SecondOrder(), tasks_per_chunk=1)
    assert error(found, reference(problem, SecondOrder())) < 1e-10
