import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance

from evaluation.harness import IsotokLM
from evaluation.likelihood import common_prefix
from isotok.errors import ConfigError, DataError
from tests.evaluation.conftest import merged_tokenizer
from tests.evaluation.sources import Behind


def request(context: str, continuation: str, doc: int | None = None) -> Instance:
    return Instance("loglikelihood", {}, (context, continuation), 0, metadata=("t", doc, 1))


def nats_after(model: Any, ids: list[int], first: int) -> float:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    nats = -torch.log_softmax(logits, -1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
    return float(nats[first - 1 :].sum())


PAIRS = [
    ("the king", " of the sea\n"),
    ("the king", " and so on\n"),
    ("", "king\n"),
    ("Answer", ": A\n"),
    ("é", "é 漢\n"),
]


def test_bytes_naive_and_backoff_agree(byte_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    model = make_model(byte_tokenizer)
    scores = {}
    for scoring in ("naive", "backoff"):
        lm = IsotokLM(model, byte_tokenizer, context_bytes=512, scoring=scoring)  # type: ignore[arg-type]
        scores[scoring] = lm.loglikelihood([request(*pair) for pair in PAIRS])
    for (a, _), (b, _) in zip(scores["naive"], scores["backoff"]):
        assert a == pytest.approx(b, abs=1e-4)
    ids = [byte_tokenizer.eos_token_id, *b"the king of the sea\n"]
    assert scores["naive"][0][0] == pytest.approx(-nats_after(model, ids, 9), abs=1e-4)


def test_superword_across_the_cut(superword_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    """E("x: ") + E("x: A")[3:] is empty: lm-eval's own class stops here. Back-off scores ": A" whole for both."""
    model = make_model(superword_tokenizer)
    encode = superword_tokenizer.encode
    context, choices = "x:", [" A", " B"]
    assert encode("x:")[-1] != encode("x: A")[-1]
    assert len(encode("x: A")) == len(encode("x:"))  # nothing left by count

    lm = IsotokLM(model, superword_tokenizer, context_bytes=512, scoring="backoff")
    (a, _), (b, _) = lm.loglikelihood([request(context, c, 0) for c in choices])
    eos = superword_tokenizer.eos_token_id
    first = 1 + 1  # separator, "x"
    assert a == pytest.approx(-nats_after(model, [eos, *encode("x: A")], first), abs=1e-4)
    assert b == pytest.approx(-nats_after(model, [eos, *encode("x: B")], first), abs=1e-4)
    assert {score.n_bytes for score in lm.pair_scores.values()} == {3}  # ": A" and ": B", the same bytes

    naive = IsotokLM(model, superword_tokenizer, context_bytes=512, scoring="naive")
    assert all(math.isfinite(value) for value, _ in naive.loglikelihood([request(context, c, 0) for c in choices]))


def test_choices_of_one_item_share_the_cut(superword_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    """A choice that merges with the context moves the cut of its neighbours, not of another item's."""
    lm = IsotokLM(make_model(superword_tokenizer), superword_tokenizer, context_bytes=512, scoring="backoff")
    lm.loglikelihood([request("x:", " A", 0), request("x:", "B", 0), request("x:", "B", 1)])
    assert lm.pair_scores["t", 0, "x:", " A"].n_bytes == 3
    assert lm.pair_scores["t", 0, "x:", "B"].n_bytes == 2
    assert lm.pair_scores["t", 1, "x:", "B"].n_bytes == 1


def test_order_of_requests_changes_nothing(superword_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    lm = IsotokLM(make_model(superword_tokenizer), superword_tokenizer, context_bytes=512)
    requests = [request(c, k, i) for i, (c, k) in enumerate(PAIRS)]
    forward = lm.loglikelihood(requests)
    backward = lm.loglikelihood(requests[::-1])[::-1]
    for (a, _), (b, _) in zip(forward, backward):
        assert a == pytest.approx(b, abs=1e-5)


def test_is_greedy(byte_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    model = make_model(byte_tokenizer)
    lm = IsotokLM(model, byte_tokenizer, context_bytes=512)
    ids = [byte_tokenizer.eos_token_id, *b"the king"]
    with torch.no_grad():
        for _ in range(40):  # a greedy path whose bytes are ASCII, from some prompt
            best = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if best < 128:
                break
            ids.append(ids[-1] % 90 + 32)
    if best >= 128:
        pytest.skip("this random model never prefers ASCII")
    context = bytes(ids[1:]).decode()
    (_, yes), (_, no) = lm.loglikelihood([request(context, chr(best), 0), request(context, chr((best + 1) % 128), 1)])
    assert yes
    assert not no


def test_empty_continuation(superword_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    lm = IsotokLM(make_model(superword_tokenizer), superword_tokenizer, context_bytes=512)
    assert lm.loglikelihood([request("the king", "")]) == [(0.0, True)]


def test_long_contexts_keep_the_same_bytes(
    byte_tokenizer: Any, superword_tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    context = "king of the sea " * 20
    for tokenizer in (byte_tokenizer, superword_tokenizer):
        model = make_model(tokenizer)
        lm = IsotokLM(model, tokenizer, context_bytes=32)
        ((value, _),) = lm.loglikelihood([request(context, " x")])
        assert lm.likelihood.shortened == 1
        kept = (context + " x")[-32:]
        ids = tokenizer.encode(kept)
        if tokenizer is byte_tokenizer:
            assert value == pytest.approx(-nats_after(model, [tokenizer.eos_token_id, *ids], 31), abs=1e-4)


def test_continuation_longer_than_the_model(byte_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    lm = IsotokLM(make_model(byte_tokenizer, positions=8), byte_tokenizer, context_bytes=512)
    with pytest.raises(DataError, match="8 positions"):
        lm.loglikelihood([request("a", "b" * 20)])
    ((value, _),) = lm.loglikelihood([request("a" * 20, "bcd")])
    assert math.isfinite(value)


def test_rolling_is_the_document_score(superword_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    from evaluation.documents import validation_bpb

    model = make_model(superword_tokenizer)
    lm = IsotokLM(model, superword_tokenizer, context_bytes=64)
    text = "the king of the sea: A queen. " * 8
    (value,) = lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    bits = -value / math.log(2) / len(text.encode())
    assert bits == pytest.approx(validation_bpb(model, superword_tokenizer, [text], 64), rel=1e-9)


class Scripted(torch.nn.Module):
    """Prefers the bytes of a script, one after another, whatever it reads."""

    def __init__(self, script: bytes, vocabulary: int, eos: int, prompt: int):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(vocab_size=vocabulary)
        self.script, self.vocabulary, self.eos, self.prompt = script, vocabulary, eos, prompt
        self.made = -1

    def forward(self, input_ids: torch.Tensor, past_key_values: Any = None, use_cache: bool = False) -> Any:
        self.made = 0 if past_key_values is None else self.made + 1
        logits = torch.zeros(1, input_ids.shape[1], self.vocabulary)
        logits[0, -1, self.script[self.made] if self.made < len(self.script) else self.eos] = 50.0
        return type("Output", (), {"logits": logits, "past_key_values": True})()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"until": ["\n\n"], "max_gen_bytes": 50}, "one\ntwo"),
        ({"until": "two", "max_gen_bytes": 50}, "one\n"),
        ({"until": ["zzz"], "max_gen_bytes": 5}, "one\nt"),
        ({"until": [], "max_gen_toks": 1}, "one\n"),
        ({"until": ["é"]}, "one\ntwo\n\n"),
        ({"max_gen_bytes": 10}, "one\ntwo\n\n"),  # half an é is left out
        ({"temperature": 0.5, "do_sample": True}, "one\ntwo\n\né end"),
    ],
)
def test_generation_stops(byte_tokenizer: Any, options: dict[str, Any], expected: str) -> None:
    model = Scripted("one\ntwo\n\né end".encode(), len(byte_tokenizer), byte_tokenizer.eos_token_id, 4)
    lm = IsotokLM(model, byte_tokenizer, context_bytes=512)
    assert lm.generate_until([Instance("generate_until", {}, ("abc", options), 0)]) == [expected]


def test_sampling_is_keyed_and_cached_steps_agree(byte_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    model = make_model(byte_tokenizer)
    lm = IsotokLM(model, byte_tokenizer, context_bytes=512, seed=1)
    first = lm.generate("the king", 40, temperature=1.0)
    assert first == lm.generate("the king", 40, temperature=1.0)
    assert first != IsotokLM(model, byte_tokenizer, context_bytes=512, seed=2).generate("the king", 40, temperature=1.0)
    assert len(first.encode(errors="replace")) <= 120  # 40 bytes, of which each may have become U+FFFD


def test_unknown_options_are_refused(byte_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    lm = IsotokLM(make_model(byte_tokenizer), byte_tokenizer, context_bytes=512)
    with pytest.raises(ConfigError, match="top_k"):
        lm.generate_until([Instance("generate_until", {}, ("a", {"top_k": 3, "do_sample": True}), 0)])
    with pytest.raises(ConfigError, match="scoring"):
        IsotokLM(lm.model, byte_tokenizer, context_bytes=512, scoring="other")  # type: ignore[arg-type]


def test_model_info_and_prefix(byte_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    info = IsotokLM(make_model(byte_tokenizer), byte_tokenizer, context_bytes=99).get_model_info()
    assert info["context_bytes"] == 99
    assert info["scoring"] == "bytes"
    assert common_prefix([1, 2, 3], [1, 2]) == 2
    assert common_prefix([1], [2]) == 0
    assert np.isscalar(info["model_num_parameters"])


def test_a_prompt_may_end_inside_a_token() -> None:
    """A source of three texts behind "the cat" as one token: wherever the prompt ends, its likeliest text follows."""
    texts = {"the cat sat": 0.6, "the car is": 0.3, "they": 0.1}
    tokenizer = merged_tokenizer("the cat", " sat", "they")
    lm = IsotokLM(CachedSource(texts, tokenizer), tokenizer, context_bytes=512)
    for cut in range(1, 11):
        assert lm.generate("the cat sat"[:cut], 30) == "the cat sat"[cut:]
    assert lm.generate("the car", 30) == " is"
    assert lm.generate("they"[:4], 30) == ""
    drawn = [lm.generate("the", 30, temperature=1.0)]
    for seed in range(300):
        lm.seed = seed
        drawn.append(lm.generate("the", 30, temperature=1.0))
    assert set(drawn) == {" cat sat", " car is", "y"}
    assert drawn.count(" cat sat") / len(drawn) == pytest.approx(0.6, abs=0.09)
    naive = IsotokLM(CachedSource(texts, tokenizer), tokenizer, context_bytes=512, scoring="backoff")
    assert naive.generate("the ca", 30) != "t sat"  # as E("the ca") stands, no text of the source goes on


class CachedSource(Behind):
    """Reads on from what it read before."""

    def forward(self, input_ids: torch.Tensor, past_key_values: Any = None, **options: Any) -> Any:  # type: ignore[override]
        rows = torch.cat([*([past_key_values] if past_key_values is not None else []), input_ids], 1)
        output = super().forward(rows, **options)
        output.past_key_values = rows
        return output
