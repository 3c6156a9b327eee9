"""Speed of StochasTok's expansion on one core: `python tests/benchmarks/bench_stochastok.py [--rounds 15]`.

Printed, as medians over rounds with least and most, on the embedded corpus in a vocabulary of 4,096 learned first:

- ours against the published rule written down plainly (a Python list, rebuilt for each split, cuts in a dict), on the
  same documents of 1,024 and 8,192 ids at p = 0.1, in turn within one process; targets: 10 and 50 times as fast;
- nanoseconds an id for documents of 200 to 65,536 ids, all lengths in turn, and the ratio of each to 1,024's. The cost
  of a document itself, its keyed generator, is most of what the shortest pay;
- what it takes of a training loop (llama_tiny, 8 rows of 168 ids, one thread): the waits for data and the prefetch
  thread's processor time in the transform, over the time of the steps; target: under 2%;
- seconds for the table of cuts of a made-up vocabulary of 128,000 and 256,000 entries.

Before anything is timed, our ids must spell the documents, and grow as the plain rule's do.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.bench_streams import Recut, embedded
from tokenization import StochasTok, TokenData, token_bytes
from tokenization.stochastok import binary_cuts, cut_table
from tokenization.tokenizer import load_tokenizer

P = 0.1
COMPARED = {1024: 10, 8192: 50}
LENGTHS = (200, 1024, 4096, 16_384, 65_536)
IDS_A_ROUND = 400_000
STEPS, WARM_STEPS = 150, 10
Cut = tuple[int, int]


def plain_rule(ids: list[int], p: float, cuts: dict[int, list[Cut]], rng: random.Random) -> list[int]:
    """int(n * p) times: a position of the list as it is now; if its id has cuts, one of them takes its place."""
    for _ in range(int(len(ids) * p)):
        at = rng.randrange(len(ids))
        options = cuts.get(ids[at])
        if options:
            ids = ids[:at] + list(rng.choice(options)) + ids[at + 1 :]
    return ids


def spread(values: list[float], form: str = ".1f") -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def timed(work: Callable[..., Any], *arguments: Any) -> float:
    """Time of this thread on the processor: other work counts only through shared caches."""
    start = time.thread_time()
    work(*arguments)
    return time.thread_time() - start


def expand_all(apply: Any, documents: list[np.ndarray], epoch: int) -> list[np.ndarray]:
    return [apply(ids, epoch, unit) for unit, ids in enumerate(documents)]


def plain_all(lists: list[list[int]], cuts: dict[int, list[Cut]], rng: random.Random) -> list[list[int]]:
    return [plain_rule(ids, P, cuts, rng) for ids in lists]


def against_the_plain_rule(data: Any, tokenizer: Any, rounds: int) -> None:
    starts, pairs = cut_table(tokenizer)
    cuts = {i: [(int(a), int(b)) for a, b in pairs[starts[i] : starts[i + 1]]] for i in range(len(starts) - 1)}
    apply, pieces = StochasTok(p=P).bind(tokenizer, 0), token_bytes(tokenizer)
    for length, target in COMPARED.items():
        joined = np.concatenate([data.ids(unit) for unit in range(len(data))])
        documents = [joined[at : at + length] for at in range(0, min(len(joined), 8 * 8192) - length + 1, length)]
        lists = [document.tolist() for document in documents]
        rng = random.Random(0)
        ours, theirs = expand_all(apply, documents, 0), plain_all(lists, cuts, rng)
        for ids, out in zip(lists, ours):
            if b"".join(pieces[i] for i in ids) != b"".join(pieces[i] for i in out):
                raise SystemExit("our ids spell another text")
        growths = [sum(map(len, outs)) / sum(map(len, lists)) - 1 for outs in (ours, theirs)]
        if abs(growths[0] - growths[1]) > 0.005:
            raise SystemExit(f"growth of ours {growths[0]:.2%}, of the plain rule {growths[1]:.2%}")
        ratios = []
        for number in range(rounds):
            spent = timed(expand_all, apply, documents, number)
            ratios.append(timed(plain_all, lists, cuts, rng) / spent)
        print(
            f"documents of {length:,} ids: {spread(ratios)} times the plain rule over {rounds} rounds, "
            f"target {target}; growth {growths[0]:.2%} and {growths[1]:.2%}"
        )


def by_length(data: Any, tokenizer: Any, rounds: int) -> None:
    apply = StochasTok(p=P).bind(tokenizer, 0)
    cases = {}
    for length in LENGTHS:
        units = Recut(data, length)
        whole = [units.ids(unit) for unit in range(len(units)) if len(units.ids(unit)) == length]
        cases[length] = (whole * -(-IDS_A_ROUND // (length * len(whole))))[: max(1, IDS_A_ROUND // length)]
        apply(whole[0], 0, 0)
    costs: dict[int, list[float]] = {length: [] for length in cases}
    for number in range(rounds):
        for length, documents in cases.items():
            spent = timed(expand_all, apply, documents, number)
            costs[length].append(1e9 * spent / (length * len(documents)))
    for length, values in costs.items():
        relative = [value / base for value, base in zip(values, costs[1024])]
        print(f"{length:6,} ids a document: {spread(values)} ns an id; {spread(relative, '.2f')} times that of 1,024")


def in_a_loop(data: Any, tokenizer: Any) -> None:
    import torch
    from torch.nn import functional

    from modeling.init import build_model
    from tests.benchmarks.bench_loop import MODEL
    from training.optim import adamw
    from training.recipes import Training
    from training.streams import Prefetch, RowStreams

    torch.set_num_threads(1)
    rows, context = 8, 168
    apply, inside = StochasTok(p=P, fresh=True).bind(tokenizer, 0), [0.0]

    def measured(ids: np.ndarray, epoch: int, unit: int, spent: Any) -> np.ndarray:
        start = time.thread_time()
        out = apply(ids, epoch, unit, spent)
        inside[0] += time.thread_time() - start
        return out

    model = build_model(MODEL.config(data.vocab_size, context, data.eos_id), 0)
    optimizer = adamw(model, Training())
    steps_s, waits_s = [], []
    with Prefetch(RowStreams(data, rows, context, measured, 0)) as batches:
        for step in range(WARM_STEPS + STEPS):
            if step == WARM_STEPS:
                inside[0] = 0.0
            start = time.perf_counter()
            batch = batches.next()
            waits_s.append(time.perf_counter() - start)
            inputs, targets = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)
            logits = model(input_ids=inputs, use_cache=False).logits
            functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            steps_s.append(time.perf_counter() - start)
    total, waited = sum(steps_s[WARM_STEPS:]), sum(waits_s[WARM_STEPS:])
    print(
        f"training loop of {STEPS} steps: {(waited + inside[0]) / total:.3%} of its time, of which waits for data "
        f"{waited / total:.3%}, the transform {inside[0] / total:.3%}; target 2%"
    )


def table_of_cuts() -> None:
    rng = random.Random(0)
    pieces = [bytes([byte]) for byte in range(256)]
    seen = set(pieces)
    for entries in (128_000, 256_000):
        while len(pieces) < entries:
            # The earlier an entry came, the likelier it is merged again: a mean of 9 bytes.
            made = b"".join(pieces[int(len(pieces) * rng.random() ** 3)] for _ in range(2))
            if len(made) <= 16 and made not in seen:
                seen.add(made)
                pieces.append(made)
        spent = [timed(binary_cuts, pieces) for _ in range(3)]
        print(f"table of cuts of {entries:,} entries: {spread(spent, '.2f')} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each comparison (default 15)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as scratch:
        tokens, folder = embedded(Path(scratch))
        data, tokenizer = TokenData.open(tokens, "train"), load_tokenizer(folder)
        against_the_plain_rule(data, tokenizer, rounds)
        by_length(data, tokenizer, rounds)
        in_a_loop(data, tokenizer)
        table_of_cuts()


if __name__ == "__main__":
    main()
