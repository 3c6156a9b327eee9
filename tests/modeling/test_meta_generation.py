"""Caches of meta-token models: step by step, cropped, reordered, padded at the left, saved and loaded elsewhere."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers.cache_utils import DynamicCache

from modeling.meta_attention import MetaCacheLayer
from tests.modeling.test_meta_attention import FAMILIES, META, ids_of, model_of

PATTERNS = [[0, 1, 4, 9], [], [5, 11], [2, 3, 10, 11], [11]]
ROOT = Path(__file__).resolve().parents[2]


def stepped(model: torch.nn.Module, ids: torch.Tensor, sizes: list[int], cache: DynamicCache) -> torch.Tensor:
    """Logits of ids fed in pieces of these sizes after what the cache holds."""
    parts, at = [], 0
    for size in sizes:
        parts.append(model(input_ids=ids[:, at : at + size], past_key_values=cache, use_cache=True).logits)
        at += size
    assert at == ids.shape[1]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("positions", ["original", "zero", "index"])
@pytest.mark.parametrize("family", FAMILIES)
def test_in_steps_as_in_one_pass(family: str, positions: str, attention: str) -> None:
    model = model_of(family, meta_positions=positions).eval()
    model.set_attn_implementation(attention)
    ids = ids_of(PATTERNS, 12)
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits
        for sizes in ([1] * 12, [5, 7], [12], [6, 1, 1, 3, 1]):
            found = stepped(model, ids, sizes, DynamicCache(config=model.config))
            torch.testing.assert_close(found, whole, atol=1e-10, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_without_meta_tokens_leaves_their_layers_alone(family: str) -> None:
    model = model_of(family).eval()
    with torch.no_grad():
        cache = model(input_ids=ids_of(PATTERNS, 12), use_cache=True).past_key_values
        assert [type(layer) is MetaCacheLayer for layer in cache.layers] == [False, False, True, True]
        assert [layer.keys.shape[-2] for layer in cache.layers] == [12, 12, 4, 4]
        model(input_ids=torch.full((5, 1), 7), past_key_values=cache, use_cache=True)
        assert [layer.keys.shape[-2] for layer in cache.layers] == [13, 13, 4, 4]


@pytest.mark.parametrize("family", FAMILIES)
def test_cropped_reordered_repeated(family: str) -> None:
    model = model_of(family).eval()
    ids = ids_of(PATTERNS, 12)
    more = ids_of([[0, 2], [1], [], [3], [0, 1, 2, 3]], 4, seed=9)
    with torch.no_grad():
        cache = model(input_ids=ids, use_cache=True).past_key_values
        cache.crop(-3)
        after = stepped(model, more, [2, 2], cache)
        whole = model(input_ids=torch.cat([ids[:, :9], more], 1), use_cache=False).logits[:, 9:]
        torch.testing.assert_close(after, whole, atol=1e-10, rtol=0)

        order = torch.tensor([3, 3, 0, 1, 4])
        cache = model(input_ids=ids, use_cache=True).past_key_values
        cache.reorder_cache(order)
        whole = model(input_ids=torch.cat([ids[order], more], 1), use_cache=False).logits[:, 12:]
        torch.testing.assert_close(stepped(model, more, [1, 3], cache), whole, atol=1e-10, rtol=0)

        cache = model(input_ids=ids[:2], use_cache=True).past_key_values
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([0, 2, 3]))
        rows = torch.cat([ids[[0, 1, 1]], more[:3]], 1)
        whole = model(input_ids=rows, use_cache=False).logits[:, 12:]
        torch.testing.assert_close(stepped(model, more[:3], [4], cache), whole, atol=1e-10, rtol=0)


@pytest.mark.parametrize("positions", ["original", "zero", "index"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_at_the_left_changes_nothing(family: str, positions: str) -> None:
    model = model_of(family, meta_positions=positions).eval()
    texts = [ids_of([row], length, seed=length) for row, length in (([1, 4], 6), ([], 3), ([0, 2, 8], 9), ([3], 4))]
    more = ids_of([[0], [1], [], [0, 1]], 2, seed=3)
    width = max(text.shape[1] for text in texts)
    ids = torch.stack([torch.nn.functional.pad(text[0], (width - text.shape[1], 0), value=5) for text in texts])
    mask = torch.stack([torch.arange(width) >= width - text.shape[1] for text in texts]).long()
    with torch.no_grad():
        cache = DynamicCache(config=model.config)
        together = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True).logits
        longer = torch.cat([mask, torch.ones(4, 2, dtype=torch.long)], 1)
        follow = model(input_ids=more, attention_mask=longer, past_key_values=cache, use_cache=True).logits
        for row, text in enumerate(texts):
            alone = model(input_ids=torch.cat([text, more[row : row + 1]], 1), use_cache=False).logits[0]
            size = text.shape[1]
            torch.testing.assert_close(together[row, width - size :], alone[:size], atol=1e-10, rtol=0)
            torch.testing.assert_close(follow[row], alone[size:], atol=1e-10, rtol=0)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_generate_with_and_without_a_cache(family: str, beams: int) -> None:
    model = model_of(family).eval()
    ids, mask = ids_of(PATTERNS, 12), torch.ones(5, 12, dtype=torch.long)
    mask[1, :4] = 0
    keys = {"attention_mask": mask, "max_new_tokens": 8, "num_beams": beams, "do_sample": False, "pad_token_id": 0}
    cached = model.generate(input_ids=ids, use_cache=True, **keys)
    assert torch.equal(cached, model.generate(input_ids=ids, use_cache=False, **keys))
    assert (cached[:, 12:] < META).all()
    if beams == 1:
        row = ids[:1]
        while row.shape[1] < cached.shape[1] and int(row[0, -1]) != 0:
            step = model(input_ids=row, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
            row = torch.cat([row, step], 1)
        assert cached[0, : row.shape[1]].tolist() == row[0].tolist()


def test_a_cache_of_fixed_size_is_refused() -> None:
    model = model_of("llama", dtype=torch.float32).eval()
    with pytest.raises(ValueError, match="growing cache, not StaticCache"):
        model.generate(input_ids=ids_of([[1]], 4), cache_implementation="static", max_new_tokens=2, pad_token_id=0)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_loads_in_a_fresh_process_with_one_import(family: str, tmp_path: Path) -> None:
    model = model_of(family, dtype=torch.float32, meta_positions="index").eval()
    ids = ids_of(PATTERNS, 12)
    model.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").is_file()
    with torch.no_grad():
        torch.save((ids, model(input_ids=ids, use_cache=False).logits), tmp_path / "expected.pt")
    script = """
import sys, torch
import modeling.meta_models
from transformers import AutoModelForCausalLM
model, report = AutoModelForCausalLM.from_pretrained(sys.argv[1] + "/model", output_loading_info=True)
assert not report["missing_keys"] and not report["unexpected_keys"], report
ids, expected = torch.load(sys.argv[1] + "/expected.pt")
with torch.no_grad():
    found = model.eval()(input_ids=ids, use_cache=False).logits
assert torch.equal(found, expected), (found - expected).abs().max()
"""
    made = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert made.returncode == 0, made.stderr


def test_what_is_no_setting_is_refused_by_name() -> None:
    for changes, message in (
        ({"meta_layers": [2]}, "meta_layers=\\[2\\]: the model has 2 layers"),
        ({"meta_token_id": 40}, "meta_token_id=40 is no row of a table of 40"),
        ({"meta_mask": "dense"}, "meta_mask is one of meta, none"),
    ):
        with pytest.raises(Exception, match=message):
            model_of("llama", **changes)
