"""Language models whose distribution over texts is known exactly: a finite source behind any tokenizer."""

import itertools
import math
from collections import defaultdict
from typing import Any

import torch

from tokenization.tokenizer import encode_texts


def markov(alphabet: str, length: int, end: float = 0.15, seed: int = 0) -> dict[str, float]:
    """Probabilities of all texts up to so many characters under a first-order Markov chain that ends each text with
    probability `end`, and surely at the longest ones."""
    draw = torch.Generator().manual_seed(seed)
    table = torch.rand(len(alphabet) + 1, len(alphabet), generator=draw).double() + 0.05
    table = (table / table.sum(1, keepdim=True)).tolist()
    texts: dict[str, float] = {}
    alive = {"": 1.0}
    for size in range(length + 1):
        texts |= {text: p * (end if size < length else 1.0) for text, p in alive.items()}
        alive = {
            text + char: p * (1 - end) * table[alphabet.index(text[-1]) if text else -1][k]
            for text, p in alive.items()
            for k, char in enumerate(alphabet)
        }
    assert math.isclose(sum(texts.values()), 1.0)
    return texts


def beginnings(texts: dict[str, float]) -> dict[bytes, float]:
    """Probability that a text begins with given bytes, for all bytes that some text begins with."""
    table: dict[bytes, float] = defaultdict(float)
    for text, p in texts.items():
        data = text.encode()
        for size in range(len(data) + 1):
            table[data[:size]] += p
    return table


class Behind(torch.nn.Module):
    """The source as a model of a tokenizer's ids: what each id follows with, given that a text is encoded canonically.

    Reads no mask: rows are read as they are.
    """

    def __init__(self, texts: dict[str, float], tokenizer: Any):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        size = len(tokenizer)
        self.config = type("Config", (), {"vocab_size": size, "max_position_embeddings": None})()
        self.eos = tokenizer.eos_token_id
        after: dict[tuple[int, ...], dict[int, float]] = defaultdict(lambda: defaultdict(float))
        names = list(texts)
        for text, ids in zip(names, encode_texts(tokenizer, names)):
            for k, token in enumerate([*ids, self.eos]):
                after[tuple(ids[:k])][token] += texts[text]
        self.after = {prefix: dict(follow) for prefix, follow in after.items()}

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False, logits_to_keep: int = 0) -> Any:
        rows = input_ids.tolist()
        kept = logits_to_keep or input_ids.shape[1]
        logits = torch.zeros(len(rows), kept, self.config.vocab_size, dtype=torch.float64)
        for b, row in enumerate(rows):
            for column, at in enumerate(range(len(row) - kept, len(row))):
                follow = self.after.get(tuple(row[1 : at + 1]))
                if follow is not None:
                    logits[b, column] = -math.inf
                    total = math.fsum(follow.values())
                    for token, p in follow.items():
                        logits[b, column, token] = math.log(p / total)
        return type("Output", (), {"logits": logits})()


def all_texts(alphabet: str, length: int) -> list[str]:
    """Every text of up to so many characters."""
    return ["".join(chars) for n in range(length + 1) for chars in itertools.product(alphabet, repeat=n)]
