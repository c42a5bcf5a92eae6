"""How long a meta-gradient takes on the device, and what of it the device works: against a plain loop over tasks."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from gpu_checks.parts import Case, Setting
from gpu_checks.problems import Problem, ViT
from litmaml.engine.convolution import Grouped, convolution
from litmaml.engine.cuda_graph import CudaGraph
from litmaml.engine.float32 import Float32Precision, set_float32_precision
from litmaml.engine.switches import without
from litmaml.inner import SGD
from litmaml.inner.channels_last import to_channels_last
from litmaml.inner.loop import InnerLoop
from litmaml.models import Conv4
from litmaml.outer import SecondOrder
from litmaml.outer.compiled import as_function
from litmaml.outer.convolution_choice import ConvolutionChoice
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks, tensors_of
from litmaml.weights import Params

Run = Callable[[], Params]
PRECISIONS: dict[str, tuple[Float32Precision, torch.dtype | None, float]] = {
    "float32": ("highest", None, 1e-3),
    "TF32": ("high", None, 0.1),
    "bf16-mixed": ("highest", torch.bfloat16, 0.5),
}
"""The flag of float32, the dtype of autocast, and how far a gradient of ReLU and max-pooling may be from float64's."""

_COMPILING = 120
"""Seconds that compiling may take: what has begun is not cut off."""


def _problem(network: str, steps: int, small: bool) -> Problem:
    """The paper's Omniglot on noise: 32 tasks of 5 classes, one image of each to adapt on and five to ask."""
    tasks, filters, width = (4, 4, 16) if small else (32, 64, 64)
    torch.manual_seed(0)
    model = ViT(width=width) if network == "ViT" else Conv4(5, filters=filters)

    def batch(each: int) -> Batch:
        labels = torch.arange(5).repeat_interleave(each).expand(tasks, -1).contiguous()
        return Batch(torch.rand(tasks, 5 * each, 1, 28, 28, dtype=torch.float64), labels)

    return Problem(model.double(), Tasks((batch(1),), batch(5), torch.arange(tasks)), rate=0.4, steps=steps)


def loop(problem: Problem) -> Run:
    """One task after another with ``functional_call`` and ``autograd.grad``, as published loops do."""
    weights: Params = dict(problem.model.named_parameters())
    (support,), query = problem.tasks.support, problem.tasks.query

    def run() -> Params:
        with sdpa_kernel(SDPBackend.MATH):
            for x, y, query_x, query_y in zip(*support[:2], *query[:2], strict=True):
                fast = weights
                for _ in range(problem.steps):
                    loss = problem.loss(functional_call(problem.model, fast, (x,)), y)
                    found = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
                    fast = {n: w - problem.rate * g for (n, w), g in zip(fast.items(), found, strict=True)}
                problem.loss(functional_call(problem.model, fast, (query_x,)), query_y).backward()
        means = {n: cast(Tensor, w.grad) / problem.tasks.size for n, w in weights.items()}
        problem.model.zero_grad()
        return means

    return run


def _ours(problem: Problem, compile: bool = False) -> tuple[MetaGradientOf, Run]:
    made = InnerLoop(problem.model, problem.loss, SGD(problem.rate), ["*"], problem.steps)
    meta = MetaGradientOf(made, SecondOrder(), problem.steps, tasks_per_chunk=problem.tasks.size, compile=compile)

    def run() -> Params:
        return {name.removeprefix("model."): part for name, part in meta(problem.tasks).gradients.items()}

    return meta, run


def eager(problem: Problem) -> Run:
    return _ours(problem)[1]


def compiled(problem: Problem) -> Run:
    """With ``compile=True``; its second call compares, the third records the graph on a GPU."""
    run = _ours(problem, compile=True)[1]
    for _ in range(3):
        run()
    return run


