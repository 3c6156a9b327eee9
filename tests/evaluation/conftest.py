"""Toy tokenizers and random models for the tests of scoring."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tokenization import ByteLevel
from tokenization.bpe import byte_level_bpe
from tokenization.tokenizer import byte_alphabet, finish


def merged_tokenizer(*words: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE without pretokenizer whose merges spell each word from the left."""
    alphabet = byte_alphabet()
    vocab = {char: byte for byte, char in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = [alphabet[byte] for byte in word.encode()]
        left = pieces[0]
        for right in pieces[1:]:
            if (left, right) not in merges:
                merges.append((left, right))
                vocab[left + right] = len(vocab)
            left += right
    return finish(byte_level_bpe(vocab, merges, "none"), {"algorithm": "toy"})


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    return ByteLevel().train([])


@pytest.fixture(scope="session")
def superword_tokenizer() -> PreTrainedTokenizerFast:
    """Knows ": A", "of the", "king", " sea": tokens across the usual cuts."""
    return merged_tokenizer(": A", "of the", "king", " sea")


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """A random Llama (or GPT-2 with `positions` learned positions) for a tokenizer."""

    def make(tokenizer: PreTrainedTokenizerFast, seed: int = 0, positions: int | None = None) -> Any:
        torch.manual_seed(seed)
        common: dict[str, Any] = {
            "vocab_size": len(tokenizer),
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        }
        if positions is not None:
            return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=positions, **common)).eval()
        config = LlamaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            initializer_range=0.3,
            **common,
        )
        return LlamaForCausalLM(config).eval()

    return make
