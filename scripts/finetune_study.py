"""How well fine-tuning does on characters that meta-training never saw.

    LITMAML_DATA=FOLDER python scripts/finetune_study.py --checkpoint runs/glyphs runs/omniglot_5w1s

FOLDER/omniglot holds images_background.zip and images_evaluation.zip of Omniglot. Of a checkpoint that was trained on
Omniglot only the characters of its own test split are drawn, for all checkpoints beside it too. From a seed folders of
images are drawn for each line of the tables, the same for all checkpoints, and each is given to what ``litmaml
finetune`` runs, with 15 query images a class:

* 5 and 12 classes of any alphabets with 1, 3 and 5 images each, beside the same network trained from scratch on the
  same support images (Adam, all of them in each step) and scored in the same way, with the gain over it folder by
  folder;
* the 20-way one-shot task, one image each by one drawer to learn from, one each by another drawer to recognise: in the
  published form 20 characters of one evaluation alphabet (Lake et al. 2015), where a checkpoint has not seen so many
  of one, and 20 of any alphabets;
* with --heads, the start of a new head: zero, the mean of the learnt rows, the learnt rows again and again, or rows
  drawn from a normal distribution with the learnt rows' mean and standard deviation.

The intervals are t s / sqrt(folders), t Student's 97.5% quantile. The line above takes eight minutes of one core.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor, nn

from litmaml.data import Omniglot
from litmaml.data.images import ImageFormat
from litmaml.finetuning.fine_tuner import FineTuner
from litmaml.finetuning.frozen_norm import freeze_normalisation
from litmaml.finetuning.labelled_images import Images, read_query, read_support
from litmaml.finetuning.meta_checkpoint import MetaCheckpoint, open_checkpoint
from litmaml.inner.head import replace_head
from litmaml.runs.recipe import build
from litmaml.statistics.interval import Interval, interval

PARTS = ("images_background", "images_evaluation")
QUERIES = 15
SCRATCH_STEPS, SCRATCH_RATE = 40, 2e-3  # 120 steps give a point more at most
HEADS = ("zero", "mean", "again", "drawn")

Characters = Mapping[str, list[bytes]]
"""The files of each character, PART/ALPHABET/CHARACTER, in the order of their 20 drawers."""


def read_characters(folder: Path) -> Characters:
    """What is in the two archives."""
    characters: dict[str, list[bytes]] = defaultdict(list)
    for part in PARTS:
        with zipfile.ZipFile(folder / f"{part}.zip") as opened:
            for name in sorted(opened.namelist()):
                if name.endswith(".png"):
                    characters[str(PurePosixPath(name).parent)].append(opened.read(name))
    return characters


def unseen(start: MetaCheckpoint, folder: Path, characters: Characters) -> set[str]:
    """The characters that a checkpoint was not trained on: the test split of one trained on Omniglot, or all."""
    recipe = start.tasks or {}
    if recipe.get("class_path", "").rpartition(".")[2] != Omniglot.__name__:
        return {*characters}
    here = {**recipe["init_args"], "root": str(folder), "download": False}
    return {*build({**recipe, "init_args": here}, Omniglot, "tasks").class_names("test")}


def published_alphabets(names: set[str]) -> list[list[str]]:
    """The characters of each evaluation alphabet with at least 20 of them."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        if name.startswith(PARTS[1]):
            found[str(PurePosixPath(name).parent)].append(name)
    return [members for members in found.values() if len(members) >= 20]


def write(folder: Path, name: str, files: Sequence[bytes]) -> None:
    """One class folder."""
    inner = folder / name.replace("/", " ")
    inner.mkdir(parents=True)
    for k, content in enumerate(files):
        (inner / f"{k}.png").write_bytes(content)


def draw_classes(folder: Path, characters: Characters, names: set[str], ways: int, shots: int, key: str) -> None:
    """Classes of any alphabets; all shots of a key have the same classes and query."""
    stream = random.Random(key)
    for name in stream.sample(sorted(names), ways):
        files = characters[name][:]
        stream.shuffle(files)
        write(folder / "query", name, files[:QUERIES])
        write(folder / "data", name, files[QUERIES:][:shots])


def draw_one_shot(folder: Path, characters: Characters, groups: Sequence[Sequence[str]], key: str) -> None:
    """The form of Omniglot's own one-shot task: 20 characters of one group by two of its drawers."""
    stream = random.Random(key)
    group = stream.choice(groups)
    learn, recognise = stream.sample(range(20), 2)
    for name in stream.sample(group, 20):
        write(folder / "data", name, [characters[name][learn]])
        write(folder / "query", name, [characters[name][recognise]])


def drawn(image_format: ImageFormat, draw: Callable[[Path], None]) -> tuple[Images, Images]:
    """Support and query of a folder, as ``litmaml finetune`` reads them."""
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder))
        support, names = read_support(f"{folder}/data", image_format)
        return support, read_query(f"{folder}/query", names, image_format)


def accuracy(model: Callable[[Tensor], Tensor], images: Images) -> float:
    """The share of the images that are predicted rightly."""
    with torch.no_grad():
        return float((model(images.inputs).argmax(1) == images.labels).float().mean())


