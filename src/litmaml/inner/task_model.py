"""A model that is called with each task's own weights, for T stacked tasks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

import litmaml.inner.autocast  # noqa: F401 - what autocast does with attention
from litmaml.engine.batch_norm import has_batch_norm
from litmaml.engine.convolution import Grouped
from litmaml.engine.features import Features, OtherCalls
from litmaml.engine.switches import is_on
from litmaml.engine.together import (
    Convolution,
    Drawn,
    can_be_mapped,
    first_convolution,
    task_by_task,
    tasks_at_once,
    tasks_held,
)
from litmaml.inner.channels_last import channels_last, channels_last_of_tasks, has_channels_last
from litmaml.inner.constant_parts import ConstantParts
from litmaml.inner.derivatives import Derivatives, needs_other_operations
from litmaml.inner.head import seen_by
from litmaml.inner.layers import random_layers
from litmaml.inner.model_call import Output, arguments, picked, predictions_of
from litmaml.inner.places import aliases
from litmaml.inner.surroundings import no_hooks, unfused_attention
from litmaml.tasks import Batch, Tasks, Tree, copies, tensors_of, tree_map
from litmaml.weights import Params

_COPIES = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class TaskModel(nn.Module):
    """A model and its loss, called functionally with each task's own weights: in a loop over tasks or by ``vmap``.

    Only the forward pass is mapped, and the sum of the tasks' losses is differentiated outside: mapping the gradient
    itself is wrong at second order for affine normalisation layers (PyTorch functorch issue 534).

    Args:
        model: Any module that maps a batch of inputs (n, ...) to predictions (n, ...). A dict of inputs is given to it
            by keyword, a tuple by position.
        loss: (predictions, targets) -> a scalar.
        output: Which of the model's outputs are the predictions, where it returns several; see ``picked``.

    Attributes:
        draws: Whether a forward pass draws random numbers; tasks are then computed in a loop.
        mapped: Whether ``vmap`` can take the model and its loss; else tasks are computed in a loop too.
        changes_inputs: Whether a forward pass writes into its inputs, so that it gets a copy.
        constant: Parts of the model that no inner step changes. Batches may come with their outputs in place.
        grouped: Whether a GPU computes convolutions whose kernels are each task's own as grouped ones, not by patches.

    What the layers tell of the first three is set at once; ``try_first_batch`` finds the rest.

    Raises:
        ValueError: A parameter has no shape yet, or the model computes with copies of its weights.
    """

    def __init__(self, model: nn.Module, loss: nn.Module, output: Output) -> None:
        super().__init__()
        self.model, self.loss, self.output = model, loss, output
        for name, weight in model.named_parameters():
            if isinstance(weight, nn.parameter.UninitializedParameter):
                raise ValueError(f"model: {name} has no shape yet; run one batch through lazy layers first")
        if wrapped := [module for module in model.modules() if isinstance(module, _COPIES)]:
            raise ValueError(
                f"model: holds a {type(wrapped[0]).__name__}, which computes with copies of the weights; give what it "
                "wraps (.module), and the number of devices as trainer.devices"
            )
        # In a tuple, since an attribute would make it a module twice.
        self._convolution: tuple[Convolution | None] = (first_convolution(model),)
        self._images = any(isinstance(module, nn.Conv2d) for module in model.modules())
        self._batch_norm, self._written_out = has_batch_norm(model), needs_other_operations(model)
        self.draws, self.mapped, self.changes_inputs = bool(random_layers(model)), can_be_mapped(model), False
        self.channels_last, self.grouped = has_channels_last(model), False
        # Looking for tied weights in each call takes longer than a small network's forward pass.
        self._tied = aliases(model)
        self.constant = ConstantParts()

    @property
    def _maps(self) -> bool:
        return self.mapped and not self.draws and is_on("together")

    def predict(self, fast: Params, inputs: Tree, slow: Params | None = None) -> Tensor:
        """Each task's predictions (T, n, ...) by its own fast weights, on inputs (T, n, ...)."""
        predictions: Tensor = self.each(lambda weights, x: self.call(weights, slow, x), fast, inputs)
        return predictions

    def loss_of(self, predictions: Tensor, targets: Tree) -> Tensor:
        """The loss of each task (T,) for predictions already made."""
        losses: Tensor = self._task_by_task(self.loss, self._maps, len(predictions), predictions, targets)
        return losses

    def losses(self, fast: Params, slow: Params, batch: Batch, twice: bool = False) -> Tensor:
        """l of each task (T,). ``twice``: its gradient is to be differentiated again."""
        return self.outcome(fast, slow, batch, twice=twice)[0]

    def outcome(
        self, fast: Params, slow: Params, batch: Batch, loss: nn.Module | None = None, twice: bool = False
    ) -> tuple[Tensor, Tensor]:
        """l of each task (T,), or another loss, and the predictions (T, n, ...) that it is taken on."""
        taken = self.loss if loss is None else loss

        def one(weights: Params, inputs: Tree, targets: Tree) -> tuple[Tensor, Tensor]:
            predictions = self.call(weights, slow, inputs)
            return taken(predictions, targets), predictions

        losses, predictions = self.each(one, fast, batch.inputs, batch.targets, twice=twice)
        return losses, predictions

    def default_chunk(self, tasks: Tasks, steps: int = 1, once: bool = False) -> int:
        """How many tasks to adapt together: those whose support fits at once, if memory takes so many steps' graphs.

        ``once``: Constant parts are computed once. Where all convolutions are in them, the steps take any number.
        """
        support, calls = tasks.support[0].inputs, self.constant.of(self.model)
        if once and self._maps and calls is not None and calls.left is None:
            return tasks_held(*self._convolution, [batch.inputs for batch in (*tasks.adapting, tasks.query)])
        held = [support] * steps + [tasks.query.inputs]
        return min(self.tasks_at_once(support), tasks_held(*self._convolution, held))

    def tasks_at_once(self, inputs: Tree) -> int:
        """How many tasks' forward passes to compute at once on such inputs (T, n, ...)."""
        if isinstance(inputs, Features) and (calls := self.constant.of(self.model)) is not None:
            return tasks_at_once(calls.left, inputs.parts) if self._maps else 1
        return tasks_at_once(*self._convolution, inputs) if self._maps else 1

    def each(self, function: Callable[..., Any], fast: Params, inputs: Tree, *others: Tree, twice: bool = False) -> Any:
        """The function of each task's fast weights and inputs, at once or in a loop; ``twice`` as in ``losses``."""
        first = inputs if isinstance(inputs, Tensor) else tensors_of(inputs)[0]
        at_once = self.tasks_at_once(inputs) == len(first)
        formed = self._written_out or self._images or (twice and self._batch_norm)
        form = Derivatives(twice) if formed else nullcontext()  # small networks feel a context
        way = Grouped() if self.grouped else nullcontext()
        if self.channels_last and at_once:
            inputs = tree_map(channels_last_of_tasks, inputs)
        with unfused_attention(), no_hooks(), form, way:
            return self._task_by_task(function, at_once, len(first), fast, inputs, *others)

    def _task_by_task(self, function: Callable[..., Any], at_once: bool, tasks: int, *stacked: Any) -> Any:
        try:
            return task_by_task(function, at_once, tasks, *stacked)
        except Drawn:  # by a generator of its own, or for this data only: the trial has seen nothing of it
            self.mapped = False
            return task_by_task(function, False, tasks, *stacked)

    def call(self, weights: Params, slow: Params | None, inputs: Tree) -> Tensor:
        """The model's predictions (n, ...) with a single task's weights."""
        both = {**slow, **weights} if slow else weights
        if self._tied:
            both = both | {alias: both[name] for alias, name in self._tied.items() if name in both}
        if isinstance(inputs, Features):
            inputs, parts = inputs
            if (calls := self.constant.of(self.model)) is not None:
                try:
                    replayed: Tensor = calls.replay(lambda: self._called(both, inputs), parts)
                    return replayed
                except OtherCalls:
                    self.constant.drop(self.model)
        return self._called(both, inputs)

    def _called(self, weights: Params, inputs: Tree) -> Tensor:
        if self.changes_inputs:
            inputs = copies(inputs)
        if self.channels_last:
            inputs = tree_map(channels_last, inputs)
        outputs = functional_call(self.model, weights, *arguments(inputs), tie_weights=False)
        predictions: Tensor = outputs if self.output is None else picked(outputs, self.output)
        return predictions

    def own_predictions(self, inputs: Tree) -> Any:
        """What the model by itself, called as anyone would call it, predicts for inputs (n, ...): a tensor, if it fits.

        Raises:
            ValueError: It has no such ``output``.
        """
        if self.channels_last:  # as in the inner loop: the same numbers, but rounding differs between formats
            inputs = tree_map(channels_last, inputs)
        return predictions_of(self.model, inputs, self.output)

    def features(self, head: str, fast: Params, inputs: Tree, slow: Params | None = None) -> Tensor:
        """What goes into the layer of this name, in each task (T, n, ...).

        Raises:
            ValueError: A forward pass calls it several times, or not at all.
        """
        layer = self.model.get_submodule(head)

        def one(weights: Params, x: Tree) -> Tensor:
            with seen_by(layer) as seen:
                self.call(weights, slow, x)
            if len(seen) != 1:
                raise ValueError(
                    f"head: a forward pass calls it {len(seen)} times, and once is needed, got {head!r}; name another "
                    "layer, or set head_start to learnt"
                )
            return seen[0]

        found: Tensor = self.each(one, fast, inputs)
        return found

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function of this inner loop, as it stands: by ``functional_call`` with other weights and rates."""
        return function(self, *arguments)
