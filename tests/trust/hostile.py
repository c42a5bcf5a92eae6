"""Checkpoints that an enemy would make: a grammar of what parsers, YAML, torch and zip understand."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

KEPT = Path(__file__).parents[1] / "fixtures" / "version_0.1.ckpt"


def honest() -> dict[str, Any]:
    """The content of a checkpoint of the sinusoid."""
    saved: dict[str, Any] = torch.load(KEPT, weights_only=True)
    return saved


def _of(class_path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": arguments}


def payloads(mark: Path) -> list[dict[str, Any]]:
    """Recipes of things that are no layer, loss, metric, optimizer or task; most would make a file."""
    touch = f"touch {mark}"

    recipe = _of
    return [
        recipe("os.system", command=touch),
        recipe("subprocess.Popen", args=["touch", str(mark)]),
        recipe("subprocess.call", args=touch, shell=True),
        recipe("builtins.exec", source=f"open({str(mark)!r}, 'w')"),
        recipe("canary.Net", ways=5),
        recipe("canary.deeper.Net"),
        recipe("importlib.import_module", name="canary"),
        recipe("runpy.run_path", path_name=str(mark.with_name("canary.py"))),
        recipe("torch.load", f=str(mark), weights_only=False),
        recipe("torch.hub.load", repo_or_dir=str(mark.parent), model="canary", source="local"),
        recipe("torch.jit.load", f=str(mark)),
        recipe("torch.utils.cpp_extension.load_inline", name="canary", cpp_sources="int main() {}"),
        recipe("torch.nn.modules.module.os.system", command=touch),
        recipe("torch.nn.parallel.DistributedDataParallel", module=recipe("torch.nn.ReLU")),
        recipe("torch.ao.nn.quantized.Linear", in_features=1, out_features=1),
        recipe("torch.fx.GraphModule", root={}, graph=None),
        recipe("torchmetrics.image.fid.FrechetInceptionDistance"),
        recipe("torchmetrics.text.bert.BERTScore", model_name_or_path="roberta-large"),
        recipe("torchmetrics.MetricCollection", metrics=[]),
        recipe("lightning.pytorch.demos.boring_classes.BoringModel"),
        recipe("lightning.pytorch.loggers.WandbLogger", project="x"),
        recipe("litmaml.cli.main.main", args=["fit"]),
        recipe("litmaml.models.Timm", name="hf-hub:somebody/net", pretrained=True),
        recipe("litmaml.models.Timm", name=f"local-dir:{mark.parent}"),
        recipe("litmaml.models.Timm", name="resnet18", pretrained=str(mark), checkpoint_path=str(mark)),
        recipe("litmaml.runs.wandb_logger.ResumableWandbLogger", save_dir=str(mark)),
        recipe("litmaml.data.download.download", url=f"file://{mark}", path=str(mark), md5=""),
        recipe("antigravity.fly_test"),
        recipe("__main__.anything"),
        recipe("litmaml.learner.meta_learner.MetaLearner", model=recipe("torch.nn.ReLU")),
        recipe("pathlib.Path"),
        recipe("tempfile.TemporaryDirectory"),
        recipe("xmlrpc.client.ServerProxy", uri="http://127.0.0.1:9"),
    ]


PLACES = [
    ("hyper_parameters", "model"),
    ("hyper_parameters", "loss"),
    ("hyper_parameters", "inner_optimizer"),
    ("hyper_parameters", "outer_gradient"),
    ("hyper_parameters", "optimizer"),
    ("hyper_parameters", "lr_scheduler"),
    ("hyper_parameters", "metrics", "mine"),
    ("hyper_parameters", "fast_weights"),
    ("hyper_parameters", "model", "init_args", "hidden"),
    ("hyper_parameters", "model", "init_args", "activation"),
    ("hyper_parameters", "inner_optimizer", "init_args", "lr"),
    ("hyper_parameters", "optimizer", "init_args", "betas"),
    ("datamodule_hyper_parameters", "tasks"),
    ("datamodule_hyper_parameters", "tasks", "init_args", "noise"),
    ("datamodule_hyper_parameters", "seed"),
]
"""Where something stands in a record."""


def put(place: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The honest checkpoint with another value in one place."""
    saved = honest()
    inner: Any = saved
    for key in place[:-1]:
        if not isinstance(inner.get(key), dict):
            inner[key] = {}
        inner = inner[key]
    inner[place[-1]] = value
    return saved


