"""Who computes the outer gradient: litmaml by its switches, and each peer as its own documentation does it.

A contender is a function of a problem that sets up whatever can be kept, and returns a function that computes the
gradient of the mean outer loss by the model's parameters, in their order.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.workloads import Problem
from litmaml.data.interop import import_learn2learn
from litmaml.engine.allocator import keep_freed_memory
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.learner.memory_format import take_channels_last
from litmaml.outer import FirstOrder, OuterGradient, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf

Run = Callable[[], list[Tensor]]
Contender = Callable[[Problem], Run]


def ours(
    outer_gradient: OuterGradient | None = None,
    compile: bool = False,
    chunk: int | None = None,
    channels_last: bool | None = None,
) -> Contender:
    """litmaml: ``MetaGradientOf`` as ``MetaLearner`` calls it in a run, which chooses the format by itself."""

    def contender(problem: Problem) -> Run:
        model = copy.deepcopy(problem.model)
        gradient = outer_gradient or SecondOrder()
        loop = InnerLoop(model, problem.loss, SGD(problem.lr), ["*"], problem.steps)
        if channels_last is None and problem.tasks.query.inputs.device.type == "cpu":
            take_channels_last(loop, lambda: problem.tasks)
        meta = MetaGradientOf(loop, gradient, problem.steps, chunk, compile)
        names = [f"model.{name}" for name, _ in model.named_parameters()]

        def run() -> list[Tensor]:
            gradients = meta(problem.tasks).gradients
            return [gradients[name] for name in names]

        return run

    return contender


def _pairs(problem: Problem) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    (support,), query = problem.tasks.support, problem.tasks.query
    yield from zip(support.inputs, support.targets, query.inputs, query.targets, strict=True)


def _collected(model: torch.nn.Module, tasks: int) -> list[Tensor]:
    """The gradients that ``backward`` has summed up, as a mean; cleared for the next time."""
    gradients = [cast(Tensor, parameter.grad) / tasks for parameter in model.parameters()]
    model.zero_grad()
    return gradients


def plain(problem: Problem) -> Run:
    """A loop over tasks with ``functional_call`` and ``autograd.grad``."""
    model = copy.deepcopy(problem.model)
    start: dict[str, Tensor] = dict(model.named_parameters())

    def run() -> list[Tensor]:
        with sdpa_kernel(SDPBackend.MATH):
            for x, y, query_x, query_y in _pairs(problem):
                fast = start
                for _ in range(problem.steps):
                    loss = problem.loss(functional_call(model, fast, (x,)), y)
                    gradients = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
                    fast = {
                        name: weight - problem.lr * gradient
                        for (name, weight), gradient in zip(fast.items(), gradients, strict=True)
                    }
                problem.loss(functional_call(model, fast, (query_x,)), query_y).backward()
        return _collected(model, problem.tasks.size)

    return run


def learn2learn(problem: Problem) -> Run:
    """``MAML.clone`` and ``adapt``, as in learn2learn's examples/vision/maml_omniglot.py."""
    maml = import_learn2learn().algorithms.MAML(copy.deepcopy(problem.model), lr=problem.lr)

    def run() -> list[Tensor]:
        with sdpa_kernel(SDPBackend.MATH):
            for x, y, query_x, query_y in _pairs(problem):
                learner = maml.clone()
                for _ in range(problem.steps):
                    learner.adapt(problem.loss(learner(x), y))
                problem.loss(learner(query_x), query_y).backward()
        return _collected(maml, problem.tasks.size)

    return run


def higher(problem: Problem) -> Run:
    """``innerloop_ctx`` with SGD, as in higher's examples/maml-omniglot.py."""
    import higher as library

    model = copy.deepcopy(problem.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=problem.lr)

    def run() -> list[Tensor]:
        with sdpa_kernel(SDPBackend.MATH):
            for x, y, query_x, query_y in _pairs(problem):
                with library.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (fast, inner):
                    for _ in range(problem.steps):
                        inner.step(problem.loss(fast(x), y))
                    problem.loss(fast(query_x), query_y).backward()
        return _collected(model, problem.tasks.size)

    return run


