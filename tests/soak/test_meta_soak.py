"""Meta-token models learn small tasks of atomic tokens: wiring, no benefit (the same model without does as well)."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional

from isotok.keyed import keyed_rng
from modeling import MetaLlama
from modeling.init import build_model
from modeling.meta_injection import IGNORED

pytestmark = pytest.mark.soak

BATCH = 256
MODEL = MetaLlama(hidden_size=64, layers=2, heads=4, mlp_size=172, placement="none", table_multiple=1)
Batch = tuple[np.ndarray, np.ndarray]
"""inputs (rows, T), answers (rows,): what follows the last input"""


def parity(rng: np.random.Generator, meta: int) -> Batch:
    """Up to eight bits (ids 1, 2), the meta token after some of them, the question (3); bits after it do not count."""
    bits = rng.integers(0, 2, size=(BATCH, 8))
    before = rng.integers(1, 8, size=BATCH)
    rows = [[*(1 + b[:n]), meta, *(1 + b[n:]), 3] for b, n in zip(bits, before)]
    return np.array(rows), 1 + np.array([b[:n].sum() % 2 for b, n in zip(bits, before)])


def recall(rng: np.random.Generator, meta: int) -> Batch:
    """Three lists of a name (1 to 10) and three of 50 items (11 to 60), the meta token after one of them; which of its
    items (61 to 63)?"""
    rows, answers = [], []
    for _ in range(BATCH):
        names, asked, at = 1 + rng.permutation(10)[:3], int(rng.integers(3)), int(rng.integers(3))
        lists = [11 + rng.permutation(50)[:3] for _ in range(3)]
        row: list[int] = []
        for i, (name, items) in enumerate(zip(names, lists)):
            row += [name, *items, *([meta] if i == asked else [])]
        rows.append([*row, int(names[asked]), 61 + at])
        answers.append(lists[asked][at])
    return np.array(rows), np.array(answers)


@pytest.mark.parametrize(("task", "vocabulary", "steps"), [(parity, 4, 500), (recall, 64, 2000)])
@pytest.mark.parametrize("layers", ["all", "none"])
def test_it_learns(task: Callable[[np.random.Generator, int], Batch], vocabulary: int, steps: int, layers: str) -> None:
    recipe = MetaLlama(**{**MODEL.__dict__, "meta_layers": layers})
    model = build_model(recipe.config(vocabulary, 32, 0), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    best = 0.0
    for step in range(steps):
        inputs, answers = (torch.from_numpy(part) for part in task(keyed_rng(task.__name__, step), vocabulary))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 50)
        logits = model(input_ids=inputs, use_cache=False, logits_to_keep=1).logits[:, 0]
        if step % 50 == 0:
            best = max(best, float((logits.argmax(-1) == answers).float().mean()))
            if best > 0.95:
                return
        loss = functional.cross_entropy(logits, answers, ignore_index=IGNORED)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    raise AssertionError(f"{task.__name__}: {best:.3f} of answers right at best after {steps} steps")
