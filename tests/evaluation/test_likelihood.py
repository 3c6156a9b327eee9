"""Scores of byte strings against sources whose probabilities are known, and against all token sequences."""

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.likelihood import METHODS, Likelihood, common_beginning
from evaluation.trees import STEM, Tree, TreeBuilder, score_trees
from tests.evaluation.sources import Behind, all_texts, beginnings, markov
from tests.toys import toy
from tokenization import encode_text
from tokenization.bpe import byte_level_bpe
from tokenization.tokenizer import byte_alphabet, finish

# What pretokenizers trip over: line ends, digit groups, runs of spaces, contractions, characters of several bytes.
TRAPS = ("T\n.a", "1 2a", "a .", "'s l", "é漢 ", "1a,\n")
VOCABULARIES = {
    "words": "gpt2",
    "superwords": "superbpe_stage2",
    "threes": "superbpe_stage1",
    "lines": "superbpe2025_stage2",
}


@pytest.mark.parametrize("pretokenizer", VOCABULARIES.values(), ids=VOCABULARIES)
@pytest.mark.parametrize("alphabet", TRAPS)
def test_bytes_is_the_sources_own_probability(alphabet: str, pretokenizer: str) -> None:
    texts = markov(alphabet, 6 if len(alphabet) == 4 else 7)
    tokenizer = toy(alphabet, pretokenizer)
    likelihood = Likelihood(Behind(texts, tokenizer), tokenizer, context_bytes=512)
    rng = random.Random(1)
    begins = beginnings(texts)
    likely = [text for text in texts if 2 <= len(text) <= 5]
    items = []
    for text in rng.sample(likely, 60):
        cut = rng.randrange(len(text))
        items.append((text[:cut], [text[cut:], rng.choice(alphabet)]))
    worst = naive = 0.0
    for (context, choices), exact, wrong in zip(items, likelihood.score(items), likelihood.score(items, "naive")):
        for choice, score, other in zip(choices, exact, wrong):
            p = begins[(context + choice).encode()] / begins[context.encode()]
            worst = max(worst, abs(score.nats + math.log(p)))
            if math.isfinite(other.nats):
                naive = max(naive, abs(other.nats + math.log(p)))
    print(f"{alphabet!r} {pretokenizer}: bytes off by {worst:.1e}, naive by up to {naive:.2f} nats")
    assert worst < 1e-5
    assert naive > 0.01  # the sources are no easy ones


def canonical_by_definition(tokenizer: Any, spelled: list[bytes], sequence: tuple[int, ...], after: list[str]) -> bool:
    try:
        text = b"".join(spelled[i] for i in sequence).decode()
    except UnicodeDecodeError:
        return False
    return any(tuple(encode_text(tokenizer, text + more)[: len(sequence)]) == sequence for more in after)


@pytest.mark.parametrize("pretokenizer", ["gpt2", "superbpe_stage2", "llama3"])
def test_bytes_is_the_sum_over_all_token_sequences(pretokenizer: str, make_model: Callable[..., Any]) -> None:
    """Every sequence of tokens that covers a string, tried one by one, each in a row of its own."""
    alphabet = "a \n1"
    tokenizer = toy(alphabet, pretokenizer, merges=20)
    model = make_model(tokenizer)
    likelihood = Likelihood(model, tokenizer, context_bytes=512)
    spelled = [t if set(t) <= set(b"a \n1.") else b"" for t in likelihood.encoder.bytes]
    after = ["", *all_texts("a \n1.", 3)]

    def probability(data: bytes) -> float:
        covering: list[tuple[int, ...]] = []

        def grow(sequence: tuple[int, ...], at: int) -> None:
            for token, piece in enumerate(spelled):
                if piece and piece.startswith(data[at:]):
                    covering.append((*sequence, token))
                elif piece and data.startswith(piece, at):
                    grow((*sequence, token), at + len(piece))

        grow((), 0)
        total = 0.0
        for sequence in covering:
            if canonical_by_definition(tokenizer, spelled, sequence, after):
                row = torch.tensor([[tokenizer.eos_token_id, *sequence]])
                with torch.no_grad():
                    logs = torch.log_softmax(model(input_ids=row).logits[0].double(), -1)
                total += math.exp(sum(float(logs[k, token]) for k, token in enumerate(sequence)))
        return total

    other = [t for t in likelihood.encoder.bytes if not set(t) <= set(b"a \n1.")]  # of other characters
    rng = random.Random(5)
    items = [
        ("".join(rng.choices(alphabet, k=rng.randint(0, 3))), ["".join(rng.choices(alphabet, k=2))]) for _ in range(12)
    ]
    for (context, (choice,)), (score,) in zip(items, likelihood.score(items)):
        whole, before = (context + choice).encode(), context.encode()
        # Bytes of other characters can follow, never come first in a token that begins as the string ends.
        assert not any(t.startswith(whole[-1:]) for t in other)
        p = probability(whole) / (probability(before) if before else 1.0)
        assert score.nats == pytest.approx(-math.log(p), abs=1e-5), (context, choice)