def captured(problem: Problem) -> Run:
    """The eager meta-gradient as a CUDA graph, without a compiler."""
    meta, _ = _ours(problem)
    weights = {name: weight.detach() for name, weight in meta.inner_loop.named_parameters()}
    tensors = [*weights.values(), *map(Tensor.contiguous, tensors_of(problem.tasks))]
    graph = CudaGraph(as_function(meta.of_chunk, [*weights], problem.tasks), tensors)

    def run() -> Params:
        _, _, _, *gradient = graph(*tensors)
        return {name.removeprefix("model."): part for name, part in zip(weights, gradient, strict=True)}

    return run


def captured_channels_last(problem: Problem) -> Run:
    to_channels_last(problem.model)
    return captured(problem)


def captured_grouped(problem: Problem) -> Run:
    """With torch's own convolution, which is a grouped one under ``vmap``."""
    with Grouped():
        return captured(problem)


WAYS: dict[str, Callable[[Problem], Run]] = {
    "loop": loop,
    "eager": eager,
    "captured": captured,
    "captured, channels last": captured_channels_last,
    "captured, grouped": captured_grouped,
    "compiled": compiled,
}


def milliseconds(run: Callable[[], object], device: torch.device, budget: float = 1.0) -> float:
    """Of one run: the median of five groups of runs in a row that together take about the budget, in seconds."""

    def group(times: int) -> float:
        _wait(device)
        began = time.perf_counter()
        for _ in range(times):
            run()
        _wait(device)
        return (time.perf_counter() - began) / times

    run()
    times = max(1, int(budget / 5 / max(group(2), 1e-6)))
    return 1e3 * statistics.median(group(times) for _ in range(5))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@functools.cache
def _true(network: str, steps: int, small: bool, device: torch.device) -> Params:
    return eager(_problem(network, steps, small).to(device, torch.float64))()


def of_meta_gradients(setting: Setting) -> Iterator[Case]:
    """Conv4 and a transformer by all ways: each is timed, and compared with float64."""
    both = ("captured", "captured, channels last", "captured, grouped")
    for network, steps, precision, ways in (
        ("Conv4", 1, "float32", ("eager", *both)),
        ("Conv4", 1, "TF32", both),
        ("Conv4", 1, "bf16-mixed", both),
        ("Conv4", 5, "float32", ("captured", "eager")),
        ("Conv4", 5, "TF32", ("captured",)),
        ("ViT", 1, "float32", ("captured", "captured, grouped", "eager")),
        ("ViT", 1, "TF32", ("captured",)),
        ("ViT", 1, "bf16-mixed", ("captured",)),
        ("Conv4", 1, "float32", ("compiled", "loop")),
        ("ViT", 1, "float32", ("loop",)),
        ("Conv4", 1, "TF32", ("compiled",)),
        ("Conv4", 5, "float32", ("loop",)),
    ):
        for way in ways:
            if way.startswith("captured") and setting.device.type != "cuda":
                continue  # CPUs have no graphs of kernels
            if way == "compiled" and (setting.small or setting.left < _COMPILING):
                continue
            notes: dict[str, Any] = {}
            measure = functools.partial(_measure, setting, network, steps, precision, way, notes)
            # Five steps at this rate on noise carry a rounding far.
            tolerance = PRECISIONS[precision][2] * (10 if steps > 1 else 1)
            yield Case(f"{network}, N={steps}, {precision}, {way}", tolerance, measure, notes)


def _measure(setting: Setting, network: str, steps: int, precision: str, way: str, notes: dict[str, Any]) -> float:
    problem = _problem(network, steps, setting.small).to(setting.device, torch.float32)
    on_device = setting.device.type == "cuda"
    with _computing_in(precision, setting.device):
        if on_device:
            torch.cuda.reset_peak_memory_stats(setting.device)
        began = time.perf_counter()
        run = WAYS[way](problem)
        found = run()
        notes["first_seconds"] = round(time.perf_counter() - began, 2)
        ms = milliseconds(run, setting.device, 0.05 if setting.small else 1.0)
        notes |= {"ms": round(ms, 4), "tasks_per_s": round(1e3 * problem.tasks.size / ms, 1)}
        if on_device:
            notes["peak_MB"] = round(torch.cuda.max_memory_allocated(setting.device) / 1e6, 1)
            if way != "loop":
                notes |= _busy(run, ms)
    return _off(found, _true(network, steps, setting.small, setting.device))