def torchopt(problem: Problem) -> Run:
    """``MetaSGD`` with the state put back after each task, as in TorchOpt's examples/few-shot/maml_omniglot.py."""
    import torchopt as library

    model = copy.deepcopy(problem.model)
    inner = library.MetaSGD(model, lr=problem.lr)

    def run() -> list[Tensor]:
        with sdpa_kernel(SDPBackend.MATH):
            weights = library.extract_state_dict(model, by="reference", detach_buffers=True)
            state = library.extract_state_dict(inner, by="reference")
            for x, y, query_x, query_y in _pairs(problem):
                for _ in range(problem.steps):
                    inner.step(problem.loss(model(x), y))
                problem.loss(model(query_x), query_y).backward()
                library.recover_state_dict(model, weights)
                library.recover_state_dict(inner, state)
        return _collected(model, problem.tasks.size)

    return run


def jax(problem: Problem) -> Run:
    """``vmap`` over tasks inside ``grad`` inside ``jit``; for the fully connected network."""
    import jax as library
    from jax import numpy as jnp

    linear = [module for module in problem.model.modules() if isinstance(module, torch.nn.Linear)]
    start = [(jnp.array(m.weight.detach().numpy().T), jnp.array(m.bias.detach().numpy())) for m in linear]
    (support,), query = problem.tasks.support, problem.tasks.query
    tasks = tuple(jnp.array(t.numpy()) for t in (support.inputs, support.targets, query.inputs, query.targets))

    def loss(weights: Any, x: Any, y: Any) -> Any:  # JAX's arrays in any nest
        for weight, bias in weights[:-1]:
            x = jnp.tanh(x @ weight + bias)
        weight, bias = weights[-1]
        return jnp.mean((x @ weight + bias - y) ** 2)

    def adapted(weights: Any, x: Any, y: Any, query_x: Any, query_y: Any) -> Any:
        for _ in range(problem.steps):
            gradient = library.grad(loss)(weights, x, y)
            weights = library.tree.map(lambda w, g: w - problem.lr * g, weights, gradient)
        return loss(weights, query_x, query_y)

    def mean(weights: Any, tasks: Any) -> Any:
        return jnp.mean(library.vmap(adapted, in_axes=(None, 0, 0, 0, 0))(weights, *tasks))

    gradient = library.jit(library.grad(mean))

    def run() -> list[Tensor]:
        found = library.block_until_ready(gradient(start, tasks))
        return [part for weight, bias in found for part in (_tensor(weight).T, _tensor(bias))]

    return run


def _tensor(array: object) -> Tensor:
    return torch.utils.dlpack.from_dlpack(array)  # shares the memory


PEERS: dict[str, Contender] = {
    "learn2learn": learn2learn,
    "higher": higher,
    "TorchOpt": torchopt,
    "PyTorch loop": plain,
    "JAX": jax,
}
_PACKAGES = {"learn2learn": "learn2learn", "higher": "higher", "TorchOpt": "torchopt", "JAX": "jax"}


def missing() -> list[str]:
    """The peers that are not installed."""
    return [name for name, package in _PACKAGES.items() if importlib.util.find_spec(package) is None]


def kept(problem: Problem) -> Run:
    """The plain loop with the one setting of malloc that litmaml makes by itself, to tell what it is worth."""
    keep_freed_memory()
    return plain(problem)


CONTENDERS: dict[str, Contender] = {
    "litmaml": ours(),
    "litmaml, contiguous": ours(channels_last=False),
    "litmaml, compiled": ours(compile=True),
    "litmaml, recompute": ours(SecondOrder(recompute=True)),
    "litmaml, first order": ours(FirstOrder()),
    **PEERS,
    "PyTorch loop, memory kept": kept,
}
ANOTHER_GRADIENT = "litmaml, first order"


def names(model: str, device: str, compile: bool) -> list[str]:
    """Who takes part, ours first."""
    left_out = {*missing()}
    if not compile:
        left_out.add("litmaml, compiled")
    if model.startswith("conv4"):
        left_out.add("litmaml, recompute")  # measured with its memory
    else:
        left_out |= {"litmaml, contiguous", "PyTorch loop, memory kept"}
    if device != "cpu":
        left_out |= {"JAX", "PyTorch loop, memory kept"}  # JAX would need its own CUDA build
    if model != "mlp":
        left_out.add("JAX")  # the one network written in it
    return [name for name in CONTENDERS if name not in left_out]
