import math
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.encoding import TextEncoder
from evaluation.stochastic import CONTEXT_BYTES, Span, choose_spans, figures, score_spans
from tests.evaluation.conftest import merged_tokenizer
from tokenization import encode_text

SENTENCE = "a king of the sea saw the day of the king: A queen of the sea. "
TEXT = SENTENCE * 4 + "naïve é sea"
FAR = 3 * len(SENTENCE)
LOOK_AHEAD = ["", *"abdefghiknqstuwy :.A\nQ", " k", "e ", "he", "he "]


class ByDefinition:
    """t is valid after L if the encoding of the bytes of L + [t] and some text begins with L + [t]."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.pieces = TextEncoder(tokenizer).bytes

    def valid_next(self, ids: Sequence[int], size: int | None = None) -> np.ndarray:
        # Without pretokenizer merges are local: a few tokens to the left decide.
        left = list(ids[-4:])
        valid = np.zeros(size or len(self.pieces), dtype=bool)
        for index, piece in enumerate(self.pieces):
            data = b"".join(self.pieces[i] for i in left) + piece
            if piece and piece.isascii() and data.isascii():
                row = [*left, index]
                valid[index] = any(
                    encode_text(self.tokenizer, data.decode() + after)[: len(row)] == row for after in LOOK_AHEAD
                )
        return valid

    def may_end(self, ids: Sequence[int]) -> bool:
        data = b"".join(self.pieces[i] for i in ids[-4:])
        return encode_text(self.tokenizer, data.decode()) == list(ids[-4:])


def segmentations(pieces: list[bytes], text: bytes) -> Iterator[list[int]]:
    if not text:
        yield []
    for index, piece in enumerate(pieces):
        if piece and text.startswith(piece):
            for rest in segmentations(pieces, text[len(piece) :]):
                yield [index, *rest]


def log_probabilities(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), -1)


def context_of(encoder: TextEncoder, ids: list[int], begin: int) -> tuple[list[int], int]:
    """The row before byte `begin`, and how many tokens of the document end there: token by token."""
    starts, at = [], 0
    for index in ids:
        starts.append(at)
        at += len(encoder.bytes[index])
    first = starts.index(begin)
    before = [i for i, start in enumerate(starts[:first]) if start <= begin - CONTEXT_BYTES]
    return (ids[before[-1] : first] if before and before[-1] else [encoder.eos_id, *ids[:first]]), first


SPANS = [Span(0, 0, 6), Span(0, 6, 13), Span(0, 13, 20), Span(0, FAR + 6, FAR + 17)]


@pytest.fixture(scope="module")
def toy(superword_tokenizer: Any, make_model: Callable[..., Any]) -> tuple[Any, TextEncoder, Any]:
    encoder = TextEncoder(superword_tokenizer)
    return make_model(superword_tokenizer), encoder, encoder(TEXT)


def test_marginal_is_the_sum_over_all_segmentations(toy: tuple[Any, TextEncoder, Any]) -> None:
    model, encoder, encoded = toy
    scores = score_spans(model, encoder, [encoded], SPANS, None, rows=10_000, tolerance=0.0)
    ids = encoded.ids.tolist()
    for span, score in zip(SPANS, scores):
        assert score is not None
        context, first = context_of(encoder, ids, span.begin)
        found = []
        ways = list(segmentations(encoder.bytes, TEXT.encode()[span.begin : span.end]))
        for path in ways:
            log_p = log_probabilities(model, [*context, *path])
            found.append(sum(float(log_p[len(context) - 1 + i, token]) for i, token in enumerate(path)))
        assert len(ways) > 1
        expected = -float(np.logaddexp.reduce(found))
        assert score.marginal == pytest.approx(expected, abs=1e-4)
        assert score.marginal_least == pytest.approx(expected, abs=1e-4)
        mine = ids[first : first + score.tokens]
        assert score.canonical == pytest.approx(-found[ways.index(mine)], abs=1e-4)
        assert score.rows < len(ways) + 1  # rows show more than one node
        assert score.canonicalised is None


def test_bounds_bracket_the_sum_whatever_the_budget(toy: tuple[Any, TextEncoder, Any]) -> None:
    model, encoder, encoded = toy
    (exact,) = score_spans(model, encoder, [encoded], [Span(0, 6, 17)], None, rows=10_000, tolerance=0.0)
    assert exact is not None
    gaps = []
    for rows in (1, 2, 5, 20, 100):
        (score,) = score_spans(model, encoder, [encoded], [Span(0, 6, 17)], None, rows=rows, tolerance=0.0)
        assert score is not None
        assert score.rows <= rows
        assert score.marginal_least <= exact.marginal + 1e-6
        assert exact.marginal <= score.marginal + 1e-6
        assert score.marginal <= score.canonical == pytest.approx(exact.canonical, abs=1e-4)
        gaps.append(score.marginal - score.marginal_least)
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.1
    (loose,) = score_spans(model, encoder, [encoded], [Span(0, 6, 17)], None, rows=10_000, tolerance=0.5)
    assert loose is not None
    assert loose.marginal - loose.marginal_least <= 0.5
    assert loose.rows < exact.rows


def test_canonicalised_is_the_softmax_over_what_may_follow(toy: tuple[Any, TextEncoder, Any]) -> None:
    model, encoder, encoded = toy
    validity = ByDefinition(encoder.tokenizer)
    scores = score_spans(model, encoder, [encoded], SPANS, validity, rows=1)
    ids = encoded.ids.tolist()
    for span, score in zip(SPANS, scores):
        assert score is not None
        context, first = context_of(encoder, ids, span.begin)
        path = ids[first : first + score.tokens]
        log_p = log_probabilities(model, [*context, *path])
        nats = 0.0
        for i, token in enumerate(path):
            p = log_p[len(context) - 1 + i].exp().numpy()
            valid = validity.valid_next(ids[: first + i], len(p))
            valid[encoder.eos_id] = validity.may_end(ids[: first + i])
            assert valid[token]
            assert not valid.all()
            nats -= math.log(p[token] / p[valid].sum())
        assert score.canonicalised == pytest.approx(nats, abs=1e-4)
        assert nats < score.canonical


class TwoWays(torch.nn.Module):
    """Writes "ab" (.6) and "ax" (.4) for ever; "ab", which is an entry, as its two bytes with probability `split`."""

    def __init__(self, tokenizer: Any, split: float):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        vocabulary = len(tokenizer)
        self.config = SimpleNamespace(vocab_size=vocabulary)
        a, b, x, ab = (encode_text(tokenizer, text)[0] for text in ("a", "b", "x", "ab"))
        self.table = torch.full((vocabulary, vocabulary), -80.0)
        self.table[:, ab], self.table[:, a] = math.log(0.6 * (1 - split)), math.log(0.6 * split + 0.4)
        self.table[a] = -80.0
        self.table[a, b], self.table[a, x] = math.log(0.6 * split), math.log(0.4)

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> Any:
        return SimpleNamespace(logits=self.table[input_ids])


@pytest.mark.parametrize("split", [0.3, 0.01])
def test_three_numbers_of_a_model_whose_marginal_is_known(split: float) -> None:
    tokenizer = merged_tokenizer("ab")
    encoder = TextEncoder(tokenizer)
    text = "abaxababax" * 6  # 6 to 4, as the model writes it
    encoded = encoder(text)
    spans = [Span(0, at, at + 20) for at in (0, 10, 20, 40)]
    scores = score_spans(
        TwoWays(tokenizer, split), encoder, [encoded], spans, ByDefinition(tokenizer), rows=1000, tolerance=1e-9
    )
    for score in scores:
        assert score is not None
        assert score.canonical == pytest.approx(-6 * math.log(0.6 * (1 - split)) - 4 * math.log(0.4), abs=1e-4)
        # After "a" alone no text goes on with "b": that mass goes to "x".
        renormalised = -6 * math.log(0.6 * (1 - split)) - 4 * math.log(0.6 * split + 0.4)
        assert score.canonicalised == pytest.approx(renormalised, abs=1e-4)
        assert score.marginal == pytest.approx(-6 * math.log(0.6) - 4 * math.log(0.4), abs=1e-4)
        assert score.marginal_least == pytest.approx(score.marginal, abs=1e-4)
        assert score.canonical > score.canonicalised > score.marginal


def test_a_span_that_a_token_reaches_across_is_not_scored(toy: tuple[Any, TextEncoder, Any]) -> None:
    model, encoder, encoded = toy
    at = TEXT.index("of the")
    spans = [Span(0, at + 3, at + 10), Span(0, at - 5, at + 2), Span(0, at, at + 10)]
    assert [score is None for score in score_spans(model, encoder, [encoded], spans, None, rows=1)] == [
        True,
        True,
        False,
    ]
    end = len(TEXT.encode())
    assert score_spans(model, encoder, [encoded], [Span(0, end - 4, end)], None, rows=1) != [None]


def test_learned_positions_bound_the_context(
    byte_tokenizer: Any, superword_tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    encoder = TextEncoder(superword_tokenizer)
    model = make_model(superword_tokenizer, positions=32)
    (score,) = score_spans(model, encoder, [encoder(TEXT)], [Span(0, FAR + 6, FAR + 13)], None)
    assert score is not None
    assert math.isfinite(score.marginal)
    # Bytes have one segmentation only.
    encoder = TextEncoder(byte_tokenizer)
    (score,) = score_spans(make_model(byte_tokenizer), encoder, [encoder(TEXT)], [Span(0, FAR + 6, FAR + 13)], None)
    assert score is not None
    assert score.marginal == score.marginal_least == score.canonical
    assert score.rows == 1


def test_spans_are_whole_words_drawn_from_the_text_alone() -> None:
    texts = [
        "First line of this\nplay goes on naïvely here\n  indented line of text\nx\n",
        "",
        "one two three four five",
    ]
    everything = choose_spans(texts, 1000, 7)
    assert len(everything) == len(set(everything)) > 6
    assert everything == sorted(everything, key=lambda s: (s.document, s.begin))
    for span in everything:
        source = texts[span.document].encode()
        part = source[span.begin : span.end]
        assert 16 <= len(part) <= 24
        assert not part[-1:].isspace()
        assert source[span.end : span.end + 1] in (b"", b" ", b"\n")
        if span.begin and source[span.begin - 1 : span.begin] != b"\n":
            assert part[:1] == b" "
            assert not part[1:2].isspace()
    assert {s.begin for s in everything} >= {0, 19}  # lines
    few = choose_spans(texts, 5, 7)
    assert few == choose_spans(texts, 5, 7)
    assert any(few != choose_spans(texts, 5, seed) for seed in (8, 9, 10))
    assert all(s.begin in (0, 19) for s in choose_spans(texts, 3, 7))  # beginnings of lines first
    assert choose_spans([""], 3, 7) == []


def test_figures_leave_out_what_was_not_scored() -> None:
    rows = [
        {"bytes": 16, "nats": 8.0, "canonicalised_nats": 7.0, "marginal_nats": 6.0, "marginal_nats_least": 5.0},
        {"bytes": 20},
        {"bytes": 24, "nats": 12.0, "canonicalised_nats": 11.0, "marginal_nats": 9.0, "marginal_nats_least": 9.0},
    ]
    found = figures(rows)
    assert (found["spans"], found["crossed"], found["bytes"]) == (3, 1, 40)
    assert found["canonical"] == pytest.approx(20 / math.log(2) / 40)
    assert found["marginal_least"] == pytest.approx(14 / math.log(2) / 40)
    assert figures(rows[1:2])["marginal"] is None
    assert figures([{**rows[0], "canonicalised_nats": None}])["canonicalised"] is None
