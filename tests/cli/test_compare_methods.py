"""The script that compares methods: runs, goes on, tells of what failed."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import compare_methods


def test_steps_are_what_the_budget_buys_with_what_is_laid_last() -> None:
    assert compare_methods.inner_steps("glyphs", "method/anil", []) == 1
    assert compare_methods.inner_steps("glyphs", "method/reptile", []) == 8
    assert compare_methods.inner_steps("glyphs", "method/reptile", ["--model.inner_steps=3"]) == 3
    for name, method in compare_methods.METHODS.items():
        assert compare_methods.inner_steps("glyphs", method.overlay, []) >= 1, name


def test_the_table_has_the_best_first_and_what_failed_last() -> None:
    rows = [
        {
            "method": "a",
            "seed": k,
            "outer_steps": 5,
            "gradients": 4,
            "accuracy": 0.5 + 0.1 * k,
            "accuracy_half_width": 0.1,
        }
        | {"seconds": 1.0}
        for k in range(2)
    ]
    rows += [{**rows[0], "method": "b", "accuracy": 0.9}]
    rows += [{"method": "c", "seed": 0, "outer_steps": 5, "gradients": 4, "failed": "not finite"}]
    found = compare_methods.table(rows, "accuracy")
    assert [row["method"] for row in found] == ["b", "a", "c"]
    assert found[1]["mean"] == pytest.approx(0.55)
    assert found[1]["over seeds"] == pytest.approx(12.706 * 0.0707107 / 2**0.5, rel=1e-3)
    assert found[2]["failed"] == "not finite"


def test_the_features_of_maml_stand_beside_without_adaptation() -> None:
    row = {"seed": 0, "outer_steps": 5, "gradients": 4, "accuracy_half_width": 0.1, "seconds": 1.0}
    rows = [row | {"method": "MAML", "accuracy": 0.7, "nearest_class_mean": 0.6 + 0.1 * seed} for seed in range(2)]
    rows += [row | {"method": "Reptile", "accuracy": 0.4, "nearest_class_mean": 0.1}]
    found = compare_methods.table(compare_methods.with_baseline(rows), "accuracy")
    assert [(each["method"], round(each["mean"], 3)) for each in found] == [
        *(("MAML", 0.7), ("nearest class mean, MAML's features", 0.65), ("Reptile", 0.4))
    ]
    assert found[1]["over tasks"] is None


@pytest.mark.slow
def test_a_comparison_and_its_second_half(tmp_path: Path) -> None:
    small = ["--", "--model.model.init_args.filters=2", "--data.meta_batch=2", "--data.train_tasks=4"]
    small += ["--data.val_tasks=2", "--data.test_tasks=4", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"]
    for seeds in (1, 2):
        compare_methods.main(
            ["--methods", "MAML", "Reptile", "--seeds", str(seeds), "--budget=16", "--out", str(tmp_path), *small]
        )
    rows = list(csv.DictReader((tmp_path / "methods.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["method"], row["seed"], row["outer_steps"]) for row in rows] == [
        *(("MAML", "0", "4"), ("Reptile", "0", "2"), ("MAML", "1", "4"), ("Reptile", "1", "2"))
    ]
    assert all(0 <= float(row["accuracy"]) <= 1 for row in rows)
    first = json.loads((tmp_path / "MAML" / "0" / "row.json").read_text())
    assert float(rows[0]["seconds"]) == first["seconds"]  # not run again
    assert (tmp_path / "methods.png").is_file()
    assert "| nearest class mean, MAML's features |" in (tmp_path / "methods.md").read_text()
    assert "| Reptile |" in (tmp_path / "methods.md").read_text()
