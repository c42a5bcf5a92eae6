"""The zoo that comes with the package: trained, tested, and written as weights with a card each.

    python scripts/make_zoo.py                        # all, half an hour of one core
    python scripts/make_zoo.py --only sinusoid navigation
    python scripts/make_zoo.py --check                # trains anew, and compares with the cards

Each is an experiment that ships, with the overlay zoo/NAME upon it. Omniglot and the sentences (CLINC150) are found in
the folder that LITMAML_DATA or --data names, as omniglot/images_*.zip and data/clinc150.csv; the embeddings of the
sentences in the package wordllama, or in --embeddings. What lacks its data is left out, and told. A run that was
interrupted goes on in --work.

Written are NAME.ckpt, NAME.json (the results of its test) and NAME.md, the card: what scripts/zoo/NAME.md says, and
below it the results. --check writes nothing: it trains in a temporary folder, and ends with status 1 where a result
lies outside the interval on the card.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litmaml.finetuning.model_card import tested
from litmaml.runs import zoo
from litmaml.runs.checkpoint import FORMAT_KEY, read_checkpoint, sha256
from litmaml.runs.checkpoint_io import DurableCheckpointIO
from litmaml.runs.checkpoint_names import locate
from litmaml.runs.json_text import json_text
from litmaml.runs.training_form import VERSION_KEY
from litmaml.runs.weights_record import WEIGHTS_KEY
from litmaml.statistics.interval import Interval, cell
from whole_runs import whole_run

TEXTS = Path(__file__).with_name("zoo")
KEPT = (
    *("state_dict", "hyper_parameters", "datamodule_hyper_parameters", "TaskDataModule"),
    *(FORMAT_KEY, WEIGHTS_KEY, VERSION_KEY),
)
"""Of a checkpoint, what is needed to adapt, to test and to start from it."""
OF_THE_RUN = ("lr_scheduler", "lr_scheduler_interval")
"""Of its learner's arguments, what is of that run's length alone."""
METRICS = ("accuracy", "return", "loss")


@dataclass(frozen=True)
class Entry:
    """One of the zoo: the experiment, and the data that its configuration names by where they really lie."""

    experiment: str
    data: Mapping[str, str] = field(default_factory=dict)


_OMNIGLOT = {"data/omniglot": "{data}/omniglot"}
_SENTENCES = {
    "data/clinc150.csv": "{data}/data/clinc150.csv",
    "data/embeddings.safetensors": "{embeddings}/weights/l2_supercat_256.safetensors",
    "data/tokenizer.json": "{embeddings}/tokenizers/l2_supercat_tokenizer_config.json",
}
ENTRIES = {
    "sinusoid": Entry("sinusoid"),
    "navigation": Entry("rl/navigation"),
    "intents-5w1s": Entry("text", _SENTENCES),
    "glyphs-5w1s": Entry("glyphs"),
    "omniglot-5w1s": Entry("omniglot_5w1s", _OMNIGLOT),
    "omniglot-20w1s": Entry("omniglot_20w1s", _OMNIGLOT),
}


def missing(entry: Entry, places: Mapping[str, str]) -> str | None:
    """What of an entry's data is not there."""
    paths = (place.format_map(places) for place in entry.data.values())
    return next((path for path in paths if not os.path.exists(path)), None)


def trained(name: str, work: Path, places: Mapping[str, str]) -> tuple[Path, dict[str, Any]]:
    """Train and test one in a folder of its own, in which its data lie as its configuration has it, so that no path of
    this machine is recorded.

    Returns:
        The run's folder, and what its test found.
    """
    entry, home = ENTRIES[name], work / name
    for place, named in entry.data.items():
        link = home / place
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(Path(named.format_map(places)).resolve())
    home.mkdir(parents=True, exist_ok=True)
    run = Path("runs", name)
    with contextlib.chdir(home):
        results, _ = whole_run(run, ["-c", entry.experiment, "-c", f"zoo/{name}"])
    return home / run, results


