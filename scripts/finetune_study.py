"""How well fine-tuning does on characters that meta-training never saw: the figures of the README.

    LITMAML_DATA=FOLDER python scripts/finetune_study.py --checkpoint runs/glyphs

FOLDER/omniglot holds images_evaluation.zip of Omniglot, whose 20 alphabets a checkpoint must not have been trained on:
Glyphs has none of them, Omniglot with split_by: alphabet keeps them for its test. From a seed 20 folders of images are
drawn for each line of the tables, and each is given to what ``litmaml finetune`` runs, with 15 query images a class:

* 5 and 12 classes of any alphabets with 1, 3 and 5 images each, beside the same network trained from scratch on the
  same support images (Adam, all of them in each step) and scored in the same way, with the gain over it folder by
  folder;
* the start of a new head: zero, the mean of the learnt rows, the learnt rows again and again, or rows drawn from a
  normal distribution with the learnt rows' mean and standard deviation;
* the published form of the 20-way one-shot task: 20 characters of one alphabet, one image each by one drawer to learn
  from, one each by another drawer to recognise (Lake et al. 2015).

The intervals are 1.96 s / sqrt(20) over folders.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor, nn

from litmaml.data.images import ImageFormat
from litmaml.evaluation import Interval, interval
from litmaml.finetuning.fine_tuner import FineTuner
from litmaml.finetuning.frozen_norm import freeze_normalisation
from litmaml.finetuning.head import replace_head
from litmaml.finetuning.labelled_images import Images, read_query, read_support
from litmaml.finetuning.meta_checkpoint import MetaCheckpoint, open_checkpoint
from litmaml.recipe import build

QUERIES = 15
SCRATCH_STEPS, SCRATCH_RATE = 60, 2e-3

Characters = dict[str, dict[str, list[bytes]]]
"""The files of each character of each alphabet, in the order of their 20 drawers."""


def read_characters(archive: Path) -> Characters:
    """What is in the archive of the 20 evaluation alphabets."""
    characters: Characters = defaultdict(lambda: defaultdict(list))
    with zipfile.ZipFile(archive) as opened:
        for name in sorted(opened.namelist()):
            if name.endswith(".png"):
                *_, alphabet, character, _ = PurePosixPath(name).parts
                characters[alphabet][character].append(opened.read(name))
    return characters


def write(folder: Path, name: str, files: Sequence[bytes]) -> None:
    """One class folder."""
    (folder / name).mkdir(parents=True)
    for k, content in enumerate(files):
        (folder / name / f"{k}.png").write_bytes(content)


def draw_folder(folder: Path, characters: Characters, ways: int, shots: int, stream: random.Random) -> None:
    """Classes of any alphabets; all shots of a seed have the same classes and query."""
    everything = [(alphabet, name) for alphabet, names in sorted(characters.items()) for name in sorted(names)]
    for alphabet, name in stream.sample(everything, ways):
        files = characters[alphabet][name][:]
        stream.shuffle(files)
        write(folder / "query", f"{alphabet} {name}", files[:QUERIES])
        write(folder / "data", f"{alphabet} {name}", files[QUERIES:][:shots])


def draw_published(folder: Path, characters: Characters, stream: random.Random) -> None:
    """The form of Omniglot's own one-shot task."""
    alphabet = stream.choice([name for name, inside in sorted(characters.items()) if len(inside) >= 20])
    learn, recognise = stream.sample(range(20), 2)
    for name in stream.sample(sorted(characters[alphabet]), 20):
        write(folder / "data", name, [characters[alphabet][name][learn]])
        write(folder / "query", name, [characters[alphabet][name][recognise]])


def accuracy(model: Callable[[Tensor], Tensor], images: Images) -> float:
    """The share of the images that are predicted rightly."""
    with torch.no_grad():
        return float((model(images.inputs).argmax(1) == images.labels).float().mean())


