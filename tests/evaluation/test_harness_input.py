"""What may come in, and what must change no score."""

import itertools
import math
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from tokenizers import Tokenizer, normalizers, processors
from transformers import PreTrainedTokenizerFast

from evaluation import forward, harness
from evaluation.harness import IsotokLM
from evaluation.likelihood import Scoring
from isotok.errors import ConfigError, DataError
from isotok.keyed import keyed_rng
from tests.conftest import tiny_texts
from tokenization import BPE, SuperBPE
from tokenization.bpe import byte_level_bpe
from tokenization.tokenizer import byte_alphabet, finish

METHODS = typing.get_args(Scoring)


def request(context: str, continuation: str, doc: int | None = None, task: str = "t") -> Instance:
    return Instance("loglikelihood", {}, (context, continuation), 0, metadata=(task, doc, 1))


def rolling(text: str) -> Instance:
    return Instance("loglikelihood_rolling", {}, (text,), 0, metadata=("t", 7, 1))


@pytest.fixture(scope="module", params=["bpe", "superbpe"])
def tokenizer(request: Any) -> PreTrainedTokenizerFast:
    """Small ones, learned from text."""
    recipe = BPE(vocab_size=400) if request.param == "bpe" else SuperBPE(vocab_size=500, transition=400)
    return recipe.train(tiny_texts())


@pytest.fixture(scope="module")
def questions() -> list[Instance]:
    """30 items of four choices, cut inside a line; contexts of 0 to some 300 bytes."""
    found = []
    texts = tiny_texts(40)
    for i in range(30):
        rng = keyed_rng("harness question", i)
        context = texts[i][: int(rng.integers(0, 300))] if i else ""
        rest = [texts[int(j)][len(context) : len(context) + 25] for j in rng.integers(0, 40, 3)]
        found += [request(context, choice, i) for choice in dict.fromkeys([texts[i][len(context) :][:25], *rest])]
    return found


def answers(lm: IsotokLM, requests: list[Instance]) -> dict[tuple[Any, ...], float]:
    """The score of each request by what it asks, and that of a text by itself."""
    values = lm.loglikelihood(requests)
    return {(r.doc_id, *r.args): value for r, (value, _) in zip(requests, values)}


def assert_equal(a: dict[tuple[Any, ...], float], b: dict[tuple[Any, ...], float]) -> None:
    assert a.keys() == b.keys()
    assert max(abs(a[key] - b[key]) for key in a) <= 1e-5