def test_with_bytes_as_tokens_all_methods_agree(byte_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    likelihood = Likelihood(make_model(byte_tokenizer), byte_tokenizer, context_bytes=512)
    items = [("the king", [" of the sea\n", " and"]), ("", ["king\n"]), ("Answer", [": A", ": B"]), ("é", ["é 漢\n"])]
    results = {method: likelihood.score(items, method) for method in METHODS}
    for a, b, c in zip(*results.values()):
        for x, y, z in zip(a, b, c):
            assert x.nats == pytest.approx(y.nats, abs=1e-4)
            assert x.nats == pytest.approx(z.nats, abs=1e-4)
            assert x.greedy == y.greedy == z.greedy
            assert not x.spans


def test_boundary_and_counts(superword_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    likelihood = Likelihood(make_model(superword_tokenizer), superword_tokenizer, context_bytes=512)
    ((a, b),) = likelihood.score([("x:", [" A", "BC"])])
    assert a.spans  # ": A" is one token
    assert not b.spans
    assert (a.n_bytes, b.n_bytes) == (2, 2)
    assert (a.n_tokens, b.n_tokens) == (1, 2)


def test_greedy_by_bytes() -> None:
    """The source's likeliest text is spelled greedily wherever the context is cut, by tokens that go on."""
    texts = {"a1.": 0.6, "a2.": 0.3, "b": 0.1}
    letters = byte_alphabet()
    merges = [("a", "1"), ("a", "2"), ("a1", ".")]
    vocab = {char: byte for byte, char in enumerate(letters)}
    for left, right in merges:
        vocab[left + right] = len(vocab)
    tokenizer = finish(byte_level_bpe(vocab, merges, "none"), {})
    likelihood = Likelihood(Behind(texts, tokenizer), tokenizer, context_bytes=512)
    yes, no = likelihood.score([("", ["a", "a1", "a1."]), ("a", ["2", "2."])])
    assert [score.greedy for score in yes] == [True, True, True]
    assert [score.greedy for score in no] == [False, False]
    ((after,), (wrong,)) = likelihood.score([("a2", ["."]), ("a2", ["1"])])
    assert after.greedy
    assert not wrong.greedy


def row_logs(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), -1).numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize("positions", [None, 64])
@pytest.mark.parametrize("branching", [True, False])
def test_trees_give_what_rows_give(
    byte_tokenizer: Any,
    make_model: Callable[..., Any],
    positions: int | None,
    branching: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model(byte_tokenizer, positions=positions)
    if not branching:
        monkeypatch.setattr("evaluation.trees.branches_together", lambda _: False)
    rng = np.random.default_rng(0)
    trees, paths = [], []
    for _ in range(12):
        stem = rng.integers(0, 256, size=rng.integers(1, 20)).tolist()
        builder = TreeBuilder(stem)
        for _ in range(rng.integers(1, 6)):
            path = rng.integers(0, 3, size=rng.integers(0, 6)).tolist()
            builder.ask(builder.add(path), rng.integers(0, 256, size=rng.integers(1, 9)))
        trees.append(builder.tree())
        paths.append([[builder.ids[n] for n in builder.path(node)] for node in range(len(builder.ids))])
    for tree, own, score in zip(trees, paths, score_trees(model, trees, full=True)):
        for node, path in enumerate(own):
            logs = row_logs(model, [*tree.stem, *path])
            assert score.log_p[node] == pytest.approx(logs[-2, path[-1]], abs=1e-4)
            assert score.log_probs is not None
            np.testing.assert_allclose(score.log_probs[node], logs[-1], atol=1e-4)
            assert score.best[node] == logs[-1].argmax()
        assert score.best[STEM] == row_logs(model, tree.stem.tolist())[-1].argmax()
        for k, (node, tokens) in enumerate(tree.sets):
            logs = row_logs(model, [*tree.stem, *([] if node == STEM else own[node])])[-1][tokens]
            assert score.set_log_p[k] == pytest.approx(float(np.logaddexp.reduce(logs)), abs=1e-4)
            assert score.best_log_p[k] == pytest.approx(logs.max(), abs=1e-4)
            assert tokens[logs.argmax()] == score.set_best[k]
    plain = score_trees(model, trees)
    for a, b in zip(plain, score_trees(model, trees[::-1])[::-1]):
        np.testing.assert_allclose(a.log_p, b.log_p, atol=1e-5)
        assert a.log_probs is None


def test_a_model_without_masks_gets_rows(byte_tokenizer: Any) -> None:
    model = Behind({"ab": 0.5, "ac": 0.5}, byte_tokenizer)
    tree = Tree(np.array([byte_tokenizer.eos_token_id, 97]), np.array([98, 99]), np.array([STEM, STEM]))
    (score,) = score_trees(model, [tree])
    np.testing.assert_allclose(np.exp(score.log_p), [0.5, 0.5])


def test_many_choices_are_spread_over_trees(
    superword_tokenizer: Any, make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    likelihood = Likelihood(make_model(superword_tokenizer), superword_tokenizer, context_bytes=512)
    item = ("the king of the", [f" {a}{b}" for a, b in itertools.product("sea", "the")])
    for method in METHODS:
        (together,) = likelihood.score([item], method)
        monkeypatch.setattr("evaluation.likelihood._NODES_PER_TREE", 3)
        (spread,) = likelihood.score([item], method)
        monkeypatch.undo()
        for a, b in zip(together, spread):
            assert a.nats == pytest.approx(b.nats, abs=1e-5)
            assert a.greedy == b.greedy


def test_common_beginning() -> None:
    assert common_beginning([(1, 2, 3), (1, 2), (1, 2, 4)]) == (1, 2)
    assert common_beginning([(1,), ()]) == ()


def test_layers_that_look_back_only_so_far_get_rows(byte_tokenizer: Any) -> None:
    """A mask of ours would let them see more than they do."""
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = MistralConfig(vocab_size=len(byte_tokenizer), num_key_value_heads=2, sliding_window=4, **sizes)
    config.initializer_range = 0.5
    model = MistralForCausalLM(config).eval()
    stem = [*b"the king of the sea and the land of old"]
    (score,) = score_trees(model, [Tree(np.array(stem), np.array([97, 98]), np.array([STEM, 0]))])
    assert score.log_p[1] == pytest.approx(row_logs(model, [*stem, 97])[-1, 98], abs=1e-4)
