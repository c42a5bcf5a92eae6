"""CUDA graphs: a replay gives what the function gives, and a compiled meta-gradient is replayed."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from gpu_checks.problems import Problem, error, images
from litmaml.engine.cuda_graph import CudaGraph
from litmaml.engine.program import Program
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.outer import OuterGradient, SecondOrder, ZerothOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Tasks
from litmaml.weights import Params

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),  # torch's compiler imports it
]


def function(x: Tensor, k: Tensor) -> tuple[Tensor, ...]:
    return (x.t() @ x).tanh(), k + 1, x.sum() > 0


@pytest.fixture(autouse=True)
def only_on_cuda(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("only CUDA has graphs of kernels")


def test_a_replay_is_the_function(device: torch.device) -> None:
    arguments = [(torch.randn(4, 3, device=device) + k - 1, torch.tensor([k], device=device)) for k in range(3)]
    graph = CudaGraph(function, arguments[0])
    found = [graph(*some) for some in arguments]
    for some, results in zip(arguments, found, strict=True):
        # The first ones still stand after the last replay.
        torch.testing.assert_close(results, function(*some))


def test_other_strides_than_contiguous(device: torch.device) -> None:
    first, second = (torch.randn(2, 3, 5, 5, device=device).to(memory_format=torch.channels_last) for _ in range(2))
    graph = CudaGraph(lambda x: (x * 2,), [first])
    (doubled,) = graph(second)
    torch.testing.assert_close(doubled, second * 2)
    assert doubled.stride() == second.stride()


def meta(problem: Problem, method: OuterGradient, compile: bool) -> MetaGradientOf:
    loop = InnerLoop(problem.model, problem.loss, SGD(problem.rate), ["*"], problem.steps)
    return MetaGradientOf(loop, method, problem.steps, tasks_per_chunk=problem.tasks.size, compile=compile)


def doubles(gradients: Params) -> Params:
    return {name: part.double().cpu() for name, part in gradients.items()}


def others(tasks: Tasks, k: int) -> Tasks:
    query = tasks.query._replace(inputs=tasks.query.inputs.roll(k, 1), targets=tasks.query.targets.roll(2 * k, 1))
    return tasks._replace(query=query, numbers=tasks.numbers + k)


@pytest.mark.parametrize("method", [SecondOrder(), ZerothOrder(2)], ids=type)
def test_a_compiled_meta_gradient_follows_weights_and_tasks(method: OuterGradient, device: torch.device) -> None:
    """Over steps that change the weights in place, and of a last chunk of another size."""
    problem = images("batch", small=True).to(device, torch.float64)
    compiled, eager = meta(problem, method, True), meta(problem, SecondOrder(), False)
    drawn: list[Params] = []
    for k in range(6):
        tasks = others(problem.tasks, k)
        found = compiled(tasks)
        if method.sampled:  # other directions than the function's own, but new ones for each task
            drawn.append(doubles(found.gradients))
            continue
        wanted = eager(tasks)
        assert error(doubles(found.gradients), doubles(wanted.gradients)) < 1e-10
        torch.testing.assert_close(found.losses, wanted.losses)
        with torch.no_grad():
            for weight in problem.model.parameters():
                weight.add_(0.01 * torch.randn_like(weight))
    (program,) = compiled.compiled.programs.values()
    assert isinstance(program._compiled, CudaGraph) != method.sampled
    assert all(error(one, two) > 1e-3 for one, two in itertools.pairwise(drawn))


def test_what_waits_for_the_device_runs_without_a_graph(device: torch.device) -> None:
    x = torch.ones(3, device=device)
    program = Program(lambda x: (x * 2,), [x], torch.nn.Identity())

    def waits(x: Tensor) -> tuple[Tensor, ...]:
        return (x * 2 * float(x.sum()),)

    program(x)
    program._compiled = waits
    for k in range(1, 4):
        torch.testing.assert_close(program(k * x), ((6.0 * k * k) * x,))
    torch.testing.assert_close(CudaGraph(function, [torch.ones(2, 2, device=device), x])(x.new_ones(2, 2), x)[1], x + 1)
