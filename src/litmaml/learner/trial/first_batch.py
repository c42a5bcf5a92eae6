"""A trial of the first batch: what would make gradients or numbers silently wrong, found before hours are spent."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from litmaml.inner.autocast import no_kept_casts
from litmaml.inner.loop import InnerLoop
from litmaml.inner.model_call import arguments, picked, shapes
from litmaml.inner.surroundings import unfused_attention
from litmaml.learner.trial.derivatives import try_derivatives, try_own_model
from litmaml.learner.trial.examples import ENOUGH, is_cheap, is_slow
from litmaml.learner.trial.examples import few as few_of
from litmaml.learner.trial.loss_checks import check_loss_on, check_output
from litmaml.learner.trial.model_checks import check_hooks
from litmaml.learner.trial.model_copy import copy_of, kept_values
from litmaml.learner.trial.state import Drawn, Snapshot, attributes, changed, equal, own_streams
from litmaml.outer import OuterGradient
from litmaml.outer.draws import check_draws
from litmaml.shown import first_line, listed
from litmaml.tasks import (
    Batch,
    MetaBatch,
    Tasks,
    Tree,
    copies,
    form,
    of_each_form,
    ordinary,
    stacks_of,
    tensors_of,
)


def try_first_batch(inner_loop: InnerLoop, tasks: MetaBatch, outer_gradient: OuterGradient | None) -> list[str]:
    """Try the model on a few examples of the first tasks: nothing of it is changed, no stream moves on.

    Of the batches of support, Hessian products and query the first of each form (shapes and dtypes) is tried. Where
    there are stacks of unequal tasks, forward passes and losses are tried on all examples of each, if that costs
    little, and the rest on the first stack of each form.

    Looked at are: what a forward pass and a loss draw and change beside what they give; whether the loss fits the
    outputs and targets; whether the inner loop's gradient is that of the model with the same weights written into it,
    and of a copy in float64; whether the exact Hessian product is the central difference of gradients, in float64 at
    two radii; and whether several tasks at once give what one after another does.

    What is handled is set in the inner loop: ``draws``, ``mapped``, ``changes_inputs``.

    Args:
        inner_loop: The model with its loss, inner optimizer and outer gradient.
        tasks: A first batch, or its stacks.
        outer_gradient: What will be taken, or None in an evaluation; then what only it needs is not looked at.

    Returns:
        Sentences for the user on what is done otherwise than by default.

    Raises:
        ValueError: With what is wrong, the layer or weight, and the remedy.
    """
    stacks = stacks_of(tasks)
    device = stacks[0].query.device
    made = [name for name, value in kept_values(inner_loop.model).items() if _is_computed(value)]
    with torch.inference_mode(False), torch.enable_grad(), no_kept_casts(), own_streams(0, device):
        check_hooks(inner_loop.model)
        try:
            copy_of(inner_loop)
        except Exception as error:  # whatever somebody's model raises
            return [_try_uncopied(inner_loop, stacks, first_line(error))]
        remarks: dict[str, None] = {}
        tried: set[Any] = set()
        for stack in map(ordinary, stacks):
            like = form(stack, lambda part: (part.shape[2:], part.dtype))
            for batch in of_each_form([*stack.adapting, stack.query]):
                adapts = any(batch is one for one in stack.adapting)
                others = stack.query if adapts else stack.support[0]
                if like in tried:
                    _try_whole(inner_loop, batch, others, made, outer_gradient)
                    continue
                remarks |= dict.fromkeys(_try_batch(inner_loop, batch, others, made, outer_gradient, adapts))
            tried.add(like)
        return [*remarks]


def _try_batch(
    inner_loop: InnerLoop,
    batch: Batch,
    others: Batch,
    made: list[str],
    outer_gradient: OuterGradient | None,
    adapts: bool,
) -> list[str]:
    """Passes and derivatives on a few examples of a batch, with other inputs in between.

    Args:
        inner_loop: As for ``try_first_batch``.
        batch: What is tried.
        others: Another batch of the same tasks.
        made: The attributes that hold what is computed from weights, by name.
        outer_gradient: As for ``try_first_batch``.
        adapts: Whether inner steps are taken on it, whose gradient is differentiated; of a query's it is not.
    """
    device = batch.device
    all_own, all_other = (few_of(part, part.examples) for part in (batch, others))
    most, whole = 2 if is_slow(copy_of(inner_loop), batch) else ENOUGH, False
    few, other = few_of(batch, most), few_of(others, most)
    try:
        _try_passes(inner_loop, copy_of(inner_loop), few, other, made, outer_gradient)
    except Exception:
        few, other = all_own, all_other
        whole = max(part.examples for part in (few, other)) > most
        if not whole:
            raise
        # A model or a loss may take batches of one size only.
        _try_passes(inner_loop, copy_of(inner_loop), few, other, made, outer_gradient)
    else:
        if few.examples < batch.examples:
            _try_whole(inner_loop, batch, others, made, outer_gradient)
    with torch.autocast(device.type, enabled=False), torch.autocast("cpu", enabled=False):
        at_once = max(inner_loop.tasks_at_once(part.inputs) for part in (batch, others)) > 1
        return try_derivatives(inner_loop, few, at_once, outer_gradient if adapts else None, whole)


def _try_whole(
    inner_loop: InnerLoop, batch: Batch, others: Batch, made: list[str], outer_gradient: OuterGradient | None
) -> None:
    """Passes on all examples, where they cost little: a model may go another way for more of them."""
    own, other = (few_of(part, part.examples) for part in (batch, others))
    if is_cheap(inner_loop, own) and is_cheap(inner_loop, other):
        _try_passes(inner_loop, copy_of(inner_loop), own, other, made, outer_gradient)


def _try_uncopied(inner_loop: InnerLoop, stacks: Sequence[Tasks], why: str) -> str:
    """What needs no copy of the model: its gradient against the inner loop's; gives a sentence on the rest."""
    device = stacks[0].query.device.type
    with torch.autocast(device, enabled=False), torch.autocast("cpu", enabled=False):
        for batch in of_each_form(batch for stack in stacks for batch in ordinary(stack).adapting):
            try_own_model(inner_loop, few_of(batch, batch.examples))
    return (
        f"model: it cannot be copied ({why}), so that only its gradient was tried, not what it draws, keeps or changes"
    )


