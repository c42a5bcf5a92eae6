"""What ``litmaml push`` publishes of a folder: what litmaml wrote there of a model, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from litmaml.finetuning.meta_checkpoint import image_format_of, recorded_tasks
from litmaml.finetuning.model_card import model_card, tested, told_of
from litmaml.finetuning.model_folder import CLASSES, CONFIG, WEIGHTS, read_description
from litmaml.finetuning.report import ADAPTATION, CONFUSION, REPORT
from litmaml.runs.checkpoint import checksum_file, read_checkpoint, sha256
from litmaml.runs.checkpoint_names import locate
from litmaml.runs.configuration import CONFIGURATION, written_by_fit
from litmaml.runs.folder import BEST, CHECKPOINTS, LAST
from litmaml.runs.hub import Repository
from litmaml.runs.plain_files import read_text

_PICTURES = (ADAPTATION, CONFUSION, "functions.png", "trajectories.png", "trajectories.gif", "diagnosis.png")
_OF_A_MODEL = (WEIGHTS, CONFIG, CLASSES, REPORT, "returns.csv", "model.onnx", "model.pt2", *_PICTURES)
"""Not the predictions, which name the files of images and hold the values of rows."""
_RESULTS = "test_results.json"
_CHECKPOINTS = tuple(f"{CHECKPOINTS}/{name}{end}" for name in (BEST, LAST) for end in ("", ".sha256"))
_OF_A_RUN = (*_CHECKPOINTS, CONFIGURATION, _RESULTS, "diagnosis.json", *_PICTURES)
README = "README.md"
EVERY_FILE = sorted({*_OF_A_MODEL, *_OF_A_RUN})
"""What may be published at all; what lies in a repository under these names is of an earlier push."""


class Publication(NamedTuple):
    """What is published.

    files: By their names in the repository.
    card: Its page.
    disclosed: What of the user's own the files tell, in words.
    use: The command that uses it.
    """

    files: Mapping[str, Path]
    card: str
    disclosed: str
    use: str


def prepare(folder: Path, repository: Repository, licence: str | None = None) -> Publication:
    """What would be published of a folder of ``litmaml finetune`` or of a run, looked at as when it is read.

    Raises:
        FileNotFoundError: It is none of the two.
        ValueError: A file is damaged, or is a link, through which another one would be published.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"output: {str(folder)!r} is no folder; give one that litmaml finetune or fit wrote")
    if (folder / WEIGHTS).exists():
        return _of_model(folder, repository, licence)
    return _of_run(folder, repository, licence)


def _of_model(folder: Path, repository: Repository, licence: str | None) -> Publication:
    files = _there(folder, _OF_A_MODEL)
    config, classes = read_description(folder)
    if sha256(folder / WEIGHTS) != config["sha256"]:
        raise ValueError(f"output: {str(folder / WEIGHTS)!r} is not what its {CONFIG} is of; copy the folder anew")
    name = repository.named
    task, command, use = None, "", "predictions = model(inputs)"
    if config["image_format"] is not None and classes is not None:
        task, command = "image-classification", f"litmaml classify --model {name} --images FOLDER"
        use = 'for file, label, probability in model.classify("image.png"):\n    print(file, label, probability)'
    elif config.get("table") is not None:
        task = "tabular-regression" if classes is None else "tabular-classification"
        command = f"litmaml classify --model {name} --table ROWS.csv"
        use = 'rows, predictions = model.predict_rows("ROWS.csv")'
    usage = _usage(command, f'model = litmaml.load("{name}")\n{use}')
    source = config["source"].get("checkpoint")
    results = told_of(read_text(folder / REPORT)) if REPORT in files else ""
    card = model_card(repository, usage, results, licence, task, source if isinstance(source, str) else None)
    disclosed = [] if classes is None else [f"the names of its {len(classes)} classes"]
    disclosed += [] if config.get("table") is None else ["the names of its columns"]
    disclosed.append(f"what the checkpoint is called that it was adapted from ({CONFIG}, {REPORT})")
    return Publication(files, card, ", ".join(disclosed), command or f"litmaml.load('{name}')")


def _of_run(folder: Path, repository: Repository, licence: str | None) -> Publication:
    checkpoint = locate(folder, "output")
    saved = read_checkpoint(checkpoint)
    own = [f"{CHECKPOINTS}/{file.name}" for file in (checkpoint, checksum_file(checkpoint))]
    files = _there(folder, [*own, *(name for name in _OF_A_RUN if name not in _CHECKPOINTS)])
    if CONFIGURATION in files and not written_by_fit(folder / CONFIGURATION):
        del files[CONFIGURATION]
    name, options = repository.named, _examples(saved)
    command = f"litmaml finetune --checkpoint {name} {options} --output OUT" if options else ""
    of_policy = saved["hyper_parameters"].get("experience") is not None
    usage = _usage(command, "" if of_policy else f'model = litmaml.adapt("{name}", inputs, targets)  # a few examples')
    results = tested(folder / _RESULTS, checkpoint) if _RESULTS in files else "It was not tested."
    if ADAPTATION in files:
        results += f"\n\n![loss and metrics by inner step]({ADAPTATION})"
    card = model_card(repository, usage, f"A meta-checkpoint, to be adapted.\n\n{results}", licence)
    disclosed = "the checkpoint, its configuration and results name the folders of your data, and where it was made"
    return Publication(files, card, disclosed, command or f"litmaml.adapt('{name}', inputs, targets)")


def _examples(saved: Mapping[str, Any]) -> str:
    """What ``litmaml finetune`` takes for a checkpoint: an option, or nothing where only Python has the examples."""
    tasks, taken = recorded_tasks(saved)
    if saved["hyper_parameters"].get("experience") is not None:
        return "--task NAME=VALUE"
    if isinstance(taken, Mapping) and "features" in taken:
        return "--data ROWS.csv"
    return "" if image_format_of(tasks) is None else "--data FOLDER"


def _usage(command: str, python: str) -> list[str]:
    lines = ["Made by litmaml, which with its extra `hub` reads it as plain data: nothing in it is run.", ""]
    lines += ["```bash", command, "```", ""] if command else []
    return [*lines, *(["```python", "import litmaml", python, "```"] if python else [])]


def _there(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Those files that there are.

    Raises:
        ValueError: One is a link.
    """
    found = {}
    for name in names:
        path = folder / name
        if path.is_symlink() or (path.parent != folder and path.parent.is_symlink()):
            raise ValueError(f"output: {str(path)!r} is a link, and what it leads to is not published; copy it there")
        if path.is_file():
            found[name] = path
    return found
