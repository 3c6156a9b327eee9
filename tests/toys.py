"""Small random vocabularies."""

import random
from typing import Any

from tokenization.bpe import byte_level_bpe
from tokenization.tokenizer import byte_alphabet, finish


def toy(alphabet: str, pretokenizer: str, merges: int = 16, seed: int = 0) -> Any:
    """A byte-level BPE of random merges over the alphabet's bytes."""
    rng = random.Random(f"{alphabet}{seed}")
    letters = byte_alphabet()
    vocab = {char: byte for byte, char in enumerate(letters)}
    tokens = [letters[byte] for byte in sorted(set(alphabet.encode()))]
    made: list[tuple[str, str]] = []
    while len(made) < merges:
        left, right = rng.choice(tokens), rng.choice(tokens)
        if left + right not in vocab and len(left + right) <= 6:
            made.append((left, right))
            vocab[left + right] = len(vocab)
            tokens.append(left + right)
    return finish(byte_level_bpe(vocab, made, pretokenizer), {"algorithm": "toy"})
