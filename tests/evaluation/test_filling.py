"""Gaps: where they lie, and their scores against differences of whole probabilities and sources that are known."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.bytewise import ByteModel, ByteStream, Mixture
from evaluation.filling import Gap, choose_gaps, filling, score_gaps
from isotok.errors import ConfigError, DataError
from tests.conftest import tiny_texts
from tests.evaluation.sources import Behind
from tests.toys import toy

TEXTS = [text.replace("king", "königin") for text in tiny_texts(24)]
NAMES = [f"text {k}" for k in range(len(TEXTS))]


@dataclass(frozen=True)
class Doc:
    id: str
    text: str
    group: str


DOCS = [Doc(name, text, f"work {k % 5}") for k, (name, text) in enumerate(zip(NAMES, TEXTS))]


def test_gaps_lie_inside_words() -> None:
    gaps = choose_gaps(NAMES, TEXTS, 80, 256, 7)
    assert len(gaps) == 80
    lines = 0
    for gap in gaps:
        data = TEXTS[gap.document].encode()
        whole = gap.before + gap.middle + gap.after
        begin = gap.begin - len(gap.before.encode())
        assert data[begin:].startswith(whole.encode())
        for left, right in ((gap.before, gap.middle), (gap.middle, gap.after)):
            assert left[-1].isalpha() and right[0].isalpha()
        assert 8 <= len(gap.middle.encode()) <= 24
        assert 16 <= len(gap.before.encode()) <= 128
        assert 32 <= len(gap.after.encode()) <= 64
        rest = data[begin + len(whole.encode()) :].decode()
        assert gap.after[-1].isalpha() and not rest[:1].isalpha()
        # A line begins the text wherever one begins within reach.
        reach = data[max(0, gap.begin - 128) : gap.begin - 16]
        if b"\n" in reach or gap.begin <= 128:
            lines += 1
            assert begin == 0 or data[begin - 1 : begin] == b"\n"
        assert len(set(gap.choices)) == 4
        for k, choice in enumerate(gap.choices):
            assert len(choice.encode()) == len(gap.middle.encode())
            assert choice[0].isalpha() and choice[-1].isalpha()
            assert k == gap.gold or choice not in whole  # one right answer
            assert any(choice in text for text in TEXTS)
    assert lines > 20
    assert {gap.gold for gap in gaps} == {0, 1, 2, 3}
    ends = [(gap.document, gap.begin, gap.begin + len(gap.middle.encode())) for gap in gaps]
    assert all(a[0] != b[0] or a[2] <= b[1] for a, b in itertools.pairwise(ends))


@pytest.mark.slow
def test_gaps_depend_on_seed_document_and_place_alone() -> None:
    gaps = choose_gaps(NAMES, TEXTS, 40, 256, 7)
    assert choose_gaps(NAMES, TEXTS, 40, 256, 7) == gaps
    assert choose_gaps(NAMES, TEXTS, 40, 256, 8) != gaps
    more = {(g.document, g.begin, g.middle) for g in choose_gaps(NAMES, TEXTS, 60, 256, 7)}
    assert {(g.document, g.begin, g.middle) for g in gaps} <= more
    # Without a document, those of the others stay where they were.
    places = {(NAMES[g.document], g.begin) for g in choose_gaps(NAMES[:12], TEXTS[:12], 10**6, 256, 7)}
    fewer = {(NAMES[g.document], g.begin) for g in choose_gaps(NAMES[:9], TEXTS[:9], 10**6, 256, 7)}
    assert len(fewer & places) > 0.95 * len(fewer)


def test_the_exact_score_is_a_difference_of_whole_probabilities(
    superword_tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    model = ByteModel(make_model(superword_tokenizer), superword_tokenizer, "toy")
    gaps = choose_gaps(NAMES, TEXTS, 6, 256, 1)
    for gap, score in zip(gaps, score_gaps(model, gaps, 256)):
        texts = [gap.before, *(gap.before + c for c in gap.choices), *(gap.before + c + gap.after for c in gap.choices)]
        logs = model.log_p([text.encode() for text in texts])
        np.testing.assert_allclose(score.nats["exact"], logs[0] - logs[1:5], atol=2e-3)
        np.testing.assert_allclose(score.whole_nats["exact"], logs[0] - logs[5:], atol=2e-3)
        assert score.byte_nats.sum() == pytest.approx(score.nats["exact"][gap.gold], abs=2e-3)
        before = model.encoder(gap.before).ids.tolist()
        for k, choice in enumerate(gap.choices):
            for text, found in ((choice, score.nats["tokens"]), (choice + gap.after, score.whole_nats["tokens"])):
                assert found[k] == pytest.approx(token_nats(model, before, model.encoder(text).ids.tolist()), abs=2e-3)


def token_nats(model: ByteModel, before: list[int], ids: list[int]) -> float:
    row = torch.tensor([[model.eos_id, *before, *ids]])
    with torch.no_grad():
        logs = torch.log_softmax(model.model(input_ids=row).logits[0].double(), -1)
    return -float(sum(logs[len(before) + k, token] for k, token in enumerate(ids)))


def test_what_comes_after_decides() -> None:
    """The middle that is likelier after what is before does not fit what comes after."""
    texts = {"the cats on": 0.1, "the car is": 0.8, "the cabs on": 0.05, "the cans on": 0.05}
    tokenizer = toy("the cars", "gpt2", merges=20)
    model = ByteModel(Behind(texts, tokenizer), tokenizer, "source")
    gap = Gap(0, 6, "the ca", "s on", ("r", "t", "b", "n"), 1)
    lost = dataclasses.replace(gap, after="")
    score = model.log_p([f"{gap.before}{c}{gap.after}".encode() for c in gap.choices])
    assert score.argmax() == gap.gold
    assert model.log_p([f"{lost.before}{c}".encode() for c in gap.choices]).argmax() == 0
    assert -model.nats_after(b"the ca", b"t").sum() == pytest.approx(math.log(0.1), abs=1e-6)


def test_figures_and_the_mixture(superword_tokenizer: Any, byte_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    models = [
        ByteModel(make_model(superword_tokenizer), superword_tokenizer, "a"),
        ByteModel(make_model(byte_tokenizer, seed=3), byte_tokenizer, "b"),
    ]
    found = filling(models, DOCS, 256, 8, 3, "mixture")
    gaps = choose_gaps(NAMES, TEXTS, 8, 256, 3)
    assert found.figures["gaps"] == 8 and len(found.rows) == 16
    nats, n_bytes = 0.0, 0
    for gap in gaps:  # every next byte by the two streams themselves
        mixture = Mixture([ByteStream(model, gap.before.encode()) for model in models])
        for byte in gap.middle.encode():
            nats -= math.log(mixture.distribution()[byte])
            mixture.push(byte)
            n_bytes += 1
    assert found.figures["mixture"]["middle_bits_per_byte"] == pytest.approx(nats / n_bytes / math.log(2), abs=1e-4)
    for model in models:
        own = found.figures["models"][model.name]
        rows = [row for row in found.rows if row["model"] == model.name]
        for key, column in (("chosen_before", "nats"), ("chosen_both", "whole_nats")):
            for rule in ("exact", "tokens"):
                right = [min(range(4), key=row[f"{rule}_{column}"].__getitem__) == row["gold"] for row in rows]
                assert own[rule][key]["share"] == pytest.approx(np.mean(right))
        middle = sum(row["exact_nats"][row["gold"]] for row in rows)
        assert own["middle_bits_per_byte"] == pytest.approx(middle / n_bytes / math.log(2))
        both = sum(len((gap.middle + gap.after).encode()) for gap in gaps)
        whole = sum(row["tokens_whole_nats"][row["gold"]] for row in rows)
        assert own["tokens"]["whole_bits_per_byte"] == pytest.approx(whole / both / math.log(2))
    # Bytes as tokens: nothing spans a cut, so a prompt of tokens is exact but for bytes that no text goes on with.
    own = found.figures["models"]["b"]
    assert own["tokens"]["whole_bits_per_byte"] == pytest.approx(own["exact"]["whole_bits_per_byte"], rel=0.02)


def test_no_gap_is_an_error(byte_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    model = ByteModel(make_model(byte_tokenizer), byte_tokenizer, "b")
    with pytest.raises(DataError, match="gaps: the test documents"):
        filling([model], [Doc("1", "1 2 3 4 " * 50, "x")], 256, 8, 3)
    with pytest.raises(ConfigError, match="a context of 176 bytes, not 100; use gaps=0"):
        filling([model], DOCS, 100, 8, 3)
