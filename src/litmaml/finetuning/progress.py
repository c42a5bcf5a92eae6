"""How far a command has come, and what it is going to do: a bar in a terminal, elsewhere a line a minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from litmaml.shown import LINE_EVERY, duration

T = TypeVar("T")

_BESIDE = 3
"""Steps that a round takes the time of beside its own: its start is measured, its model made, frozen and tried."""


def shown(
    things: Iterable[T],
    total: int,
    title: str,
    measures: Callable[[T], Mapping[str, float]] = lambda _: {},
    console: Console | None = None,
) -> Iterator[T]:
    """The things, with a progress bar that names what was measured on the last one; a line a minute in a file.

    Args:
        things: What is done one after the other.
        total: How many there are at the most.
        title: What they are.
        measures: What is said of one.
        console: Where it is shown; whoever prints meanwhile prints there, or the line ends up in the bar.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal or console.is_jupyter:  # where a bar needs ipywidgets
        yield from _in_lines(console, things, total, title, measures)
        return
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[measured]}"),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(title, total=total, measured="")
        for thing in things:
            progress.update(bar, advance=1, measured=_said(measures(thing)))
            yield thing
        progress.update(bar, total=progress.tasks[bar].completed)


def _in_lines(
    console: Console, things: Iterable[T], total: int, title: str, measures: Callable[[T], Mapping[str, float]]
) -> Iterator[T]:
    began = said = time.monotonic()
    done, last = 0, ""
    for thing in things:
        done, last, now = done + 1, _said(measures(thing)), time.monotonic()
        if now - said >= LINE_EVERY and done < total:
            left = duration((now - began) / done * (total - done))
            console.print(f"{title} {done}/{total}, {left} left  {last}".rstrip(), soft_wrap=True, highlight=False)
            said = now
        yield thing
    taken = duration(time.monotonic() - began)
    console.print(f"{title} {done}/{done} in {taken}  {last}".rstrip(), soft_wrap=True, highlight=False)


def _said(measured: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in measured.items())


def inner_steps(
    path: Iterable[T], steps: int, most: int, examples: str, rounds: int, measures: Callable[[T], Mapping[str, float]]
) -> Iterator[T]:
    """A path of inner steps, shown; of which is said first how long it is, and about how long it takes.

    The time is told by the first step, with what is done with it; where rounds follow, once more by all steps.

    Args:
        path: What is there after 0, 1, ... inner steps.
        steps: How many there are at the least.
        most: How many there are at the most.
        examples: What they are taken on, such as 12 images.
        rounds: How often they are taken once more, without some of the examples, to score the model.
        measures: What is said of one.
    """
    console = Console(stderr=True)
    number = str(steps) if most == steps else f"{steps} to {most}"
    again = f", then {rounds} rounds without some of them, to score the model" if rounds else ""
    _say(console, f"{number} inner steps on {examples}{again}")
    yield from shown(_timed(console, path, steps, most, rounds), most + 1, "inner steps", measures, console)


def _timed(console: Console, path: Iterable[T], steps: int, most: int, rounds: int) -> Iterator[T]:
    began, j = 0.0, 0
    for j, step in enumerate(path):
        if j == 0:
            began = time.monotonic()
        if j == 1:
            each = time.monotonic() - began
            least, longest = (each * (count + rounds * (count + _BESIDE)) for count in (steps, most))
            _say(console, f"about {duration(least)}" + (f", at most {duration(longest)}" if most > steps else ""))
        yield step
    if rounds and most > steps:
        taken = (time.monotonic() - began) / max(j, 1) * (j + _BESIDE)
        _say(console, f"{j} steps taken; the {rounds} rounds take about {duration(rounds * taken)}")


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)
