"""The meta-gradient of stacked tasks: their mean outer loss and its gradient, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

from litmaml.engine.allocator import keep_freed_memory
from litmaml.engine.switches import is_on
from litmaml.inner.loop import InnerLoop
from litmaml.outer.chunk_gradient import ChunkGradient, Part, of_one_shape
from litmaml.outer.compiled import CompiledChunkGradient, TooManyForms
from litmaml.outer.draws import check_draws
from litmaml.outer.gradient import OuterGradient
from litmaml.outer.loss import OuterLoss, task_weights
from litmaml.outer.memory import Fitting
from litmaml.randomness import drawing_for, generator_states, put_back_generators, task_streams
from litmaml.tasks import MetaBatch, Split, Tasks, Tree, chunks, numbers_of, select, stacks_of
from litmaml.weights import Params, Weights


class MetaGradient(NamedTuple):
    """Of T tasks after adaptation, in their order, stack after stack.

    losses: (T,) outer losses l(theta_N; query). predictions: (T, n, ...) on the query, NaN where there are none; of
        tasks in stacks a tuple of such, one of each stack.
    gradients: of the mean loss over the finite tasks, by the name of the trained parameter of the inner loop.
    finite: (T,) whether a task's loss and gradient are; the others are in no mean.
    weights: (T,) what each task counts in the mean, or None: all alike.
    whole: Whether all tasks are known to be finite, or count as such, since nobody waited for the device to tell.
    """

    losses: Tensor
    predictions: Tree
    gradients: Params
    finite: Tensor
    weights: Tensor | None = None
    whole: bool = False

    @property
    def loss(self) -> Tensor:
        """The mean over the finite tasks; zero where there is none."""
        losses = self.losses if self.weights is None else self.weights * self.losses
        kept = losses if self.whole else losses[self.finite]
        return kept.mean() if len(kept) else torch.zeros_like(self.losses[0])


class _Draws(Exception):
    """A model that was not known to draws random numbers: its tasks have to be taken one by one."""


class MetaGradientOf:
    """Computes meta-gradients of one inner loop.

    Args:
        inner_loop: The model with its inner optimizer.
        outer_gradient: How to differentiate through the steps.
        steps: N, the number of inner steps.
        tasks_per_chunk: Tasks that are held in memory and adapted together; None: see ``default_chunk``.
        compile: Trace the whole meta-gradient of a chunk and compile it: once for every new shape, which takes from
            seconds to minutes (more with more inner steps), then runs several times as fast on small models.
        seed: With a task's number the key of the streams that its random directions and random layers draw from.
        outer_loss: What is minimised; by default the mean loss after the last step.

    Attributes:
        epoch: Of the run, by which an outer loss may weigh the steps.
        fitting: How many tasks memory holds at once, where ``tasks_per_chunk`` does not say how many there are.

    Raises:
        ValueError: tasks_per_chunk is below 1, the inner optimizer cannot be compiled, or the outer gradient refuses
            what it would train otherwise than it reads.

    Example:
        Of l(w) = (w x - y)^2 at x = y = 1, from w = 0, a step of rate a ends at 2 a, where the gradient by w is
        2 (2 a - 1) (1 - 2 a):

        >>> from litmaml.inner import SGD
        >>> from litmaml.outer import SecondOrder
        >>> from litmaml.tasks import Batch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> torch.nn.init.zeros_(model.weight).shape
        torch.Size([1, 1])
        >>> one = Batch(torch.ones(1, 1, 1), torch.ones(1, 1, 1))
        >>> loop = InnerLoop(model, torch.nn.MSELoss(), SGD(0.1), ["*"], steps=1)
        >>> found = MetaGradientOf(loop, SecondOrder(), 1)(Tasks((one,), one, torch.zeros(1).long()))
        >>> round(found.gradients["model.weight"].item(), 5)
        -1.28
    """

    def __init__(
        self,
        inner_loop: InnerLoop,
        outer_gradient: OuterGradient,
        steps: int,
        tasks_per_chunk: int | None = None,
        compile: bool = False,
        seed: int = 0,
        outer_loss: OuterLoss | None = None,
    ) -> None:
        if tasks_per_chunk is not None and tasks_per_chunk < 1:
            raise ValueError(f"tasks_per_chunk: has to be at least 1, got {tasks_per_chunk}")
        if compile and not inner_loop.optimizer.traceable:
            raise ValueError(
                f"compile: {type(inner_loop.optimizer).__name__} cannot be compiled; set compile to false or use SGD "
                "as the inner optimizer"
            )
        self.inner_loop, self.steps, self.seed = inner_loop, steps, seed
        self.outer_loss = OuterLoss() if outer_loss is None else outer_loss
        outer_gradient.check(inner_loop, self.outer_loss)
        self.tasks_per_chunk, self.compile = tasks_per_chunk, compile
        self.of_chunk = ChunkGradient(inner_loop, outer_gradient, steps, self.outer_loss)
        self.compiled = CompiledChunkGradient(self.of_chunk)
        self._names: list[str] = []
        self.fitting = Fitting()

    @property
    def outer_gradient(self) -> OuterGradient:
        """How to differentiate through the steps; another may take its place."""
        return self.of_chunk.outer_gradient

    @outer_gradient.setter
    def outer_gradient(self, other: OuterGradient) -> None:
        other.check(self.inner_loop, self.outer_loss)
        self.of_chunk.outer_gradient = other

    @property
    def epoch(self) -> int:
        return self.of_chunk.epoch

    @epoch.setter
    def epoch(self, number: int) -> None:
        self.of_chunk.epoch = number

    def __call__(self, tasks: MetaBatch, wait: bool = True) -> MetaGradient:
        """The meta-gradient of the tasks; a task whose loss or gradient is not finite is left out and marked.

        Args:
            tasks: T of them.
            wait: For the device to tell whether all are finite; else they count as such, and ``finite`` tells of it.
        """
        stacks = tuple(map(self.inner_loop.with_classes, stacks_of(tasks)))
        if stacks[0].query.device.type == "cpu" and is_on("allocator"):
            keep_freed_memory()
        weights = self.inner_loop.trained()
        if self._names != (names := [*weights]):
            self.inner_loop.check_trainable()
            self._names = names
        for stack in stacks:
            self.of_chunk.look(stack)
        numbers = numbers_of(tasks)
        weighed = task_weights(self.outer_loss, numbers)
        if weighed is not None:
            sizes = [stack.size for stack in stacks]
            stacks = tuple(s._replace(weights=w) for s, w in zip(stacks, weighed.split(sizes), strict=True))  # type: ignore[no-untyped-call]  # of torch
        run, raised, short = self.compiled if self._compiles else self.of_chunk, None, False
        try:
            parts, gradient = self._over([chunks(s, self.chunk_size(s)) for s in stacks], weights, run)
        except _Draws:
            return self(tasks, wait)
        except TooManyForms:
            raise
        except torch.OutOfMemoryError:
            if not (short := self._halve(stacks)):
                raise
        except Exception as error:  # perhaps of a task whose numbers are not finite
            raised = error
        if short:  # not above, where the error still holds what its frames do
            return self(tasks, wait)
        whole = not raised and (not wait or bool(torch.stack([part.finite for stack in parts for part in stack]).all()))
        if not whole:
            # One bad task spoils its chunk: take them one by one.
            parts, gradient = self._over([chunks(s, 1) for s in stacks], weights, self.of_chunk.alone, leave_out=True)
            finite = torch.stack([part.finite for stack in parts for part in stack])
            if raised and bool(finite.all()):
                raise raised  # it is several at once that cannot be computed
            gradient = torch._foreach_mul(gradient, len(finite) / (int(finite.sum()) or 1))
        every = [part for stack in parts for part in stack]
        predictions = tuple(torch.cat(of_one_shape([part.predictions for part in stack])) for stack in parts)
        return MetaGradient(
            losses=torch.cat([part.losses for part in every]),
            predictions=predictions[0] if isinstance(tasks, Tasks) else predictions,
            gradients=dict(zip(weights, gradient, strict=True)),
            finite=torch.cat([part.finite.expand(len(part.losses)) for part in every]),
            weights=weighed,
            whole=whole,
        )

    @property
    def _compiles(self) -> bool:
        return self.compile and is_on("program")

    def chunk_size(self, tasks: Tasks) -> int:
        """How many tasks are adapted together; one where the model draws, which it does from the task's own stream."""
        return 1 if self.inner_loop.draws else self.tasks_per_chunk or self._fitting(tasks)

    def _fitting(self, tasks: Tasks) -> int:
        # A program is compared with what it was traced of while its graph holds memory of its own.
        kind, copies = (self.outer_gradient, self.inner_loop.grouped), 1 + self._compiles
        return min(self.default_chunk(tasks), self.fitting.size(tasks, kind, self._of_few, copies))

    def _of_few(self, tasks: Tasks) -> Part:
        return self.of_chunk(self.inner_loop.trained(), self.with_directions(tasks))

    def _halve(self, stacks: Sequence[Tasks]) -> bool:
        """Take half as many tasks at once from now on, where nobody has said how many; whether these are fewer."""
        asked = self.tasks_per_chunk is not None
        return not asked and self.fitting.halve(max(min(self.chunk_size(stack), stack.size) for stack in stacks))

    def default_chunk(self, tasks: Tasks) -> int:
        """How many tasks are adapted together where it is not said: see ``InnerLoop.default_chunk``."""
        once = self.of_chunk.takes_features(tasks)
        size = self.inner_loop.default_chunk(tasks, self.steps if self.outer_gradient.unrolls else 1, once)
        if self._compiles and min(size, self.inner_loop.tasks_at_once(tasks.query.inputs)) < tasks.size:
            return 1  # a loop over a chunk's tasks would be written out in its program, and take long to compile
        return size

    def _over(
        self,
        stacks: Sequence[Sequence[Tasks]],
        weights: Params,
        run: Callable[[Params, Tasks], Part],
        leave_out: bool = False,
    ) -> tuple[list[list[Part]], tuple[Tensor, ...]]:
        """The chunks' results by stack without their gradients, and the mean of these: only one is held at a time."""
        count = sum(chunk.size for parts in stacks for chunk in parts)
        done: list[list[Part]] = []
        total: tuple[Tensor, ...] = ()
        for parts in stacks:
            done.append([])
            for chunk in parts:
                part = self._in_stream(run, weights, self.with_directions(chunk))
                if not leave_out or part.finite:
                    share = chunk.size / count
                    # Not in place: autograd may give one tensor as the gradient of two weights.
                    gradient = part.gradient if share == 1 else torch._foreach_mul(part.gradient, share)
                    total = torch._foreach_add(total, gradient) if total else gradient
                done[-1].append(part._replace(gradient=()))
        return done, total or tuple(torch.zeros_like(weight) for weight in weights.values())

    def _in_stream(self, run: Callable[[Params, Tasks], Part], weights: Params, chunk: Tasks) -> Part:
        """The chunk's result, computed in the stream of its one task where the model draws.

        Raises:
            _Draws: The model was not known to, and is now.
        """
        if self.inner_loop.draws:
            with self.stream_of(chunk, "train"):
                return run(weights, chunk)
        if self._compiles:  # a program draws for all data, or for none
            return run(weights, chunk)
        device = chunk.query.device
        before = generator_states(device)
        part = run(weights, chunk)
        if all(map(torch.equal, before, generator_states(device))):
            return part
        # A model or a loss that draws for some data only: the trial of the first batch has seen nothing of it.
        put_back_generators(before, device)
        check_draws(self.outer_gradient, "model: it, or its loss,", "let nothing draw")
        self.inner_loop.draws = True
        raise _Draws

    def residuals(self, tasks: MetaBatch) -> Params:
        """How far from true is what the outer gradient rests on, in each task (T,), by name; see ``OuterGradient``."""
        found: list[Params] = []
        for stack in map(self.inner_loop.with_classes, stacks_of(tasks)):
            for chunk in chunks(stack, self.chunk_size(stack)):
                with torch.inference_mode(False), torch.no_grad():
                    weights = self.inner_loop.start(chunk)
                    found.append(
                        self.outer_gradient.residuals(self.inner_loop, self.outer_loss, *weights, chunk, self.steps)
                    )
        return {name: torch.cat([part[name] for part in found]) for name in found[0]}

    def stream_of(self, chunk: Tasks, split: Split) -> AbstractContextManager[None]:
        """The context in which a single task draws from its own stream; several draw from that of the first."""
        return drawing_for(self.seed, split, int(chunk.numbers[0]), chunk.query.device)

    def with_directions(self, tasks: Tasks) -> Tasks:
        """The tasks with what a sampled outer gradient draws for them, outside of what is compiled."""
        if not self.outer_gradient.sampled:
            return tasks
        fast, slow = self.inner_loop.start(select(tasks, slice(1)))
        weights = Weights({name: weight.detach()[0] for name, weight in fast.items()}, self.inner_loop.at_step(slow, 0))
        streams = task_streams(self.seed, "train", tasks.numbers.tolist(), "directions")
        return tasks._replace(directions=self.outer_gradient.directions(weights, streams, self.steps))
