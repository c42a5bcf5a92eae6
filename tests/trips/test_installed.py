"""Models that functions of installed packages make, by their names in YAML."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from gratings import draw

from litmaml.cli.main import main

VIT = {"num_classes": 3, "img_size": 32, "patch_size": 16, "depth": 1, "embed_dim": 24, "num_heads": 2}
MODELS = {
    "timm's ViT": ("timm", {"class_path": "timm.create_model", "init_args": {"model_name": "vit_tiny_patch16_224"},
                            "dict_kwargs": VIT}),
    "timm's ResNet": ("timm", {"class_path": "timm.create_model", "init_args": {"model_name": "resnet18"},
                               "dict_kwargs": {"num_classes": 3, "norm_layer": "groupnorm"}}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_every_command_takes_them_typed(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package, model = MODELS[name]
    pytest.importorskip(package, reason=f"the model is of the package {package}")
    draw(place / "images", [f"class {k}" for k in range(15)], each=4)
    draw(place / "photos", ["a", "b", "c"], each=2)
    images = {"root": "images", "image_format": {"size": 32}, "train": {"ways": 3, "shots": 1, "queries": 2}}
    config: dict[str, Any] = {
        "model": {"model": model},
        "data": {"tasks": {"class_path": "litmaml.data.ImageFolderTasks", "init_args": images}, "meta_batch": 2}
        | {"train_tasks": 4, "val_tasks": 2, "test_tasks": 2},
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "default_root_dir": "run"},
    }
    (place / "c.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "-c", "c.yaml"])
    again = ("-c", "run/config.yaml")
    with pytest.raises(ValueError, match=r"model\.model: .*does not record how it is made; .*-c RUN/config\.yaml"):
        main(["test", "--ckpt_path=run"])
    for command in ("validate", "test", "predict"):
        main([command, "--ckpt_path=run", *again])
    assert len(json.loads((place / "run" / "test_results.json").read_text())["steps"]) == 2
    main(
        [
            "finetune",
            "--checkpoint=run",
            "--data=photos",
            "--output=out",
            "--steps=2",
            "--export=pt2",
            "--export=onnx",
            *again,
        ]
    )
    assert "litmaml classify --model out --images FOLDER -c RUN/config.yaml" in capsys.readouterr().out
    main(["classify", "--model=out", "--images=photos", *again])
    assert {file.name for file in (place / "out").iterdir()} >= {"model.pt2", "model.onnx", "model.safetensors"}


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            {"model_name": "resnet18", "num_classes": 3},
            r"model\.num_classes: .*model\.dict_kwargs\.num_c",
        ),
        ({}, r"model\.model\.model_name: have to be given"),
    ],
)
def test_what_a_function_takes_by_kwargs_is_told(
    typed: dict[str, Any], message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("timm", reason="the model is of the package timm")
    model = {"class_path": "timm.create_model", "init_args": typed}
    (place / "c.yaml").write_text(
        yaml.safe_dump({"model": {"model": model}, "data": {"tasks": "litmaml.data.Sinusoid"}})
    )
    with pytest.raises(SystemExit):
        main(["fit", "-c", "c.yaml"])
    said = capsys.readouterr().err
    assert re.search(message, said), said
