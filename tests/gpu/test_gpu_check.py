"""``scripts/gpu_check.py`` on a CPU: the same program, in seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_omniglot import PARTS, pack, write_tree

from cases import OUTER, SOLVERS
from gpu_checks import gradients, others, suite
from gpu_checks.parts import Case, Part, Setting, run_parts, table
from gpu_checks.problems import METHODS, Problem, gradient
from litmaml.data import omniglot
from litmaml.engine import convolution
from litmaml.outer import convolution_choice
from litmaml.weights import Params

SMALL = ["--device", "cpu", "--small"]
OF_DATA = ("fit", "omniglot")
"""The parts that need Omniglot's archives."""


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def test_no_method_is_missing() -> None:
    assert {type(make()) for make in METHODS.values()} == {row.kind for row in OUTER.values()}
    checked = {type(make()) for make in [*METHODS.values(), *(kind.method for kind in others.KINDS.values())]}
    assert checked >= {type(row.make()) for row in SOLVERS.values()}


def test_other_directions_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tasks on the device: with those of other tasks, a method that draws is off, and no other one."""

    def of_others(problem: Problem, *arguments: Any, **options: Any) -> Params:
        tasks = problem.tasks._replace(numbers=problem.tasks.numbers + 1)
        return gradient(replace(problem, tasks=tasks), *arguments, **options)

    monkeypatch.setattr(others, "gradient", of_others)
    assert suite.main([*SMALL, "--out", str(tmp_path / "a.json"), "--parts", "other methods", "--only", "i"]) == 1
    rows = read(tmp_path / "a.json")["parts"]["other methods"]["cases"]
    assert len(rows) > 4
    assert [row["case"] for row in rows if not row["agrees"]] == ["EvolutionStrategies"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # torch's compiler imports it
def test_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "check.json"
    assert suite.main([*SMALL, "--out", str(out)]) == 0
    found = read(out)
    states = {name: part["state"] for name, part in found["parts"].items()}
    assert states == {part.name: "left out" if part.name in OF_DATA else "agrees" for part in suite.PARTS}
    assert {"device", "torch", "cudnn_allow_tf32", "matmul_precision"} <= set(found["about"])
    assert found["about"]["cudnn_allow_tf32"] is False
    tested = {row["case"] for row in found["parts"]["methods x norms"]["cases"]}
    assert {"SecondOrder, recompute, norm batch", "ZerothOrder, norm layer"} <= tested
    assert len(tested) == 30
    (tests,) = found["parts"]["tests"]["cases"]
    assert tests["tests"]["tests"] > 20
    if not torch.cuda.is_available():
        assert tests["tests"]["skipped"] == tests["tests"]["tests"]
    shown = capsys.readouterr().out
    count = len(suite.PARTS) - len(OF_DATA)
    assert f"{count} of {count} parts agree" in shown
    assert all(name in shown for name in found["parts"])


def test_both_ways_of_convolutions_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(convolution_choice, "_on_gpu", lambda device: True)
    monkeypatch.setattr(convolution, "_are_own", torch._C._functorch.is_batchedtensor)
    out, part = tmp_path / "check.json", "choice of convolutions"
    assert suite.main([*SMALL, "--out", str(out), "--parts", part]) == 0
    rows = read(out)["parts"][part]["cases"]
    assert [row["case"] for row in rows] == ["float32, eager", "TF32, eager", "bf16-mixed, eager"]
    shown = capsys.readouterr().out
    for row in rows:
        faster = "grouped" if row["grouped_ms"] < row["patches_ms"] else "by patches"
        assert row["chosen"] == faster
        assert f"{faster} convolutions, {row['grouped_ms']:,} ms grouped, {row['patches_ms']:,} ms by patches" in shown


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
def test_training_on_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(omniglot, "_PUBLISHED", {part: ("0" * 32, number) for part, (_, number) in PARTS.items()})
    for name, number in (("_TEST_CHARACTERS", 6), ("_VAL_CHARACTERS", 5)):
        monkeypatch.setattr(omniglot, name, number)
    write_tree(tmp_path)
    for part in PARTS:
        pack(tmp_path, part)
    out = tmp_path / "check.json"
    assert suite.main([*SMALL, "--out", str(out), "--data", str(tmp_path), "--parts", *OF_DATA]) == 0
    (of_fit,), (of_training,) = (read(out)["parts"][name]["cases"] for name in OF_DATA)
    assert (of_fit["steps"], of_fit["late"]) == (4, False), "a CPU has computed a step when it is taken"
    assert min(of_fit["ms_of_meta_gradient"], of_fit["steps_by_meta_gradients"]) > 0
    assert of_training["steps"] == 20
    assert len(of_training["accuracy_by_step"]) == 4
    assert min(of_fit["tasks_per_s"], of_training["tasks_per_s"]) > 0


def test_a_gradient_that_is_off_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slightly_off(problem: Problem, *arguments: Any, **options: Any) -> Params:
        found = gradient(problem, *arguments, **options)
        return found if options.get("tasks_per_chunk") == 1 else {name: g * (1 + 1e-9) for name, g in found.items()}

    monkeypatch.setattr(gradients, "gradient", slightly_off)
    assert suite.main([*SMALL, "--out", str(tmp_path / "a.json"), "--parts", "chunks"]) == 1
    failed = [row["case"] for row in read(tmp_path / "a.json")["parts"]["chunks"]["cases"] if not row["agrees"]]
    # The estimates have wider tolerances.
    assert failed == [f"{name}, chunks of 2" for name in ("SecondOrder", "SecondOrder, recompute", "FirstOrder")]
    shown = capsys.readouterr().out
    assert "SecondOrder, chunks of 2: " in shown
    assert "0 of 1 parts agree" in shown


def test_what_raises_or_is_cut_off_leaves_the_rest(tmp_path: Path) -> None:
    """Everything found before a case is in the file when it begins."""
    out, seen = tmp_path / "check.json", []

    def look() -> float:
        seen.append(read(out)["parts"]["first"]["cases"])
        return 0.0

    def fail() -> float:
        raise RuntimeError("CUDA error: no kernel image")

    def first(setting: Setting) -> Iterator[Case]:
        yield Case("good", 1.0, lambda: 0.5, {"note": "kept"})
        yield Case("raises", 1.0, fail)
        yield Case("not a number", 1.0, lambda: float("nan"))
        yield Case("looks", 1.0, look)

    def second(setting: Setting) -> Iterator[Case]:
        yield Case("still runs", 0.0, lambda: 0.0)

    def slow(setting: Setting) -> Iterator[Case]:
        def wait() -> float:
            time.sleep(max(setting.left, 0))
            return 0.0

        yield Case("takes long", 1.0, wait)
        yield Case("too late", 1.0, lambda: 0.0)

    parts = [Part("first", first), Part("second", second), Part("slow", slow), Part("last", second)]
    setting = Setting(torch.device("cpu"), True, time.monotonic() + 1)
    found = run_parts(parts, setting, {"device": "none"}, out)
    assert read(out) == found
    states = {name: part["state"] for name, part in found["parts"].items()}
    assert states == {"first": "FAILS", "second": "agrees", "slow": "cut off", "last": "cut off"}
    good, raises, not_a_number = seen[0]
    assert (good["error"], good["agrees"], good["note"]) == (0.5, True, "kept")
    assert "no kernel image" in raises["traceback"]
    assert (not_a_number["error"], not_a_number["agrees"]) == ("nan", False)
    assert "raises: RuntimeError: CUDA error: no kernel image" in table(found)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        suite.main([])
    assert "--device: torch sees no GPU here; --device cpu --small tries" in capsys.readouterr().err
