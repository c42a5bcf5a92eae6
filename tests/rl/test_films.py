"""Films of a policy before and after it adapts, where its environment renders."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

pytest.importorskip("gymnasium", reason="needs gymnasium: pip install 'litmaml[rl]'")

from small_environments import Pictured, Reach
from test_rollouts import learner_of

from litmaml import TaskDataModule
from litmaml.callbacks.report import Report
from litmaml.finetuning.meta_checkpoint import open_checkpoint
from litmaml.rl import GaussianPolicy, GymnasiumTasks
from litmaml.rl.policy_report import write_policy_report
from litmaml.rl.policy_tuning import tune_policy
from litmaml.rl.trajectories import Trajectories
from litmaml.rl.trajectory_plot import film_of
from quiet_trainer import quiet_trainer


def tasks_of(kind: Any, **parameters: Any) -> GymnasiumTasks:
    return GymnasiumTasks(kind, {"goal": {"choices": [50.0]}, **parameters}, horizon=6, trajectories=2)


def pictures(film: bytes) -> list[Any]:
    """The pictures of a GIF as arrays."""
    return [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(Image.open(io.BytesIO(film)))]


def columns(frame: Any) -> list[int]:
    return np.flatnonzero(frame[15] > 128).tolist()


def test_before_and_after_stand_side_by_side_and_what_ends_first_stands_still() -> None:
    def frame(place: int) -> Any:
        picture = np.zeros((30, 40, 3), np.uint8)
        picture[:, place] = 255
        return picture

    film = film_of([frame(k) for k in (0, 10, 20)], [frame(k) for k in (5, 35)])
    assert film is not None
    found = pictures(film)
    assert [each.shape for each in found] == [(30, 80)] * 3
    assert [columns(each) for each in found] == [[0, 45], [10, 75], [20, 75]]
    assert film_of([], [frame(1)]) is None
    large = film_of([np.zeros((480, 640, 3), np.uint8)], [np.zeros((480, 640, 3), np.uint8)])
    assert large is not None
    assert pictures(large)[0].shape == (240, 640)


@pytest.fixture
def learner() -> Any:
    return learner_of(model=GaussianPolicy(2, 1, [8]))


def paths(learner: Any, source: GymnasiumTasks, steps: int = 2, film: bool = True) -> list[Trajectories]:
    learner.experience.connect(learner.inner_loop.model, source, 0, 1)
    tasks = source.sample("test", [0, 1], 0)
    return learner.experience.along_path(learner.inner_loop, tasks, steps, "test", film=film)[0]


def test_the_first_trajectory_of_the_first_task_is_filmed_at_the_first_step_and_the_last(learner: Any) -> None:
    found = paths(learner, tasks_of(Pictured))
    assert [len(each.frames) for each in found] == [6, 0, 6]
    for each in (found[0], found[2]):
        places = each.observations[0, 0, :, 0].tolist()
        wanted = [[int(np.clip(20 + 10 * place, 0, 39))] for place in places]
        assert [columns(frame[..., 0]) for frame in each.frames] == wanted
    assert not any(each.frames for each in paths(learner, tasks_of(Pictured), film=False))
    assert not any(each.frames for each in paths(learner, tasks_of(Reach)))


def test_a_film_ends_with_its_trajectory(learner: Any) -> None:
    found = paths(learner, tasks_of(Pictured, near={"choices": [60.0]}))[0]
    assert len(found.frames) == int(found.mask[0, 0].sum()) == 1


def test_where_nothing_can_be_drawn_a_test_goes_on_without(learner: Any) -> None:
    message = r"make_env: no film .* goal=50.0, wide=-1 cannot .* no display\); MuJoCo"
    with pytest.warns(UserWarning, match=message) as said:
        found = paths(learner, tasks_of(Pictured, wide={"choices": [-1]}))
    assert len([each for each in said if "no film" in str(each.message)]) == 1
    assert not any(each.frames for each in found)


def test_a_test_and_a_fine_tuning_leave_it_beside_their_pictures(learner: Any, tmp_path: Path, capsys: Any) -> None:
    data = TaskDataModule(tasks_of(Pictured), meta_batch=2, train_tasks=2, val_tasks=2, test_tasks=2)
    trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=[Report()])
    trainer.fit(learner, data)
    trainer.test(learner, data, verbose=False)
    assert "trajectories.png, trajectories.gif" in capsys.readouterr().out
    assert len(pictures((tmp_path / "trajectories.gif").read_bytes())) == 6
    trainer.save_checkpoint(tmp_path / "policy.ckpt")
    start = open_checkpoint(tmp_path / "policy.ckpt")
    found = tune_policy(start, tasks_of(Pictured), "a goal", steps=1, trajectories=2)
    (tmp_path / "out").mkdir()
    write_policy_report(found, tmp_path / "out")
    assert len(pictures((tmp_path / "out" / "trajectories.gif").read_bytes())) == 6
    assert "![before adaptation and after](trajectories.gif)" in (tmp_path / "out" / "report.md").read_text()
