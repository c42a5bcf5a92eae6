"""In which format a run on a CPU keeps the kernels of convolutions, where nobody has said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from litmaml.data import Episode, Glyphs, TaskDataModule
from litmaml.inner import SGD
from litmaml.inner.channels_last import has_channels_last, to_channels_last
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP, Conv4
from quiet_trainer import quiet_trainer


class Flattening(nn.Module):
    """It takes its numbers in the order of their dimensions, or asks for them as they lie in memory."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.head = how, nn.Linear(3 * 13 * 13, 2)
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 3, 3, stride=2))

    def forward(self, images: Tensor) -> Tensor:
        x, n = self.body(images), len(images)
        how = {
            "flatten": lambda: x.flatten(1),
            "view": lambda: x.view(n, -1),
            "memory": lambda: x.as_strided((n, 507), (507, 1)),
        }
        logits: Tensor = self.head(how[self.how]())
        return logits


def conv4() -> nn.Module:
    return Conv4(2, 4, norm="none", pooling=False)


def glyphs() -> TaskDataModule:
    source = Glyphs(train=Episode(ways=2, shots=1, queries=2))
    return TaskDataModule(source, meta_batch=2, train_tasks=2, val_tasks=2, test_tasks=2)


def learner(model: nn.Module, channels_last: bool | None = None) -> MetaLearner:
    return MetaLearner(model, SGD(0.1), channels_last=channels_last, baselines=False)


@pytest.mark.parametrize(
    ("make", "given", "then"),
    [
        (conv4, None, True),
        (conv4, False, False),
        (lambda: Flattening("flatten"), None, True),
        (lambda: Flattening("view"), None, False),
        (lambda: Flattening("memory"), None, False),
        (lambda: MLP(784, 2), None, False),
    ],
    ids=["Conv4", "given", "flatten", "view", "in memory", "no convolution"],
)
@pytest.mark.parametrize("stage", ["fit", "test"])
@pytest.mark.filterwarnings("ignore:checkpoints will not rebuild:UserWarning")
def test_a_run_on_a_cpu_takes_it_where_the_model_computes_the_same(
    make: Callable[[], nn.Module],
    given: bool | None,
    then: bool,
    stage: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(0)
    module = learner(make(), given)
    with caplog.at_level("INFO"):
        getattr(quiet_trainer(tmp_path, max_epochs=1), stage)(module, glyphs())
    assert has_channels_last(module.inner_loop.model) == module.inner_loop.channels_last == then
    said = "model: kernels of convolutions are in channels-last format (channels_last: false leaves them)"
    assert (said in caplog.text) == then


def test_learnt_rates_take_the_format_of_their_kernels(tmp_path: Path) -> None:
    module = MetaLearner(conv4(), SGD(0.1, learn="parameter"), baselines=False)
    quiet_trainer(tmp_path, max_epochs=1).fit(module, glyphs())
    kernels = [(n, p) for n, p in module.inner_loop.named_parameters() if p.dim() == 4 and p.shape[1] > 1]
    assert len(kernels) == 6
    assert all(p.is_contiguous(memory_format=torch.channels_last) for _, p in kernels)


def test_kernels_of_other_dimensions_stay_as_they_are() -> None:
    model = nn.ModuleList([nn.Conv1d(2, 3, 3), nn.Conv2d(2, 3, 3), nn.Conv3d(2, 3, 3)])
    to_channels_last(model)
    formats = [layer.weight.is_contiguous() for layer in model]  # type: ignore[operator]
    assert formats == [True, False, True]


def test_a_model_without_convolutions_asks_for_no_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = learner(MLP(784, 2))
    monkeypatch.setattr(TaskDataModule, "one_task", lambda *_: pytest.fail("asked"))
    quiet_trainer(tmp_path, max_epochs=1).fit(module, glyphs())
