"""What a fine-tuning says of its length and its time, and that a line does not end up in the bar."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from litmaml.finetuning import progress


class Clock:
    """A clock that goes on as it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def path(self, steps: int, each: float) -> Iterator[int]:
        for j in range(steps + 1):
            self.seconds += 10.0 if j == 0 else each  # what is tried once, before the first step
            yield j


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
    return clock


def taken(clock: Clock, steps: int, most: int, rounds: int, went: int, each: float = 1.0, scoring: float = 0.0) -> None:
    path = progress.inner_steps(clock.path(went, each), steps, most, "20 images", rounds, lambda step: {"loss": step})
    for _ in path:
        clock.seconds += scoring


def test_the_time_of_a_step_is_with_the_scoring_of_it(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    taken(clock, 10, 10, 0, 10, each=1.0, scoring=3.0)
    assert "10 inner steps on 20 images\nabout 40 s\n" in capsys.readouterr().err


def test_a_round_takes_more_than_its_steps(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    taken(clock, 5, 5, 6, 5)
    said = capsys.readouterr().err
    assert "about 53 s\n" in said  # 5 steps, and 6 times 5 with what stands for 3
    assert "rounds take" not in said


def test_rounds_are_told_anew_once_the_steps_are_known(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    taken(clock, 2, 20, 3, 7)
    said = capsys.readouterr().err
    assert "2 to 20 inner steps on 20 images, then 3 rounds" in said
    assert "about 17 s, at most 89 s" in said
    assert "7 steps taken; the 3 rounds take about 30 s" in said


def test_no_line_ends_up_in_the_bar(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    taken(clock, 2, 20, 3, 7)
    lines = capsys.readouterr().err.splitlines()
    for words in ("2 to 20 inner steps", "about 17 s", "7 steps taken"):
        (line,) = (line.split("\x1b[2K")[-1] for line in lines if words in line)
        assert line.startswith(words)
