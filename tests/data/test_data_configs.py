"""The YAML of the benchmarks stacks on the experiments, and reads the sets as they are published."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import image_sets
import pytest
import yaml
from image_sets import IMAGES, pixels, save

from litmaml.cli.main import main
from litmaml.data import ImageFormat, ImageTable
from litmaml.data.shared_out import read_split_file
from litmaml.tasks import SPLITS

CONFIGS = Path(__file__).parents[2] / "configs"
EXPERIMENTS = ("image_folder", "pretrained_body")


def folders_of(name: str, root: Path) -> None:
    """All classes of a published split, in folders without one."""
    for label in read_split_file(name):
        for k in range(IMAGES):
            save(root / label / f"{k}.png", pixels(label, k, size=4))


MAKERS: dict[str, tuple[Any, list[int]]] = {
    "mini_imagenet": (lambda root: folders_of("mini_imagenet", root), [64, 16, 20]),
    "tiered_imagenet": (image_sets.tiered_pickles, [3, 2, 2]),
    "cifar_fs": (image_sets.cifar_fs, [3, 2, 2]),
    "fc100": (lambda root: folders_of("fc100", root), [60, 20, 20]),
    "cub": (lambda root: folders_of("cub", root), [140, 30, 30]),
    "meta_album": (image_sets.meta_album, [3, 2, 2]),
}


def test_there_is_a_set_for_each_of_them() -> None:
    assert {path.stem for path in (CONFIGS / "data").glob("*.yaml")} >= {*MAKERS}


@pytest.mark.parametrize("name", MAKERS)
def test_its_arguments_read_the_set(name: str, tmp_path: Path) -> None:
    make, sizes = MAKERS[name]
    make(tmp_path)
    tasks = yaml.safe_load((CONFIGS / "data" / f"{name}.yaml").read_text())["data"]["tasks"]
    assert tasks["class_path"] == "litmaml.data.ImageTable"
    arguments = {key: value for key, value in tasks["init_args"].items() if key not in ("root", "train", "augment")}
    image_format = ImageFormat(**{"size": 84, "channels": 3} | arguments.pop("image_format", {}))
    found = ImageTable(str(tmp_path), image_format, **arguments)
    assert [len(found.class_names(split)) for split in SPLITS] == sizes


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("name", MAKERS)
def test_it_stacks_on_the_experiments(name: str, experiment: str, capsys: pytest.CaptureFixture[str]) -> None:
    if experiment == "pretrained_body":
        pytest.importorskip("timm", reason="needs timm and a torchvision that fits torch")
    stack = [f"--config={CONFIGS / experiment}.yaml", f"--config={CONFIGS / 'data' / name}.yaml"]
    warnings.simplefilter("ignore")  # the one list of arguments takes the place of the other, which is meant
    with pytest.raises(SystemExit) as ended:
        main(["fit", *stack, "--print_config"])
    assert not ended.value.code
    said = yaml.safe_load(capsys.readouterr().out)
    tasks = said["data"]["tasks"]
    assert tasks["class_path"] == "litmaml.data.ImageTable"
    assert tasks["init_args"]["train"]["ways"] == 5
    assert tasks["init_args"]["augment"]["flip"] is True
    assert said["trainer"]["default_root_dir"] == f"runs/{name}"
    if experiment == "pretrained_body":
        assert tasks["init_args"]["image_format"]["mean"] == [0.485, 0.456, 0.406]


def test_an_experiment_runs_on_it(tmp_path: Path) -> None:
    image_sets.libfewshot(tmp_path / "set")
    main(
        [
            "fit",
            *(f"--config={CONFIGS / name}.yaml" for name in ("image_folder", "data/mini_imagenet", "trainer/cpu")),
            f"--data.tasks.init_args.root={tmp_path / 'set'}",
            *(f"--data.tasks.init_args.{part}" for part in ("train.ways=2", "train.queries=2", "image_format.size=32")),
            *("--model.model.init_args.filters=2", "--model.model.init_args.size=32", "--model.model.init_args.ways=2"),
            *("--data.meta_batch=2", "--data.train_tasks=2", "--data.val_tasks=2", "--trainer.max_steps=1"),
            "--trainer.log_every_n_steps=1",
            *("--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path / 'run'}"),
        ]
    )
    options = ["--data.test_tasks=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    main(["test", f"--ckpt_path={tmp_path / 'run'}", *options])
    assert "a list for each split" in (tmp_path / "run" / "test_results.json").read_text()
