"""Next-byte distributions against sources whose probabilities are known, and against the sums that define them."""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from evaluation.bytewise import (
    END,
    ByteModel,
    ByteStream,
    Mixture,
    byte_tree,
    fill_in,
    mixture_nats,
    sample_bytes,
)
from evaluation.documents import score_documents
from evaluation.encoding import TextEncoder, whole_text
from evaluation.trees import branches_together
from isotok.errors import DataError
from tests.evaluation.conftest import merged_tokenizer
from tests.evaluation.sources import Behind, beginnings, markov
from tests.evaluation.test_likelihood import TRAPS, VOCABULARIES
from tests.toys import toy


@pytest.mark.parametrize("pretokenizer", VOCABULARIES.values(), ids=VOCABULARIES)
@pytest.mark.parametrize("alphabet", TRAPS)
def test_the_sources_own_next_bytes(alphabet: str, pretokenizer: str) -> None:
    """At every byte of some texts, inside characters too; a source's texts are all canonical, so nothing is lost."""
    texts = markov(alphabet, 6)
    tokenizer = toy(alphabet, pretokenizer)
    model = ByteModel(Behind(texts, tokenizer), tokenizer)
    begins = beginnings(texts)
    for text in random.Random(2).sample([t for t in texts if len(t) == 4], 4):
        data = text.encode()
        stream = ByteStream(model)
        for size in range(len(data) + 1):
            p = stream.distribution()
            assert p.sum() == pytest.approx(1, abs=1e-6)
            here = begins[data[:size]]
            assert stream.log_p == pytest.approx(math.log(here), abs=1e-6)
            for byte in sorted(set(alphabet.encode())):
                assert p[byte] == pytest.approx(begins[data[:size] + bytes([byte])] / here, abs=1e-6)
            onwards = sum(begins[data[:size] + bytes([byte])] for byte in set(alphabet.encode()))
            assert p[END] == pytest.approx(1 - onwards / here, abs=1e-6)
            if size < len(data):
                stream.push(data[size])
        for size in range(1, len(data)):  # a prompt may end anywhere
            begun = ByteStream(model, data[:size])
            whole = begins[data[: size + 1]] / begins[data[:size]]
            assert begun.distribution()[data[size]] == pytest.approx(whole, abs=1e-6)


