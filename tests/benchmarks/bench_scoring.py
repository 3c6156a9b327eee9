"""Speed of scoring against lm-eval's own class: `python tests/benchmarks/bench_scoring.py [--rounds 3] [--items 60]`.

Random Llama models (d 128 with 4 layers, d 512 with 6) and a BPE vocabulary learned on the spot score three made-up
tasks: `cloze` (4 choices after 100 to 200 bytes), `few_shot` (4 choices after some 1,500 bytes), `last_word` (one
choice, LAMBADA-like). IsotokLM runs with each of its methods, HFLM with batch sizes 1, 16 and 32, one process for each,
in turn, one thread each, float32 on the CPU; loading is not counted, nor is a first pass over 4 items. IsotokLM
batches by tokens (`forward.TOKENS_PER_BATCH`), so it is compared with HFLM's best batch size. HFLM's `auto` asks the
memory for the largest batch, which on a CPU is no fair size.

Contexts end in front of a space, where E(context) is a prefix of E(context + choice) for this vocabulary, so both
classes score the same tokens: fails where `backoff` and HFLM differ by more than 1e-3 nats. HFLM is given the separator
as a prefix token in each context, so that rows are equally long.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
MODELS = {"d128": (128, 4, 4), "d512": (512, 6, 8)}  # width, layers, heads
TASKS = ("cloze", "few_shot", "last_word")
BATCHES = (1, 16, 32)
WARM_UP = 4
CONTEXT_BYTES = 4096


def texts() -> list[str]:
    from tokenization.sources import Embedded

    found = []
    for document in Embedded().documents():
        found.append(document.text)
        if len(found) == 300:
            break
    return found


def items(task: str, documents: list[str], n: int) -> list[tuple[str, list[str]]]:
    """(context, choices); a choice is a space and the words that follow."""
    from isotok.keyed import keyed_rng

    made = []
    for i in range(n):
        rng = keyed_rng("bench scoring", task, i)
        size = {"cloze": int(rng.integers(100, 200)), "few_shot": 1500, "last_word": int(rng.integers(200, 400))}[task]
        words = 1 if task == "last_word" else 4
        ends = []
        for _ in range(1 if task == "last_word" else 4):
            text = documents[int(rng.integers(len(documents)))]
            text = text * (1 + 4000 // len(text))
            at = text.index(" ", size + int(rng.integers(1000)))
            while text[at - 1].isspace():  # lm-eval's class would move it into the choice
                at = text.index(" ", at + 1)
            ends.append((text[at - size : at], " " + " ".join(text[at + 1 : at + 200].split()[:words])))
        made.append((ends[0][0], list(dict.fromkeys(choice for _, choice in ends))))
    return made


def measure(model_name: str, runner: str, n: int, tasks: list[str]) -> None:
    """One process: prints {task: [seconds, items, scores]} as JSON."""
    import torch
    from lm_eval.api.instance import Instance
    from transformers import LlamaConfig, LlamaForCausalLM

    from tokenization import BPE

    torch.set_num_threads(1)
    documents = texts()
    tokenizer = BPE(vocab_size=2048).train(documents)
    width, layers, heads = MODELS[model_name]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=CONTEXT_BYTES,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config).eval()
    lm: Any
    kind, option = runner.split(":")
    if kind == "isotok":
        from evaluation.harness import IsotokLM

        lm = IsotokLM(model, tokenizer, context_bytes=CONTEXT_BYTES, scoring=option)  # type: ignore[arg-type]
        lead = ""
    else:
        from lm_eval.models.huggingface import HFLM

        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=int(option), max_length=CONTEXT_BYTES)
        tokenizer.split_special_tokens = False
        lead = tokenizer.eos_token
    found = {}
    for task in tasks:
        asked = items(task, documents, n + WARM_UP)

        def requests(some: list[tuple[str, list[str]]], first: int = 0) -> list[Any]:
            return [
                Instance("loglikelihood", {}, (lead + context, choice), j, metadata=("bench", first + i, 1))
                for i, (context, choices) in enumerate(some)
                for j, choice in enumerate(choices)
            ]

        lm.loglikelihood(requests(asked[n:], n))
        timed = requests(asked[:n])
        start = time.perf_counter()
        scores = lm.loglikelihood(timed)
        found[task] = [time.perf_counter() - start, n, [float(value) for value, _ in scores]]
    print(json.dumps(found))


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def compare(model_name: str, rounds: int, n: int, batches: list[int], tasks: list[str]) -> None:
    from evaluation.likelihood import Scoring

    methods = [f"isotok:{method}" for method in get_args(Scoring)]
    peers = [f"hf:{batch}" for batch in batches]
    seconds: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        scores: dict[str, dict[str, list[float]]] = {}
        order = [*methods, *peers]
        for runner in order if number % 2 == 0 else order[::-1]:
            command = [sys.executable, __file__, "--measure", model_name, runner, "--items", str(n), "--tasks", *tasks]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            rates = ", ".join(f"{task} {n / took:.1f}" for task, (took, *_) in found.items())
            print(f"    round {number + 1}, {runner}: {rates} items/s", file=sys.stderr, flush=True)
            for task, (took, _, own) in found.items():
                seconds.setdefault((runner, task), []).append(took)
                scores.setdefault(runner, {})[task] = own
        for task in tasks:
            worst = max(abs(a - b) for a, b in zip(scores["isotok:backoff"][task], scores[peers[0]][task]))
            if worst > 1e-3:
                raise SystemExit(f"{model_name} {task}: backoff and HFLM differ by {worst} nats; not the same work")
    for task in tasks:
        speed = {runner: [n / took for took in seconds[runner, task]] for runner in (*methods, *peers)}
        best = max(peers, key=lambda runner: statistics.median(speed[runner]))
        for runner in (*methods, *peers):
            ratio = [own / other for own, other in zip(speed[runner], speed[best])]
            print(f"  {model_name} {task:<9} {runner:<15} {spread(speed[runner])} items/s, to {best}: {spread(ratio)}")
        if "isotok:bytes" in methods:
            pairs = zip(seconds["isotok:bytes", task], seconds["isotok:backoff", task])
            print(f"  {model_name} {task:<9} bytes takes {spread([a / b for a, b in pairs])} times as long as backoff")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=60, help="items of each task")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--batches", nargs="*", type=int, default=list(BATCHES), help="rows in a batch of HFLM's")
    parser.add_argument("--measure", nargs=2, metavar=("MODEL", "RUNNER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    os.environ.update(dict.fromkeys(offline + threads, "1"), TOKENIZERS_PARALLELISM="false")
    if arguments.measure:
        measure(*arguments.measure, arguments.items, arguments.tasks)
        return
    for name in arguments.models:
        print(f"{name}, {arguments.items} items a task, {arguments.rounds} rounds, one thread", flush=True)
        compare(name, arguments.rounds, arguments.items, arguments.batches, arguments.tasks)


if __name__ == "__main__":
    main()
