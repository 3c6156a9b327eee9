"""Speed of encoding against the tokenizer library: `python tests/benchmarks/bench_encode.py [FOLDER] [--rounds 3]`.

FOLDER holds `corpus.py`'s files (built first where they are missing). Two vocabularies of 32,000 entries are learned on
its 10 MB: SuperBPE (transition at 24,000) and plain BPE with GPT-2's pretokenizer. The same 10 MB, in documents of 40
lines, are encoded in turn by our own encoder and by the library's `encode_batch_fast`, in one process for each number
of threads, after a pass over 50 documents; the first full pass is cold (our table of words is empty), the others warm.
Fails unless every id is the same.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
MB, LINES = 10, 40


def documents(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").split("\n")
    return ["\n".join(lines[i : i + LINES]) + "\n" for i in range(0, len(lines), LINES)]


def measure(path: Path, rounds: int, threads: int) -> None:
    from tokenization import BPE, SuperBPE
    from tokenization.encoder import KernelEncoder, encoder_for

    texts = documents(path)
    size = sum(len(text.encode()) for text in texts) / 1e6
    recipes = {
        "SuperBPE": SuperBPE(vocab_size=32_000, transition=24_000),
        "BPE, gpt2": BPE(vocab_size=32_000, pretokenizer="gpt2"),
    }
    for name, recipe in recipes.items():
        tokenizer = recipe.train(texts)
        backend = tokenizer.backend_tokenizer
        backend.encode_special_tokens = True
        encoder_for(tokenizer, threads).encode(texts[:50])
        backend.encode_batch_fast(texts[:50], add_special_tokens=False)
        own = encoder_for(tokenizer, threads)
        assert isinstance(own, KernelEncoder), "our own encoder did not take this vocabulary"
        ratios = []
        for number in range(rounds):
            start = time.perf_counter()
            mine = own.encode(texts)
            middle = time.perf_counter()
            theirs = backend.encode_batch_fast(texts, add_special_tokens=False)
            end = time.perf_counter()
            if any(ids.tolist() != encoding.ids for ids, encoding in zip(mine, theirs)):
                raise SystemExit(f"{name}: ids differ")
            ratios.append((end - middle) / (middle - start))
            print(
                f"  {name}, {threads} thread(s), {'warm' if number else 'cold'}: "
                f"own {size / (middle - start):.1f} MB/s, library {size / (end - middle):.1f} MB/s"
            )
        print(
            f"{name}, {threads} thread(s): {statistics.median(ratios):.2f} times as fast "
            f"({min(ratios):.2f} to {max(ratios):.2f} over {rounds}, the first cold: {ratios[0]:.2f}); ids identical",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="the corpus folder")
    parser.add_argument("--rounds", type=int, default=3, help="full passes of each (default 3)")
    parser.add_argument("--measure", type=int, metavar="THREADS", help=argparse.SUPPRESS)
    given = parser.parse_args()
    from tests.benchmarks.corpus import default_folder, ensure

    path = ensure(given.folder or default_folder(), [MB])[0]
    if given.measure:
        measure(path, given.rounds, given.measure)
        return
    for threads in (1, 2):
        environment = os.environ | {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
        command = [sys.executable, __file__, str(path.parent), "--rounds", str(given.rounds), "--measure", str(threads)]
        subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()
