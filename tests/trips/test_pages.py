"""README and docs, done as a reader does them: getting started line by line, and the blocks of Python run."""

from __future__ import annotations

import math
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from litmaml.cli.main import main

ROOT = Path(__file__).parents[2]
SHORT = {
    "fit": ["--trainer.max_steps=2", "--data.val_tasks=4", "--trainer.enable_progress_bar=false"],
    "test": ["--data.test_tasks=4", "--trainer.enable_progress_bar=false"],
}
"""What makes a command of a page short."""
ELSEWHERE = ("python3 -m venv", ". .venv", "pip install")
"""Lines that tests/trips/test_installed.py is about."""
# A reader sees warnings and goes on.
pytestmark = pytest.mark.filterwarnings("default")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, kind: str = "python") -> list[str]:
    """The blocks of code of a page, in order."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)


def steps(page: str) -> Iterator[str]:
    """The indented lines and the blocks of Python of a page, in order."""
    for block, line in re.findall(r"^```python\n(.*?)^```$|^    (\S[^\n]*)$", text_of(page), re.DOTALL | re.MULTILINE):
        yield block or line.partition(" #")[0].strip()


def run(code: str, name: str = "block.py") -> dict[str, Any]:
    """What a program leaves that lies in the current folder."""
    Path(name).write_text(code, encoding="utf-8")
    return runpy.run_path(name, run_name="__main__")


def command(line: str) -> None:
    words = shlex.split(line)[1:]
    status: object = 0
    try:
        main([*words, *([] if "--help" in words else SHORT.get(words[0], []))])
    except SystemExit as ended:
        status = ended.code
    assert not status, line


def shortened(code: str) -> str:
    """A program with less training and testing."""
    for long, short in {"max_epochs=1": "max_steps=2", "test_tasks=100": "test_tasks=8"}.items():
        code = code.replace(long, short)
    return code


def test_getting_started(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in steps("docs/getting-started.md"):
        if step.startswith("litmaml "):
            command(step)
        elif "digits.py" in step:
            runpy.run_path("digits.py", run_name="__main__")
        elif step.startswith("from pathlib"):
            Path("digits.py").write_text(step, encoding="utf-8")
        elif not step.startswith(ELSEWHERE):
            run(step)
    assert len(Path("answers.csv").read_text().splitlines()) == 31
    assert Path("exported/model.onnx").is_file()
    assert Path("runs/glyphs.1/test_results.json").is_file()  # later ones have moved it
    (again,) = blocks("docs/own-images.md")
    run(again.replace("OUT", "digits").replace("photo.png", "more/7/SansMono.png"))
    assert len(re.findall(r"^more/7/SansMono.png \d 0\.\d+$", capsys.readouterr().out, re.MULTILINE)) == 2


def test_the_readme(place: Path) -> None:
    (block,) = blocks("README.md")
    assert len(run(shortened(block))["learner"].results["accuracy"]) == 4


def test_the_zoo(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(*blocks("src/litmaml/zoo/sinusoid.md"))
    assert float(re.sub(r".*\[\[(\S+?)[\],].*", r"\1", capsys.readouterr().out, flags=re.DOTALL)) == pytest.approx(
        2 * math.sin(-0.5), abs=0.5
    )
    if find_spec("wordllama") is None:
        pytest.skip("the embeddings are in the package wordllama")
    run(*blocks("docs/zoo.md"))
    assert "['lights', 'music', 'heating']" in capsys.readouterr().out


def test_own_parts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    *parts, check = blocks("docs/own-parts.md")
    (config,) = blocks("docs/own-parts.md", "yaml")
    assert max(len(part.strip().splitlines()) for part in (*parts, check)) < 25
    monkeypatch.syspath_prepend(place)
    results = run(shortened("\n\n".join(parts)), "parts.py")["learner"].results
    assert len(results["loss"]) == 4
    gradient = run(check)["outer_gradient_by"]
    between = sys.modules["parts"].Partly
    zero, half, one = (gradient(between(share))["model.body.weight"] for share in (0.0, 0.5, 1.0))
    assert not torch.equal(half, one)
    assert not torch.equal(half, zero)
    Path("parts.yaml").write_text(config, encoding="utf-8")
    command("litmaml fit -c parts.yaml")
    command("litmaml test --ckpt_path runs/parts --imports parts")
    assert Path("runs/parts/test_results.json").is_file()


def test_coming_from_learn2learn(place: Path) -> None:
    done = run(shortened(blocks("docs/from-other-libraries.md")[0]))
    assert done["model"].classes == ["here", "there"]
    assert len(done["learner"].results["accuracy"]) == 4


def test_coming_from_higher(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(blocks("docs/from-other-libraries.md")[1])
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines() if re.match(r"\d+ \d", line)]
    assert len(losses) == 20
    assert sum(losses[-5:]) < sum(losses[:5])
    assert {*done["weights"]} == {name for name, _ in done["model"].named_parameters()}


def test_a_hostile_file_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(*blocks("docs/safety.md"))
    assert "'stranger.ckpt' holds more than tensors and plain data" in capsys.readouterr().out


def test_own_model_and_examples(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, adapted = blocks("docs/own-model.md")
    (config,) = blocks("docs/own-model.md", "yaml")
    Path("mymodels.py").write_text(model, encoding="utf-8")
    Path("net.yaml").write_text(config, encoding="utf-8")
    command("litmaml fit -c glyphs -c net.yaml")
    command("litmaml fit -c sinusoid")
    run(adapted)
    assert Path("function.png").is_file()


def test_own_environments(place: Path) -> None:
    pytest.importorskip("gymnasium", reason="needs the extra rl")
    pendulums, lines = blocks("docs/reinforcement-learning.md")
    config = next(text for text in blocks("docs/reinforcement-learning.md", "yaml") if "pendulums.make" in text)
    Path("pendulums.py").write_text(pendulums, encoding="utf-8")
    Path("pendulums.yaml").write_text(config, encoding="utf-8")
    Path("lines.py").write_text(lines, encoding="utf-8")
    few = " --data.meta_batch=2 --data.tasks.trajectories=2 --data.tasks.horizon=5"
    command("litmaml fit -c rl/navigation -c pendulums.yaml" + few.replace("tasks.", "tasks.init_args."))
    command("litmaml finetune --checkpoint runs/navigation --env pendulums.make --task gravity=12.5 --output heavy")
    assert Path("heavy/model.safetensors").is_file()
    command("litmaml fit -c rl/navigation --data.tasks=lines.Lines" + few)
    assert Path("runs/navigation/checkpoints/last.ckpt").is_file()
