"""Meta-token variants of transformers' Llama, OLMo 2, GPT-2 and GPT-NeoX: importing this module registers them.

    import modeling.meta_models                    # all that a folder needs to load with transformers
    model = AutoModelForCausalLM.from_pretrained(folder)

In chosen layers a second attention sub-layer with weights of its own follows the first; it joins meta tokens only
(`modeling.meta_attention`). The meta token is the first id after the tokenizer's, is never predicted (its logit, and
those of rows that fill up the table after it, is -inf) and is no target of the loss.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GPTNeoXModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    Olmo2Config,
    Olmo2ForCausalLM,
    Olmo2Model,
)
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, GPT2Block
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXAttention, GPTNeoXLayer
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer, LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2Attention, Olmo2DecoderLayer, Olmo2RMSNorm

from modeling.meta_attention import MetaCacheLayer, Metas, find, meta_update, with_meta_layers
from modeling.meta_injection import LOSSES, PLACEMENTS

MASKS = ("meta", "none")
POSITIONS = ("original", "zero", "index")
OUT_INITS = ("normal", "zero")


@dataclass
class MetaConfig:
    """What meta variants have beside their family's settings.

    meta_token_id: the first id that the tokenizer does not have. meta_layers: numbers of layers with a second
    attention sub-layer. meta_mask: `meta` joins meta tokens only, `none` all tokens (the control: a second causal
    attention). meta_positions: of meta tokens, in both sub-layers: `original`, their places among all tokens; `zero`,
    none (no rotation, no learned vector); `index`, their places among meta tokens. meta_out_init: of the second
    sub-layer's output projection; `zero` leaves a trained model as it was. meta_k, meta_placement, meta_loss: how meta
    tokens were put into the training text (`modeling.meta_injection`).
    """

    meta_token_id: int | None = None
    meta_layers: list[int] = field(default_factory=list)
    meta_mask: str = "meta"
    meta_positions: str = "original"
    meta_out_init: str = "normal"
    meta_k: float = 0.0
    meta_placement: str = "none"
    meta_loss: str = "target_mask"

    def validate_meta(self) -> None:
        vocab_size: Any = self.vocab_size  # type: ignore[attr-defined]
        layers: Any = self.num_hidden_layers  # type: ignore[attr-defined]
        if self.meta_token_id is not None and not 0 < self.meta_token_id < vocab_size:
            raise ValueError(f"meta_token_id={self.meta_token_id} is no row of a table of {vocab_size}")
        if any(not 0 <= layer < layers for layer in self.meta_layers):
            raise ValueError(f"meta_layers={list(self.meta_layers)}: the model has {layers} layers")
        if self.meta_mask not in MASKS or self.meta_positions not in POSITIONS:
            raise ValueError(f"meta_mask is one of {', '.join(MASKS)}, meta_positions of {', '.join(POSITIONS)}")
        if self.meta_out_init not in OUT_INITS or self.meta_placement not in PLACEMENTS or self.meta_loss not in LOSSES:
            raise ValueError(
                f"meta_out_init is one of {', '.join(OUT_INITS)}, meta_placement of {', '.join(PLACEMENTS)}, meta_loss "
                f"of {', '.join(LOSSES)}"
            )


@strict
class MetaLlamaConfig(MetaConfig, LlamaConfig):
    model_type = "meta_llama"


@strict
class MetaOlmo2Config(MetaConfig, Olmo2Config):
    model_type = "meta_olmo2"


@strict
class MetaGPT2Config(MetaConfig, GPT2Config):
    model_type = "meta_gpt2"


@strict
class MetaGPTNeoXConfig(MetaConfig, GPTNeoXConfig):
    model_type = "meta_gpt_neox"


class _Second:
    """The second attention sub-layer of a layer, of the family's own kind, and where it goes."""

    norm_first = True

    def _add_second(self, config: Any, layer_idx: int, norm: Callable[[], nn.Module], attention: Any) -> None:
        self.all_tokens = config.meta_mask == "none"
        self.meta_attn: Any = None
        if layer_idx in config.meta_layers:
            self.meta_norm = norm()
            # A cache keeps it after all first ones.
            place = config.num_hidden_layers + list(config.meta_layers).index(layer_idx)
            self.meta_attn = attention(config, layer_idx=place)

    def _second(
        self,
        hidden: torch.Tensor,
        metas: Metas | None,
        attention_mask: torch.Tensor | None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """The residual stream after it: among meta tokens, or, the control, among all."""
        if self.meta_attn is None:
            return hidden

        def attend(rows: torch.Tensor, mask: torch.Tensor | None, rope: Any) -> torch.Tensor:
            own = kwargs if rope is None else {**kwargs, "position_embeddings": rope}
            inputs = self.meta_norm(rows) if self.norm_first else rows
            out: torch.Tensor = self.meta_attn(inputs, attention_mask=mask, **own)[0]
            return out if self.norm_first else self.meta_norm(out)

        if self.all_tokens:
            return hidden + attend(hidden, attention_mask, position_embeddings)
        return meta_update(hidden, metas, attend, attention_mask, position_embeddings)


class MetaLlamaDecoderLayer(_Second, LlamaDecoderLayer):
    def __init__(self, config: MetaLlamaConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        norm = partial(LlamaRMSNorm, config.hidden_size, eps=config.rms_norm_eps)
        self._add_second(config, layer_idx, norm, LlamaAttention)

    def forward(  # type: ignore[override]  # what a layer is given besides goes on as it comes
        self, hidden_states: torch.Tensor, metas: Metas | None = None, **kwargs: Any
    ) -> torch.Tensor:
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = self._second(hidden_states + attended, metas, **kwargs)
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class MetaOlmo2DecoderLayer(_Second, Olmo2DecoderLayer):
    norm_first = False

    def __init__(self, config: MetaOlmo2Config, layer_idx: int):
        super().__init__(config, layer_idx)
        norm = partial(Olmo2RMSNorm, config.hidden_size, eps=config.rms_norm_eps)
        self._add_second(config, layer_idx, norm, Olmo2Attention)

    def forward(  # type: ignore[override]  # what a layer is given besides goes on as it comes
        self, hidden_states: torch.Tensor, metas: Metas | None = None, **kwargs: Any
    ) -> torch.Tensor:
        attended, _ = self.self_attn(hidden_states, **kwargs)
        hidden_states = self._second(hidden_states + self.post_attention_layernorm(attended), metas, **kwargs)
        return hidden_states + self.post_feedforward_layernorm(self.mlp(hidden_states))


class MetaGPT2Block(_Second, GPT2Block):
    def __init__(self, config: MetaGPT2Config, layer_idx: int):
        super().__init__(config, layer_idx)
        norm = partial(nn.LayerNorm, config.hidden_size, eps=config.layer_norm_epsilon)
        self._add_second(config, layer_idx, norm, GPT2Attention)

    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        past_key_values: Cache | None = None,
        attention_mask: torch.Tensor | None = None,
        *_: Any,
        metas: Metas | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        own = {**kwargs, "past_key_values": past_key_values, "attention_mask": attention_mask}
        attended, _ = self.attn(self.ln_1(hidden_states), **own)
        hidden_states = self._second(hidden_states + attended, metas, **own)
        return hidden_states + self.mlp(self.ln_2(hidden_states))


class MetaGPTNeoXLayer(_Second, GPTNeoXLayer):
    def __init__(self, config: MetaGPTNeoXConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        if config.use_parallel_residual:
            raise ValueError("a second attention stands between the first and the MLP: use_parallel_residual=False")
        norm = partial(nn.LayerNorm, config.hidden_size, eps=config.layer_norm_eps)
        self._add_second(config, layer_idx, norm, GPTNeoXAttention)

    def forward(  # type: ignore[override]  # what a layer is given besides goes on as it comes
        self, hidden_states: torch.Tensor, metas: Metas | None = None, **kwargs: Any
    ) -> torch.Tensor:
        attended, _ = self.attention(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = self._second(hidden_states + self.post_attention_dropout(attended), metas, **kwargs)
        return hidden_states + self.post_mlp_dropout(self.mlp(self.post_attention_layernorm(hidden_states)))


class LearnedPositions(nn.Embedding):
    """GPT-2's table of positions; position -1 has none."""

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        vectors = super().forward(position_ids.clamp(min=0))
        return vectors.masked_fill((position_ids < 0)[..., None], 0.0)


class _MetaBody:
    """forward of a body: finds the meta tokens, gives them their positions, and prepares the cache for them."""

    config: Any
    training: bool

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        meta_rows: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the family's. meta_rows (B, M) int64: the places of meta tokens in order, the same number in each row,
        where they are known already; else they are found among `input_ids`."""
        config = self.config
        if input_ids is None:
            raise ValueError("a meta-token model is told its meta tokens by input_ids; inputs_embeds alone has none")
        use_cache = config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=config)
        before = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        padded = attention_mask is not None and attention_mask.dim() == 2
        if padded and position_ids is None:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, before:]  # type: ignore[union-attr]
        metas, flags = None, None
        if meta_rows is not None:
            metas = Metas(meta_rows, before=before)
        elif config.meta_token_id is not None:
            flags = input_ids == config.meta_token_id
            if padded:
                flags &= attention_mask[:, before:].bool()  # type: ignore[index]
            metas = find(flags, keep=self.training and torch.is_grad_enabled())
        store: list[MetaCacheLayer] = []
        if past_key_values is not None and config.meta_layers and config.meta_mask == "meta":
            store = with_meta_layers(past_key_values, config.num_hidden_layers, config.meta_layers)
        if config.meta_positions != "original":
            if flags is None:
                flags = torch.zeros_like(input_ids, dtype=torch.bool).scatter_(1, meta_rows, True)  # type: ignore[arg-type]
            seen = (store[0].slots >= 0).sum(1, keepdim=True) if store and store[0].slots is not None else 0
            position_ids = self._positions(flags, position_ids, before, seen)
            if attention_mask is None:
                # Positions that go back would be taken for the beginnings of packed texts.
                attention_mask = input_ids.new_ones(len(input_ids), before + input_ids.shape[1])
        for layer in store:
            layer.length = before + input_ids.shape[1]
        if metas is not None:
            metas.before = before
            if store:
                metas.cached = store[0].slots
                for layer in store:
                    layer.extend(metas.slots)
        return super().forward(  # type: ignore[misc]
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            metas=metas,
            **kwargs,
        )

    def _positions(
        self, flags: torch.Tensor, position_ids: torch.Tensor | None, before: int, seen: torch.Tensor | int
    ) -> torch.Tensor:
        if position_ids is None:
            position_ids = torch.arange(before, before + flags.shape[1], device=flags.device)
        if self.config.meta_positions == "index":
            return torch.where(flags, flags.long().cumsum(1) - 1 + seen, position_ids)
        return torch.where(flags, self._no_position, position_ids)

    _no_position = 0  # RoPE: no rotation


class MetaLlamaModel(_MetaBody, LlamaModel):
    config_class = MetaLlamaConfig

    def __init__(self, config: MetaLlamaConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([MetaLlamaDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.post_init()


class MetaOlmo2Model(_MetaBody, Olmo2Model):
    config_class = MetaOlmo2Config

    def __init__(self, config: MetaOlmo2Config):
        super().__init__(config)
        self.layers = nn.ModuleList([MetaOlmo2DecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.post_init()


class MetaGPT2Model(_MetaBody, GPT2Model):
    config_class = MetaGPT2Config
    _no_position = -1

    def __init__(self, config: MetaGPT2Config):
        super().__init__(config)
        self.wpe = LearnedPositions(config.max_position_embeddings, config.hidden_size)
        self.h = nn.ModuleList([MetaGPT2Block(config, i) for i in range(config.num_hidden_layers)])
        self.post_init()


class MetaGPTNeoXModel(_MetaBody, GPTNeoXModel):
    config_class = MetaGPTNeoXConfig

    def __init__(self, config: MetaGPTNeoXConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([MetaGPTNeoXLayer(config, i) for i in range(config.num_hidden_layers)])
        self.post_init()


class _MetaLM:
    """forward of a causal LM: no logit for the meta token nor for rows after it, and no loss on it."""

    config: Any

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        meta_rows: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        out: CausalLMOutputWithPast = super().forward(  # type: ignore[misc]
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            meta_rows=meta_rows,
            **kwargs,
        )
        meta = self.config.meta_token_id
        if meta is not None:
            assert out.logits is not None
            out.logits[..., meta:] = -torch.inf
        if labels is not None:
            ours = labels if meta is None else labels.masked_fill(labels == meta, -100)
            out.loss = self.loss_function(  # type: ignore[attr-defined]
                logits=out.logits, labels=ours, vocab_size=self.config.vocab_size, **kwargs
            )
        return out


class MetaLlamaForCausalLM(_MetaLM, LlamaForCausalLM):
    config_class = MetaLlamaConfig
    _no_split_modules = ["MetaLlamaDecoderLayer"]  # noqa: RUF012  # as transformers has it

    def __init__(self, config: MetaLlamaConfig):
        super().__init__(config)
        self.model = MetaLlamaModel(config)
        self.post_init()


class MetaOlmo2ForCausalLM(_MetaLM, Olmo2ForCausalLM):
    config_class = MetaOlmo2Config
    _no_split_modules = ["MetaOlmo2DecoderLayer"]  # noqa: RUF012  # as transformers has it

    def __init__(self, config: MetaOlmo2Config):
        super().__init__(config)
        self.model = MetaOlmo2Model(config)
        self.post_init()


class MetaGPT2LMHeadModel(_MetaLM, GPT2LMHeadModel):
    config_class = MetaGPT2Config
    _no_split_modules = ["MetaGPT2Block"]  # noqa: RUF012  # as transformers has it

    def __init__(self, config: MetaGPT2Config):
        super().__init__(config)
        self.transformer = MetaGPT2Model(config)
        self.post_init()


class MetaGPTNeoXForCausalLM(_MetaLM, GPTNeoXForCausalLM):
    config_class = MetaGPTNeoXConfig
    _no_split_modules = ["MetaGPTNeoXLayer"]  # noqa: RUF012  # as transformers has it

    def __init__(self, config: MetaGPTNeoXConfig):
        super().__init__(config)
        self.gpt_neox = MetaGPTNeoXModel(config)
        self.post_init()


_FAMILIES: tuple[tuple[Any, Any], ...] = (
    (MetaLlamaConfig, MetaLlamaForCausalLM),
    (MetaOlmo2Config, MetaOlmo2ForCausalLM),
    (MetaGPT2Config, MetaGPT2LMHeadModel),
    (MetaGPTNeoXConfig, MetaGPTNeoXForCausalLM),
)
for _config, _model in _FAMILIES:
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForCausalLM.register(_config, _model, exist_ok=True)
