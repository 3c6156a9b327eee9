"""Every tokenizer reads the same bytes of the same documents in the same order, row by row, over epochs."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization import BPE, ByteLevel, NoTransform, StochasTok, SuperBPE, TokenData, encode_corpus, read_documents
from tokenization.tokenizer import load_tokenizer, save_tokenizer, token_bytes
from training.streams import RowStreams

ARMS = {
    "bytes": (ByteLevel(), NoTransform()),
    "bpe": (BPE(vocab_size=350), NoTransform()),
    "superbpe": (SuperBPE(vocab_size=350, transition=300), NoTransform()),
    "stochastok": (BPE(vocab_size=350), StochasTok(p=0.5)),
}


@pytest.fixture(scope="module")
def arms(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory):
    """name -> (token data, tokenizer, transform, bytes of each id; end-of-text as a byte that UTF-8 never has)."""
    made = {}
    for name, (recipe, transform) in ARMS.items():
        folder = tmp_path_factory.mktemp(name)
        save_tokenizer(recipe.train([d.text for d in read_documents(tiny_corpus, "train")]), folder / "tokenizer")
        encode_corpus(tiny_corpus, folder / "tokenizer", folder / "tokens")
        tokenizer = load_tokenizer(folder / "tokenizer")
        made[name] = (
            TokenData.open(folder / "tokens", "train"),
            tokenizer,
            transform,
            [piece or b"\xff" for piece in token_bytes(tokenizer)],
        )
    return made


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 5), seed=st.integers(0, 3), steps=st.integers(1, 60))
def test_rows_read_the_same_text_whatever_the_tokenizer(arms, rows: int, seed: int, steps: int) -> None:
    read: dict[str, list[bytes]] = {}
    for name, (data, tokenizer, transform, pieces) in arms.items():
        # About the same bytes a step, and up to more than one epoch of the text.
        length = max(2, round(600 * data.n_tokens / int(data.n_bytes.sum())))
        streams = RowStreams(data, rows, length, transform.bind(tokenizer, seed), seed)
        targets = np.concatenate([streams.next().targets for _ in range(steps)], axis=1)
        read[name] = [b"".join(pieces[i] for i in row) for row in targets]
    for row in range(rows):
        texts = sorted((text[row] for text in read.values()), key=len)
        assert all(texts[-1].startswith(text) for text in texts)
        assert len(texts[0]) > 200 * steps
