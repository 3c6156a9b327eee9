"""What meta-attention costs a layer: `python tests/benchmarks/bench_meta.py [--rounds 15]`.

One layer of GPT-2 small with rotary positions (d 768, 12 heads), CPU, fp32, one thread, rows of 1,024 positions, 102 of
them meta tokens, forward and backward. In turn within one process: the plain layer, the layer with compact
meta-attention, and with the same attention over a dense mask of T × T. Printed as medians over rounds with least and
most:

- time of each over the plain layer's; target: compact at most 1.06 (dense, as published code has it: 1.4 to 1.75);
- bytes that autograd keeps for the backward pass over the plain layer's; target: compact at most 1.05;
- weights, and with gradient and Adam's two moments, apart: the second attention has weights of its own.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modeling import MetaGPT2Rope
from modeling.init import build_model
from modeling.meta_attention import Metas
from modeling.meta_injection import meta_count, slots_of

ROWS, LENGTH, K = 2, 1024, 0.1
VOCAB = 50257
TARGETS = {"compact": (1.06, 1.05), "dense": (None, None)}


def layers() -> tuple[dict[str, Callable[[torch.Tensor], torch.Tensor]], dict[str, int]]:
    """(name → a layer as a function of hidden states, name → parameters)."""
    recipe = MetaGPT2Rope(hidden_size=768, layers=1, heads=12, mlp_size=3072, k=K)
    config = recipe.config(VOCAB, LENGTH, 0)
    model: Any = build_model(config, 0)
    layer, rotary = model.gpt_neox.layers[0], model.gpt_neox.rotary_emb
    slots = torch.stack(
        [torch.from_numpy(slots_of("random", meta_count(config, LENGTH), LENGTH, 0, 0, row)) for row in range(ROWS)]
    )
    rope = rotary(torch.zeros(1, LENGTH, 768), position_ids=torch.arange(LENGTH)[None])
    is_meta = torch.zeros(ROWS, LENGTH, dtype=torch.bool).scatter_(1, slots, True)
    before = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    dense_mask = (is_meta[:, :, None] & is_meta[:, None, :] & before | torch.eye(LENGTH, dtype=torch.bool))[:, None]

    def first(hidden: torch.Tensor) -> torch.Tensor:
        attended, _ = layer.attention(layer.input_layernorm(hidden), attention_mask=None, position_embeddings=rope)
        return hidden + attended

    def last(hidden: torch.Tensor) -> torch.Tensor:
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))

    def compact(hidden: torch.Tensor) -> torch.Tensor:
        # As in training, where the places are known.
        return last(layer._second(first(hidden), Metas(slots), None, rope))

    def dense(hidden: torch.Tensor) -> torch.Tensor:
        hidden = first(hidden)
        out, _ = layer.meta_attn(layer.meta_norm(hidden), attention_mask=dense_mask, position_embeddings=rope)
        return last(hidden + out.masked_fill(~is_meta[..., None], 0.0))

    counts = {"plain": 0, "compact": 0}
    for name, parameter in layer.named_parameters():
        counts["compact"] += parameter.numel()
        counts["plain"] += parameter.numel() if "meta_" not in name else 0
    made = {"plain": lambda hidden: last(first(hidden)), "compact": compact, "dense": dense}
    return made, {**counts, "dense": counts["compact"]}


def step(layer: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor) -> float:
    start = time.perf_counter()
    layer(hidden).sum().backward()
    return time.perf_counter() - start


def kept_bytes(layer: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor) -> int:
    """Of all storages that autograd keeps for the backward pass, parameters left out."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter) and not (tensor._base is not None and _is_parameter(tensor)):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(hidden)
    total = sum(kept.values())
    del out
    return total


def _is_parameter(tensor: torch.Tensor) -> bool:
    return isinstance(tensor._base, torch.nn.Parameter)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each comparison (default 15)")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    made, counts = layers()
    hidden = torch.randn(ROWS, LENGTH, 768, generator=torch.Generator().manual_seed(0), requires_grad=True)
    if not torch.allclose(made["compact"](hidden), made["dense"](hidden), atol=1e-4):
        raise SystemExit("the compact form gives other values than the dense one")
    for layer in made.values():
        step(layer, hidden)
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds):
        for name, layer in made.items():
            times[name].append(step(layer, hidden))
    memory = {name: kept_bytes(layer, hidden) for name, layer in made.items()}
    for name, (most_time, most_memory) in TARGETS.items():
        ratios = [ours / plain for ours, plain in zip(times[name], times["plain"])]
        aim = f"; targets {most_time} and {most_memory}" if most_time else ""
        print(
            f"{name}: {spread(ratios)} times the plain layer's time over {rounds} rounds, "
            f"{memory[name] / memory['plain']:.3f} times what it keeps for the backward pass "
            f"({memory['plain'] / 1e6:.0f} MB){aim}"
        )
    plain, ours = counts["plain"], counts["compact"]
    print(
        f"weights of a layer: {plain / 1e6:.2f} M and {ours / 1e6:.2f} M ({ours / plain:.2f} times); with gradient and "
        f"moments in fp32 {16 * plain / 1e6:.0f} MB and {16 * ours / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
