"""Continuing many prompts at once, against transformers' own generate, one by one."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.encoding import TextEncoder
from evaluation.subword.generate import Generated, greedy, sample
from isotok.errors import DataError
from isotok.keyed import keyed_rng
from tokenization import encode_text

PROMPTS = ["the king", "of the sea", "a", "", "the sea", "naïve", "A king: A", "abcdefg"]


class Script(torch.nn.Module):
    """After any id the one that the script says; a cache that counts."""

    def __init__(self, size: int, following: dict[int, int]):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(vocab_size=size)
        self.table = torch.zeros(size, size)
        for before, after in following.items():
            self.table[before, after] = 9.0

    def forward(self, input_ids: torch.Tensor, past_key_values: Any, use_cache: bool) -> Any:
        return SimpleNamespace(logits=self.table[input_ids], past_key_values=past_key_values)


@pytest.mark.parametrize("positions", [None, 24])
def test_as_transformers_generates(
    superword_tokenizer: Any, make_model: Callable[..., Any], positions: int | None
) -> None:
    model = make_model(superword_tokenizer, positions=positions)
    pieces, eos = TextEncoder(superword_tokenizer).bytes, superword_tokenizer.eos_token_id
    rows = [[eos, *encode_text(superword_tokenizer, prompt)] for prompt in PROMPTS] * 3
    found = greedy(model, pieces, eos, rows, b"", 12)
    assert len({made.data for made in found}) > 2
    for row, made in zip(rows, found):
        expected = model.generate(torch.tensor([row]), max_new_tokens=12, do_sample=False, pad_token_id=eos)[0]
        ids = expected[len(row) :].tolist()
        ended = eos in ids
        data = b"".join(pieces[i] for i in (ids[: ids.index(eos)] if ended else ids))
        assert made.data == data[:12]
        assert not (ended and len(data) < 12) or made.ended


def test_ends_at_a_stop_inside_a_token_at_end_of_text_or_never(superword_tokenizer: Any) -> None:
    pieces, eos = TextEncoder(superword_tokenizer).bytes, superword_tokenizer.eos_token_id
    sea, the, king, a, b = (encode_text(superword_tokenizer, text)[0] for text in (" sea", "of the", "king", "a", "b"))
    model = Script(len(pieces), {eos: king, king: sea, sea: the, the: a, a: a, b: eos})
    assert greedy(model, pieces, eos, [[eos], [eos, b], [the]], b"t", 9) == [
        Generated(b"king seao", False),  # the stop comes later
        Generated(b"", True),
        Generated(b"aaaaaaaaa", False),
    ]
    assert greedy(model, pieces, eos, [[eos]], b"t", 12) == [Generated(b"king seaof ", True)]
    assert greedy(model, pieces, eos, [[eos]], b"af t", 30) == [Generated(b"king seaof the" + b"a" * 16, False)]
    assert greedy(model, pieces, eos, [[eos]], b"of", 30) == [Generated(b"king sea", True)]
    assert greedy(model, pieces, eos, [[eos]], b"seaof", 30) == [Generated(b"king ", True)]  # across two tokens


def test_bytes_that_are_no_character_alone(byte_tokenizer: Any) -> None:
    pieces, eos = TextEncoder(byte_tokenizer).bytes, byte_tokenizer.eos_token_id
    first, second = encode_text(byte_tokenizer, "é")
    model = Script(len(pieces), {eos: first, first: second, second: eos})
    assert greedy(model, pieces, eos, [[eos]], b"", 9) == [Generated("é".encode(), True)]
    assert greedy(model, pieces, eos, [[eos]], "é".encode(), 9) == [Generated(b"", True)]


def test_ids_beyond_the_vocabulary_stop_without_an_end(byte_tokenizer: Any) -> None:
    pieces, eos = TextEncoder(byte_tokenizer).bytes, byte_tokenizer.eos_token_id
    model = Script(len(pieces) + 8, {eos: len(pieces) + 3})
    assert greedy(model, pieces, eos, [[eos]], b"", 9) == [Generated(b"", False)]


def test_samples_follow_the_models_distribution_and_their_key(byte_tokenizer: Any) -> None:
    pieces, eos = TextEncoder(byte_tokenizer).bytes, byte_tokenizer.eos_token_id
    model = Script(len(pieces), {})
    model.table[:] = -50.0
    model.table[:, 65], model.table[:, 66] = np.log(0.75), np.log(0.25)

    def draw(seed: int) -> list[list[int]]:
        return sample(model, eos, [[eos]] * 50, 100, [keyed_rng("test", seed, row) for row in range(50)])

    made = draw(1)
    assert made == draw(1) != draw(2)
    assert made[0] != made[1]
    ids = np.concatenate([np.array(row) for row in made])
    assert set(ids.tolist()) == {65, 66}
    assert np.mean(ids == 65) == pytest.approx(0.75, abs=0.03)


def test_prompts_beyond_learned_positions_and_broken_weights(
    byte_tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    pieces, eos = TextEncoder(byte_tokenizer).bytes, byte_tokenizer.eos_token_id
    model = make_model(byte_tokenizer, positions=8)
    with pytest.raises(DataError, match="9 tokens does not fit the model's 8 positions"):
        greedy(model, pieces, eos, [[eos] * 9], b"", 5)
    with torch.no_grad():
        model.transformer.wte.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="NaN"):
        greedy(model, pieces, eos, [[eos]], b"", 5)
