"""Speed and memory of merge learning against its peers: `python tests/benchmarks/bench_merges.py [FOLDER] [--mb 50]`.

FOLDER holds `corpus.py`'s files (built first where they are missing). Peers: the Hugging Face trainer, and gigabpe
where it is installed (`pip install gigabpe`). Every figure comes from a fresh process that does one thing; contestants
take turns, and a ratio is that of two runs of the same round, as other work may share the machine. Seconds are work
alone: imports and a first run on a toy input come before. Peak memory is all of the process, in a row of a phase
until its end.

Stage 1: file to merges, reading and counting included, fed line by line; ours reads through Python, the peers by
themselves. Stage 2: the tokens after the transition, over lines (pretokenizer `none`). Ours counts lines, applies the
inherited merges and learns; the peer is the Hugging Face trainer over text in which each token is one code point
already, so its encoding is not counted. It learns no vetoes; the last rows show ours with SuperBPE's, from the same
merges. Learning itself is single-threaded with us; `threads` counts, and applies the inherited merges.

`--identity` fails unless contestants agree on every merge (they are compared in any case). `--grow` times SuperBPE,
vetoes and all, on every size in FOLDER, and fits the exponent; `--plot FILE` draws it.
"""

import argparse
import hashlib
import importlib
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BYTES = 256
STAGE1, STAGE2, LINES = "superbpe_stage1", "superbpe_stage2", "none"
TOY = ["the cat: the hat, the cat naïve 2024 \n", " on the mat on the mat\n", "aaaa  aaaa\tbb\n"]
Result = dict[str, Any]


# --- in a fresh process: one measurement -----------------------------------------------------------------------------


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


class Clock:
    """Seconds and peak memory so far, phase by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = now - self.last
        self.peaks[phase] = peak_mb()
        self.last = time.perf_counter()


def file_texts(path: str) -> Iterator[str]:
    """The file's text, a megabyte or so of whole lines at a time."""
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            yield (block + file.readline()).decode()


def our_vetoes(name: str) -> Any:
    from tokenization.merges import Vetoes

    return Vetoes(forbid=(b": ",), max_words=4) if name == STAGE2 else Vetoes()


def our_toy() -> None:
    """Compile or load every kernel that the measurements call."""
    from tokenization.chunks import count_chunks
    from tokenization.merges import learn_merges

    for name in ("gpt2", STAGE1):
        inherited = learn_merges(count_chunks(TOY, name, "line"), 5)
    for name in (LINES, STAGE2):
        learn_merges(count_chunks(TOY, name, "line"), 5, inherited=inherited, vetoes=our_vetoes(name))


def run_ours1(file: str, pretokenizer: str, n_merges: int, threads: int, **_: Any) -> Result:
    from tokenization.chunks import count_chunks
    from tokenization.merges import learn_merges

    our_toy()
    clock = Clock()
    chunks = count_chunks(file_texts(file), pretokenizer, "line", threads=threads)
    clock.lap("count")
    merges = learn_merges(chunks, n_merges)
    clock.lap("learn")
    return {"clock": clock, "merges": merges, "chunks": len(chunks.ends)}


def run_ours2(file: str, pretokenizer: str, n_merges: int, threads: int, inherited: str, **_: Any) -> Result:
    from tokenization.chunks import count_chunks

    our_toy()
    first = json.loads(Path(inherited).read_text(encoding="utf-8"))
    clock = Clock()
    chunks = count_chunks(file_texts(file), pretokenizer, "line", threads=threads)
    clock.lap("count")
    merges = learn_on(clock, chunks, n_merges, first, pretokenizer, threads)
    return {"clock": clock, "merges": merges, "chunks": len(chunks.ends)}


def learn_on(clock: Clock, chunks: Any, n_merges: int, first: list[Any], pretokenizer: str, threads: int) -> list[Any]:
    """`learn_merges` from inherited ones, the application of these a phase of its own."""
    from tokenization import merges as module

    apply_merges = module.apply_merges

    def timed(*args: Any, **options: Any) -> Any:
        result = apply_merges(*args, **options)
        clock.lap("apply")
        return result

    module.apply_merges = timed
    pairs = [(left, right) for left, right in first]
    learned = module.learn_merges(chunks, n_merges, inherited=pairs, vetoes=our_vetoes(pretokenizer), threads=threads)
    module.apply_merges = apply_merges
    clock.lap("learn")
    return learned