def records(mark: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and contents of checkpoints whose records are hostile."""
    all_payloads = payloads(mark)
    first = all_payloads[0]
    config = mark.with_name("hostile.yaml")
    for k, payload in enumerate(all_payloads):
        for place in PLACES[k % 3 :: 3]:  # each payload in a third of the places, each place with a third of them
            yield f"{payload['class_path']} at {'.'.join(place[1:])}", put(place, payload)
    for place in PLACES:
        where = ".".join(place[1:])
        yield f"YAML at {where}", put(place, f"{{class_path: os.system, init_args: {{command: touch {mark}}}}}")
        yield f"block of YAML at {where}", put(place, f"class_path: os.system\ninit_args:\n  command: touch {mark}\n")
        yield f"JSON at {where}", put(place, json.dumps(first))
        yield f"Python tag at {where}", put(place, f"!!python/object/apply:os.system ['touch {mark}']")
        yield f"aliases at {where}", put(place, "[&a [x, x], &b [*a, *a], &c [*b, *b], *c]")
        yield f"name of a function at {where}", put(place, "os.system")
        yield f"name of a module's class at {where}", put(place, "canary.Net")
        yield f"file at {where}", put(place, str(config))
        yield f"list of recipes at {where}", put(place, [first, first])
        yield f"environment at {where}", put(place, "${oc.env:HOME}")
        yield f"bytes at {where}", put(place, b"os.system")
        yield f"tensor at {where}", put(place, torch.ones(3))
        dotted = put((*place[:-1], f"{place[-1]}.class_path"), "os.system")
        inner: Any = dotted
        for key in place[:-1]:
            inner = inner[key]
        inner[f"{place[-1]}.init_args.command"] = f"touch {mark}"
        yield f"dotted at {where}", dotted
    for part in ("hyper_parameters", "datamodule_hyper_parameters"):
        for key, value in (
            ("class_path", "os.system"),
            ("_class_path", "canary.Net"),
            ("_instantiator", "os.system"),
            ("__path__", str(config)),
            ("config", str(config)),
            ("--config", str(config)),
            ("init_args", first["init_args"]),
            ("dict_kwargs", {"command": f"touch {mark}"}),
            ("trainer", {"callbacks": first}),
            ("__class__", "os.system"),
            ("__init__", first),
            ("", first),
            ("tasks ", first),
            ("\x1b]0;owned\x07", first),
        ):
            yield f"{key!a} in {part}", put((part, key), value)
        yield f"text for {part}", {**honest(), part: json.dumps(first)}
        yield f"list for {part}", {**honest(), part: [first]}
        yield f"recipe for {part}", {**honest(), part: first}
    model = honest()["hyper_parameters"]["model"]
    for name, other in (
        ("beside", {**model, "callbacks": first}),
        ("dict_kwargs", {**model, "dict_kwargs": {"backbone": first}}),
        ("arguments in a list", {**model, "init_args": [first]}),
        ("arguments as text", {**model, "init_args": json.dumps(first)}),
        ("unknown argument", {**model, "init_args": {"source": f"open({str(mark)!r}, 'w')"}}),
        ("class as a mapping", {"class_path": first}),
        ("class as a list", {"class_path": ["os", "system"]}),
        ("class with a line", {"class_path": "litmaml.models.MLP\nos.system"}),
        ("class with spaces", {"class_path": " os.system "}),
        ("class of a dotted attribute", {"class_path": "litmaml.models.conv4.nn.Module"}),
        ("class endlessly long", {"class_path": "a." * 100_000 + "b"}),
        ("huge layers", {**model, "init_args": {"hidden": [10**9, 10**9]}}),
        ("many layers", {**model, "init_args": {"hidden": [1] * 100_000}}),
        ("a number without end", {**model, "init_args": {"inputs": 10**4000}}),
        ("large linear", {"class_path": "torch.nn.Linear", "init_args": {"in_features": 10**6, "out_features": 10**5}}),
        (
            "device",
            {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1, "out_features": 1, "device": "cuda:77"}},
        ),
        (
            "transformer",
            {
                "class_path": "torch.nn.TransformerEncoderLayer",
                "init_args": {"d_model": 1, "nhead": 1, "activation": "os.system"},
            },
        ),
    ):
        yield f"model: {name}", put(("hyper_parameters", "model"), other)
    shared: Any = ["x"]
    for _ in range(60):
        shared = [shared, shared]
    deep: Any = {}
    for _ in range(200):
        deep = {"a": deep}
    itself: list[Any] = []
    itself.append(itself)
    for name, value in (("shared", shared), ("deep", deep), ("itself", itself)):
        for place in PLACES[:1] + PLACES[7:8] + PLACES[12:13]:
            yield f"{name} lists at {place[1]}", put(place, value)
    rates = {"class_path": "litmaml.inner.SGD", "init_args": {"lr": 0.1, "learn": "tensor", "per_step": True}}
    yield (
        "endless rates",
        {
            **honest(),
            "hyper_parameters": {**honest()["hyper_parameters"], "inner_optimizer": rates, "inner_steps": 10**10},
        },
    )
    large = _of("torch.nn.Linear", in_features=10**5, out_features=10**4)
    yield "a loss that fills the memory", put(("hyper_parameters", "loss"), large)
    confusion = _of("torchmetrics.classification.MulticlassConfusionMatrix", num_classes=10**5)
    yield "a metric that fills the memory", put(("hyper_parameters", "metrics"), {"mine": confusion})
    layer = _of("torch.nn.TransformerEncoderLayer", d_model=2, nhead=1)
    for name, endless in {
        "layers": _of("torch.nn.TransformerEncoder", encoder_layer=layer, num_layers=10**7),
        "recurrent layers": _of("torch.nn.LSTM", input_size=1, hidden_size=1, num_layers=10**7),
    }.items():
        yield f"{name} without end", put(("hyper_parameters", "model"), endless)
    running = _of("torchmetrics.aggregation.RunningMean", window=10**7)
    yield "states without end", put(("hyper_parameters", "metrics"), {"mine": running})
    key = next(iter(honest()["callbacks"]))
    away = {**honest()["callbacks"][key], "best_model_path": "/tmp/runs/sinusoid/checkpoints/../../../mine.txt"}
    yield "a callback that removes files", {**honest(), "callbacks": {key: away}}
    yield "an average that is no dictionary", {**honest(), "averaging_state": "x", "current_model_state": 5}
    yield "processes without end", put(("datamodule_hyper_parameters", "num_workers"), 10**6)
    yield "weights that are none", {**honest(), "state_dict": {"w": "os.system"}}
    yield "a later format", {**honest(), "litmaml_format": 99}
    yield "a format that is none", {**honest(), "litmaml_format": first}


class _Runs:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        import os

        return os.system, (f"touch {self.mark}",)


class _Takes:
    """Plain to torch's unpickler, and a gigabyte."""

    def __reduce__(self) -> Any:
        return bytearray, (1 << 30,)


def archives(mark: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of files that are hostile as files."""
    whole = KEPT.read_bytes()
    yield "code", _saved({**honest(), "hyper_parameters": _Runs(mark)})
    yield "plain pickle", pickle.dumps(_Runs(mark))
    yield "a gigabyte of zeros", _saved({**honest(), "extra": _Takes()})
    legacy = io.BytesIO()
    torch.save(honest(), legacy, _use_new_zipfile_serialization=False)
    yield "the older format", legacy.getvalue()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.add(KEPT, "storages")
    yield "tar", tar.getvalue()
    yield "compressed", _packed(lambda name, content: (name, content), zipfile.ZIP_DEFLATED)
    yield (
        "compressed zeros",
        _packed(
            lambda name, content: (name, bytes(1 << 28) if name.endswith("data/0") else content), zipfile.ZIP_DEFLATED
        ),
    )
    yield "TorchScript", _packed(lambda name, content: (name, content), extra={"archive/constants.pkl": b"\x80\x02)."})
    yield "code folder", _packed(lambda name, content: (name, content), extra={"archive/code/__torch__.py": b"x = 1"})
    yield "way out", _packed(lambda name, content: (name, content), extra={"archive/data/../../x": b"x"})
    yield "second archive", _packed(lambda name, content: (name, content), extra={"other/data.pkl": b"\x80\x02N."})
    yield "archive before", whole + whole
    yield "archive after text", b"#!/bin/sh\n" + whole
    yield "comment", whole[:-2] + b"\x05\x00hello"
    yield "many operations", _pickled(b"\x80\x02" + b"]0" * 500_000 + b"N.")
    yield "a long number", _pickled(b"\x80\x02\x8b" + (10**6).to_bytes(4, "little") + b"\x7f" * 10**6 + b".")
    yield "getattr", _pickled(b"\x80\x02cbuiltins\ngetattr\nctorch\nhub\nX\x04\x00\x00\x00load\x86R.")
    yield "import", _pickled(b"\x80\x02ccanary\nNet\n)R.")
    yield "import by the stack", _pickled(b"\x80\x04\x8c\x06canary\x8c\x03Net\x93)R.")
    yield "a storage under many names, for a large model", _saved(_of_many_names())
    yield "a view without end", _saved({**honest(), "state_dict": {"w": torch.zeros(1).expand(1 << 40)}})
    indices = torch.zeros(1, 1, dtype=torch.int64)
    sparse = torch.sparse_coo_tensor(indices, torch.ones(1), (1 << 40,), check_invariants=True)
    yield "sparse", _saved({**honest(), "state_dict": {"w": sparse}})
    deep = b"\x80\x02" + b"]" * 20_000 + b"N" + b"a" * 20_000 + b"."
    yield "deep lists", _pickled(deep)
    yield "lists deeper than functions call each other", _pickled(b"\x80\x02" + b"]" * 400 + b"N" + b"a" * 400 + b".")
    yield "a storage larger than its part", _packed(lambda name, old: (name, old[: len(old) // 2]))
    yield "links in the archive", _packed(lambda name, old: (name, old), extra={"archive/data/../../../x": b"/etc"})
    yield "a name twice in other cases", _packed(lambda name, old: (name, old), extra={"archive/DATA.PKL": b"N."})
    yield "empty", b""
    yield "a page", b"<html>not found</html>"


def _of_many_names() -> dict[str, Any]:
    """A model of some 3e8 numbers, in a file that has 1e5 of them under 3,000 names."""
    content, shared = honest(), torch.zeros(10**5)
    content["state_dict"] |= {f"x{k}": shared for k in range(3000)}
    content["hyper_parameters"]["model"] = _of("litmaml.models.MLP", inputs=7_000_000, hidden=[40])
    return content


def _saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _packed(change: Any, compression: int = zipfile.ZIP_STORED, extra: dict[str, bytes] | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(KEPT) as source, zipfile.ZipFile(file, "w", compression) as target:
        for name in source.namelist():
            target.writestr(*change(name, source.read(name)))
        for name, content in (extra or {}).items():
            target.writestr(name, content)
    return file.getvalue()


def _pickled(content: bytes) -> bytes:
    return _packed(lambda name, old: (name, content if name.endswith("data.pkl") else old))


def canary(folder: Path, mark: Path) -> None:
    """Modules and a configuration in a folder that leave the mark if they are used."""
    (folder / "canary.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Net: pass\n")
    (folder / "hostile.yaml").write_text(f"class_path: os.system\ninit_args: {{command: touch {mark}}}\n")