def from_scratch(start: MetaCheckpoint, support: Images, query: Images, classes: int) -> tuple[float, float]:
    """Frozen and transductive accuracy of the same network that starts from random weights."""
    model: nn.Module = build(start.learner.hparams["model"], nn.Module, "model")
    tuner = FineTuner(start.learner, support.inputs[:2], classes)
    for head in tuner.replaced_heads:
        replace_head(model, head, classes)
        nn.init.kaiming_uniform_(model.get_parameter(f"{head}.weight"), a=5**0.5)  # torch's own start
    optimizer = torch.optim.Adam(model.parameters(), SCRATCH_RATE)
    for _ in range(SCRATCH_STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(support.inputs), support.labels).backward()
        optimizer.step()
    transductive = accuracy(model, query)
    freeze_normalisation(model, [support.inputs])
    return accuracy(model, query), transductive


def fine_tuned(
    start: MetaCheckpoint, support: Images, query: Images, classes: int, head: str = "zero"
) -> tuple[float, float]:
    """Frozen and transductive accuracy after fine-tuning, with a new head of the given start."""
    tuner = FineTuner(start.learner, support.inputs[:2], classes)
    for name in tuner.replaced_heads:
        learnt = start.learner.inner_loop.model.get_submodule(name)
        made = tuner.inner_loop.model.get_submodule(name)
        with torch.no_grad():
            for key, weight in made.named_parameters():
                rows = learnt.get_parameter(key)
                weight.copy_(
                    {
                        "zero": torch.zeros_like(weight),
                        "mean": rows.mean(0, keepdim=True).expand_as(weight),
                        "again": rows[torch.arange(classes) % len(rows)],
                        "drawn": rows.mean(0) + rows.std(0) * torch.randn_like(weight),
                    }[head]
                )
    *_, last = tuner.path(support.inputs, support.labels)
    model = tuner.module(last.weights, support.inputs)
    return accuracy(model, query), accuracy(lambda x: tuner.predict(last.weights, x), query)


def study(starts: Mapping[str, MetaCheckpoint], data: Path, folders: int, seed: int, heads: bool) -> None:
    """Print the tables, as Markdown."""
    characters = read_characters(data)
    fresh = {name: unseen(start, data, characters) for name, start in starts.items()}
    shared = set.intersection(*fresh.values())
    print(f"{len(shared)} characters that no checkpoint was trained on, {folders} folders a line\n")

    def pairs(start: MetaCheckpoint, ways: int, shots: int) -> list[tuple[Images, Images]]:
        assert start.image_format is not None, "the checkpoint was not trained on images"
        keys = [f"{seed} {ways} {k}" for k in range(folders)]
        draws = [
            partial(draw_classes, characters=characters, names=shared, ways=ways, shots=shots, key=k) for k in keys
        ]
        return [drawn(start.image_format, draw) for draw in draws]

    titles = ["classes", "images a class", "checkpoint", "fine-tuned", "by batch statistics", "from scratch"]
    print(header([*titles, "by batch statistics", "gain"]))
    for ways in (5, 12):
        for shots in (1, 3, 5):
            for name, start in starts.items():
                sets = pairs(start, ways, shots)
                ours = [fine_tuned(start, *pair, ways) for pair in sets]
                torch.manual_seed(seed)
                scratch = [from_scratch(start, *pair, ways) for pair in sets]
                gain = [(a - b, 0.0) for (a, _), (b, _) in zip(ours, scratch, strict=True)]
                figures = [percent(ours, 0), percent(ours, 1), percent(scratch, 0), percent(scratch, 1)]
                print(row([ways, shots, name, *figures, percent(gain, 0)]), flush=True)

    print("\n" + header(["20-way one-shot task", "checkpoint", "fine-tuned", "by batch statistics"]))
    for name, start in starts.items():
        for form, groups in (("published", published_alphabets(fresh[name])), ("any alphabets", [sorted(shared)])):
            if groups:
                assert start.image_format is not None
                keys = [f"{seed} one-shot {k}" for k in range(folders)]
                draws = [partial(draw_one_shot, characters=characters, groups=groups, key=key) for key in keys]
                ours = [fine_tuned(start, *drawn(start.image_format, draw), 20) for draw in draws]
                print(row([form, name, percent(ours, 0), percent(ours, 1)]), flush=True)

    if heads:
        print("\n" + header(["12 classes, images a class", "checkpoint", *HEADS]))
        for shots in (1, 3, 5):
            for name, start in starts.items():
                sets = pairs(start, 12, shots)
                torch.manual_seed(seed)
                results = [[fine_tuned(start, *pair, 12, head) for pair in sets] for head in HEADS]
                print(row([shots, name, *(percent(result, 0) for result in results)]), flush=True)


def percent(results: Sequence[tuple[float, float]], column: int) -> str:
    """The mean over folders with its interval."""
    found: Interval = interval(torch.tensor([result[column] for result in results]))
    return f"{100 * found.mean:.1f} ± {100 * found.half_width:.1f} %"


def header(titles: Sequence[str]) -> str:
    """The head of a table."""
    return row(titles) + "\n" + row(["---"] * len(titles))


def row(cells: Sequence[object]) -> str:
    """A line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, nargs="+", help="one or more, as in litmaml finetune")
    parser.add_argument("--folders", type=int, default=20, help="folders drawn for each line")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--heads", action="store_true", help="compare the starts of a new head too")
    arguments = parser.parse_args()
    if "LITMAML_DATA" not in os.environ:
        parser.error(f"set LITMAML_DATA to the folder that holds omniglot/{PARTS[0]}.zip and {PARTS[1]}.zip")
    starts = {name: open_checkpoint(name) for name in arguments.checkpoint}
    study(starts, Path(os.environ["LITMAML_DATA"], "omniglot"), arguments.folders, arguments.seed, arguments.heads)


if __name__ == "__main__":
    main()
