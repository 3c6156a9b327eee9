"""Model recipes: a family and a size. The vocabulary, the context and the end-of-text id come from the arm.

Each makes a config of transformers' own class, so that a trained folder loads with `AutoModelForCausalLM` alone.
The padding id stays unset in the model's config: transformers would freeze that id's embedding, and the
end-of-text id is the only candidate. `generation_config.json` of a trained model names it.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Self

import pydantic

from isotok.recipe import Field, recipe

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Size = Annotated[int, Field(ge=1)]
Scale = Annotated[float, Field(gt=0)]


class ModelRecipe(Protocol):
    """What a class must have to be a model in isotok (plus the `@recipe` decorator)."""

    @property
    def label(self) -> str:
        """A short name for folders and progress lines, like `llama-d128-l4`."""
        ...

    def config(self, vocab_size: int, context_tokens: int, eos_id: int) -> "PreTrainedConfig":
        """The config of a causal LM that `AutoModelForCausalLM` can build."""
        ...


def _check_heads(hidden_size: int, heads: int, kv_heads: int | str) -> None:
    if hidden_size % heads:
        raise ValueError(f"hidden_size={hidden_size} is not a multiple of heads={heads}")
    if isinstance(kv_heads, int) and heads % kv_heads:
        raise ValueError(f"heads={heads} is not a multiple of kv_heads={kv_heads}")


@recipe
class Llama:
    """Llama (Touvron et al., 2023): RMSNorm before each block, RoPE, SwiGLU, no biases.

    mlp_size: width of the gate and of the up projection. kv_heads: `all` is multi-head attention, a smaller number
    is grouped-query attention. tied: one table for input and head.
    """

    hidden_size: Size
    layers: Size
    heads: Size
    mlp_size: Size
    kv_heads: Size | Literal["all"] = "all"
    tied: bool = True
    rope_theta: Scale = 10_000.0
    norm_eps: Scale = 1e-5
    initializer_range: Scale = 0.02

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        _check_heads(self.hidden_size, self.heads, self.kv_heads)
        return self

    @property
    def label(self) -> str:
        return f"llama-d{self.hidden_size}-l{self.layers}"

    def config(self, vocab_size: int, context_tokens: int, eos_id: int) -> "PreTrainedConfig":
        from transformers import LlamaConfig

        return LlamaConfig(**self._settings(vocab_size, context_tokens, eos_id))

    def _settings(self, vocab_size: int, context_tokens: int, eos_id: int) -> dict[str, Any]:
        return {
            "vocab_size": vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.mlp_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads if self.kv_heads == "all" else self.kv_heads,
            "max_position_embeddings": context_tokens,
            "initializer_range": self.initializer_range,
            "rms_norm_eps": self.norm_eps,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "tie_word_embeddings": self.tied,
            "bos_token_id": None,
            "eos_token_id": eos_id,
            "pad_token_id": None,
        }


@recipe
class OLMo2(Llama):
    """OLMo 2 (OLMo team, 2024): as Llama, but RMSNorm after each block and on queries and keys.

    mlp_size is the width of the gate and of the up projection: the OLMo code's `mlp_hidden_size` counts both.
    """

    tied: bool = False
    rope_theta: Scale = 500_000.0
    norm_eps: Scale = 1e-6

    @property
    def label(self) -> str:
        return f"olmo2-d{self.hidden_size}-l{self.layers}"

    def config(self, vocab_size: int, context_tokens: int, eos_id: int) -> "PreTrainedConfig":
        from transformers import Olmo2Config

        return Olmo2Config(**self._settings(vocab_size, context_tokens, eos_id))


@recipe
class GPT2:
    """GPT-2 (Radford et al., 2019): LayerNorm before each block, learned positions, GELU, biases; no dropout.

    Its table of positions has one row a token of context, so it cannot be run on longer contexts than trained.
    """

    hidden_size: Size
    layers: Size
    heads: Size
    mlp_size: Size
    tied: bool = True
    norm_eps: Scale = 1e-5
    initializer_range: Scale = 0.02

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        _check_heads(self.hidden_size, self.heads, "all")
        return self

    @property
    def label(self) -> str:
        return f"gpt2-d{self.hidden_size}-l{self.layers}"

    def config(self, vocab_size: int, context_tokens: int, eos_id: int) -> "PreTrainedConfig":
        from transformers import GPT2Config

        return GPT2Config(
            vocab_size=vocab_size,
            n_positions=context_tokens,
            n_embd=self.hidden_size,
            n_layer=self.layers,
            n_head=self.heads,
            n_inner=self.mlp_size,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            layer_norm_epsilon=self.norm_eps,
            initializer_range=self.initializer_range,
            tie_word_embeddings=self.tied,
            bos_token_id=None,
            eos_token_id=eos_id,
            pad_token_id=None,
        )


@recipe
class GPT2Rope(GPT2):
    """GPT-2 with rotary positions (Su et al., 2021) in place of its learned ones: transformers' GPT-NeoX, in sequence.

    The body is GPT-2's, parameter for parameter; the whole is smaller by the table of positions.
    """

    rope_theta: Scale = 10_000.0

    @property
    def label(self) -> str:
        return f"gpt2rope-d{self.hidden_size}-l{self.layers}"

    def config(self, vocab_size: int, context_tokens: int, eos_id: int) -> "PreTrainedConfig":
        from transformers import GPTNeoXConfig

        return GPTNeoXConfig(
            vocab_size=vocab_size,
            max_position_embeddings=context_tokens,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=self.mlp_size,
            hidden_act="gelu_new",
            use_parallel_residual=False,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta, "partial_rotary_factor": 1.0},
            layer_norm_eps=self.norm_eps,
            initializer_range=self.initializer_range,
            tie_word_embeddings=self.tied,
            bos_token_id=None,
            eos_token_id=eos_id,
            pad_token_id=None,
        )