def stripped(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint without the state of its training."""
    kept = {name: saved[name] for name in KEPT}
    learner = {name: value for name, value in saved["hyper_parameters"].items() if name not in OF_THE_RUN}
    return kept | {"hyper_parameters": learner}


def result_of(results: Mapping[str, Any]) -> tuple[str, Interval, int]:
    """The metric by which one is known, its mean over the test tasks, and after how many inner steps."""
    last = results["steps"][-1]
    metric = next(name for name in METRICS if name in last)
    return metric, Interval(**last[metric]), last["inner_steps"]


def title(name: str, results: Mapping[str, Any], subject: str) -> str:
    """The first line of a card."""
    metric, found, steps = result_of(results)
    return f"# {name}: {subject}, {metric} {cell(metric, found)} after {steps} inner step{'s' * (steps != 1)}"


def card(name: str, run: Path, results: Mapping[str, Any], checkpoint: Path) -> str:
    """The text of a card."""
    subject, _, told = (TEXTS / f"{name}.md").read_text(encoding="utf-8").partition("\n")
    lines = [
        title(name, results, subject.removeprefix("# ")),
        *("", told.strip(), ""),
        tested(run / "test_results.json", locate(run)),
        *("", "## Made by", ""),
        f"    litmaml fit -c {ENTRIES[name].experiment} -c zoo/{name}",
        f"    litmaml test --ckpt_path {Path('runs', run.name)}",
        "",
        f"`python scripts/make_zoo.py --only {name}` does both. {checkpoint.stat().st_size / 1000:.0f} kB, without the "
        "state of the training.",
        "",
    ]
    return "\n".join(lines)


def write(name: str, run: Path, results: Mapping[str, Any], out: Path) -> None:
    """The checkpoint, its results and its card."""
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / f"{name}.ckpt"
    DurableCheckpointIO().save_checkpoint(stripped(read_checkpoint(locate(run))), checkpoint)
    protocol = {key: value for key, value in results["protocol"].items() if key not in ("root", "path")}
    kept = dict(results) | {"protocol": protocol | {"checkpoint": f"sha256:{sha256(checkpoint)}"}}
    (out / f"{name}.json").write_text(json_text(kept), encoding="utf-8")
    text = card(name, run, results, checkpoint)
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    print(text.partition("\n")[0])


def agrees(name: str, results: Mapping[str, Any]) -> bool:
    """Whether a result lies within the interval of the one that ships; told in a line."""
    before = json.loads((zoo.folder() / f"{name}.json").read_text(encoding="utf-8"))
    (metric, new, _), (_, old, _) = result_of(results), result_of(before)
    within = abs(new.mean - old.mean) <= old.half_width
    print(f"{name}: {metric} {cell(metric, new)}, {'within' if within else 'NOT WITHIN'} {cell(metric, old)}")
    return within


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(ENTRIES), choices=list(ENTRIES), help="which")
    parser.add_argument("--out", type=Path, default=zoo.folder(), help="folder to write to; by default the package's")
    parser.add_argument("--work", type=Path, default=Path("results/zoo"), help="folder to train in")
    parser.add_argument("--check", action="store_true", help="train anew and compare with the cards")
    parser.add_argument("--data", default=os.environ.get("LITMAML_DATA", "data"), help="folder of the data")
    found = importlib.util.find_spec("wordllama")
    package = str(Path(found.origin).parent) if found is not None and found.origin else "wordllama"
    parser.add_argument("--embeddings", default=package, help="folder of the package wordllama")
    given = parser.parse_args(arguments)
    places = {"data": given.data, "embeddings": given.embeddings}
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        work = (Path(scratch) if given.check else given.work).resolve()
        for name in given.only:
            if lacking := missing(ENTRIES[name], places):
                print(f"{name}: left out, since there is no {lacking}")
                continue
            run, results = trained(name, work, places)
            if given.check:
                good = agrees(name, results) and good
            else:
                write(name, run, results, given.out.resolve())
    sys.exit(not good)


if __name__ == "__main__":
    main()
