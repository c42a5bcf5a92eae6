"""Fine-tuning: the meta-learnt inner loop on the one support set that a user has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from litmaml.finetuning.frozen_norm import batch_norms, check_batch_norms, check_independent, freeze_normalisation
from litmaml.finetuning.input_shape import outputs_of
from litmaml.finetuning.predictor import Predictor
from litmaml.finetuning.support_loss import check_parts, forget_class_weights, learnt_at, weigh
from litmaml.inner import InnerOptimizer
from litmaml.inner.class_losses import ignored_index, takes_class_indices
from litmaml.inner.divergence import diverges
from litmaml.inner.gradient_rule import Losses, plain
from litmaml.inner.head import check_named, find_heads, named_head, replace_head
from litmaml.inner.loop import InnerLoop
from litmaml.inner.transform import Transform
from litmaml.learner.meta_learner import MetaLearner
from litmaml.learner.metrics import count_right
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.learner.trial.loss_checks import check_loss_on
from litmaml.learner.trial.model_copy import copy_of
from litmaml.learner.trial.own_model import check_copy
from litmaml.runs.recipe import describe
from litmaml.tasks import Batch, StepTasks, Tasks, Tree, count_of, select, tree_map
from litmaml.weights import Params, named_weights

T = TypeVar("T")

AT_ONCE = 256
"""Examples whose gradient is taken at once; of a larger support set the parts' gradients are added up."""

_FURTHER = 10


class Step(NamedTuple):
    """The fast weights after an inner step, with loss and accuracy on the support set.

    accuracy: None in regression, and where targets are a tree.
    learnt: whether the support set is (``LEARNT``).
    """

    weights: Params
    loss: float
    accuracy: float | None
    learnt: bool