@pytest.mark.parametrize("scoring", METHODS)
def test_no_score_depends_on_its_neighbours(
    scoring: Scoring,
    tokenizer: Any,
    questions: list[Instance],
    make_model: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Order of choices, order of items, rows in a batch, padding and pieces of the list: at most 1e-5 nats."""
    model = make_model(tokenizer)

    def lm() -> IsotokLM:
        return IsotokLM(model, tokenizer, context_bytes=256, scoring=scoring)

    reference = answers(lm(), questions)
    assert len({round(value, 3) for value in reference.values()}) > len(reference) // 2
    by_item = [list(own) for _, own in itertools.groupby(questions, lambda r: r.doc_id)]
    assert_equal(reference, answers(lm(), [r for own in by_item for r in own[::-1]]))
    assert_equal(reference, answers(lm(), [r for own in by_item[::-1] for r in own]))
    apart: dict[tuple[Any, ...], float] = {}
    for own in by_item:
        apart |= answers(lm(), own)
    assert_equal(reference, apart)
    monkeypatch.setitem(forward.TOKENS_PER_BATCH, "cpu", 1)
    assert_equal(reference, answers(lm(), questions))
    monkeypatch.setitem(forward.TOKENS_PER_BATCH, "cpu", 10**6)
    monkeypatch.setattr(harness, "_CHUNK_BYTES", 500)
    assert_equal(reference, answers(lm(), questions))


@pytest.mark.parametrize("scoring", METHODS)
def test_special_tokens_of_a_post_processor_change_nothing(
    scoring: Scoring, tokenizer: Any, questions: list[Instance], make_model: Callable[..., Any]
) -> None:
    model = make_model(tokenizer)
    before = IsotokLM(model, tokenizer, context_bytes=256, scoring=scoring)
    eos = tokenizer.eos_token
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))
    other.eos_token = eos
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{eos} $A {eos}", pair=f"{eos} $A $B {eos}", special_tokens=[(eos, tokenizer.eos_token_id)]
    )
    assert other.encode("the king")[0] == other.encode("the king")[-1] == tokenizer.eos_token_id
    after = IsotokLM(model, other, context_bytes=256, scoring=scoring)
    assert_equal(answers(before, questions), answers(after, questions))
    text = questions[-1].args[0]
    assert before.loglikelihood_rolling([rolling(text)]) == pytest.approx(
        after.loglikelihood_rolling([rolling(text)]), abs=1e-5
    )
    assert before.generate("the king", 30) == after.generate("the king", 30)


@pytest.mark.parametrize("scoring", METHODS)
def test_empty_texts(scoring: Scoring, superword_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    lm = IsotokLM(make_model(superword_tokenizer), superword_tokenizer, context_bytes=64, scoring=scoring)
    assert lm.loglikelihood([]) == []
    assert lm.loglikelihood([request("", "", 0), request("the king", "", 1)]) == [(0.0, True)] * 2
    assert lm.loglikelihood_rolling([rolling("")]) == [0.0]
    assert lm.generate_until([]) == []
    ((value, _),) = lm.loglikelihood([request("", "king", 2)])
    assert value == pytest.approx(lm.loglikelihood_rolling([rolling("king")])[0], abs=1e-4) or scoring == "bytes"
    assert isinstance(lm.generate("", 8), str)


def test_requests_of_no_document(superword_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    """A direct call: the same context means the same item, as for choices of one document."""
    lm = IsotokLM(make_model(superword_tokenizer), superword_tokenizer, context_bytes=64, scoring="backoff")
    bare = [Instance("loglikelihood", {}, ("x:", choice), 0) for choice in (" A", "B")]
    known = [request("x:", choice, 3) for choice in (" A", "B")]
    assert lm.loglikelihood(bare) == lm.loglikelihood(known)
    assert lm.pair_scores[None, None, "x:", "B"].n_bytes == 2


def test_repeated_requests_are_harmless(superword_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    """lm-eval pads the list of a process by asking its last request again."""
    lm = IsotokLM(make_model(superword_tokenizer), superword_tokenizer, context_bytes=64)
    requests = [request("x:", " A", 0), request("x:", " B", 0)]
    (a, b) = lm.loglikelihood(requests)
    assert lm.loglikelihood([*requests, requests[-1], requests[-1]]) == [a, b, b, b]


def test_a_context_that_does_not_fit_is_counted(byte_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    lm = IsotokLM(make_model(byte_tokenizer), byte_tokenizer, context_bytes=16)
    ((long, _), (short, _)) = lm.loglikelihood(
        [request("0123456789" * 9, "abcd", 0), request("890123456789"[-12:], "abcd", 1)]
    )
    assert lm.likelihood.shortened == 1
    assert long == pytest.approx(short, abs=1e-5)


@pytest.mark.parametrize("scoring", METHODS)
def test_a_continuation_longer_than_the_model_is_named(
    scoring: Scoring, byte_tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    lm = IsotokLM(make_model(byte_tokenizer, positions=8), byte_tokenizer, context_bytes=512, scoring=scoring)
    with pytest.raises(DataError, match=r"task quiz, document 5: .*8 positions"):
        lm.loglikelihood([request("a", "b", 4, "quiz"), request("a", "b" * 20, 5, "quiz")])


def lossy_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes that lower-case first, so that upper case does not come back."""
    backend = byte_level_bpe({char: byte for byte, char in enumerate(byte_alphabet())}, [], "none")
    backend.normalizer = normalizers.Lowercase()
    return finish(backend, {"algorithm": "toy"})


def test_a_text_that_does_not_come_back_is_named(make_model: Callable[..., Any]) -> None:
    tokenizer = lossy_tokenizer()
    lm = IsotokLM(make_model(tokenizer), tokenizer, context_bytes=512, scoring="backoff")
    with pytest.raises(DataError, match=r"task quiz, document 5: .*does not give the text back"):
        lm.loglikelihood([request("a", "b", 4, "quiz"), request("a", "B", 5, "quiz")])
    with pytest.raises(DataError, match=r"task t, document 7: .*does not give the text back"):
        lm.loglikelihood_rolling([rolling("Aha")])
    with pytest.raises(DataError, match=r"request 0: .*does not give the text back"):
        lm.generate_until([Instance("generate_until", {}, ("Aha", {"max_gen_bytes": 1}), 0)])


@pytest.mark.parametrize("scoring", METHODS)
def test_nan_is_named(scoring: Scoring, byte_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    model = make_model(byte_tokenizer)
    lm = IsotokLM(model, byte_tokenizer, context_bytes=512, scoring=scoring)
    with torch.no_grad():  # a broken embedding of one letter: the items without it are sound
        model.get_input_embeddings().weight[ord("z")] = math.nan
    with pytest.raises(DataError, match=r"task quiz, document 5: the checkpoint gives NaN"):
        lm.loglikelihood([request("a", "b", 4, "quiz"), request("az", "bc", 5, "quiz")])
    with pytest.raises(DataError, match=r"task t, document 7: the checkpoint gives NaN"):
        lm.loglikelihood_rolling([rolling("aza")])
    with pytest.raises(DataError, match=r"request 0: the checkpoint gives NaN"):
        lm.generate_until([Instance("generate_until", {}, ("az", {"max_gen_bytes": 1}), 0)])


def test_a_tokenizer_with_more_ids_than_the_model(
    byte_tokenizer: Any, superword_tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    with pytest.raises(DataError, match=rf"has {len(superword_tokenizer)} ids, the model {len(byte_tokenizer)}"):
        IsotokLM(make_model(byte_tokenizer), superword_tokenizer, context_bytes=512)


def test_two_checkpoints_share_no_answers(byte_tokenizer: Any, make_model: Callable[..., Any], tmp_path: Path) -> None:
    """lm-eval's cache would hand the first one's to the second; it is refused, and nothing else is kept."""
    requests = [request("the king", " of the sea", 0)]
    values = []
    for seed in (0, 1, 0):
        lm = IsotokLM(make_model(byte_tokenizer, seed=seed), byte_tokenizer, context_bytes=512)
        with pytest.raises(ConfigError, match="use_cache.*another checkpoint"):
            CachingLM(lm, str(tmp_path / "cache.db"))
        values.append(lm.loglikelihood(requests)[0][0])
    assert values[0] == values[2]
    assert abs(values[0] - values[1]) > 0.1


OPTIONS = {"until": ["\n\n"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 3}  # lm-eval's defaults


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"top_p": 1.0},
        {"top_p": 0.9},  # nothing is sampled
        {"top_k": 50, "num_beams": 1, "repetition_penalty": 1.0, "use_cache": True, "typical_p": None},
        {"temperature": 0.7},  # lm-eval: do_sample=false wins
        {"max_gen_toks": None, "max_new_tokens": 3},
        {"max_gen_toks": 99, "max_gen_bytes": 12},
    ],
)
def test_options_without_effect_are_accepted(
    extra: dict[str, Any], byte_tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    lm = IsotokLM(make_model(byte_tokenizer), byte_tokenizer, context_bytes=512)

    def text(options: dict[str, Any]) -> str:
        return lm.generate_until([Instance("generate_until", {}, ("the king", options), 0)])[0]

    assert text(OPTIONS | extra) == text(OPTIONS)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"num_beams": 4}, "num_beams=4"),
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2"),
        ({"do_sample": True, "temperature": 1.0, "top_p": 0.9}, "top_p=0.9"),
        ({"do_sample": True}, "contradict"),
        ({"seed": 3}, "seed=3"),
        ({"until": [3]}, r"until=\[3\]"),
        ({"max_gen_toks": -1}, "negative"),
    ],
)
def test_options_with_effect_are_refused_before_any_text(
    extra: dict[str, Any], named: str, byte_tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    lm = IsotokLM(make_model(byte_tokenizer), byte_tokenizer, context_bytes=512)
    lm._generate = lambda *_: pytest.fail("generated before all options were read")  # type: ignore[method-assign]
    requests = [Instance("generate_until", {}, ("a", options), 0) for options in (OPTIONS, OPTIONS | extra)]
    with pytest.raises(ConfigError, match=named):
        lm.generate_until(requests)


def test_prompts_keep_the_same_bytes(
    byte_tokenizer: Any, superword_tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    """A long prompt loses its left, half of the context at most goes to the new text."""
    prompt = "king of the sea" * 9
    for tokenizer in (byte_tokenizer, superword_tokenizer):
        lm = IsotokLM(make_model(tokenizer), tokenizer, context_bytes=40)
        for budget, room in ((4, 36), (400, 20)):
            ids, _ = lm._prompt_ids(prompt, budget)
            kept = b"".join(lm._encoder.bytes[i] for i in ids)
            assert prompt.encode().endswith(kept)
            assert room - max(lm._encoder.lengths) < len(kept) <= room
