"""The page of a repository of the Hub: what a model is, how it is used, and how well it does."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from litmaml.runs import hub
from litmaml.runs.plain_files import NotPlain, read_json
from litmaml.shown import markdown
from litmaml.statistics.interval import Interval, cell, in_order

_SIGNED = re.compile(r"<!-- Written by litmaml push; sha256 of what precedes: ([0-9a-f]{64}) -->\n", re.ASCII)
_OF_THE_FOLDER = re.compile(r"^(?:## Files$|```python$|`predictions\.csv`)", re.MULTILINE)
"""Where a report begins to tell of the folder that it lies in."""
_APART = 60.0
"""Seconds by which copying a run's folder may turn the order of its files around."""
_PLACES = ("checkpoint", "root")
"""Of a protocol, what is a place on the machine that tested."""


def model_card(
    repository: hub.Repository,
    usage: Sequence[str],
    results: str,
    licence: str | None = None,
    task: str | None = None,
    base: str | None = None,
) -> str:
    """The text of ``README.md``, signed, so that a later one takes its place only as long as nobody has changed it.

    Args:
        repository: Where it will stand.
        usage: Lines of Markdown on how the model is used.
        results: Markdown on how well it does.
        licence: By its name on the Hub.
        task: By its name on the Hub, such as image-classification.
        base: The checkpoint that it was made from, by its name; one on the Hub is linked.
    """
    meta: dict[str, Any] = {
        "library_name": "litmaml",
        "tags": ["litmaml", "maml", "meta-learning", "few-shot-learning"],
    }
    if task is not None:
        meta["pipeline_tag"] = task
    if licence is not None:
        meta["license"] = licence
    if base is not None and base.startswith(hub.PREFIX):
        meta["base_model"] = base.removeprefix(hub.PREFIX).partition("@")[0]
    lines = ["---", yaml.safe_dump(meta, sort_keys=False).rstrip(), "---", "", f"# {markdown(repository.name)}", ""]
    text = "\n".join([*lines, *usage, "", results.strip(), "", ""])
    return f"{text}<!-- Written by litmaml push; sha256 of what precedes: {_sum(text)} -->\n"


def is_own(card: str) -> bool:
    """Whether a card is as ``model_card`` wrote it, so that nothing of somebody's is lost with it."""
    text, found = card[: card.rfind("<!--")], _SIGNED.fullmatch(card[card.rfind("<!--") :])
    return found is not None and found[1] == _sum(text)


def told_of(report: str) -> str:
    """What a fine-tuning's report says of its model, without its title and what it says of its folder."""
    return _OF_THE_FOLDER.split(report, maxsplit=1)[0].removeprefix("# Fine-tuning\n")


def tested(file: Path, checkpoint: Path) -> str:
    """What ``test_results.json`` says of a checkpoint in Markdown: the results after each inner step, and its protocol.

    Raises:
        ValueError: It is damaged, or of another checkpoint.
    """
    try:
        content = read_json(file)
        protocol, steps = content["protocol"], content["steps"]
        of = protocol["checkpoint"]
        lines = [*_results(steps, content.get("baselines", {})), "", *_protocol(protocol)]
    except (NotPlain, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"output: {str(file)!r} is damaged ({error}); test the run anew, or remove it") from error
    if Path(str(of)).name != checkpoint.name:
        raise ValueError(
            f"output: {str(file)!r} is not of {checkpoint.name}, got {of!r}; test the run anew: litmaml test "
            f"--ckpt_path={checkpoint.parent.parent}"
        )
    if checkpoint.stat().st_mtime > file.stat().st_mtime + _APART:
        raise ValueError(
            f"output: {str(file)!r} is older than {checkpoint.name}, which it may not be of; test the run anew: "
            f"litmaml test --ckpt_path={checkpoint.parent.parent}"
        )
    return "\n".join(lines)


def _results(steps: Sequence[Mapping[str, Any]], baselines: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    names = in_order(name for name in steps[0] if name != "inner_steps")
    yield from ("## Results", "", "Means with 95% intervals over the test tasks.", "")
    yield f"| inner steps | {' | '.join(map(markdown, names))} |"
    yield "| ---: |" + " ---: |" * len(names)
    for step in steps:
        yield f"| {int(step['inner_steps'])} | {' | '.join(_cells(names, step))} |"
    for baseline, found in baselines.items():
        yield f"| {markdown(baseline.replace('_', ' '))} | {' | '.join(_cells(names, found))} |"


def _protocol(protocol: Mapping[str, Any]) -> Iterator[str]:
    yield from ("## Protocol", "", "| | |", "| --- | --- |")
    for name, value in protocol.items():
        if name not in _PLACES:
            yield f"| {markdown(name.replace('_', ' '))} | {markdown(value)} |"


def _cells(names: Sequence[str], found: Mapping[str, Any]) -> list[str]:
    """What was found of each metric; nothing of one that there is not."""
    parts = {name: [_number(found[name][part]) for part in Interval._fields] for name in names if name in found}
    return [cell(name, Interval(*parts[name])) if name in parts else "" for name in names]


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
