"""Outputs of a model's parts that stay the same for a batch: recorded in one forward pass, given again in others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from litmaml.engine.together import first_convolution
from litmaml.tasks import Tree
from litmaml.weights import named_weights

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_NONE = object()


class Features(NamedTuple):
    """Inputs with what the recorded calls give for them."""

    inputs: Tree
    parts: tuple[Tensor, ...]


# Neither is an Exception, which a model's own forward pass may catch.
class OtherCalls(BaseException):
    """A forward pass that calls its modules otherwise than the recorded one."""


class _Enough(BaseException):
    """All calls are recorded: the rest of the forward pass is of no use."""


class _Call(NamedTuple):
    module: nn.Module
    form: Any


class ConstantCalls:
    """Calls of a model's modules, in order, of which a batch's outputs can be given in place of running them.

    Attributes:
        trained: Whether the outputs depend on trained weights.
        left: The first convolution of the model outside of them.
    """

    def __init__(self, model: nn.Module, calls: Sequence[_Call]) -> None:
        self._calls = tuple(calls)
        self._modules = [*dict.fromkeys(call.module for call in calls)]
        self.trained = True
        self.left = first_convolution(model, self._modules)

    def record(self, run: Callable[[], Any]) -> tuple[Tensor, ...]:
        """The outputs of the calls in a forward pass, which ends with the last of them.

        Raises:
            OtherCalls: Others are called.
        """
        found: list[Tensor] = []
        done, inside = 0, False

        def recording(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
            def recorded(*args: Any, **kwargs: Any) -> Any:
                nonlocal done, inside
                if inside:  # one of them runs another
                    return forward(*args, **kwargs)
                inside = True
                try:
                    output = forward(*args, **kwargs)
                finally:
                    inside = False
                tensors, form = _parts_of(output)
                if self._calls[done] != (module, form):
                    raise OtherCalls
                # The model may write into what it gets.
                found.extend(tensor.clone() for tensor in tensors)
                done += 1
                if done == len(self._calls):
                    raise _Enough
                return output

            return recorded

        try:
            with _in_place(self._modules, recording):
                run()
        except _Enough:
            return tuple(found)
        raise OtherCalls

    def replay(self, run: Callable[[], Any], parts: Sequence[Tensor]) -> Any:
        """What a forward pass gives in which the outputs of the calls are these.

        Raises:
            OtherCalls: Others are called.
        """
        left, tensors = iter(self._calls), iter(parts)

        def replaying(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
            def replayed(*args: Any, **kwargs: Any) -> Any:
                call = next(left, None)
                if call is None or call.module is not module:
                    raise OtherCalls
                spec, missing = call.form
                return pytree.tree_unflatten([None if gap else next(tensors).clone() for gap in missing], spec)

            return replayed

        with _in_place(self._modules, replaying):
            result = run()
        if next(left, None) is not None:
            raise OtherCalls
        return result


def may_be_constant(model: nn.Module, moving: Collection[str]) -> list[nn.Module]:
    """The modules whose calls may be recorded, none of whose weights are among these; empty if it would gain nothing.

    A call goes round what somebody's hooks do, and what is scripted cannot be replaced.
    """
    named = named_weights(model)
    moved = {id(named[name]) for name in moving}

    def is_free(module: nn.Module) -> bool:
        return not any(id(tensor) in moved for tensor in (*module.parameters(), *module.buffers())) and not any(
            isinstance(part, torch.jit.ScriptModule) or any(getattr(part, hooks) for hooks in _HOOKS)
            for part in module.modules()
        )

    free = [module for module in model.modules() if is_free(module)]
    return free if any(map(_holds_numbers, free)) else []


def constant_calls(
    model: nn.Module, free: Collection[nn.Module], passes: Sequence[Callable[[], Any]]
) -> ConstantCalls | None:
    """The outermost calls whose outputs are the same in all passes and depend on nothing that a gradient is taken by.

    Args:
        model: What the passes run.
        free: Of its modules those that may be recorded.
        passes: Forward passes on the same inputs, in which all but what is meant to stay the same differs.

    Returns:
        Them, or None where there are none that hold weights.
    """
    trees = [_calls_in(model, run) for run in passes]
    allowed = set(free)
    try:
        while True:
            chosen: list[_Node] = []
            others: set[nn.Module] = set()
            _choose([tree.inside for tree in trees], allowed, chosen, others)
            # All calls of a module, or none: which call it is, a forward pass does not say.
            if not (both := others & {node.module for node in chosen}):
                break
            allowed -= both
    except OtherCalls:
        return None
    if not any(_holds_numbers(node.module) for node in chosen):
        return None
    return ConstantCalls(model, [_Call(node.module, node.form) for node in chosen])


class _Node:
    """A call in a forward pass, with those inside of it and some sums that tell its output."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.inside = module, list[_Node]()
        self.form: Any = None
        self.sums: Tensor | None = None
        self.reached = True

    def returns(self, output: Any) -> None:
        try:
            tensors, self.form = _parts_of(output)
        except OtherCalls:
            return
        real = [tensor for tensor in tensors if tensor.is_floating_point()]
        if real:
            self.reached = any(tensor.requires_grad for tensor in real)
            with torch.no_grad():
                self.sums = torch.stack([_sums(tensor) for tensor in tensors])

    def is_as(self, other: _Node) -> bool:
        if self.sums is None or other.sums is None or self.reached or other.reached or self.form != other.form:
            return False
        return torch.allclose(self.sums, other.sums, rtol=1e-5, atol=0.0)


