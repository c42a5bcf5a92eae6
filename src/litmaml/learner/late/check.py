"""Whether training steps were finite, learnt one step later, while the device works at the next one.

To read a number of a GPU is to wait for all that it has been given before, and meanwhile it gets nothing new. So a step
is taken as if all were finite, what it changes is copied before, and it is taken back where it turns out otherwise.
"""

from __future__ import annotations

from typing import Any, NamedTuple, final

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from litmaml.learner.evaluated import EvaluatedLearner
from litmaml.learner.finite_tasks import count_finite, not_finite
from litmaml.learner.late.before_step import MOST_BYTES, BeforeStep
from litmaml.learner.late.when import is_unseen, may_be_late
from litmaml.outer.meta_gradient import MetaGradient
from litmaml.tasks import MetaBatch, numbers_of, tensors_of


@final
class LateCheck:
    """Takes meta-gradients without waiting for the device, where that is right; see ``may_be_late``.

    Args:
        learner: Whose steps they are. A check is of one run.

    Attributes:
        used: Whether steps of this run are looked at late; not before its first step.
        reads_bar: Whether Lightning may read what its bar shows from the device in each step.
        taken_back: Whether a step was not finite, and all is again as it was before it.
    """

    def __init__(self, learner: EvaluatedLearner) -> None:
        self._learner = learner
        self._asked = self.used = self.taken_back = False
        self.reads_bar = True
        self._steps: list[_Step] = []
        self._slots: list[_Slot] = []

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy, which has nothing to look at: a device's events cannot be copied."""
        return self.__dict__ | {"_steps": [], "_slots": []}

    def __enter__(self) -> None:
        """Begin a step."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """End it; where something failed, perhaps since this step or an earlier one was not finite, tell of that."""
        if isinstance(error, Exception):
            self.settle()

    def gradient(self, tasks: MetaBatch, waits: bool) -> MetaGradient:
        """The meta-gradient of a step's tasks; where it has not been waited for, all of them count as finite.

        Args:
            tasks: Of the step.
            waits: Whether the step has to be waited for, as where its numbers are logged.

        Raises:
            FloatingPointError: See ``settle``.
        """
        if not self._asked:
            run = self._learner, self._learner.trainer
            self._asked, self.used, self.reads_bar = True, may_be_late(*run), not is_unseen(*run)
        late = self.used and not waits and self._is_simple(tasks)
        self.settle(left=int(late))
        slot = self._free_slot() if late else None
        if slot is not None and not slot.before.take():
            slot = None
        found = self._learner.meta_gradient(tasks, wait=slot is None)
        if slot is not None:
            slot.flag.put(found.finite)
            self._steps.append(_Step(tasks, slot))
        return found

    def settle(self, left: int = 0) -> None:
        """Learn whether the steps by now were finite, but for the last ``left``.

        Raises:
            FloatingPointError: One was not: it names the task, as it would have in the step. The learner, its optimizer
                and its trainer are what they were then.
        """
        while len(self._steps) > left:
            tasks, slot = self._steps.pop(0)
            if not slot.flag.read():
                self._take_back(slot)
                raise self._error_of(tasks)

    def take_back(self) -> bool:
        """Take back what was not finite without an error of its own, for a run that is broken off; whether any was."""
        while self._steps:
            _, slot = self._steps.pop(0)
            if not slot.flag.read():
                self._take_back(slot)
                rank_zero_info(f"the step after step {self._learner.trainer.global_step} was not finite: taken back")
        return self.taken_back

    def _take_back(self, slot: _Slot) -> None:
        slot.before.put_back()
        self._steps, self._slots = [], []
        self.taken_back = True

    def _error_of(self, tasks: MetaBatch) -> FloatingPointError:
        """The error that names the task, for which the meta-gradient is computed again at the weights of then."""
        learner = self._learner
        with learner.trainer.precision_plugin.train_step_context():
            found = learner.meta_gradient(tasks)
        count = count_finite(numbers_of(tasks), found.finite, 1, found.whole)
        if count.bad:
            return not_finite(count, "train", learner.outer_gradient.remedy)
        return FloatingPointError(
            f"the loss or gradient of {len(found.finite)} train tasks from task {int(numbers_of(tasks)[0])} on was not "
            "finite, and is, computed again: the device does not compute the same twice; set trainer.deterministic to "
            "true, or on_nonfinite to skip"
        )

    def _is_simple(self, tasks: MetaBatch) -> bool:
        """What may change within a run: a single batch in each step, an error for what is not finite, few numbers."""
        learner = self._learner
        if learner.on_nonfinite != "raise" or learner.trainer.accumulate_grad_batches != 1 or learner.inner_loop.draws:
            return False
        return sum(part.nbytes for part in tensors_of(tasks)) <= MOST_BYTES  # which are kept until they are looked at

    def _free_slot(self) -> _Slot:
        if not self._slots:
            self._slots = [_Slot(self._learner.trainer) for _ in range(2)]
        return next(slot for slot in self._slots if all(slot is not step.slot for step in self._steps))


@final
class _Slot:
    """What is kept of one step beside its tasks."""

    def __init__(self, trainer: Trainer) -> None:
        self.before = BeforeStep(trainer)
        self.flag = _Flag()


class _Step(NamedTuple):
    tasks: MetaBatch
    slot: _Slot


@final
class _Flag:
    """Whether all of some tasks are finite, on its way from the device."""

    def __init__(self) -> None:
        self._here = torch.ones((), dtype=torch.bool)
        self._arrived: torch.cuda.Event | None = None

    def put(self, finite: Tensor) -> None:
        """Send it, behind what the device has to do for it."""
        every = finite.all()
        if every.device.type != "cuda":
            self._here = every
            return
        if self._arrived is None:
            self._here, self._arrived = self._here.pin_memory(), torch.cuda.Event()  # type: ignore[no-untyped-call]  # of torch
        self._here.copy_(every, non_blocking=True)
        self._arrived.record(torch.cuda.current_stream(every.device))

    def read(self) -> bool:
        """Wait for it, but for nothing that the device was given since."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._here)