@contextmanager
def _computing_in(precision: str, device: torch.device) -> Iterator[None]:
    float32, autocast, _ = PRECISIONS[precision]
    set_float32_precision(float32)
    try:
        with torch.autocast(device.type, autocast, cache_enabled=False) if autocast else nullcontext():
            yield
    finally:
        set_float32_precision("highest")


def _off(found: Params, true: Params) -> float:
    off = sum(float((found[name].double() - part).norm() ** 2) for name, part in true.items())
    return float((off / sum(float(part.norm() ** 2) for part in true.values())) ** 0.5)


def of_choices(setting: Setting) -> Iterator[Case]:
    """How a run computes the convolutions of Conv4, by its own measurement: eager, and as a graph of kernels."""
    for precision, (_, _, tolerance) in PRECISIONS.items():
        for compile in (False, True) if setting.device.type == "cuda" else (False,):
            notes: dict[str, Any] = {}
            measure = functools.partial(_chosen, setting, precision, compile, notes)
            yield Case(f"{precision}, {'as a graph' if compile else 'eager'}", tolerance, measure, notes)


def _chosen(setting: Setting, precision: str, compile: bool, notes: dict[str, Any]) -> float:
    problem = _problem("Conv4", 1, setting.small).to(setting.device, torch.float32)
    meta, run = _ours(problem, compile)
    with _computing_in(precision, setting.device):
        timed = ConvolutionChoice().choose(meta, problem.tasks, lambda measure: measure())
        if timed is not None:
            notes |= {"chosen": "grouped" if meta.inner_loop.grouped else "by patches"}
            notes |= {"grouped_ms": round(1e3 * timed.grouped, 4), "patches_ms": round(1e3 * timed.patches, 4)}
        elif setting.device.type == "cuda":
            raise RuntimeError("neither way could be measured, or no kernels are each task's own")
        with without("program"):  # which would take minutes to compile
            found = run()
    return _off(found, _true("Conv4", 1, setting.small, setting.device))