def from_scratch(start: MetaCheckpoint, support: Images, query: Images, classes: int) -> tuple[float, float]:
    """Frozen and transductive accuracy of the same network that starts from random weights."""
    model: nn.Module = build(start.learner.hparams["model"], nn.Module, "model")
    tuner = FineTuner(start.learner, support.inputs[:2], classes)
    if tuner.replaced_head is not None:
        replace_head(model, tuner.replaced_head, classes)
        nn.init.kaiming_uniform_(model.get_submodule(tuner.replaced_head).weight, a=5**0.5)  # torch's own start
    optimizer = torch.optim.Adam(model.parameters(), SCRATCH_RATE)
    for _ in range(SCRATCH_STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(support.inputs), support.labels).backward()
        optimizer.step()
    transductive = accuracy(model, query)
    freeze_normalisation(model, [support.inputs])
    return accuracy(model, query), transductive


def fine_tuned(
    start: MetaCheckpoint, support: Images, query: Images, classes: int, steps: int | None, head: str = "zero"
) -> tuple[float, float]:
    """Frozen and transductive accuracy after fine-tuning, with a new head of the given start."""
    tuner = FineTuner(start.learner, support.inputs[:2], classes, steps)
    if tuner.replaced_head is not None:
        learnt = start.learner.inner_loop.model.get_submodule(tuner.replaced_head)
        made = tuner.inner_loop.model.get_submodule(tuner.replaced_head)
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


def study(start: MetaCheckpoint, characters: Characters, folders: int, seed: int, steps: int | None) -> None:
    """Print the tables, as Markdown."""
    image_format = start.image_format
    assert image_format is not None, "the checkpoint was not trained on images"
    drawn = partial(_drawn, image_format, characters)

    print("| classes | images a class | fine-tuned | by batch statistics | from scratch | by batch statistics | gain |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    sets: dict[tuple[int, int], list[tuple[Images, Images]]] = {}
    for ways in (5, 12):
        for shots in (1, 3, 5):
            pairs = [drawn(draw_folder, ways, shots, random.Random(f"{seed} {ways} {k}")) for k in range(folders)]
            sets[ways, shots] = pairs
            ours = [fine_tuned(start, *pair, ways, steps) for pair in pairs]
            torch.manual_seed(seed)
            scratch = [from_scratch(start, *pair, ways) for pair in pairs]
            gain = [(a - b, 0.0) for (a, _), (b, _) in zip(ours, scratch, strict=True)]
            print(f"| {ways} | {shots} | {_columns(ours)} | {_columns(scratch)} | {_percent(gain, 0)} |", flush=True)

    starts = ("zero", "mean", "again", "drawn")
    print(f"\n| 12 classes, images a class | {' | '.join(starts)} |\n| ---: |{' ---: |' * len(starts)}")
    for shots in (1, 3, 5):
        torch.manual_seed(seed)
        rows = [[fine_tuned(start, *pair, 12, steps, head) for pair in sets[12, shots]] for head in starts]
        print(f"| {shots} | {' | '.join(_percent(row, 0) for row in rows)} |", flush=True)

    pairs = [drawn(draw_published, random.Random(f"{seed} published {k}")) for k in range(folders)]
    ours = [fine_tuned(start, *pair, 20, steps) for pair in pairs]
    print(f"\n20-way one-shot task, published form: {_percent(ours, 0)}, by batch statistics {_percent(ours, 1)}")


def _drawn(
    image_format: ImageFormat, characters: Characters, draw: Callable[..., None], *arguments: object
) -> tuple[Images, Images]:
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), characters, *arguments)
        support, names = read_support(f"{folder}/data", image_format)
        return support, read_query(f"{folder}/query", names, image_format)


def _percent(results: Sequence[tuple[float, float]], column: int) -> str:
    found: Interval = interval(torch.tensor([result[column] for result in results]))
    return f"{100 * found.mean:.1f} ± {100 * found.half_width:.1f} %"


def _columns(results: Sequence[tuple[float, float]]) -> str:
    return f"{_percent(results, 0)} | {_percent(results, 1)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="as in litmaml finetune")
    parser.add_argument("--folders", type=int, default=20, help="folders drawn for each line")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="inner steps; by default as in the checkpoint's own tests")
    arguments = parser.parse_args()
    if "LITMAML_DATA" not in os.environ:
        parser.error("set LITMAML_DATA to the folder that holds omniglot/images_evaluation.zip")
    characters = read_characters(Path(os.environ["LITMAML_DATA"], "omniglot", "images_evaluation.zip"))
    study(open_checkpoint(arguments.checkpoint), characters, arguments.folders, arguments.seed, arguments.steps)


if __name__ == "__main__":
    main()