def _sums(tensor: Tensor) -> Tensor:
    """Enough of its numbers to see that it is another; the numbers themselves of all calls would take memory."""
    numbers = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).double().flatten()
    return torch.stack([numbers.abs().sum(), numbers.square().sum(), (numbers - 1).square().sum()])


def _calls_in(model: nn.Module, run: Callable[[], Any]) -> _Node:
    tree = _Node(model)
    open_calls = [tree]

    def noting(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            node = _Node(module)
            open_calls[-1].inside.append(node)
            open_calls.append(node)
            try:
                output = forward(*args, **kwargs)
            finally:
                open_calls.pop()
            node.returns(output)
            return output

        return noted

    with _in_place([part for part in model.modules() if not isinstance(part, torch.jit.ScriptModule)], noting):
        run()
    return tree


def _choose(
    calls: Sequence[Sequence[_Node]], allowed: Collection[nn.Module], chosen: list[_Node], others: set[nn.Module]
) -> None:
    """Add the outermost constant calls to those chosen, and the modules of the calls around them to the others.

    Args:
        calls: Of each pass.
        allowed: The modules that may be chosen.
        chosen: Gets nodes of the first pass.
        others: Gets modules.

    Raises:
        OtherCalls: The passes differ in what they call.
    """
    if len({len(same) for same in calls}) > 1:
        raise OtherCalls
    for first, *further in zip(*calls, strict=True):
        if any(node.module is not first.module for node in further):
            raise OtherCalls
        if first.module in allowed and all(first.is_as(node) for node in further):
            chosen.append(first)
        else:
            others.add(first.module)
            _choose([first.inside, *(node.inside for node in further)], allowed, chosen, others)


@contextmanager
def _in_place(
    modules: Sequence[nn.Module], change: Callable[[nn.Module, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Other functions in the place of the modules' forward passes."""
    before = [(vars(module), vars(module).get("forward", _NONE)) for module in modules]
    try:
        for module in modules:
            vars(module)["forward"] = change(module, module.forward)
        yield
    finally:
        for inside, forward in before:
            if forward is _NONE:
                inside.pop("forward", None)
            else:
                inside["forward"] = forward


def _parts_of(output: Any) -> tuple[list[Tensor], Any]:
    """The tensors of a module's output, and its form without them.

    Raises:
        OtherCalls: It holds something else than tensors and gaps.
    """
    leaves, spec = pytree.tree_flatten(output)
    if not all(leaf is None or isinstance(leaf, Tensor) for leaf in leaves):
        raise OtherCalls
    return [leaf for leaf in leaves if leaf is not None], (spec, tuple(leaf is None for leaf in leaves))


def _holds_numbers(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None or next(module.buffers(), None) is not None
