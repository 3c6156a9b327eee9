"""The probe: exposure of a small vocabulary by hand, phantom mass against all segmentations, samples by hand."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.encoding import TextEncoder
from evaluation.stochastic import CONTEXT_BYTES
from evaluation.subword import artefacts as kinds
from evaluation.subword.consistency import (
    choose_words,
    consistency,
    edits,
    frequent_words,
    generation,
    phantom,
    static,
)
from tests.evaluation.conftest import merged_tokenizer
from tests.evaluation.subword.test_spellings import every
from tokenization import encode_text

TEXT = "A king: of the sea, sea kings.\n the king" + " of the seas" * 3


def test_static_by_hand() -> None:
    # " ki" is itself, " k"+"i", " "+"ki" and " "+"k"+"i"; " as" is " a"+"s" and " "+"a"+"s"; " x" is its bytes.
    encoder = TextEncoder(merged_tokenizer(" ki", " a", "ki"))
    found = static(encoder, ["ki", "as", "x"])
    counts = [sum(1 for _ in every(encoder.bytes, f" {word}".encode())) for word in ("ki", "as", "x")]
    assert counts == [4, 2, 1]
    assert found["words"] == 3
    assert found["log2_encodings"] == pytest.approx((2 + 1 + 0) / 3)
    assert found["several"] == pytest.approx(2 / 3)
    assert found["cut"] == 0.0
    exposed = found["exposed"]
    assert set(exposed) == set(kinds.TYPES)
    assert exposed[kinds.DETACHED] == pytest.approx(2 / 3)  # " "+"ki", " "+"a"+"s"; " "+"x" is x's own
    assert exposed[kinds.BOUNDARY] == pytest.approx(2 / 3)  # "ki", "a"+"s"; "x" drops a token of whitespace
    assert exposed[kinds.NEWLINE] == 1.0  # every letter is an entry
    assert exposed[kinds.ACRONYM] == exposed[kinds.PROPER] == 0.0
    assert static(encoder, [])["log2_encodings"] is None


def test_exposure_counts_words_and_not_their_encodings() -> None:
    encoder = TextEncoder(merged_tokenizer(" HIV", " rights", " right", " Dorm", "Do"))
    exposed = static(encoder, ["HIV", "rights", "Dorm", "abcd"])["exposed"]
    assert exposed[kinds.ACRONYM] == exposed[kinds.TAIL] == exposed[kinds.PROPER] == 0.25
    assert exposed[kinds.BOUNDARY] == 0.0  # "HIV" is no entry; " abcd" has a space of its own


def test_words() -> None:
    texts = ["the King's sea, the sea. x1 the sea-side\n of don’t 12 é naïve", "The the the"]
    assert frequent_words(texts, 3) == ["the", "sea", "King's"]
    assert frequent_words(texts, 99) == ["the", "sea", "King's", "don’t", "naïve", "of", "é"]
    spans = choose_words(texts, 99, 1)
    shown = [texts[s.document].encode()[s.begin : s.end].decode() for s in spans]
    assert shown == [" King's", " sea", " the", " sea", " the", " sea", " of", " don’t", " é", " naïve", " the", " the"]
    few = choose_words(texts, 4, 1)
    assert few == choose_words(texts, 4, 1) and set(few) < set(spans) and few == [s for s in spans if s in few]
    assert any(few != choose_words(texts, 4, seed) for seed in (2, 3, 4))
    assert choose_words([""], 3, 1) == []


def test_phantom_mass_against_all_segmentations(superword_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    encoder, model = TextEncoder(superword_tokenizer), make_model(superword_tokenizer)
    encoded = encoder(TEXT)
    found = phantom(model, encoder, [TEXT], [encoded], 50, 0)
    masses, crossed = [], 0
    ends = encoded.ends.tolist()
    starts = [0, *ends[:-1]]
    for span in choose_words([TEXT], 50, 0):
        if span.begin not in starts or span.end not in ends:
            crossed += 1
            continue
        first = starts.index(span.begin)
        before = [k for k in range(first) if starts[k] <= span.begin - CONTEXT_BYTES]
        ids = encoded.ids.tolist()
        context = ids[before[-1] : first] if before and before[-1] else [encoder.eos_id, *ids[:first]]
        logs = {}
        for way in every(encoder.bytes, TEXT.encode()[span.begin : span.end]):
            with torch.no_grad():
                log_p = torch.log_softmax(model(input_ids=torch.tensor([[*context, *way]])).logits[0].double(), -1)
            logs[way] = sum(float(log_p[len(context) - 1 + k, token]) for k, token in enumerate(way))
        own = logs[tuple(ids[first : ends.index(span.end) + 1])]
        masses.append(1 - math.exp(own - float(np.logaddexp.reduce(list(logs.values())))))
    assert found["words"] == len(masses) > 3
    assert found["crossed"] == crossed > 0  # "of the" is one token
    # The sum may stop within 0.02 nats.
    assert found["mean"] <= np.mean(masses) + 1e-5 and np.mean(masses) <= found["mean_most"] + 1e-5
    assert found["mean"] == pytest.approx(np.mean(masses), abs=0.02)
    assert found["median"] == pytest.approx(np.median(masses), abs=0.02)


def test_edits_of_a_text_by_hand(superword_tokenizer: Any) -> None:
    encoder = TextEncoder(merged_tokenizer("of the", "king", " sea", " seas"))
    one = {piece: index for index, piece in enumerate(encoder.bytes)}

    def ids(*pieces: str) -> list[int]:
        return [one[piece.encode()] for piece in pieces]

    prompt = ids(*"a ")
    row = [
        *prompt,
        *ids("king", " ", "king", " sea", " ", "s", "e", "a", " sea", "s", "o", "f", " ", "t", "h", "e", " "),
    ]
    text = "a king king sea sea seasof the "
    assert b"".join(encoder.bytes[i] for i in row) == text.encode()
    # From byte 2 on: "king" without its space is no word; " seasof" is " seas"+"of the" in the encoding.
    assert edits(encoder, row, text, 2) == [None, None, kinds.DETACHED, "", ""]
    assert edits(encoder, row, text, 0) == [None, None, None, kinds.DETACHED, "", ""]
    # As many tokens, but others.
    other = TextEncoder(merged_tokenizer(" se", "ea"))
    own = encode_text(other.tokenizer, " sea ")
    split = [*encode_text(other.tokenizer, " s"), *encode_text(other.tokenizer, "ea"), own[-1]]
    assert len(own) == len(split) == 3
    assert edits(other, split, " sea ", 0) == [kinds.INTRA_WORD]
    assert edits(other, own, " sea ", 0) == [None]
    # The last word is left out where nothing follows it.
    assert edits(encoder, row[:6], "a king king sea", 2) == [None]
    assert edits(encoder, row[:7], "a king king sea ", 2) == [None, None]


def test_generation_of_models_that_never_and_always_split(tiny_corpus: Path, make_model: Callable[..., Any]) -> None:
    tokenizer = merged_tokenizer(" ab")
    encoder = TextEncoder(tokenizer)
    ab, space, a, b = encode_text(tokenizer, " ab")[0], *(encode_text(tokenizer, c)[0] for c in " ab")
    encoded = [encoder("xx")]
    model = make_model(tokenizer)

    def with_table(rows: dict[int, int]) -> Any:
        class Table(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.unused = torch.nn.Parameter(torch.zeros(1))
                self.config = model.config
                self.table = torch.full((len(tokenizer), len(tokenizer)), -60.0)
                self.table[:, space] = 0.0
                for before, after in rows.items():
                    self.table[before] = -60.0
                    self.table[before, after] = 0.0

            def forward(self, input_ids: torch.Tensor, past_key_values: Any, use_cache: bool) -> Any:
                return type("Output", (), {"logits": self.table[input_ids], "past_key_values": None})()

        return Table()

    never = generation(with_table({ab: ab, encode_text(tokenizer, "x")[0]: ab}), encoder, encoded, 0)
    assert never["words"] > 100 and never["phantom"] == 0.0 and never["broken"] == 0
    always = generation(with_table({space: a, a: b}), encoder, encoded, 0)
    assert always["words"] > 100 and always["phantom"] == 1.0
    assert always["types"][kinds.DETACHED] == always["words"]
    assert never == generation(with_table({ab: ab, encode_text(tokenizer, "x")[0]: ab}), encoder, encoded, 0)


def test_probe_of_a_corpus(
    tiny_corpus: Path, superword_tokenizer: Any, byte_tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    model = make_model(superword_tokenizer)
    found = consistency(model, superword_tokenizer, tiny_corpus, 7)
    assert found is not None and found == consistency(model, superword_tokenizer, tiny_corpus, 7)
    assert found["static"]["several"] > 0 and 0 < found["phantom"]["mean"] <= found["phantom"]["mean_most"] < 1
    assert found["generation"]["texts"] == 32
    # Bytes spell a word in one way.
    plain = consistency(make_model(byte_tokenizer), byte_tokenizer, tiny_corpus, 7)
    assert plain is not None
    assert plain["static"]["log2_encodings"] == plain["static"]["several"] == plain["phantom"]["mean"] == 0.0
    assert plain["generation"]["phantom"] in (0.0, None)


def test_tokenizers_that_cannot_be_probed(tiny_corpus: Path, make_model: Callable[..., Any], capfd: Any) -> None:
    from tokenizers import normalizers

    lossy = merged_tokenizer("king")
    lossy.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert consistency(make_model(lossy), lossy, tiny_corpus, 7) is None
    assert "no probe of consistency: test document" in capfd.readouterr().err
