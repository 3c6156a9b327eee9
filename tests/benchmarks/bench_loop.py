"""Speed of the training loop against a bare one: `python tests/benchmarks/bench_loop.py [--rounds 40] [--steps 8]`.

Same model (llama_tiny), shape of a batch and optimizer, one thread. The bare loop has ONE batch in memory and does
nothing beside forward, backward, clip and step. Ours reads row streams of the embedded corpus through StochasTok
(p = 0.1) in its thread, agrees on each loss, writes metrics, feeds wandb (offline) and saves a checkpoint every 200
steps, in the background, as by default; a watchdog runs beside. Blocks of both alternate within one process, and the
ratio is the median over pairs of neighbouring blocks, as other work may share the machine. Saves fall into blocks as
they come. The prefetch thread is ahead by four batches at the start of a block of ours, so blocks should be longer.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modeling import Llama
from modeling.init import build_model
from tests.benchmarks.bench_streams import embedded
from tokenization import StochasTok, TokenData
from tokenization.tokenizer import load_tokenizer
from training.budget import Budget, plan_run
from training.engines import prepare
from training.loop import finish_writing, train
from training.optim import adamw, seed_moments
from training.recipes import Engine, Training
from training.rehearsal import rehearse
from training.setup import Setup, Totals
from training.signals import StopSignals
from training.streams import RowStreams
from training.tracking import Tracker
from training.watchdog import Watchdog
from training.writer import CheckpointWriter

MODEL = Llama(hidden_size=128, layers=4, heads=4, mlp_size=344)
ROWS, CONTEXT_BYTES = 8, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=8, help="of a block")
    parser.add_argument("--wandb", default="offline")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        measure(Path(folder), arguments.rounds, arguments.steps, arguments.wandb, stack)


def measure(folder: Path, rounds: int, steps: int, wandb: str, stack: ExitStack) -> None:
    tokens, tokenizer_folder = embedded(folder)
    data, tokenizer = TokenData.open(tokens, "train"), load_tokenizer(tokenizer_folder)
    transform, training, recipe = StochasTok(p=0.1), Training(validations=0), Engine(device="cpu")
    budget = Budget(amount=rounds * steps, unit="steps", context_bytes=CONTEXT_BYTES, rows=ROWS, max_epochs=99)
    plan = plan_run(budget, MODEL, training, transform, data, tokenizer)
    config = MODEL.config(data.vocab_size, plan.context_tokens, data.eos_id)

    def streams() -> RowStreams:
        return RowStreams(data, ROWS, plan.context_tokens, transform.bind(tokenizer, 0), 0)

    model = build_model(config, 0)
    optimizer = adamw(model, training)
    seed_moments(optimizer, model.parameters())
    batch = streams().next()
    inputs, targets = torch.from_numpy(batch.inputs.copy()), torch.from_numpy(batch.targets.copy())

    def bare() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            logits = model(input_ids=inputs, use_cache=False).logits
            functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - start

    run_dir = folder / "run"
    run_dir.mkdir()
    engine = prepare(build_model(config, 0), training, recipe)
    tracker = Tracker(run_dir, 0, training.wandb if wandb == "offline" else "disabled", "bench", "bench")
    stack.callback(tracker.close)
    writer = CheckpointWriter(run_dir / "checkpoints", training.keep_last, training.keep_best)
    stack.callback(writer.close)
    watchdog = Watchdog(run_dir, 0, 1, recipe.timeout_s)
    stack.callback(watchdog.close)
    totals, ours, plain = Totals(), [], []
    setup = Setup(
        run_dir=run_dir,
        seed=0,
        plan=plan,
        training=training,
        engine=engine,
        micro_rows=rehearse(engine, recipe, training, plan, model.config, 1),
        streams=streams(),
        tracker=tracker,
        writer=writer,
        signals=stack.enter_context(StopSignals()),
        watchdog=watchdog,
        validate=None,
    )
    bare()  # warm
    boundary = Boundary(rounds * steps, steps, bare, plain, ours)
    setup.watchdog = boundary  # type: ignore[assignment]  # the loop tells it of each step
    train(setup, totals)
    boundary.enter("fetch", totals.step)
    finish_writing(setup, totals)
    size = steps * plan.rows * plan.context_tokens
    ratios = sorted(a / b for a, b in zip(plain, ours))
    print(
        f"bare {size / statistics.median(plain):,.0f} tok/s, loop {size / statistics.median(ours):,.0f} tok/s; ratio "
        f"{statistics.median(ratios):.3f} (quartiles {ratios[len(ratios) // 4]:.3f} to "
        f"{ratios[3 * len(ratios) // 4]:.3f} over {len(ratios)} pairs); all blocks {sum(plain) / sum(ours):.3f}; "
        f"data wait {totals.data_wait_s / totals.train_s:.2%}"
    )


class Boundary:
    """Stands where the watchdog does: after each block of the loop's steps it runs a block of the bare loop.

    The loop's prefetch thread reads ahead meanwhile, four batches at most of the `steps` of a block.
    """

    def __init__(self, end: int, steps: int, bare, plain: list[float], ours: list[float]) -> None:  # type: ignore[no-untyped-def]
        self.end, self.steps, self.bare, self.plain, self.ours = end, steps, bare, plain, ours
        self.since: float | None = None

    def enter(self, phase: str, step: int) -> None:
        if phase != "fetch" or step % self.steps:
            return
        if self.since is not None and step:
            self.ours.append(time.perf_counter() - self.since)
        if step < self.end:
            self.plain.append(self.bare())
        self.since = time.perf_counter()


if __name__ == "__main__":
    main()
