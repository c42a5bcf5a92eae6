"""Language models of transformers as bodies."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from litmaml.models import Transformer
from litmaml.runs.recipe import build, describe

TINY: dict[str, int | float | bool | str | None] = {
    "model_type": "bert",
    "vocab_size": 30,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 12,
}
transformers = pytest.importorskip("transformers", reason="language models are of the package transformers")


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(30, (4, 6), generator=torch.Generator().manual_seed(0))
    return ids, (torch.arange(6) < torch.tensor([[6], [3], [1], [4]])).long()


def test_padding_changes_nothing(inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    ids, mask = inputs
    model = Transformer(ways=3, config=TINY)
    whole = model(ids, mask)
    assert whole.shape == (4, 3)
    torch.testing.assert_close(model(ids[1:2, :3], mask[1:2, :3]), whole[1:2], atol=1e-6, rtol=1e-5)
    assert torch.equal(model.train()(ids, mask), model(ids, mask)), "nothing is dropped at random"


def test_every_weight_has_a_gradient_of_second_order(inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = Transformer(ways=3, config=TINY).double()
    weights = [*model.parameters()]
    first = torch.autograd.grad(model(*inputs).square().sum(), weights, create_graph=True)
    again = torch.autograd.grad(torch.stack([part.square().sum() for part in first]).sum(), weights)
    assert all(bool(part.isfinite().all()) for part in again)


def test_a_saved_folder_is_taken_and_a_recipe_makes_it_anew(
    tmp_path: Path, inputs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    saved = Transformer(ways=3, config=TINY)
    saved.body.save_pretrained(tmp_path)
    model = Transformer(str(tmp_path), ways=3)
    own = saved.body.state_dict()
    assert all(torch.equal(weight, own[name]) for name, weight in model.body.state_dict().items())
    again = build(describe(model), torch.nn.Module, "model")
    assert again.pretrained is False
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(*inputs), model(*inputs))
    other = build(describe(saved), torch.nn.Module, "model")
    other.load_state_dict(saved.state_dict())
    assert torch.equal(other(*inputs), saved(*inputs))


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "auto_map", "quantization_config"])
def test_a_file_cannot_name_code(key: str) -> None:
    value = "stranger/kernel" if "attn" in key else {"AutoModel": "stranger.Model"}
    record = describe(Transformer(ways=3, config=TINY))
    record["init_args"]["config"][key] = value
    with pytest.raises(ValueError, match=r"config|model"):
        build(record, torch.nn.Module, "model")


def test_what_a_file_names_is_imported_before_its_making_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "transformers.models.electra.modeling_electra"
    monkeypatch.delitem(sys.modules, module, raising=False)
    Transformer.of_record({"ways": 3, "config": {"model_type": "electra"}})
    assert module in sys.modules


def test_a_file_cannot_name_what_loads_others(tmp_path: Path) -> None:
    record = describe(Transformer(ways=3, config=TINY))
    record["init_args"]["config"] = {"model_type": "detr", "backbone": "stranger/net", "use_pretrained_backbone": True}
    with pytest.raises(ValueError, match=r"config\.model_type: 'detr' is not made for a file; type it"):
        build(record, torch.nn.Module, "model")
    (tmp_path / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}')
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    record["init_args"] = {"name": str(tmp_path), "ways": 3}
    with pytest.raises(ValueError, match=r"model|evil|trust_remote_code"):
        build(record, torch.nn.Module, "model")
    with pytest.raises(ValueError, match=r"^name: transformers cannot make"):
        Transformer(str(tmp_path), pretrained=False)
    record["init_args"] = {"name": str(tmp_path / "none"), "ways": 3}
    with pytest.raises(ValueError, match=r"name: has no configuration here .*; type it"):
        build(record, torch.nn.Module, "model")
    assert not (tmp_path / "ran").exists()


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^name: has to be given, or else config, got None"):
        Transformer()
    with pytest.raises(ValueError, match=r"^config: transformers cannot make .*nothing"):
        Transformer(config={"model_type": "nothing"})
    with pytest.raises(ValueError, match=r"^name: transformers cannot make .*; name a folder that"):
        Transformer(str(tmp_path), pretrained=False)