def _try_passes(
    inner_loop: InnerLoop,
    copied: InnerLoop,
    support: Batch,
    query: Batch,
    made: list[str],
    outer_gradient: OuterGradient | None,
) -> None:
    """Forward passes of the first task and its loss, on copies."""
    with unfused_attention():
        predictions = _try_model(inner_loop, copied, support, query, made, outer_gradient)
    targets = support.task(0).targets
    check_loss_on(copied.loss, predictions, targets)
    _try_loss(inner_loop, copied, predictions, targets, outer_gradient)


def _try_loss(
    inner_loop: InnerLoop, copied: InnerLoop, predictions: Tensor, targets: Tree, outer_gradient: OuterGradient | None
) -> None:
    """The loss, twice: what it draws, and whether it depends on calls before."""
    loss, device = copied.loss, predictions.device
    drawn = Drawn(device)

    def outcome() -> Tensor:
        with torch.no_grad(), own_streams(3, device), drawn:
            value: Tensor = loss(predictions.clone(), copies(targets))
        return value

    first, again = outcome(), outcome()
    if drawn.by_others:
        raise _draws_elsewhere(f"loss: {type(loss).__name__}", drawn)
    if not equal(first, again, _rounding(first)):
        raise ValueError(
            f"loss: {type(loss).__name__} gives another number for the same predictions, targets and random numbers, "
            "by something that it keeps between calls, which tasks would share; keep nothing there, and draw by "
            "torch's global generator"
        )
    if drawn.by_torch:
        if outer_gradient is not None:
            check_draws(outer_gradient, f"loss: {type(loss).__name__}", "take another loss")
        inner_loop.draws = True


def _rounding(numbers: Tensor) -> float:
    """The share of a number by which two passes over the same inputs may differ: kernels sum in other orders."""
    if numbers.is_cuda or not (numbers.is_floating_point() or numbers.is_complex()):
        return 1e-4
    return min(100 * torch.finfo(numbers.dtype).eps, 1e-4)  # on CPUs by where in memory an array begins


