"""Language models of transformers as bodies."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from litmaml.shown import first_line

_PLAIN = (bool, int, float, str, type(None))
"""What a file may say of a configuration: no parts of it that name code, such as kernels of attention."""


_OF_RECORD = (
    *("albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "mpnet", "roberta"),
    *("roformer", "squeezebert", "xlm-roberta", "modernbert", "gemma", "gemma2", "gpt2", "gpt_neo", "gpt_neox"),
    *("llama", "mistral", "opt", "phi", "phi3", "qwen2", "qwen3", "smollm3"),
)
"""Kinds that a file may name: of text alone, whose making loads nothing else."""


class Transformer(nn.Module):
    """A language model of transformers as the body, with a linear head on the mean of its tokens: to logits (n, ways).

    The body is ``body.*``, the head ``head.*``. It takes input_ids and attention_mask, as ``litmaml.data.Tokens`` makes
    them. The mask is looked at, so tasks have to be computed one by one (``tasks_per_chunk: 1``).

    Args:
        name: Of a model of the hub, or a folder that one was saved to. Code that lies there is not run.
        ways: Number of logits.
        pretrained: Whether to begin with its weights. A learner that is made from a checkpoint takes those in it.
        config: In place of a name, a configuration as transformers' ``config.json`` has it: with ``model_type``, such
            as bert, and what differs from that kind's defaults. The weights are random then.
        dropout: The share that all kinds of dropout drop; 0, since tasks that draw noise adapt to it.

    Raises:
        ImportError: There is no transformers.
        ValueError: Neither name nor config is given, or transformers cannot make it.
    """

    def __init__(
        self,
        name: str | None = None,
        ways: int = 5,
        pretrained: bool = True,
        config: Mapping[str, int | float | bool | str | None] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if ways < 1:
            raise ValueError(f"ways: has to be at least 1, got {ways}")
        if (name is None) == (config is None):
            raise ValueError(f"name: has to be given, or else config, got {name!r}; give one of the two")
        self.name, self.ways, self.pretrained, self.dropout = name, ways, pretrained, dropout
        self.config = None if config is None else dict(config)
        library = _transformers()
        try:
            form = _config_of(library, name, pretrained) if config is None else library.AutoConfig.for_model(**config)
            for part in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
                if hasattr(form, part):
                    setattr(form, part, dropout)
            # Others have no second derivative.
            how = {"attn_implementation": "eager", "trust_remote_code": False}
            if config is None and pretrained:
                self.body = library.AutoModel.from_pretrained(name, config=form, **how)
            else:
                self.body = library.AutoModel.from_config(form, **how)
        except Exception as error:  # of the network, of a file, or of a configuration
            raise ValueError(
                f"{'config' if name is None else 'name'}: transformers cannot make {name or dict(config or {})} "
                f"({first_line(error)[:300]}); name a folder that a model was saved to by save_pretrained"
            ) from error
        if getattr(self.body, "pooler", None) is not None:
            self.body.pooler = None  # of the first token alone, with weights of its own
        self.head = nn.Linear(form.hidden_size, ways)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        there = attention_mask.unsqueeze(-1).to(hidden.dtype)
        logits: Tensor = self.head((hidden * there).sum(1) / there.sum(1))
        return logits

    @classmethod
    def of_record(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments when a file names this class: no weights are loaded for it, since they come with it."""
        for key, value in (arguments.get("config") or {}).items():
            if not key.isidentifier() or key.startswith("_") or "attn" in key or not isinstance(value, _PLAIN):
                raise ValueError(f"config.{key}: is not taken from a file, got {str(value)[:40]!r}")
        name, config = arguments.get("name"), arguments.get("config") or {}
        try:
            kind = config.get("model_type") if name is None else _config_of(_transformers(), name, False).model_type
        except Exception as error:  # of a file, or that there is none
            raise ValueError(f"name: has no configuration here ({first_line(error)[:200]}); type it") from error
        if ("config" in arguments or name is not None) and kind not in _OF_RECORD:
            raise ValueError(f"config.model_type: {str(kind)[:40]!r} is not made for a file; type it")
        if kind is not None:
            # Before the calls of functions are counted that making it takes: the import takes ten times as many.
            form = type(_transformers().AutoConfig.for_model(kind)).__module__
            importlib.import_module(form.replace(".configuration_", ".modeling_"))
        return {**arguments, "pretrained": False}


def _config_of(library: Any, name: str | None, pretrained: bool) -> Any:
    """The configuration of a name or folder. Without weights it is for a checkpoint, for which nothing is fetched."""
    return library.AutoConfig.from_pretrained(name, local_files_only=not pretrained, trust_remote_code=False)


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ImportError(
            f"litmaml.models.Transformer needs transformers ({error}): pip install 'litmaml[transformers]'"
        ) from error
