"""The learner's own model, with weights written into it and put back, against the inner loop with the same weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from litmaml.inner.autocast import no_kept_casts
from litmaml.inner.derivatives import Derivatives
from litmaml.inner.loop import InnerLoop
from litmaml.inner.surroundings import unfused_attention
from litmaml.learner.trial.faults import Fault, check_each, check_gradient
from litmaml.learner.trial.loop_derivatives import by_inner_loop
from litmaml.learner.trial.plain_copy import TaskDerivatives, derivatives_of
from litmaml.learner.trial.state import dense_parts, equal, own_streams
from litmaml.learner.trial.weight_vectors import nearby, norm
from litmaml.tasks import Batch, Tree, tensors_of, tree_map
from litmaml.weights import Params, named_weights

_SHARES = (0.03, 1e-4, 0.0)
"""How far off other weights are, the first with which the model can be computed: a weight may have a range."""


def check_own_model(inner_loop: InnerLoop, batch: Batch) -> float:
    """Compare what the model itself gives at other weights, written into it, with what the inner loop gives.

    Not on copies, which a closure, a global or a hook may not follow: weights, buffers and attributes are put back.

    Args:
        inner_loop: As it will be trained, in its own precision.
        batch: Support examples of one or two tasks.

    Returns:
        The share by which these weights were off (``nearby``).

    Raises:
        ValueError: They differ, in a loss or in the gradient by a weight.
    """
    tensors = named_weights(inner_loop.model)
    names = [*inner_loop.fast_names, *inner_loop.shared_names]
    own: Params = {name: tensors[name].detach().clone() for name in names}
    with as_it_was(inner_loop), Derivatives():  # which the inner loop takes too
        for name in names:
            tensors[name].requires_grad_(True)  # fine-tuning holds slow weights still
        for share in _SHARES:
            here = nearby(own, 1, share)
            try:
                with torch.no_grad():
                    _write(tensors, nearby(own, 2, share))
                    _loss(inner_loop, batch)  # what it keeps of these weights shows at the others
                rounded = nearby(here, 3, 4 * max(torch.finfo(weight.dtype).eps for weight in own.values()))
                aside, theirs = (_derivatives(inner_loop, tensors, weights, batch) for weights in (rounded, here))
                usable = all(bool(part.isfinite().all()) for part in (theirs.loss, *theirs.gradient.values()))
            except Exception:  # whatever a distribution, a table or a decomposition raises outside of its range
                usable = False
                if share == 0:
                    raise
            if usable:
                break
        for tensor in tensors.values():
            tensor.requires_grad_(False)
        with torch.no_grad():
            without = _loss(inner_loop, batch)
        for name in names:
            tensors[name].requires_grad_(True)
        _write(tensors, own)  # so that another reference has other weights
        ours = by_inner_loop(inner_loop, [here], batch, None)[0]
    # A float32 weight may stand in a model whose loss is float64.
    tolerance = min(1e3 * max(torch.finfo(part.dtype).eps for part in (theirs.loss, *own.values())), 0.05)
    if abs(float(without - theirs.loss)) > tolerance * abs(float(theirs.loss)):
        otherwise = (
            "another one where no gradient is taken, as in evaluation and in estimates by losses alone; let it not "
            "depend on torch.is_grad_enabled() or a tensor's requires_grad"
        )
        raise Fault(f"its loss is {otherwise}", f"it is {otherwise}")
    check_gradient(ours.loss - theirs.loss, ours.gradient, theirs, tolerance)
    rounding = {name: norm({name: aside.gradient[name] - g}) for name, g in theirs.gradient.items()}
    check_each(ours.gradient, theirs, tolerance, rounding)
    return share


def check_copy(inner_loop: InnerLoop, copied: InnerLoop, inputs: Tree) -> None:
    """Refuse a copy whose inner loop predicts otherwise (n, ...) than the original's model with the same weights in it.

    Both in evaluation.

    Raises:
        ValueError: With the remedy.
    """
    tensors = named_weights(inner_loop.model)
    own: Params = {name: tensors[name].detach().clone() for name in inner_loop.fast_names}
    for share in _SHARES:
        near = nearby(own, 1, share)
        try:
            with (
                as_it_was(inner_loop),
                as_it_was(copied),
                torch.no_grad(),
                no_kept_casts(),
                Derivatives(),
                unfused_attention(),
            ):
                _write(tensors, near)
                with own_streams(4, tensors_of(inputs)[0].device):
                    theirs: Tensor = inner_loop.eval().own_predictions(inputs)
                _write(tensors, own)
                with own_streams(4, tensors_of(inputs)[0].device):
                    ours = copied.eval().predict(*tree_map(lambda part: part[None].clone(), (near, inputs)))[0]
        except Exception:  # at the weights as they are it will be told of by those who call the model anyway
            continue
        if theirs.isfinite().all():
            break
    else:
        return
    if not equal(ours, theirs, 1e-4 if ours.is_cuda else 1e-5):
        raise ValueError(
            "model: a copy of it, which adaptation is done on, gives other predictions at the same weights: its "
            "forward pass reads a module, a weight or a number by a closure, a global, a weakref or another object, "
            "which the copy does not have; let it use attributes of its own modules"
        )


def _write(tensors: Params, weights: Params) -> None:
    with torch.no_grad():
        for name, weight in weights.items():
            tensors[name].copy_(weight)


def _derivatives(inner_loop: InnerLoop, tensors: Params, weights: Params, batch: Batch) -> TaskDerivatives:
    """Of the model itself with these weights written into it, and left there."""
    _write(tensors, weights)
    return derivatives_of(_loss(inner_loop, batch), {name: tensors[name] for name in weights}, None)


def _loss(inner_loop: InnerLoop, batch: Batch) -> Tensor:
    one = batch.task(0)
    with own_streams(4, batch.device), unfused_attention():
        loss: Tensor = inner_loop.loss(inner_loop.own_predictions(one.inputs), one.targets)
    return loss


@contextmanager
def as_it_was(module: nn.Module) -> Iterator[None]:
    """Put back afterwards what is changed in here: numbers of parameters and buffers, attributes, and what these hold.

    Containers in attributes get back the entries that they had, one level deep.
    """
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    numbers = [tensor.detach().clone() for tensor in tensors]
    trained = [tensor.requires_grad for tensor in tensors]
    attributes = [vars(part) for part in module.modules()]
    plain = dict, OrderedDict, list
    containers = [*attributes, *(v for kept in attributes for v in kept.values() if type(v) in plain)]
    entries = [container.copy() for container in containers]
    try:
        yield
    finally:
        for container, kept in zip(containers, entries, strict=True):
            if isinstance(container, list):
                container[:] = kept
            else:
                container.clear()
                container.update(kept)
        with torch.no_grad():
            for tensor, number, trains in zip(tensors, numbers, trained, strict=True):
                if not all(map(torch.equal, dense_parts(tensor), dense_parts(number))):
                    tensor.copy_(number)
                if tensor.requires_grad != trains:
                    tensor.requires_grad_(trains)
