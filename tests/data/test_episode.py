"""The numbers of an episode: how they are filled, checked, typed and recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from numbered_tasks import Numbered

from litmaml.cli.main import main
from litmaml.cli.recorded import configuration
from litmaml.cli.sealed import unseal
from litmaml.data import Episode, Glyphs, Sinusoid, TaskDataModule, TaskDistribution
from litmaml.data.episode import FEW_SHOT, Sizes
from litmaml.problems import LinearRegression, RankOne
from litmaml.runs.former_names import arguments_now
from litmaml.tasks import stacks_of

KEPT = Path(__file__).parents[1] / "fixtures" / "version_0.1.ckpt"
SINUSOID = ["-c", str(Path(__file__).parents[2] / "configs" / "sinusoid.yaml")]
NUMBERS = {"ways": 5, "shots": 1, "queries": 15, "support_batches": 1, "hessian_batches": 0}


def test_an_episode_takes_from_another_only_what_it_leaves_out() -> None:
    assert Episode().over(FEW_SHOT) == FEW_SHOT == Episode(**NUMBERS)
    for name in NUMBERS:
        found = Episode(**{name: 7}).over(FEW_SHOT)
        assert dataclasses.asdict(found) == NUMBERS | {name: 7}
    assert Episode(hessian_batches=0).over(Episode(hessian_batches=3)).hessian_batches == 0, "zero is a number"


def test_an_episode_is_not_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FEW_SHOT.ways = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Glyphs, (5, 1, 15, 1, 0)),
        (Numbered, (5, 1, 15, 1, 0)),
        (Sinusoid, (0, 10, 10, 1, 0)),
        (LinearRegression, (0, 0, 0, 1, 0)),
        (RankOne, (0, 1, 1, 1, 0)),
    ],
)
def test_what_is_left_out_is_the_task_sources_own_and_in_test_as_in_training(
    make: Callable[..., TaskDistribution], expected: tuple[int, ...]
) -> None:
    own = make()
    assert own.sizes("train") == own.sizes("val") == own.sizes("test") == Sizes(*expected)
    some = make(train=Episode(shots=3, support_batches=2), test=Episode(queries=7, hessian_batches=4))
    assert some.sizes("train") == Sizes(*expected)._replace(shots=3, support_batches=2)
    evaluated = Sizes(*expected)._replace(shots=3, support_batches=2, queries=7, hessian_batches=4)
    assert some.sizes("val") == some.sizes("test") == evaluated
    assert {**some.describe("val")}.items() >= {"shots": 3, "queries": 7, "split": "val"}.items()
    assert ("ways" in some.describe("train")) == (expected[0] > 0)


@pytest.mark.parametrize("make", [Sinusoid, Numbered])
def test_evaluation_has_batches_of_its_own_number(make: Callable[..., TaskDistribution]) -> None:
    tasks = make(train=Episode(support_batches=2, queries=2), test=Episode(support_batches=3, hessian_batches=1))
    batches = {
        split: (len(found.support), len(found.hessian or ()))
        for split in ("train", "val")
        for found in stacks_of(tasks.sample(split, range(2), 0))
    }
    assert batches == {"train": (2, 0), "val": (3, 1)}


@pytest.mark.parametrize("name", ["train", "test"])
@pytest.mark.parametrize(
    ("make", "numbers", "message"),
    [
        (Numbered, {"ways": 1}, "ways: must be at least 2, got 1; give 2 or more"),
        (Sinusoid, {"shots": 0}, "shots: must be at least 1, got 0; give 1 or more"),
        (Sinusoid, {"queries": -1}, "queries: must be at least 1, got -1; give 1 or more"),
        (Sinusoid, {"support_batches": 0}, "support_batches: must be at least 1, got 0; give 1 or more"),
        (Sinusoid, {"hessian_batches": -1}, "hessian_batches: must be at least 0, got -1; give 0 or more"),
        (LinearRegression, {"queries": -1}, "queries: must be at least 0, got -1; give 0 or more"),
        (Sinusoid, {"ways": 5}, "ways: these tasks have no classes, got 5; leave it out"),
        (LinearRegression, {"ways": 5}, "ways: these tasks have no classes, got 5; leave it out"),
        (RankOne, {"ways": 5}, "ways: these tasks have no classes, got 5; leave it out"),
    ],
)
def test_wrong_numbers_are_refused_by_their_whole_name(
    make: Callable[..., TaskDistribution], name: str, numbers: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"^{name}\.{message}$"):
        make(**{name: Episode(**numbers)})


def test_a_task_source_has_to_say_its_numbers() -> None:
    class Bare(TaskDistribution):
        def sample(self, split: Any, numbers: Any, seed: int) -> Any:
            raise NotImplementedError

    assert Bare(Episode(shots=2, queries=3)).sizes("test") == Sizes(0, 2, 3, 1, 0)
    with pytest.raises(ValueError, match=r"train\.queries: has to be a number, got none; give one, such as 1"):
        Bare(Episode(shots=2))


def parsed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What the parser makes of the arguments for the task source."""
    with pytest.raises(SystemExit) as ended:
        main(["fit", *SINUSOID, *arguments, "--print_config"])
    shown = capsys.readouterr()
    assert not ended.value.code, shown.err
    found: dict[str, Any] = yaml.safe_load(shown.out)["data"]["tasks"]["init_args"]
    return found