def _busy(run: Run, ms: float) -> dict[str, Any]:
    """Kernels of one run, the milliseconds that the device works at them, and the longest of them."""
    runs = 3
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as found:
        for _ in range(runs):
            run()
        torch.cuda.synchronize()
    kernels = [event for event in found.key_averages() if event.self_device_time_total > 0]
    busy = sum(event.self_device_time_total for event in kernels) / 1e3 / runs
    longest = sorted(kernels, key=lambda event: -event.self_device_time_total)[:12]
    return {
        "launches": sum(event.count for event in kernels) // runs,
        "busy_ms": round(busy, 4),
        "busy_share": round(busy / ms, 3),
        "kernels": [
            [event.key[:90], event.count // runs, round(event.self_device_time_total / 1e3 / runs, 4)]
            for event in longest
        ],
    }


def of_rates(setting: Setting) -> Iterator[Case]:
    """What the device can do at most: products of square matrices, and copies."""
    kinds: list[tuple[Float32Precision, torch.dtype]] = [
        ("highest", torch.float32),
        ("high", torch.float32),
        ("highest", torch.bfloat16),
    ]
    for precision, dtype in kinds:
        notes: dict[str, Any] = {}
        name = "TF32" if precision == "high" else str(dtype).removeprefix("torch.")
        yield Case(f"matrix product, {name}", 0, functools.partial(_rate, setting, precision, dtype, notes), notes)
    notes = {}
    yield Case("copy", 0, functools.partial(_copy, setting, notes), notes)


def _rate(setting: Setting, precision: Float32Precision, dtype: torch.dtype, notes: dict[str, Any]) -> float:
    size = 256 if setting.small else 8192
    a, b = torch.randn(2, size, size, device=setting.device, dtype=dtype)
    set_float32_precision(precision)
    try:
        ms = milliseconds(lambda: a @ b, setting.device, 0.02 if setting.small else 0.5)
    finally:
        set_float32_precision("highest")
    notes |= {"ms": round(ms, 4), "TFLOP_per_s": round(2 * size**3 / ms / 1e9, 2)}
    return 0.0


def _copy(setting: Setting, notes: dict[str, Any]) -> float:
    a = torch.randn(2**18 if setting.small else 2**29, device=setting.device)
    b = torch.empty_like(a)
    ms = milliseconds(lambda: b.copy_(a), setting.device, 0.02 if setting.small else 0.3)
    notes |= {"ms": round(ms, 4), "TB_per_s": round(2 * a.nbytes / ms / 1e9, 4)}
    return 0.0


def of_convolutions(setting: Setting) -> Iterator[Case]:
    """Each task's own kernels 3 x 3 x 64 x 64 on 14 x 14: as a grouped convolution, or unfolded and multiplied."""
    for precision in ("float32", "TF32"):
        for count in (5, 25):
            for way in ("grouped", "grouped, channels last", "unfolded"):
                notes: dict[str, Any] = {}
                measure = functools.partial(_convolution, setting, precision, count, way, notes)
                yield Case(f"{count} images, {precision}, {way}", PRECISIONS[precision][2], measure, notes)


def _convolution(setting: Setting, precision: str, count: int, way: str, notes: dict[str, Any]) -> float:
    tasks, channels = (2, 4) if setting.small else (32, 64)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tasks, count, channels, 14, 14, generator=generator).to(setting.device)
    weight = torch.randn(tasks, channels, channels, 3, 3, generator=generator).to(setting.device)
    operations = 2 * 9 * 196 * count * channels**2 * tasks
    set_float32_precision(PRECISIONS[precision][0])
    try:
        inputs, kernels, forward = _ways_of_convolution(way, x, weight)
        y = forward(inputs, kernels)
        by = torch.ones_like(y)
        for name, run in {
            "forward": lambda: forward(inputs.detach(), kernels.detach()),
            "by_input": lambda: torch.autograd.grad(y, inputs, by, retain_graph=True),
            "by_weight": lambda: torch.autograd.grad(y, kernels, by, retain_graph=True),
        }.items():
            ms = milliseconds(run, setting.device, 0.02 if setting.small else 0.15)
            notes[name] = [round(ms, 4), round(operations / ms / 1e9, 2)]
        found = torch.autograd.grad(y.square().sum(), kernels)[0].reshape(weight.shape)
    finally:
        set_float32_precision("highest")
    inputs, kernels, forward = _ways_of_convolution("unfolded", x.double(), weight.double())
    true = torch.autograd.grad(forward(inputs, kernels).square().sum(), kernels)[0].reshape(weight.shape)
    return float((found.double() - true).norm() / true.norm())


def _ways_of_convolution(way: str, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Callable[..., Tensor]]:
    """Inputs (T, n, c, 14, 14) and kernels (T, c, c, 3, 3) in the form of a way, and the way."""
    tasks, count, channels = x.shape[:3]
    if way == "unfolded":
        each = torch.vmap(lambda x, weight: convolution(x, weight, padding=1))
        return x.detach().requires_grad_(), weight.detach().requires_grad_(), each
    form = torch.channels_last if "last" in way else torch.contiguous_format
    inputs = x.transpose(0, 1).reshape(count, tasks * channels, 14, 14).contiguous(memory_format=form)
    kernels = weight.reshape(tasks * channels, channels, 3, 3).contiguous(memory_format=form)

    def grouped(x: Tensor, weight: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x, weight, padding=1, groups=tasks)

    return inputs.detach().requires_grad_(), kernels.detach().requires_grad_(), grouped
