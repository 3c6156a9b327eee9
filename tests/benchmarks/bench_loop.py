"""Speed of the training loop against a bare one: `python tests/benchmarks/bench_loop.py [rounds] [steps]`.

Same model (llama_tiny), batches and optimizer, one thread. The bare loop has its batches in memory and does nothing
beside forward, backward, clip and step; ours reads row streams, writes metrics, checks for finite losses and feeds
wandb (offline). A checkpoint, due every 200 steps, is timed apart and its share added. Blocks alternate, and the ratio
is the median over pairs of blocks, as other work may share the machine.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from modeling import Llama
from modeling.init import build_model
from training import loop
from training.budget import Plan
from training.engines import prepare
from training.loop import Setup, Totals, dry_run, train
from training.optim import adamw
from training.recipes import Engine, Training
from training.streams import RowStreams
from training.tracking import Tracker

ROWS, CONTEXT, VOCAB = 8, 168, 2049


class RandomData:
    """Documents of random ids, a thousand each."""

    id_bytes = np.full(VOCAB, 3, dtype=np.int32)
    vocab_size, eos_id = VOCAB, VOCAB - 1
    n_bytes = np.full(2000, 3000, dtype=np.int64)
    n_tokens = 2_000_000

    def __len__(self) -> int:
        return 2000

    def ids(self, unit: int) -> np.ndarray:
        ids = np.random.default_rng(unit).integers(0, VOCAB - 1, 1000, dtype=np.uint16)
        ids[-1] = self.eos_id
        return ids


def streams() -> RowStreams:
    return RowStreams(RandomData(), ROWS, CONTEXT, lambda ids, epoch, unit: ids, 0)


def main() -> None:
    rounds, steps = (int(x) for x in [*sys.argv[1:], "40", "8"][:2])
    torch.set_num_threads(1)
    model_recipe = Llama(hidden_size=128, layers=4, heads=4, mlp_size=344)
    config = model_recipe.config(VOCAB, CONTEXT, VOCAB - 1)
    training = Training(save_every_steps=10_000, validations=0)
    base = Plan(
        steps=steps,
        stop_step=steps,
        context_tokens=CONTEXT,
        rows=ROWS,
        bytes_per_token=3.0,
        context_bytes_error=0.0,
        flops_per_step=1.0,
        flops=1.0,
        flops_causal=1.0,
        flops_published=1.0,
        tokens=1,
        bytes=1.0,
        passes=0.1,
        warmup_steps=1,
        warnings=(),
    )

    model = build_model(config, 0)
    optimizer = adamw(model, training)
    reader = streams()
    batches = [reader.next() for _ in range(steps)]
    pairs = [(torch.from_numpy(b.inputs.copy()), torch.from_numpy(b.targets.copy())) for b in batches]

    def bare() -> float:
        start = time.perf_counter()
        for inputs, targets in pairs:
            logits = model(input_ids=inputs, use_cache=False).logits
            functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - start

    folder = Path(tempfile.mkdtemp())
    engine = prepare(build_model(config, 0), training, Engine(device="cpu"))
    micro_rows = dry_run(engine, base, VOCAB, "auto")
    tracker = Tracker(folder, 0, training.wandb, "bench", "bench")
    source, totals, end = streams(), Totals(), 0
    ours: list[float] = []
    real_save, loop.save = loop.save, lambda *args: None  # type: ignore[assignment]
    plain: list[float] = []
    for _ in range(rounds):
        plain.append(bare())
        end += steps
        plan = replace(base, steps=end, stop_step=end)
        setup = Setup(folder, 0, plan, training, engine, micro_rows, source, tracker, "bench", None)
        start = time.perf_counter()
        train(setup, totals)
        ours.append(time.perf_counter() - start)
        # The thread has read ahead; a real run ends here, this one goes on.
    start = time.perf_counter()
    real_save(setup, totals, source.state)
    save_s = time.perf_counter() - start
    tracker.close()
    tokens = steps * ROWS * CONTEXT
    ours = [x + save_s * steps / 200 for x in ours]
    pairs_ratio = sorted(a / b for a, b in zip(plain, ours))
    print(
        f"bare {tokens / statistics.median(plain):,.0f} tok/s, loop {tokens / statistics.median(ours):,.0f} tok/s, "
        f"checkpoint {save_s * 1000:.0f} ms; ratio {statistics.median(pairs_ratio):.3f} "
        f"(quartiles {pairs_ratio[len(ours) // 4]:.3f} to {pairs_ratio[3 * len(ours) // 4]:.3f} over {rounds} pairs)"
    )


if __name__ == "__main__":
    main()