def _draws_elsewhere(what: str, drawn: Drawn) -> ValueError:
    return ValueError(
        f"{what} draws from {' and '.join(drawn.by_others)}, which neither a resumed run nor a second look at the same "
        "step repeats; draw by torch (torch.rand_like(x), nn.Dropout)"
    )


def _try_model(
    inner_loop: InnerLoop,
    copied: InnerLoop,
    support: Batch,
    query: Batch,
    made: list[str],
    outer_gradient: OuterGradient | None,
) -> Tensor:
    """Forward passes of the first task: what they draw and change, and whether they depend on those before.

    Returns:
        The predictions on its support.
    """
    model, inputs, others = copied.model, support.task(0).inputs, query.task(0).inputs
    before = Snapshot(model)
    kept = {name: value for name, value in kept_values(model).items() if name in made}
    given = copies(inputs)
    drawn = Drawn(support.device)
    first = _outputs(copied, given, 1, drawn)
    inner_loop.changes_inputs |= not all(map(equal, tensors_of(given), tensors_of(inputs)))
    once = attributes(model)
    # After other inputs, and twice in turn.
    other, again, twice = (_outputs(copied, copies(x), seed) for x, seed in ((others, 2), (inputs, 1), (inputs, 1)))
    after = Snapshot(model)

    now = kept_values(model)
    if stale := [name for name, value in kept.items() if now.get(name) is value]:
        raise ValueError(
            f"model: it keeps {listed(stale, 3)} as computed from its weights before, which no inner step changes and "
            "no outer step trains; compute that in the forward pass"
        )
    if drawn.by_others:
        raise _draws_elsewhere("model: its forward pass", drawn)
    if before.places != after.places:
        raise ValueError(
            "model: its forward pass puts other modules or parameters in the place of its own, which the inner loop "
            "does not see; make them once, in the constructor (of lazy layers: run one batch through the model before)"
        )
    if moved := changed(before.weights, after.weights):
        raise ValueError(
            f"model: its forward pass changes its own weights ({listed(moved, 3)}), which tasks would share, as an "
            "embedding with max_norm does, or a layer that sets its weights by the first batch; normalise in the "
            "forward pass without changing them, or run one batch through the model before"
        )
    if moved := changed(before.buffers, after.buffers):
        raise ValueError(
            f"model: its forward pass changes {listed(moved, 3)}, which tasks would share; take out what keeps "
            "statistics, counts or power iterations, or put that layer into eval mode if it keeps them in training only"
        )
    # By a copy that has seen nothing before; of the weights it is known now that a pass leaves them as they are.
    alone = _outputs(copy_of(inner_loop, share_weights=True), copies(others), 2)
    moved = changed(once, after.attributes)
    tolerance = 0.0 if moved and not first.is_cuda else _rounding(first)  # what it counts may hardly show yet
    if not all(equal(*pair, tolerance) for pair in ((first, again), (first, twice), (other, alone))):
        by = f"by what it keeps in {listed(moved, 3)}" if moved else "by something that it keeps between them"
        raise ValueError(
            f"model: a forward pass gives other outputs for the same inputs, weights and random numbers, {by}, which "
            "tasks would share; keep nothing between forward passes, and draw by torch's global generator"
        )
    if drawn.by_torch:
        if outer_gradient is not None:
            check_draws(outer_gradient, "model: its forward pass", "set dropout to 0")
        inner_loop.draws = True
    return first


def _outputs(copied: InnerLoop, inputs: Tree, seed: int, drawn: Drawn | None = None) -> Tensor:
    first = tensors_of(inputs)[0]
    with torch.no_grad(), own_streams(seed, first.device), drawn or nullcontext():
        positions, keywords = arguments(inputs)
        try:
            outputs: Any = copied.model(*positions, **keywords)
        except Exception as error:  # whatever somebody's forward pass raises
            raise ValueError(
                f"model: {type(copied.model).__name__} cannot take the tasks' inputs of shape {shapes(inputs)} "
                f"({type(error).__name__}: {first_line(error)}); are model and tasks of one configuration?"
            ) from error
    return check_output(picked(outputs, copied.output), len(first))


def _is_computed(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad and not value.is_leaf
