import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.documents import Validator, document_windows, score_documents, validation_bpb
from evaluation.encoding import TextEncoder
from evaluation.forward import TOKENS_PER_BATCH, Window, max_positions, score_windows
from isotok.errors import DataError

TEXTS = [
    "the king of the sea saw the day of the king. " * 6,
    "a king: A queen of the land\n" * 3,
    "naïve é — 漢字 🜚 of the sea. " * 5,
    "x",
    "",
]
CONTEXT = 64


def row_nats(model: Any, ids: list[int]) -> np.ndarray:
    """Nats of ids[1:], one row, no batching, in float64."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    return -torch.log_softmax(logits, -1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


def brute_force(model: Any, tokenizer: Any, text: str, context: int) -> tuple[float, float]:
    """The definition, token by token: the segment of a token by its last byte, at least context/2 bytes to the left
    of the first token of its segment. One row per token."""
    encoder = TextEncoder(tokenizer)
    eos, half = encoder.eos_id, context // 2
    ids = encoder(text).ids.tolist()
    starts, ends, at = [], [], 0
    for i in ids:
        starts.append(at)
        at += len(encoder.bytes[i])
        ends.append(at)
    segment = [max(1, (end - 1) // half) for end in ends]  # segments 0 and 1 are one window: both see the beginning
    total = 0.0
    begin = 0
    for i in range(len(ids)):
        first = segment.index(segment[i])
        reach = starts[first] - half
        begin = 0 if segment[i] == 1 or reach <= 0 else max(j for j in range(len(ids)) if starts[j] <= reach)
        left = ids[begin:i] if begin else [eos, *ids[:i]]
        total += row_nats(model, [*left, ids[i]])[-1]
    # The closing separator belongs to the last window.
    left = ids[begin:] if begin else [eos, *ids]
    return total, row_nats(model, [*left, eos])[-1]


@pytest.mark.parametrize("which", ["byte_tokenizer", "superword_tokenizer"])
def test_windows_score_what_the_definition_says(
    which: str, request: pytest.FixtureRequest, make_model: Callable[..., Any]
) -> None:
    tokenizer = request.getfixturevalue(which)
    model = make_model(tokenizer)
    encoder = TextEncoder(tokenizer)
    scores = score_documents(model, [encoder(t) for t in TEXTS], CONTEXT, encoder.eos_id)
    for text, score in zip(TEXTS, scores):
        nats, separator = brute_force(model, tokenizer, text, CONTEXT)
        assert score.nats == pytest.approx(nats, rel=1e-5, abs=1e-4)
        assert score.separator_nats == pytest.approx(separator, abs=1e-4)
        assert score.bytes == len(text.encode())


@pytest.mark.parametrize("limit", [None, 7, 20])
def test_every_token_once_with_half_the_context(superword_tokenizer: Any, limit: int | None) -> None:
    encoder = TextEncoder(superword_tokenizer)
    for text in TEXTS:
        encoded = encoder(text)
        windows, cut = document_windows(encoded, CONTEXT, encoder.eos_id, limit)
        scored = np.concatenate([w.ids[w.first :] for w in windows])
        assert scored.tolist() == [*encoded.ids.tolist(), encoder.eos_id]
        done = 0
        for window in windows:
            assert limit is None or len(window.ids) - 1 <= limit
            before = window.ids[: window.first].tolist()
            everything = [encoder.eos_id, *encoded.ids[:done].tolist()]
            assert before == everything[len(everything) - len(before) :]
            seen = sum(len(encoder.bytes[i]) for i in before)
            assert cut or before == everything or seen >= CONTEXT // 2
            done += len(window.ids) - window.first
        if limit is None:
            assert cut == 0


def test_a_token_longer_than_a_segment_is_scored_once(make_model: Callable[..., Any], superword_tokenizer: Any) -> None:
    encoder = TextEncoder(superword_tokenizer)
    encoded = encoder("of theof theking sea")
    windows, _ = document_windows(encoded, 4, encoder.eos_id)
    assert np.concatenate([w.ids[w.first :] for w in windows]).tolist() == [*encoded.ids.tolist(), encoder.eos_id]
    assert all(w.first >= 1 for w in windows)


def test_learned_positions_bound_the_window(byte_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    small, large = make_model(byte_tokenizer, positions=24), make_model(byte_tokenizer)
    assert max_positions(small) == 24
    assert max_positions(large) is None
    encoder = TextEncoder(byte_tokenizer)
    (score,) = score_documents(small, [encoder(TEXTS[0])], CONTEXT, encoder.eos_id)
    assert score.cut_windows > 0
    assert math.isfinite(score.nats)


def test_documents_add_up_and_order_changes_nothing(superword_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    model = make_model(superword_tokenizer)
    encoder = TextEncoder(superword_tokenizer)
    encoded = [encoder(t) for t in TEXTS]
    together = score_documents(model, encoded, CONTEXT, encoder.eos_id)
    backwards = score_documents(model, encoded[::-1], CONTEXT, encoder.eos_id)[::-1]
    alone = [score_documents(model, [e], CONTEXT, encoder.eos_id)[0] for e in encoded]
    for a, b, c in zip(together, backwards, alone):
        assert a.nats == pytest.approx(b.nats, abs=1e-4, rel=1e-6)
        assert a.nats == pytest.approx(c.nats, abs=1e-4, rel=1e-6)
    pooled = sum(s.nats for s in alone) / (math.log(2) * sum(len(t.encode()) for t in TEXTS))
    assert validation_bpb(model, superword_tokenizer, TEXTS, CONTEXT) == pytest.approx(pooled, rel=1e-6)


def test_batch_and_chunk_sizes_change_nothing(
    byte_tokenizer: Any, make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(byte_tokenizer)
    windows = [Window(np.arange(n) % 250, first) for n, first in [(30, 1), (12, 11), (50, 25), (2, 1), (50, 1)]]
    before, hits = score_windows(model, windows, greedy=True)
    monkeypatch.setitem(TOKENS_PER_BATCH, "cpu", 1)
    monkeypatch.setattr("evaluation.forward._LOGITS_PER_CHUNK", 1000)
    after, hits_after = score_windows(model, windows, greedy=True)
    assert hits == hits_after
    for a, b in zip(before, after):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_validator_leaves_training_mode_and_gradients_alone(
    byte_tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    model = make_model(byte_tokenizer).train()
    validate = Validator(byte_tokenizer, TEXTS, CONTEXT)
    first = validate(model)
    assert model.training
    assert first == validate(model)
    model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()


def test_uniform_model_has_log_vocabulary_per_token(superword_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    model = make_model(superword_tokenizer)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    text = TEXTS[2]
    tokens = len(TextEncoder(superword_tokenizer)(text).ids)
    expected = tokens * math.log2(len(superword_tokenizer)) / len(text.encode())
    assert validation_bpb(model, superword_tokenizer, [text], CONTEXT) == pytest.approx(expected, rel=1e-6)


def test_lossy_tokenizer_is_refused_by_name(byte_tokenizer: Any) -> None:
    from tokenizers.normalizers import Lowercase

    from tokenization import ByteLevel

    lossy = ByteLevel().train([])
    lossy.backend_tokenizer.normalizer = Lowercase()
    with pytest.raises(DataError, match=r"document 7.*lossless"):
        TextEncoder(lossy)("The King", "document 7")


def test_no_text_is_an_error(byte_tokenizer: Any) -> None:
    with pytest.raises(DataError, match="no text"):
        Validator(byte_tokenizer, [""], CONTEXT)