class FineTuner:
    """theta_{j+1} = U_j(theta_j, grad l(theta_j; support)) from a meta-learnt theta_0, for one support set.

    With another number of classes than in meta-training the head is replaced by a zero one of the right width
    (``replace_head``), and a loss that weighs the classes weighs them alike, of which it warns; inner rates that were
    learnt for each of the head's entries become their means over the classes.
    A head that was meta-learnt to start at zero or from class means starts so, by the means of the whole support set.

    In classification the steps go on, with the last step's rates, until the support set is learnt (``LEARNT``), to at
    most ten times as many: one that is larger or stranger than the tasks of meta-training takes more steps.

    A support set of more than ``AT_ONCE`` examples is dealt out to equal parts with examples of all classes; the
    gradient is that of their loss together, and batch norm normalises each part by itself.

    Args:
        learner: A meta-learnt ``MetaLearner``; it is not changed.
        example: A few inputs (n, ...), or a tree of such, for the shapes.
        outputs: The number of classes, or None where it is what the model gives (regression).
        steps: N, the number of inner steps, neither more nor fewer; by default as in the learner's own tests, and
            further as above.
        lr: Inner rate for all steps and weights; by default what was meta-learnt.
        head: The name of the layer that gives the logits; by default as in meta-training, or else what ``find_heads``
            finds.

    Raises:
        ValueError: An argument is out of its range, the inputs do not fit the model, its head cannot be replaced or
            its batch norms not be frozen.
    """

    def __init__(
        self,
        learner: MetaLearner,
        example: Tree,
        outputs: int | None = None,
        steps: int | None = None,
        lr: float | None = None,
        head: str | None = None,
    ) -> None:
        if steps is not None and steps < 1:
            raise ValueError(f"steps: has to be at least 1, got {steps}")
        learnt = learner.inner_loop
        copied = copy_of(learnt)
        check_copy(learnt, copied, example)
        model = copied.model.eval().requires_grad_(False)
        for name, weight in model.named_parameters():  # also of a learner that has been frozen
            weight.requires_grad_(name in {*learnt.fast_names, *learnt.rows})  # rows are asked for anew
        self.steps = learner.evaluation_steps if steps is None else steps
        self.most_steps = _FURTHER * self.steps if steps is None and outputs is not None else self.steps
        predictions = outputs_of(model, example, learnt.output)
        check_batch_norms(model, example)
        self.trained_outputs = int(predictions.shape[1]) if predictions.dim() > 1 else 1
        self.outputs = self.trained_outputs if outputs is None else outputs
        self.classifies = outputs is not None or takes_class_indices(learnt.loss)
        begun = learnt.head
        if head is None:
            head = learner.head if begun is None else begun.name
        else:
            named_head(model, head)
            check_named(model, example, head, learnt.output)
        self.replaced_heads: list[str] = []
        if outputs is not None and outputs != self.trained_outputs:
            self.replaced_heads = find_heads(model, example, learnt.output) if head is None else [head]
            for name in self.replaced_heads:
                replace_head(model, name, outputs)
            logits = outputs_of(model, example, learnt.output)
            if logits.shape[1:2] != (outputs,):
                raise ValueError(
                    f"head: with {outputs} outputs of {' and '.join(self.replaced_heads)} the model gives logits "
                    f"{tuple(logits.shape)}; name the layer that gives them"
                )
            forget_class_weights(copied.loss, outputs)
        optimizer = learnt.optimizer if lr is None else _with_rate(learnt.optimizer, lr)
        self.inner_loop = InnerLoop(
            model,
            copied.loss,
            optimizer,
            learnt.fast_names,
            learner.inner_steps,
            per_step_weights=learnt.rows,
            output=learnt.output,
            head=head,
            head_start="learnt" if begun is None else begun.start,
        )
        made, saved = self.inner_loop.learnt.state_dict(), learnt.learnt.state_dict()
        self.inner_loop.learnt.load_state_dict({key: _carried(saved[key], made[key]) for key in made})
        self._tried = False
        self.inner_loop.requires_grad_(False)
        for name, weight in model.named_parameters():
            weight.requires_grad_(name in self.inner_loop.fast_names)

    @property
    def frozen_layers(self) -> list[str]:
        """The batch norms, whose statistics ``module`` freezes."""
        return list(batch_norms(self.inner_loop.model))

    def path(self, inputs: Tree, targets: Tree) -> Iterator[Step]:
        """theta_0, theta_1, ... on the support set.

        Args:
            inputs: (n, ...), or a tree of such, as the model takes them.
            targets: (n,) class indices, or (n, ...) values, or a tree of such, which the loss takes.

        Raises:
            ValueError: The loss cannot be taken of them, or of many not be added up of parts.
            FloatingPointError: The loss is not finite.
        """
        loop = self.inner_loop
        batches = [tree_map(lambda part: part[None], Batch(*both)) for both in parts((inputs, targets))]
        tasks = self._with_classes(Tasks(tuple(batches), batches[0], torch.zeros(1, dtype=torch.int64)))
        if not self._tried:
            try_first_batch(loop, tasks._replace(support=tasks.support[:1]), None)
            self._tried = True
        alone = [batch.task(0) for batch in batches]
        with torch.no_grad():
            predictions = [loop.own_predictions(inputs) for inputs, _ in alone]
        for one, (_, wanted) in zip(predictions, alone, strict=True):
            check_loss_on(loop.loss, one, wanted)
        shares = weigh(loop.loss, [wanted for _, wanted in alone])
        check_parts(loop.loss, predictions, [wanted for _, wanted in alone], shares)
        batches = [*loop.constant.evaluated(loop, tasks._replace(support=tuple(batches))).support]
        enough = learnt_at(loop.loss, targets, self.outputs)

        def gradient(losses: Losses, fast: Params, slow: Params, step: StepTasks) -> Params:
            total: Params = {}
            for batch, share in zip(batches, shares, strict=True):
                if share == 0:  # a part in which nothing counts has no loss
                    continue
                part = plain(losses, fast, slow, StepTasks(batch))
                total = {name: share * g + total.get(name, 0.0) for name, g in part.items()}
            return total

        for j, fast in enumerate(loop.path(tasks, self.most_steps, gradient)):
            step = self._measured(j, fast, batches, shares, enough)
            yield step
            if j >= self.steps and step.learnt:
                return

    def _with_classes(self, tasks: Tasks) -> Tasks:
        """With the number of classes, of which the last may have no example."""
        counted = self.inner_loop.with_classes(tasks)
        return counted if counted.classes is None else counted._replace(classes=self.outputs)

    def module(self, weights: Params, inputs: Tree) -> Predictor:
        """The adapted model by itself: in eval mode, its batch norms frozen to the statistics of the support set.

        Raises:
            ValueError: Another layer looks at the whole batch.
        """
        model = copy_of(self.inner_loop.model)
        with torch.no_grad():
            for name, weight in named_weights(model).items():
                if name in weights:
                    weight.copy_(weights[name][0])
        freeze_normalisation(model, parts(inputs))
        made = Predictor(model, self.inner_loop.output)
        check_independent(made, select(inputs, slice(AT_ONCE)))
        return made.requires_grad_(True)

    def predict(self, weights: Params, inputs: Tree) -> Tensor:
        """Predictions (n, ...) with batch norm, where there is some, by the statistics of these inputs."""
        with torch.no_grad():
            return self.inner_loop.predict(weights, tree_map(lambda part: part[None], inputs))[0]

    def _measured(self, j: int, fast: Params, batches: list[Batch], shares: list[float], enough: float) -> Step:
        loss, right, total = 0.0, 0, 0
        with torch.no_grad():
            for batch, share in zip(batches, shares, strict=True):
                try:
                    predictions = self.inner_loop.predict(fast, batch.inputs)
                    loss += share * float(self.inner_loop.loss_of(predictions, batch.targets)) if share else 0.0
                except Exception as error:  # such as of torch.linalg, which takes no NaN
                    one = Tasks((batch,), batch, torch.zeros(1, dtype=torch.int64))
                    if not diverges(self.inner_loop, one, j, error):
                        raise
                    loss = float("nan")
                    break
                if self.classifies and isinstance(batch.targets, Tensor):
                    found = count_right(predictions[0], batch.targets[0], ignored_index(self.inner_loop.loss))
                    right, total = right + int(found[0]), total + int(found[1])
        if not loss < float("inf"):
            raise FloatingPointError(
                f"the loss on the support set is {loss} after {j} inner steps; lower the rate (lr) or take fewer steps"
            )
        return Step(fast, loss, right / total if total else None, loss <= enough)


