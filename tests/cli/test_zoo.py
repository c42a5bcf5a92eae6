"""The meta-checkpoints that come with the package: found by name in every command, small, and as their cards say."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from litmaml.cli import shipped
from litmaml.cli.main import main
from litmaml.runs import zoo
from litmaml.runs.checkpoint import checksum_file, read_checkpoint, sha256
from litmaml.runs.checkpoint_names import locate
from litmaml.statistics.interval import Interval, cell

ROOT = Path(__file__).parents[2]
NAMES = zoo.names()
SHORT = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recorded(name: str) -> dict[str, Any]:
    """What the test of one found."""
    found: dict[str, Any] = json.loads((zoo.folder() / f"{name}.json").read_text(encoding="utf-8"))
    return found


def texts(value: Any) -> Iterator[str]:
    """All texts within plain data, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from (*texts(key), *texts(part))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from texts(part)


def holds(whole: Any, part: Any) -> bool:
    """Whether plain data have all that a configuration says."""
    if isinstance(part, Mapping) and isinstance(whole, Mapping):
        return all(key in whole and holds(whole[key], value) for key, value in part.items())
    return bool(whole == part)


def test_what_was_asked_for_is_there() -> None:
    assert {*NAMES} >= {"glyphs-5w1s", "omniglot-5w1s", "omniglot-20w1s", "sinusoid", "intents-5w1s", "navigation"}


def test_the_list_has_each_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["zoo"])
    *lines, _, hint = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert all("±" in line and len(line) < 100 for line in lines)
    assert "litmaml zoo " in hint


def test_a_card_is_printed_by_either_name(capsys: pytest.CaptureFixture[str]) -> None:
    main(["zoo", "sinusoid"])
    said = capsys.readouterr().out
    main(["zoo", "zoo:sinusoid"])
    assert capsys.readouterr().out == said == (zoo.folder() / "sinusoid.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("named", ["omniglot", "../zoo/sinusoid", "sinusoid.ckpt", ""])
def test_a_name_that_is_none_is_refused_with_those_that_are(named: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"init_weights: no checkpoint of this name .* zoo:sinusoid") as refused:
        locate(f"zoo:{named}", "init_weights")
    assert all(f"zoo:{name}" in str(refused.value) for name in NAMES)
    assert "\n" not in str(refused.value)
    with pytest.raises(SystemExit, match=r"^litmaml zoo: name: no checkpoint of this name comes with litmaml"):
        main(["zoo", named])


@pytest.mark.parametrize("name", NAMES)
def test_one_holds_weights_and_recipes_alone(name: str) -> None:
    file = locate(f"zoo:{name}")
    assert file.stat().st_size < 1_000_000
    assert checksum_file(file).is_file()
    saved = read_checkpoint(file)
    assert not saved.keys() & {"optimizer_states", "lr_schedulers", "callbacks", "loops", "configuration", "made_in"}
    assert "lr_scheduler" not in saved["hyper_parameters"]
    paths = [text for text in texts(saved) if text.startswith(("/", "~", "..")) or "\\" in text]
    assert not paths, "they are of the machine that trained it"


@pytest.mark.parametrize("name", NAMES)
def test_one_was_made_as_its_configuration_says(name: str) -> None:
    overlay = yaml.safe_load((shipped.folder() / "zoo" / f"{name}.yaml").read_text(encoding="utf-8"))
    saved = read_checkpoint(locate(f"zoo:{name}"))
    model = {key: value for key, value in overlay["model"].items() if key != "lr_scheduler"}
    assert holds(saved["hyper_parameters"], model)
    assert holds(saved["datamodule_hyper_parameters"], overlay.get("data", {}))


@pytest.mark.parametrize("name", NAMES)
def test_the_card_has_the_recorded_results_of_this_file(name: str) -> None:
    results, card = recorded(name), zoo.card_of(name, "name")
    assert results["protocol"]["checkpoint"] == f"sha256:{sha256(locate(f'zoo:{name}'))}"
    last = results["steps"][-1]
    metric = next(metric for metric in ("accuracy", "return", "loss") if metric in last)
    figure = cell(metric, Interval(**last[metric]))
    title = card.partition("\n")[0]
    assert title.startswith(f"# {name}: ")
    assert title.endswith(f"{metric} {figure} after {last['inner_steps']} inner steps")
    assert card.count(figure) >= 2, "in the title and in the table"
    for baseline in results.get("baselines", {}):
        assert f"| {baseline.replace('_', ' ')} | " in card
    assert f"| tasks | {results['protocol']['tasks']} |" in card
    assert all(part in card for part in ("## Use", "## Data", "## Not for", "## Results", "## Protocol", "## Made by"))
    assert f"-c zoo/{name}\n" in card
    told = (ROOT / "scripts" / "zoo" / f"{name}.md").read_text(encoding="utf-8").partition("\n")[2]
    assert told.strip() in card
    assert str(ROOT) not in card


def test_a_test_gives_what_the_card_says_and_writes_nothing_into_the_package() -> None:
    before = {file: file.stat().st_mtime_ns for file in zoo.folder().iterdir()}
    main(["test", "--ckpt_path=zoo:sinusoid", *SHORT])
    found = json.loads(Path("runs/zoo/sinusoid/test_results.json").read_text(encoding="utf-8"))
    assert found["steps"][-1]["loss"]["mean"] == pytest.approx(recorded("sinusoid")["steps"][-1]["loss"]["mean"], 0.01)
    assert before == {file: file.stat().st_mtime_ns for file in zoo.folder().iterdir()}


def test_a_new_run_starts_from_one_but_none_goes_on() -> None:
    with pytest.raises(ValueError, match=r"own folder, got 'zoo:sinusoid'; .* --init_weights=zoo:sinusoid"):
        main(["fit", "--ckpt_path=zoo:sinusoid"])
    few = ["--data.train_tasks=25", "--data.val_tasks=4", "--trainer.max_steps=1", "--trainer.log_every_n_steps=1"]
    main(["fit", "-c", "sinusoid", "-c", "zoo/sinusoid", "--init_weights=zoo:sinusoid", *few, *SHORT])
    files = locate("zoo:sinusoid"), Path("runs/sinusoid/checkpoints/last.ckpt")
    start, end = (read_checkpoint(file)["state_dict"] for file in files)
    assert all((end[name] - weight).abs().max() < 0.01 for name, weight in start.items())


def test_a_diagnosis_of_one_goes_to_its_folder_of_results() -> None:
    main(["diagnose", "--checkpoint=zoo:sinusoid", "--diagnose.tasks=2", "--trainer.accelerator=cpu"])
    assert Path("runs/zoo/sinusoid/diagnosis.json").is_file()


def test_the_wheel_has_them() -> None:
    """They lie in the package, of which it takes all that is no matter of git's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["src/litmaml"]
    assert zoo.folder() == ROOT / "src" / "litmaml" / "zoo"
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert not [line for line in ignored if "zoo" in line or line.endswith((".ckpt", ".json", ".md", ".sha256"))]
    assert all((zoo.folder() / f"{name}{end}").is_file() for name in NAMES for end in (".ckpt.sha256", ".json", ".md"))