@pytest.mark.slow
def test_nothing_is_lost_but_what_no_text_encodes_to(superword_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    """P(s) = sum of P(s + b), P(end) and the mass of tokens that break the canon, each computed by itself."""
    model = ByteModel(make_model(superword_tokenizer), superword_tokenizer)
    canonical = model.canonical
    data = "the king: A sea of thé of the".encode()
    logs = model.log_p([data[:n] for n in range(len(data) + 1)])
    for size in range(0, len(data), 2):
        stream = ByteStream(model, data[:size])
        p = stream.distribution()
        assert stream.log_p == pytest.approx(logs[size], abs=1e-5)
        following = model.log_p([data[:size] + bytes([b]) for b in range(256)])
        np.testing.assert_allclose(p[:256], np.exp(following - logs[size]), atol=1e-6)
        # Sequences that spell exactly the bytes so far, and what the model puts on tokens that must not follow.
        broken = 0.0
        for ids in exact_sequences(model, data[:size]):
            (log,) = stream_reads(model, [ids])
            must_not = ~canonical.valid_next(ids, len(log))
            must_not[model.eos_id] = not canonical.may_end(ids)
            broken += math.exp(path_log(model, ids)) * float(np.exp(log[must_not]).sum())
        assert p.sum() + broken / math.exp(logs[size]) == pytest.approx(1, abs=1e-5)


def exact_sequences(model: ByteModel, data: bytes) -> list[tuple[int, ...]]:
    """All canonical sequences of exactly these bytes, one token after another."""
    found: list[tuple[int, ...]] = []

    def grow(ids: tuple[int, ...], at: int) -> None:
        if at == len(data):
            found.append(ids)
            return
        for token in model.canonical.next_tokens(ids).tolist():
            piece = model.canonical.tokens[token]
            if data.startswith(piece, at):
                grow((*ids, token), at + len(piece))

    grow((), 0)
    return found


def stream_reads(model: ByteModel, sequences: list[tuple[int, ...]]) -> list[np.ndarray]:
    import torch

    with torch.no_grad():
        rows = [torch.tensor([[model.eos_id, *ids]]) for ids in sequences]
        return [torch.log_softmax(model.model(input_ids=row).logits[0, -1].double(), -1).numpy() for row in rows]


def path_log(model: ByteModel, ids: tuple[int, ...]) -> float:
    logs = stream_reads(model, [ids[:k] for k in range(len(ids))])
    return float(sum(log[token] for log, token in zip(logs, ids)))


@pytest.mark.parametrize("context", [16, 64, 4096])
def test_nats_of_each_byte(context: int, superword_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    model = ByteModel(make_model(superword_tokenizer), superword_tokenizer)
    encoded = TextEncoder(superword_tokenizer)("the king: A queen of the sea, of the land: A é 漢 king. " * 2)
    nats = model.byte_nats(encoded, context)
    assert nats.shape == (encoded.n_bytes,)
    data = b"".join(model.encoder.bytes[i] for i in encoded.ids)
    if context > 2 * len(data):
        logs = model.log_p([data[:n] for n in range(len(data) + 1)])
        np.testing.assert_allclose(nats, -np.diff(logs), atol=1e-4)
    # Close to the score of the tokens; below it, but for what is lost to other ways of ending.
    (score,) = score_documents(model.model, [encoded], context, model.eos_id)
    assert nats.sum() == pytest.approx(score.nats, rel=0.05)


def test_bytes_as_tokens_give_the_tokens_nats(byte_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    model = ByteModel(make_model(byte_tokenizer), byte_tokenizer)
    encoded = TextEncoder(byte_tokenizer)("the king of the sea. " * 8)
    for context in (16, 64):
        (score,) = score_documents(model.model, [encoded], context, model.eos_id)
        # A byte that cannot follow inside a character is lost to bytes, never to tokens.
        assert model.byte_nats(encoded, context).sum() == pytest.approx(score.nats, rel=1e-6)


def test_cached_reading_changes_nothing(
    superword_tokenizer: Any, make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = make_model(superword_tokenizer)
    assert branches_together(lm)
    data = b"of the king: A sea, the land"

    def walk() -> list[np.ndarray]:
        stream, seen = ByteStream(ByteModel(lm, superword_tokenizer), data[:5]), []
        for byte in data[5:]:
            seen.append(stream.distribution())
            stream.push(byte)
        return seen

    cached = walk()
    monkeypatch.setattr("evaluation.bytewise.branches_together", lambda _: False)
    monkeypatch.setattr("evaluation.trees.branches_together", lambda _: False)
    for a, b in zip(cached, walk()):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_samples_follow_the_source() -> None:
    texts = {"ab": 0.5, "aé": 0.3, "b": 0.2}
    tokenizer = toy("abé", "gpt2")
    model = ByteModel(Behind(texts, tokenizer), tokenizer)
    rng = np.random.default_rng(0)
    drawn = [sample_bytes(ByteStream(model), 10, rng).decode() for _ in range(400)]
    for text, p in texts.items():
        assert drawn.count(text) / 400 == pytest.approx(p, abs=0.08)
    assert sample_bytes(ByteStream(model), 10, rng, temperature=0).decode() == "ab"
    assert sample_bytes(ByteStream(model, "a\u00e9".encode()[:2]), 10, rng) == "é".encode()[1:]  # inside a character
    assert whole_text("aé".encode()[:2]) == "a"


def test_models_of_different_vocabularies_are_mixed_by_bytes() -> None:
    one, two = {"ab": 0.9, "ba": 0.1}, {"ab": 0.1, "ba": 0.5, "bb": 0.4}
    a = ByteModel(Behind(one, (first := toy("ab", "gpt2", merges=4))), first)
    b = ByteModel(Behind(two, (second := toy("ab", "none", merges=6, seed=3))), second)
    mixture = Mixture([ByteStream(a), ByteStream(b)])
    assert mixture.distribution()[ord("a")] == pytest.approx(0.5)
    mixture.push(ord("b"))
    assert mixture.distribution()[ord("a")] == pytest.approx((1 + 5 / 9) / 2)
    assert mixture.text == b"b"
    nats = mixture_nats([m.byte_nats(TextEncoder(t)("ba"), 64) for m, t in ((a, first), (b, second))])
    np.testing.assert_allclose(np.exp(-nats), [0.5, (1 + 5 / 9) / 2], atol=1e-6)


def test_a_gap_is_filled_by_what_fits_both_sides() -> None:
    """Before the gap "the ca" and after it "s on": the words are cut inside, and the likelier word does not fit."""
    texts = {"the cats on": 0.1, "the car is": 0.8, "the cabs on": 0.1}
    tokenizer = toy("the cars", "gpt2", merges=20)
    model = ByteModel(Behind(texts, tokenizer), tokenizer)
    filled = fill_in(model, b"the ca", b"s on", 4, 60, np.random.default_rng(0))
    assert {f.middle for f in filled if f.log_p > -20} == {b"t", b"b"}
    assert filled[0].log_p == pytest.approx(math.log(0.1), abs=1e-6)


def test_a_text_that_cannot_be() -> None:
    tokenizer = toy("ab", "gpt2")
    model = ByteModel(Behind({"a": 1.0}, tokenizer), tokenizer)
    with pytest.raises(DataError, match="no text that begins with"):
        ByteStream(model, b"b").distribution()


def test_tokens_longer_than_half_the_context(make_model: Callable[..., Any]) -> None:
    """The first byte of a window never lies inside the token that the window starts after."""
    tokenizer = merged_tokenizer("of the king and the sea")
    model = ByteModel(make_model(tokenizer), tokenizer)
    encoded = TextEncoder(tokenizer)("so of the king and the seas, of the king and the sea; of the king and the sea.")
    assert max(np.diff(encoded.ends)) > 16
    for context in (8, 16, 32):
        nats = model.byte_nats(encoded, context)
        assert np.isfinite(nats).all()
        data = b"".join(model.encoder.bytes[i] for i in encoded.ids)
        np.testing.assert_allclose(nats[:context], -np.diff(model.log_p([data[:n] for n in range(context + 1)])), 1e-4)


def test_few_positions(make_model: Callable[..., Any], superword_tokenizer: Any) -> None:
    """A model with a table of positions: windows that do not fit are cut, and the text is whole all the same."""
    lm = make_model(superword_tokenizer, positions=40)
    model = ByteModel(lm, superword_tokenizer)
    encoded = TextEncoder(superword_tokenizer)("the king: A sea of the sea, a queen of the land and the king. " * 3)
    done: list[float] = []
    nats = model.byte_nats(encoded, 256, done.append)
    assert sum(done) == encoded.n_bytes and np.isfinite(nats).all()
    (score,) = score_documents(lm, [encoded], 256, model.eos_id)
    assert score.cut_windows
    assert nats.sum() == pytest.approx(score.nats, rel=0.1)
    after = model.nats_after("é".encode() * 60 + b"the ki", b"ng")
    np.testing.assert_allclose(after, model.nats_after("é".encode() * 12 + b"the ki", b"ng"), 1e-4)


def test_bytes_after_a_prompt(superword_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    model = ByteModel(make_model(superword_tokenizer), superword_tokenizer)
    before, data = b"of the king: A s", "éa of t".encode()
    logs = model.log_p([before + data[:n] for n in range(len(data) + 1)])
    np.testing.assert_allclose(model.nats_after(before, data), -np.diff(logs), atol=1e-4)


def test_texts_longer_than_the_model(byte_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    model = ByteModel(make_model(byte_tokenizer, positions=8), byte_tokenizer)
    assert np.isfinite(model.log_p([b"abcdefgh"])).all()  # the last byte is read off, not fed
    for run in (lambda: model.log_p([b"abcdefghi"]), lambda: ByteStream(model, b"abcdefghi")):
        with pytest.raises(DataError, match="8 positions"):
            run()


@pytest.mark.parametrize("pretokenizer", ["llama3", "superbpe_stage1", "superbpe2025_stage2"])
def test_a_long_number_has_its_own_path_and_few_others(pretokenizer: str) -> None:
    """Threes counted from either end stay in step over hundreds of digits."""
    rng = random.Random(0)
    tokenizer = toy("0123456789", pretokenizer, merges=60)
    model = ByteModel(Behind(markov("01", 2), tokenizer), tokenizer)
    text = "n " + "".join(rng.choices("0123456789", k=350)) + " x"
    tree, by_end = byte_tree(model.canonical, text.encode(), [model.eos_id], [])
    node: int | None = -1
    for token in model.encoder(text).ids.tolist()[:-1]:
        node = tree.child(node, token) if node is not None else None
    assert node is not None
    assert all(by_end[1:])
    assert len(tree.ids) < 4 * len(text)