def run_grow(file: str, vocab: int, transition: int, threads: int, **_: Any) -> Result:
    from tokenization.chunks import count_chunks
    from tokenization.merges import learn_merges

    our_toy()
    clock = Clock()
    chunks = count_chunks(file_texts(file), STAGE1, "line", threads=threads)
    clock.lap("count words")
    first = learn_merges(chunks, transition - BYTES)
    clock.lap("learn words")
    del chunks
    chunks = count_chunks(file_texts(file), STAGE2, "line", threads=threads)
    clock.lap("count lines")
    merges = first + learn_on(clock, chunks, vocab - transition, first, STAGE2, threads)
    return {"clock": clock, "merges": merges, "chunks": len(chunks.ends)}


def library(n_entries: int, alphabet: Sequence[str]) -> tuple[Any, Any]:
    from tokenizers import Tokenizer, models, trainers

    trainer = trainers.BpeTrainer(vocab_size=n_entries, initial_alphabet=list(alphabet), show_progress=False)
    return Tokenizer(models.BPE()), trainer


def run_library1(file: str, pretokenizer: str, n_merges: int, **_: Any) -> Result:
    from tests.tokenization.reference_merges import entries_of, merges_of
    from tokenization.pretokenize import pretokenizer as named

    tokenizer, trainer = library(BYTES + n_merges, entries_of([]))
    tokenizer.pre_tokenizer = named(pretokenizer)
    tokenizer.train_from_iterator(TOY, trainer=trainer)
    clock = Clock()
    tokenizer.train([file], trainer=trainer)
    clock.lap("count, learn")
    return {"clock": clock, "merges": merges_of(tokenizer)}


def run_library2(mapped: str, n_tokens: int, n_merges: int, inherited: str, **_: Any) -> Result:
    from tests.tokenization.reference_merges import FIRST_CODE_POINT, entries_of, merges_of, unmap

    tokenizer, trainer = library(n_tokens + n_merges, [chr(FIRST_CODE_POINT + i) for i in range(n_tokens)])
    tokenizer.train_from_iterator(TOY, trainer=library(300, "abc")[1])
    clock = Clock()
    with open(mapped, encoding="utf-8", newline="\n") as lines:
        tokenizer.train_from_iterator((line[:-1] for line in lines), trainer=trainer)
    clock.lap("learn")
    names = entries_of(json.loads(Path(inherited).read_text(encoding="utf-8")))
    return {"clock": clock, "merges": [(unmap(a, names), unmap(b, names)) for a, b in merges_of(tokenizer)]}


def run_gigabpe1(file: str, n_merges: int, threads: int, seen_bytes: int, **_: Any) -> Result:
    gigabpe = importlib.import_module("gigabpe")  # not a dependency

    options = {"special_tokens": [], "pretokenizer": "bytelevel", "threads": threads}
    with tempfile.NamedTemporaryFile("w") as toy:
        toy.writelines(TOY)
        toy.flush()
        gigabpe.train_bpe([toy.name], 40, **options)
    clock = Clock()
    merges = gigabpe.train_bpe([file], seen_bytes + n_merges, **options)[1]
    clock.lap("count, learn")
    return {"clock": clock, "merges": merges}


def run_prepare(file: str, mapped: str, inherited: str, n_first: int, **_: Any) -> Result:
    """For stage 2: the merges of stage 1, and the text in them, a code point a token and a piece a line."""
    from tests.tokenization.reference_merges import mapped_pieces
    from tokenization.chunks import count_chunks
    from tokenization.merges import learn_merges
    from tokenization.pretokenize import feed_units

    clock = Clock()
    merges = learn_merges(count_chunks(file_texts(file), STAGE1, "line"), n_first)
    Path(inherited).write_text(json.dumps(merges), encoding="utf-8")
    with open(mapped, "w", encoding="utf-8", newline="\n") as out:
        for piece in mapped_pieces(feed_units(file_texts(file), "line"), merges, LINES, cut_colon_space=False):
            out.write(piece + "\n")
    clock.lap("prepare")
    return {"clock": clock, "merges": merges, "n_tokens": BYTES + len(merges)}


def run_start(**_: Any) -> Result:
    clock = Clock()
    our_toy()
    clock.lap("start")
    return {"clock": clock, "merges": []}


MEASUREMENTS: dict[str, Callable[..., Result]] = {
    name.removeprefix("run_"): function for name, function in list(globals().items()) if name.startswith("run_")
}


