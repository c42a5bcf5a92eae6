"""In which format a run keeps the kernels of convolutions, where nobody has said."""

from __future__ import annotations

from collections.abc import Callable

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from litmaml.data.task_data_module import TaskDataModule
from litmaml.engine.together import first_convolution
from litmaml.inner.channels_last import has_channels_last, to_channels_last
from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.memory_format import suits_channels_last
from litmaml.tasks import Tasks


def choose_format(inner_loop: InnerLoop, trainer: Trainer, stage: str) -> None:
    """Bring the kernels of a run on a CPU into channels-last format where that suits the model, and say so.

    By a task of its data module, before processes share out what they send one another. Of a run on loaders of one's
    own nothing is known by then, and kernels stay as they are.
    """
    data = getattr(trainer, "datamodule", None)
    if trainer.strategy.root_device.type != "cpu" or not isinstance(data, TaskDataModule):
        return
    if take_channels_last(inner_loop, lambda: data.one_task(stage)):
        rank_zero_info("model: kernels of convolutions are in channels-last format (channels_last: false leaves them)")


def take_channels_last(inner_loop: InnerLoop, example: Callable[[], Tasks]) -> bool:
    """Bring the kernels of a model on a CPU into channels-last format where that suits it; whether it was done.

    Args:
        inner_loop: Of the model.
        example: A task; asked for where there are convolutions of images.
    """
    if not isinstance(first_convolution(inner_loop.model), nn.Conv2d) or has_channels_last(inner_loop.model):
        return False
    if not suits_channels_last(inner_loop, example()):
        return False
    to_channels_last(inner_loop)
    inner_loop.channels_last = has_channels_last(inner_loop.model)  # of one channel they are in both
    return True
