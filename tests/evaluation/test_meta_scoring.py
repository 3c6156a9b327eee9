"""Text scored with meta tokens in its contexts: against a loop over positions, nothing scored twice, no look ahead."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation.documents import document_windows, score_documents
from evaluation.encoding import TextEncoder
from evaluation.forward import Window
from evaluation.meta_scoring import inject_as_trained, positions_of, with_metas
from modeling import MetaGPT2, MetaLlama
from modeling.init import build_model
from tests.evaluation.conftest import merged_tokenizer

TEXTS = ["the king of the sea and the queen of the king " * 3, "sea", "a king, a queen and a sea of kings. " * 5]
SIZE: dict[str, Any] = {"hidden_size": 32, "layers": 2, "heads": 2, "mlp_size": 48}


def model_of(tokenizer: Any, recipe: Any, positions: int = 400) -> Any:
    model = build_model(recipe.config(len(tokenizer), positions, tokenizer.eos_token_id), 0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@given(st.integers(2, 300), st.floats(0.01, 0.6))
def test_as_many_positions_as_a_row_of_training_would_have(text: int, k: float) -> None:
    n = positions_of(text, k)
    assert n - int(k * n) == text and n - 1 - int(k * (n - 1)) < text


@pytest.mark.parametrize("recipe", [MetaLlama(**SIZE, k=0.2), MetaGPT2(**SIZE, k=0.2, placement="periodic")])
def test_against_a_loop_over_positions(recipe: Any) -> None:
    tokenizer = merged_tokenizer()
    model, encode = model_of(tokenizer, recipe), TextEncoder(tokenizer)
    encoded = [encode(text, "text") for text in TEXTS]
    inject = inject_as_trained(model.config, 3)
    assert inject is not None
    found = score_documents(model, encoded, 40, encode.eos_id, inject=inject)
    plain = score_documents(model, encoded, 40, encode.eos_id)
    meta = len(tokenizer)
    for number, one in enumerate(encoded):
        nats, metas = [], 0
        for at, window in enumerate(document_windows(one, 40, encode.eos_id)[0]):
            made, is_text = inject(window, number, at)
            metas += int((made.ids == meta).sum())
            assert made.ids[made.ids != meta].tolist() == window.ids.tolist()
            assert int(is_text.sum()) == len(window.ids) - window.first
            with torch.no_grad():
                log_p = torch.log_softmax(model(input_ids=torch.from_numpy(made.ids)[None]).logits[0], -1)
            nats += [
                -float(log_p[place - 1, made.ids[place]])
                for place in range(made.first, len(made.ids))
                if made.ids[place] != meta
            ]
        assert len(nats) == len(one.ids) + 1
        assert found[number].nats == pytest.approx(sum(nats[:-1]), rel=1e-5)
        assert found[number].separator_nats == pytest.approx(nats[-1], rel=1e-4)
        assert (metas > 0) == (number != 1) or recipe.placement == "periodic"
        assert (found[number].bytes, found[number].tokens) == (plain[number].bytes, plain[number].tokens)
    assert found[0].nats != pytest.approx(plain[0].nats, rel=1e-4)


def test_what_comes_later_does_not_move_meta_tokens_or_scores() -> None:
    tokenizer = merged_tokenizer()
    model = model_of(tokenizer, MetaLlama(**SIZE, k=0.2))
    ids = np.arange(1, 31) % len(tokenizer)
    other = ids.copy()
    other[20:] = 5
    made = [
        with_metas(Window(one, 3), len(tokenizer), 0.2, "random", 0, document=1, number=2)[0] for one in (ids, other)
    ]
    assert np.array_equal(made[0].ids == len(tokenizer), made[1].ids == len(tokenizer))
    with torch.no_grad():
        logits = [model(input_ids=torch.from_numpy(one.ids)[None]).logits[0] for one in made]
    same = int(np.flatnonzero(made[0].ids != made[1].ids)[0])
    assert same > 20
    torch.testing.assert_close(logits[0][:same], logits[1][:same], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "recipe", [MetaLlama(**SIZE, placement="none"), MetaLlama(**SIZE, loss="skip_shift"), MetaLlama(**SIZE, k=0)]
)
def test_only_where_training_had_them_so(recipe: Any) -> None:
    assert inject_as_trained(recipe.config(50, 40, 0), 0) is None


def test_learned_positions_are_shared_between_text_and_meta_tokens() -> None:
    tokenizer = merged_tokenizer()
    model, encode = model_of(tokenizer, MetaGPT2(**SIZE, k=0.2), positions=32), TextEncoder(tokenizer)
    encoded = [encode(TEXTS[0], "text")]
    scores = score_documents(model, encoded, 400, encode.eos_id, inject=inject_as_trained(model.config, 0))
    assert np.isfinite(scores[0].nats) and scores[0].cut_windows > 0