def measure_here(request: str) -> None:
    """Do what the request says and print the result as one line of JSON."""
    options = json.loads(request)
    sys.path.insert(0, str(ROOT))
    result = MEASUREMENTS[options.pop("what")](**options)
    clock = result.pop("clock")
    merges = [list(pair) for pair in result.pop("merges")]
    Path(options["out"]).write_text(json.dumps(merges), encoding="utf-8")
    digest = hashlib.sha256(json.dumps(merges).encode()).hexdigest()
    figures = {"seconds": clock.seconds, "peaks": clock.peaks, "peak": peak_mb(), "sha256": digest, "n": len(merges)}
    print(json.dumps(result | figures))


# --- the parent, which stays small: a child's peak is never less than what its parent held ---------------------------


def measure(what: str, out: Path, environment: dict[str, str] | None = None, **options: Any) -> Result:
    """Run one measurement in a fresh process."""
    threads = str(options.get("threads", 2))
    env = os.environ | {"RAYON_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
    request = json.dumps({"what": what, "out": str(out), **options})
    command = [sys.executable, __file__, "--measure", request]
    done = subprocess.run(
        command, env=env | (environment or {}), cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{what} {options}: failed with status {done.returncode}")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


@dataclass(frozen=True)
class Contestant:
    """What runs, and how its row is named."""

    what: str
    name: str
    threads: int
    options: dict[str, Any]

    @property
    def label(self) -> str:
        return f"{self.name}, {self.threads} thread{'s' * (self.threads > 1)}"


@dataclass
class Table:
    """Runs of contestants that should agree; rivals are compared with `ours` in the same round."""

    title: str
    contestants: list[Contestant]
    ratios: Sequence[tuple[str, str, tuple[str, ...]]]  # (rival, ours, phases of ours or () for all)

    def run(self, rounds: int, folder: Path) -> None:
        self.results: dict[str, list[Result]] = {one.label: [] for one in self.contestants}
        self.folder = folder
        for number in range(rounds):
            for one in self.contestants:
                out = folder / f"{one.label}.json"
                result = measure(one.what, out, threads=one.threads, **one.options)
                self.results[one.label].append(result)
                seconds = ", ".join(f"{phase} {value:.2f}" for phase, value in result["seconds"].items())
                print(f"  round {number + 1}: {one.label}: {seconds} s", file=sys.stderr, flush=True)

    def show(self) -> bool:
        """Print; whether all merges agree."""
        print(f"\n{self.title}")
        print(f"  {'':34}{'seconds':>9}{'min':>8}{'max':>8}{'peak MB':>9}  merges")
        for label, results in self.results.items():
            phases = list(results[0]["seconds"])
            rows = [(label, phases)] + ([(f"  {phase}", [phase]) for phase in phases] if len(phases) > 1 else [])
            for name, chosen in rows:
                times = [seconds_of(result, chosen) for result in results]
                line = f"  {name:34}{statistics.median(times):9.2f}{min(times):8.2f}{max(times):8.2f}"
                peaks = [result["peak"] if name == label else result["peaks"][chosen[0]] for result in results]
                line += f"{statistics.median(peaks):9.0f}"
                if name == label:
                    line += f"  {results[0]['n']} {results[0]['sha256'][:12]}"
                print(line)
        for rival, ours, alone in self.ratios:
            if rival in self.results:
                pairs = list(zip(self.results[rival], self.results[ours]))
                quotients = [seconds_of(a, ()) / seconds_of(b, alone) for a, b in pairs]
                memory = statistics.median(a["peak"] / b["peak"] for a, b in pairs)
                what = f"{rival} / {ours}" + (f" ({' + '.join(alone)} alone)" if alone else "")
                print(
                    f"  {what}: {statistics.median(quotients):.2f} times the seconds "
                    f"({min(quotients):.2f} to {max(quotients):.2f} over {len(pairs)}), {memory:.2f} times the memory"
                )
        return self._identical()

    def _identical(self) -> bool:
        digests = {label: {result["sha256"] for result in results} for label, results in self.results.items()}
        first, *others = digests
        agree = all(digests[label] == digests[first] and len(digests[label]) == 1 for label in digests)
        print(f"  merges identical: {'yes' if agree else 'NO'}")
        mine = json.loads((self.folder / f"{first}.json").read_text(encoding="utf-8"))
        for label in others:
            if digests[label] != digests[first]:
                theirs = json.loads((self.folder / f"{label}.json").read_text(encoding="utf-8"))
                at = next((i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b), min(len(mine), len(theirs)))
                print(f"    {label}: {len(theirs)} merges, differs from {first} ({len(mine)}) at {at}")
                print(f"      {theirs[at : at + 3]} instead of {mine[at : at + 3]}")
        return agree


def seconds_of(result: Result, phases: Sequence[str]) -> float:
    return sum(result["seconds"][phase] for phase in phases or result["seconds"])


def start_table(folder: Path, rounds: int) -> None:
    """Cold compilation of all kernels, and a start with them cached."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        cold = measure("start", folder / "start.json", {"NUMBA_CACHE_DIR": cache})
        warm = [measure("start", folder / "start.json", {"NUMBA_CACHE_DIR": cache}) for _ in range(rounds)]
    times = [seconds_of(result, ()) for result in warm]
    print(f"cold start, all kernels compiled: {seconds_of(cold, ()):.1f} s, peak {cold['peak']:.0f} MB")
    print(
        f"warm start, kernels from the cache: {statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})"
    )


def stage1_tables(file: Path, n_merges: int) -> Iterator[Table]:
    data = file.read_bytes()
    seen = len(set(data))
    del data
    for name in (STAGE1, "gpt2"):
        options = {"file": str(file), "pretokenizer": name, "n_merges": n_merges}
        contestants, ratios = [], []
        for threads in (1, 2):
            contestants.append(Contestant("ours1", "ours", threads, options))
            contestants.append(Contestant("library1", "Hugging Face", threads, options))
            if name == "gpt2" and find_spec("gigabpe"):
                contestants.append(Contestant("gigabpe1", "gigabpe", threads, options | {"seen_bytes": seen}))
            suffix = f"{threads} thread{'s' * (threads > 1)}"
            ratios += [(f"{rival}, {suffix}", f"ours, {suffix}", ()) for rival in ("Hugging Face", "gigabpe")]
        yield Table(f"stage 1, {name}, {file.name}, {n_merges} merges", contestants, ratios)
    if not find_spec("gigabpe"):
        print("gigabpe is not installed: its rows are missing (pip install gigabpe)")


def stage2_tables(file: Path, transition: int, vocab: int, folder: Path) -> Iterator[Table]:
    mapped, inherited = folder / "mapped.txt", folder / "inherited.json"
    made = measure(
        "prepare",
        folder / "first.json",
        file=str(file),
        mapped=str(mapped),
        inherited=str(inherited),
        n_first=transition - BYTES,
    )
    options = {"file": str(file), "n_merges": vocab - transition, "inherited": str(inherited)}
    mine = options | {"pretokenizer": LINES}
    theirs = options | {"mapped": str(mapped), "n_tokens": made["n_tokens"]}
    yield Table(
        f"stage 2, lines, {file.name}, {transition} to {vocab} entries",
        [
            Contestant("ours2", "ours", 1, mine),
            Contestant("library2", "Hugging Face, mapped", 1, theirs),
            Contestant("ours2", "ours", 2, mine),
            Contestant("library2", "Hugging Face, mapped", 2, theirs),
        ],
        [
            ("Hugging Face, mapped, 1 thread", "ours, 1 thread", ("learn",)),
            ("Hugging Face, mapped, 2 threads", "ours, 1 thread", ("learn",)),
            ("Hugging Face, mapped, 2 threads", "ours, 2 threads", ("learn",)),
            ("Hugging Face, mapped, 1 thread", "ours, 1 thread", ()),
            ("Hugging Face, mapped, 2 threads", "ours, 2 threads", ()),
        ],
    )
    mine = options | {"pretokenizer": STAGE2}
    title = f"stage 2, {STAGE2} with both vetoes, {file.name}, {transition} to {vocab} entries"
    yield Table(title, [Contestant("ours2", "ours", 1, mine), Contestant("ours2", "ours", 2, mine)], [])


def grow(files: list[Path], options: argparse.Namespace, folder: Path) -> None:
    """SuperBPE by size: seconds and peaks by phase, the fitted exponent, the plot."""
    sizes = [file.stat().st_size / 1e6 for file in files]
    runs: list[list[Result]] = [[] for _ in files]
    for _ in range(options.rounds):
        for file, results in zip(files, runs):
            results.append(
                measure(
                    "grow", folder / "grow.json", file=str(file), vocab=options.vocab, transition=options.transition,
                    threads=options.threads,
                )
            )  # fmt: skip
    phases = list(runs[0][0]["seconds"])
    times = [{phase: statistics.median(r["seconds"][phase] for r in results) for phase in phases} for results in runs]
    totals = [sum(row.values()) for row in times]
    print(f"\nSuperBPE, {options.transition} then {options.vocab} entries, both vetoes, {options.threads} threads")
    print(f"  {'MB':>6}" + "".join(f"{phase:>13}" for phase in phases) + f"{'total s':>10}{'peak MB':>9}{'MB/s':>7}")
    for size, row, total, results in zip(sizes, times, totals, runs):
        peak = max(result["peak"] for result in results)
        cells = "".join(f"{row[phase]:13.2f}" for phase in phases)
        print(f"  {size:6.0f}{cells}{total:10.2f}{peak:9.0f}{size / total:7.1f}")
        print(f"  {'peak':>6}" + "".join(f"{results[0]['peaks'][phase]:13.0f}" for phase in phases))
    if len(files) > 1:
        slopes = [exponent(sizes, [row[phase] for row in times]) for phase in phases]
        cells = "".join(f"{slope:13.2f}" for slope in slopes)
        print(f"  {'exp.':>6}{cells}{exponent(sizes, totals):10.2f}  (seconds grow as MB to this power)")
    if options.plot:
        draw(options.plot, sizes, times, [max(r["peak"] for r in results) for results in runs])


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of log seconds over log size, least squares."""
    return statistics.linear_regression([math.log(x) for x in sizes], [math.log(y) for y in seconds]).slope


def draw(path: Path, sizes: list[float], times: list[dict[str, float]], peaks: list[float]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    totals = [sum(row.values()) for row in times]
    slope = f" (MB to the power {exponent(sizes, totals):.2f})" if len(sizes) > 1 else ""
    left.plot(sizes, totals, "ko-", label=f"all{slope}", markersize=4)
    left.plot(sizes, [totals[0] * size / sizes[0] for size in sizes], "k:", label="proportional", linewidth=1)
    for phase in times[0]:
        left.plot(sizes, [row[phase] for row in times], "o-", label=phase, linewidth=1, markersize=3)
    left.set(xscale="log", yscale="log", ylabel="seconds")
    left.legend(fontsize=7, frameon=False)
    right.plot(sizes, [peak / 1000 for peak in peaks], "ko-", markersize=4)
    for size, peak in zip(sizes, peaks):
        if size >= max(sizes) / 10:  # further left they would overlap
            right.annotate(f"{peak / 1000:.2f}", (size, peak / 1000), (5, -9), textcoords="offset points", fontsize=7)
    right.set(ylabel="peak memory of the process, GB", ylim=(0, 1.15 * max(peaks) / 1000))
    left.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
    for axes in (left, right):
        axes.set_xlabel("MB of text")
        axes.xaxis.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)
    print(f"  drawn in {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    corpus = importlib.import_module("corpus")  # beside this file
    default = corpus.default_folder()
    parser.add_argument("folder", nargs="?", type=Path, default=default, help=f"the corpus folder (default {default})")
    parser.add_argument("--mb", type=int, default=50, help="size to compare at, in MB (default 50)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of every contestant (default 2)")
    parser.add_argument("--vocab", type=int, default=32_000, help="entries, 256 bytes included (default 32000)")
    parser.add_argument("--transition", type=int, default=24_000, help="entries at the hand-over (default 24000)")
    parser.add_argument(
        "--only", choices=["start", "stage1", "stage2"], nargs="+", default=["start", "stage1", "stage2"]
    )
    parser.add_argument("--identity", action="store_true", help="fail unless all merges are identical")
    parser.add_argument(
        "--grow", type=int, nargs="*", metavar="MB", help="by size instead: these, or all in the folder"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of --grow (default 2)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where --grow draws (png, svg)")
    options = parser.parse_args()

    agree = True
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        if options.grow is not None:
            sizes = options.grow or [
                mb for mb in (*corpus.SIZES, corpus.SCALE) if corpus.corpus_file(options.folder, mb).is_file()
            ]
            grow(corpus.ensure(options.folder, sizes), options, folder)
            return
        file = corpus.ensure(options.folder, [options.mb])[0]
        if "start" in options.only:
            start_table(folder, max(3, options.rounds))
        tables: list[Callable[[], Iterator[Table]]] = []
        if "stage1" in options.only:
            tables.append(lambda: stage1_tables(file, options.vocab - BYTES))
        if "stage2" in options.only:
            tables.append(lambda: stage2_tables(file, options.transition, options.vocab, folder))
        for make in tables:
            for table in make():
                table.run(options.rounds, folder)
                agree &= table.show()
    if options.identity and not agree:
        raise SystemExit("merges differ")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure_here(sys.argv[2])
    else:
        main()
