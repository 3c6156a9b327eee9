"""Recipes of models with meta tokens (Shah et al., 2025): a family's size, and what is done with meta tokens.

The meta token is the first id after the tokenizer's; the table is filled up to a multiple of `table_multiple` rows.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import pydantic

from isotok.recipe import Field, recipe
from modeling.recipes import GPT2, GPT2Rope, Llama, OLMo2

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Layers = Literal["all", "first_half", "last_half", "every_2nd", "none"]


@recipe
class Meta:
    """What models with meta tokens have beside their family's settings.

    k: meta tokens in a row of pretraining, as a share of its positions; 0 with a placement: the family's plain model.
    placement: of those; none: pretraining has none, and only tasks with marks show the model its meta token. loss: see
    `modeling.meta_injection`. meta_layers: which have the second attention; none: meta tokens are pauses. meta_mask:
    none lets the second attention join all tokens. meta_positions: see `modeling.meta_models`. meta_out_init: zero for
    going on from a trained model. yarn_scale: rotary positions reach that many times as far as yarn_from (YaRN, Peng et
    al., 2023); 1: as they are.
    """

    k: Annotated[float, Field(ge=0, lt=1)] = 0.1
    placement: Literal["random", "periodic", "none"] = "random"
    loss: Literal["target_mask", "skip_shift"] = "target_mask"
    meta_layers: Layers = "all"
    meta_mask: Literal["meta", "none"] = "meta"
    meta_positions: Literal["original", "zero", "index"] = "original"
    meta_out_init: Literal["normal", "zero"] = "normal"
    table_multiple: Annotated[int, Field(ge=1)] = 64
    yarn_scale: Annotated[float, Field(ge=1)] = 1.0
    yarn_from: Annotated[int, Field(ge=0)] = 0

    @pydantic.model_validator(mode="after")
    def _check_meta(self) -> Self:
        if self.yarn_scale > 1 and not self.yarn_from:
            raise ValueError(
                f"yarn_scale={self.yarn_scale:g} needs yarn_from, the positions that the model was trained on"
            )
        if self.yarn_scale > 1 and isinstance(self, GPT2) and not isinstance(self, GPT2Rope):
            raise ValueError(f"yarn_scale={self.yarn_scale:g}: learned positions cannot be stretched")
        return self

    @property
    def plain(self) -> bool:
        """Whether there are no meta tokens at all: the family's own model, bit for bit."""
        return self.k == 0 and self.placement != "none"

    def _kind(self) -> str:
        """For labels: `meta`, or what the control is."""
        if self.plain:
            return ""
        if self.meta_layers == "none":
            return "pause-"
        return "second-" if self.meta_mask == "none" else "meta-"

    def _config(self, config_class: Any, family: Any, vocab_size: int, context_tokens: int, eos_id: int) -> Any:
        if self.plain:
            return family.config(self, vocab_size, context_tokens, eos_id)
        rows = -(-(vocab_size + 1) // self.table_multiple) * self.table_multiple
        settings = family.config(self, rows, context_tokens, eos_id).to_dict()
        for name in ("model_type", "architectures", "transformers_version", "dtype"):
            settings.pop(name, None)
        if self.yarn_scale > 1:
            settings["rope_parameters"] = {
                **settings["rope_parameters"],
                "rope_type": "yarn",
                "factor": float(self.yarn_scale),
                "original_max_position_embeddings": self.yarn_from,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
            }
        return config_class(
            **settings,
            meta_token_id=vocab_size,
            meta_layers=layers_of(self.meta_layers, settings),
            meta_mask=self.meta_mask,
            meta_positions=self.meta_positions,
            meta_out_init=self.meta_out_init,
            meta_k=self.k,
            meta_placement=self.placement,
            meta_loss=self.loss,
        )


def layers_of(which: str, settings: dict[str, Any]) -> list[int]:
    """Numbers of the layers with a second attention; every_2nd begins with the second layer."""
    n = int(settings.get("num_hidden_layers") or settings["n_layer"])
    half = n // 2
    return {
        "all": list(range(n)),
        "first_half": list(range(half)),
        "last_half": list(range(half, n)),
        "every_2nd": list(range(1, n, 2)),
        "none": [],
    }[which]


@recipe
class MetaLlama(Meta, Llama):
    """Llama with meta tokens."""

    @property
    def label(self) -> str:
        return f"{self._kind()}{Llama.label.fget(self)}"  # type: ignore[attr-defined]

    def config(self, vocab_size: int, context_tokens: int, eos_id: int) -> "PreTrainedConfig":
        from modeling.meta_models import MetaLlamaConfig

        return self._config(MetaLlamaConfig, Llama, vocab_size, context_tokens, eos_id)


@recipe
class MetaOLMo2(Meta, OLMo2):
    """OLMo 2 with meta tokens."""

    @property
    def label(self) -> str:
        return f"{self._kind()}{OLMo2.label.fget(self)}"  # type: ignore[attr-defined]

    def config(self, vocab_size: int, context_tokens: int, eos_id: int) -> "PreTrainedConfig":
        from modeling.meta_models import MetaOlmo2Config

        return self._config(MetaOlmo2Config, OLMo2, vocab_size, context_tokens, eos_id)


@recipe
class MetaGPT2(Meta, GPT2):
    """GPT-2 with meta tokens and learned positions."""

    @property
    def label(self) -> str:
        return f"{self._kind()}{GPT2.label.fget(self)}"  # type: ignore[attr-defined]

    def config(self, vocab_size: int, context_tokens: int, eos_id: int) -> "PreTrainedConfig":
        from modeling.meta_models import MetaGPT2Config

        return self._config(MetaGPT2Config, GPT2, vocab_size, context_tokens, eos_id)


@recipe
class MetaGPT2Rope(Meta, GPT2Rope):
    """GPT-2 with meta tokens and rotary positions."""

    @property
    def label(self) -> str:
        return f"{self._kind()}{GPT2Rope.label.fget(self)}"  # type: ignore[attr-defined]

    def config(self, vocab_size: int, context_tokens: int, eos_id: int) -> "PreTrainedConfig":
        from modeling.meta_models import MetaGPTNeoXConfig

        return self._config(MetaGPTNeoXConfig, GPT2Rope, vocab_size, context_tokens, eos_id)