def parts(examples: T) -> list[T]:
    """Examples dealt out to as few equal parts as hold at most ``AT_ONCE``; sorted by class, each has of all."""
    number = -(-count_of(examples) // AT_ONCE)
    return [select(examples, slice(k, None, number)) for k in range(number)]


def _with_rate(optimizer: InnerOptimizer, lr: float) -> InnerOptimizer:
    """The same inner optimizer with one fixed rate; of one around another that one's."""
    if isinstance(optimizer, Transform):
        return replace(optimizer, optimizer=_with_rate(optimizer.optimizer, lr))
    arguments: dict[str, Any] = describe(optimizer)["init_args"]
    fixed = {key: value for key, value in (("learn", "none"), ("per_step", False)) if key in arguments}
    if "lr" in arguments:
        return type(optimizer)(**{**arguments, **fixed, "lr": lr})
    if "options" in arguments:
        return type(optimizer)(**{**arguments, **fixed, "options": {**arguments["options"], "lr": lr}})
    raise ValueError(f"lr: the checkpoint's inner optimizer, {type(optimizer).__name__}, has no rate of this name")


def _carried(saved: Tensor, made: Tensor) -> Tensor:
    """What is learnt for a head of another width: of rates the mean over the classes, for each class."""
    if saved.dim() == 2 and len({saved.shape, saved.mT.shape}) == 1 and all(map(int.__ne__, saved.shape, made.shape)):
        # A matrix between the classes: what it makes of a class's own row on average, and of each other one's.
        own, others = saved.diagonal().mean(), saved.sum() - saved.trace()
        eye = torch.eye(len(made), dtype=saved.dtype, device=saved.device)
        return own * eye + others / max(len(saved) * (len(saved) - 1), 1) * (1 - eye)
    for dim, (old, new) in enumerate(zip(saved.shape, made.shape, strict=True)):
        if old != new:
            saved = saved.mean(dim, keepdim=True)
    return saved.expand_as(made).clone()