@pytest.mark.parametrize(
    "typed",
    [
        ["--data.tasks.init_args.train.shots=7"],
        ["--data.tasks.train.shots=7"],
        ["--data.tasks.init_args.train={shots: 7}"],
        ["-c", "{data: {tasks: {init_args: {train: {shots: 7}}}}}"],
    ],
)
def test_one_number_that_is_typed_leaves_the_others(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = parsed(capsys, *typed)
    assert found["train"] == {"ways": None, "shots": 7, "queries": 10, "support_batches": 1, "hessian_batches": 0}
    assert found["test"] == dict.fromkeys(NUMBERS)


def test_the_numbers_of_another_task_source_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    file = "{data: {tasks: {class_path: litmaml.data.Omniglot, init_args: {train: {shots: 5}}}}}"
    with pytest.raises(SystemExit):
        main(["fit", "-c", file, "--print_config", *["--data.tasks.init_args.test.queries=3"]])
    shown = capsys.readouterr().out
    assert "ways: 5\n" in shown
    assert "shots: 5\n" in shown
    assert "queries: 15\n" in shown
    assert "queries: 3\n" in shown


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("shots=7", "data.tasks.shots: there is no such option any more; it is data.tasks.train.shots now"),
        ("init_args.test_ways=7", "data.tasks.test_ways: there is no such option any more; it is data.tasks.test.ways"),
        ("train.shot=7", "data.tasks.train.shot: there is no such option; did you mean data.tasks.train.shots?"),
        ("train=5", "data.tasks.train: is a group of options, got '5'; give them by their names, such as "),
        ("train.shots=x", "data.tasks.train.shots: expected int | None, got 'x'"),
    ],
)
def test_what_is_no_number_is_told_by_its_name(typed: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", *SINUSOID, f"--data.tasks.{typed}"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert message in said


def test_a_configuration_of_version_0_1_is_told_the_new_name(capsys: pytest.CaptureFixture[str]) -> None:
    old = "{data: {tasks: {class_path: litmaml.data.Sinusoid, init_args: {shots: 5, queries: 5}}}}"
    with pytest.raises(SystemExit):
        main(["fit", "-c", old])
    assert "data.tasks.shots: there is no such option any more; it is data.tasks.train.shots" in capsys.readouterr().err


def test_a_checkpoint_of_version_0_1_keeps_its_numbers_but_for_what_is_typed() -> None:
    saved = torch.load(KEPT, weights_only=True)
    arguments = saved["datamodule_hyper_parameters"]["tasks"]["init_args"]
    assert arguments["shots"] == 10, "it is one of version 0.1"
    arguments |= {"shots": 4, "test_queries": 6}
    found = unseal(configuration(saved, ["--data.tasks.init_args.train.queries=9"]))["data"]["tasks"]
    train = {"shots": 4, "support_batches": 1, "hessian_batches": 0}
    assert found["init_args"] == {"train": train, "test": {"queries": 6}, "noise": 0.0}


def test_only_task_sources_have_former_numbers() -> None:
    record = {"ways": 5, "filters": 3}
    assert arguments_now(record, {"ways": int, "filters": int}) == record  # of Conv4
    assert arguments_now({"shots": 5}, {"size": int}) == {"shots": 5}
    assert arguments_now({"shots": 5, "noise": 0.1}, {"train": Episode, "noise": float}) == {
        "train": {"shots": 5},
        "noise": 0.1,
    }


def test_a_checkpoint_of_a_program_gives_one_number_away() -> None:
    module = TaskDataModule(Sinusoid(Episode(shots=4), Episode(queries=7)))
    saved = torch.load(KEPT, weights_only=True) | {"datamodule_hyper_parameters": dict(module.hparams)}
    found = unseal(configuration(saved, ["--data.tasks.init_args.train.shots=9"]))["data"]["tasks"]["init_args"]
    assert "shots" not in found["train"]["init_args"], "it is typed"
    assert found["train"]["init_args"]["queries"] == 10
    assert found["test"]["init_args"]["queries"] == 7
