"""Stage `evaluate`: a checkpoint -> results.json (figures) and items.parquet (what they are made of)."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from isotok.errors import DataError
from isotok.files import hash_key, write_json
from isotok.progress import progress, say
from isotok.recipe import Field, recipe

if TYPE_CHECKING:
    from evaluation.documents import DocumentScore
    from evaluation.encoding import Encoded

FORMAT = 2
TASK_BYTES = 4_000_000  # tasks are made from this much of the test split at most
_SAMPLE_BYTES = 200
_PROMPT_BYTES = 200


@recipe
class Evaluation:
    """What is measured on a checkpoint.

    scoring: how a choice is scored after its context: `bytes`, `backoff` or `naive` (see evaluation.likelihood).
    max_bytes: test text scored for bits per byte; whole documents, see `choose_documents`.
    tasks: generated downstream tasks; items: questions in each (fewer where the test split yields fewer; tasks with
        paradigms or variants have a multiple, see evaluation.tasks.generate.TASKS).
    samples: texts generated, max. 200 bytes each.
    segmentations: spans of test text, 16 to 24 bytes each, that are scored over all their segmentations (see
        evaluation.stochastic); 0: none. For comparisons with arms trained under a stochastic transform.
    seed: key of items, samples and spans; all arms share it.
    """

    scoring: Literal["bytes", "backoff", "naive"] = "bytes"
    max_bytes: Annotated[int, Field(ge=1)] = 300_000
    tasks: tuple[str, ...] = ("iso_cloze", "iso_wordorder", "iso_typo", "iso_minpair", "iso_lastword", "iso_spell")
    items: Annotated[int, Field(ge=1)] = 200
    samples: Annotated[int, Field(ge=0)] = 3
    segmentations: Annotated[int, Field(ge=0)] = 0
    seed: int = 1234

    def __post_init__(self) -> None:
        from evaluation.tasks.generate import TASKS

        unknown = [name for name in self.tasks if name not in TASKS]
        if unknown:
            raise ValueError(f"tasks: {unknown[0]!r} is unknown; there are {', '.join(TASKS)}")
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("tasks: named twice")

    @property
    def label(self) -> str:
        return self.scoring


def choose_documents(documents: Iterable[Any], max_bytes: int) -> list[Any]:
    """The documents that are scored, in corpus order, whole, at most `max_bytes` together.

    First the first document of each domain that fits, then all others in corpus order that still fit; if none
    fits, the shortest. Depends on the corpus alone, so all tokenizers are scored on the same text.
    """
    everything = [d for d in documents if d.text]
    if not everything:
        raise DataError("the corpus has no test documents; give it more text or a larger test share")
    chosen: set[int] = set()
    left = max_bytes
    domains: set[str] = set()
    for i, document in enumerate(everything):
        if document.domain not in domains and document.n_bytes <= left:
            chosen.add(i)
            domains.add(document.domain)
            left -= document.n_bytes
    for i, document in enumerate(everything):
        if i not in chosen and document.n_bytes <= left:
            chosen.add(i)
            left -= document.n_bytes
    if not chosen:
        chosen.add(min(range(len(everything)), key=lambda i: (everything[i].n_bytes, i)))
    return [everything[i] for i in sorted(chosen)]


def evaluate(
    recipe: Evaluation,
    model_dir: Path,
    corpus: Path,
    context_bytes: int,
    out: Path,
    device: str = "auto",
    threads: int = 1,
    benchmark: Path | None = None,
) -> dict[str, Any]:
    """Score the Hugging Face model and tokenizer in `model_dir` on the test split of `corpus`.

    `benchmark` is a folder of further tasks (evaluation.benchmarks), asked like the generated ones.

    Writes `out`/results.json, items.parquet and tasks/*.jsonl; returns the content of results.json, which is the same
    for the same model, device kind and threads. Raises DataError where tokenizer or model cannot be compared.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _evaluate(recipe, model_dir, corpus, context_bytes, out, device, benchmark)
    finally:
        torch.set_num_threads(before)


def _evaluate(
    recipe: Evaluation,
    model_dir: Path,
    corpus: Path,
    context_bytes: int,
    out: Path,
    device: str,
    benchmark: Path | None,
) -> dict[str, Any]:
    from evaluation import downstream, stochastic
    from evaluation.checkpoint import check_vocabulary, load_model
    from evaluation.documents import score_documents
    from evaluation.encoding import TextEncoder
    from evaluation.harness import IsotokLM
    from evaluation.intrinsic import intrinsic
    from evaluation.meta_scoring import inject_as_trained
    from evaluation.tasks.generate import generate_tasks
    from evaluation.tasks.items import read_task_folder, write_task_folder
    from tokenization import load_tokenizer
    from tokenization.corpus import read_documents

    test = list(read_documents(corpus, "test"))
    documents = choose_documents(test, recipe.max_bytes)
    tokenizer = load_tokenizer(model_dir)
    model = load_model(model_dir, device)
    encoder = TextEncoder(tokenizer)
    check_vocabulary(model, tokenizer, f"{model_dir}")

    encoded = [encoder(d.text, f"test document {d.id}") for d in documents]
    total = sum(e.n_bytes for e in encoded)
    with progress("bits per byte", total, "B") as advance:
        scores = score_documents(model, encoded, context_bytes, encoder.eos_id, advance)
    bpb = _bpb(documents, scores, context_bytes)
    say(f"evaluate: {bpb['bits_per_byte']:.4f} bits per byte on {len(documents)} documents, {total / 1e3:,.0f} kB")
    with_metas: dict[str, Any] = {}
    if inject := inject_as_trained(model.config, recipe.seed):
        with progress("with meta tokens", total, "B") as advance:
            scores_with = score_documents(model, encoded, context_bytes, encoder.eos_id, advance, inject)
        with_metas = {"bpb_with_metas": _bpb(documents, scores_with, context_bytes)}
        say(f"evaluate: {with_metas['bpb_with_metas']['bits_per_byte']:.4f} with meta tokens in contexts")

    tasks = generate_tasks(_up_to(test, TASK_BYTES), recipe.tasks, recipe.items, recipe.seed)
    write_task_folder(out / "tasks", tasks, {"generator": "isotok", "seed": recipe.seed, "items": recipe.items})
    lm = IsotokLM(model, tokenizer, context_bytes=context_bytes, scoring=recipe.scoring, seed=recipe.seed)
    further = read_task_folder(benchmark) if benchmark else []
    for name in {task.name for task in tasks} & {task.name for task in further}:
        raise DataError(f"{benchmark}: task {name} is also generated here; leave it out of evaluation.tasks")
    task_results, task_rows = downstream.run(lm, [*tasks, *further])

    spans: list[dict[str, Any]] = []
    if recipe.segmentations:
        spans = stochastic.segmentation_rows(model, tokenizer, documents, encoded, recipe.segmentations, recipe.seed)

    rows = _document_rows(documents, encoded, scores) + spans + task_rows
    results = {
        "format": FORMAT,
        "bpb": bpb,
        **with_metas,
        "intrinsic": intrinsic([e.ids for e in encoded], total, encoder.bytes),
        "segmentations": stochastic.figures(spans) if spans else None,
        "tasks": task_results,
        "samples": [
            {"prompt": prompt, "text": lm.generate(prompt, _SAMPLE_BYTES, temperature=1.0)}
            for prompt in sample_prompts(documents, recipe.samples)
        ],
        "evaluation_items_sha256": hash_key([[r["kind"], r["item"], r["item_hash"]] for r in rows], digits=64),
    }
    write_items(rows, out / "items.parquet")
    write_json(out / "results.json", results)
    return results


def sample_prompts(documents: Sequence[Any], n: int) -> list[str]:
    """The beginnings of `n` documents spread over the chosen ones, about 200 bytes, cut after a line end (a prompt
    that stops inside a line may stop inside what a superword tokenizer would merge)."""
    prompts = []
    for i in range(min(n, len(documents))):
        text = documents[i * len(documents) // n].text
        start = text.encode()[:_PROMPT_BYTES].decode(errors="ignore")
        end = start.rfind("\n") + 1 or text.find("\n") + 1
        prompts.append(text[:end] if 0 < end <= 4 * _PROMPT_BYTES else start)
    return prompts


def _up_to(documents: Sequence[Any], max_bytes: int) -> list[Any]:
    kept: list[Any] = []
    size = 0
    for document in documents:
        size += document.n_bytes
        if kept and size > max_bytes:
            break
        kept.append(document)
    return kept


def _bpb(documents: Sequence[Any], scores: Sequence["DocumentScore"], context_bytes: int) -> dict[str, Any]:
    import math

    from evaluation import positions
    from evaluation.documents import bits_per_byte

    def pool(picked: Sequence["DocumentScore"]) -> dict[str, Any]:
        nats, n_bytes = math.fsum(s.nats for s in picked), sum(s.bytes for s in picked)
        return {"bits_per_byte": bits_per_byte(nats, n_bytes), "nats": nats, "bytes": n_bytes}

    domains = sorted({d.domain for d in documents})
    return {
        **pool(scores),
        "tokens": sum(s.tokens for s in scores),
        "documents": len(documents),
        "by_position": positions.pool([s.position_nats for s in scores], [s.bytes for s in scores]),
        "separator_nats": math.fsum(s.separator_nats for s in scores),
        "context_bytes": context_bytes,
        "cut_windows": sum(s.cut_windows for s in scores),
        "long_windows": sum(s.long_windows for s in scores) / max(1, sum(s.windows for s in scores)),
        "by_domain": {name: pool([s for d, s in zip(documents, scores) if d.domain == name]) for name in domains},
    }


def _document_rows(
    documents: Sequence[Any], encoded: Sequence["Encoded"], scores: Sequence["DocumentScore"]
) -> list[dict[str, Any]]:
    import hashlib

    return [
        {
            "kind": "document",
            "item": document.id,
            "group": document.group,
            "domain": document.domain,
            "item_hash": hashlib.sha256(document.text.encode()).hexdigest()[:16],
            "bytes": e.n_bytes,
            "tokens": score.tokens,
            "nats": score.nats,
            "separator_nats": score.separator_nats,
            "position_nats": list(score.position_nats),
        }
        for document, e, score in zip(documents, encoded, scores)
    ]


def write_items(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """One row per scored document or item. `nats` are positive; `bytes` of a task's row are what its gold choice's
    nats are over (with back-off that includes a tail of the context), `choice_bytes` the choices' own;
    `position_nats` of a document are by bins of byte positions (evaluation.positions). Rows
    of kind `segmentation` are spans with their three numbers (evaluation.stochastic)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("kind", pa.string()),
            ("item", pa.string()),
            ("group", pa.string()),
            ("domain", pa.string()),
            ("item_hash", pa.string()),
            ("bytes", pa.int64()),
            ("tokens", pa.int64()),
            ("nats", pa.float64()),
            ("separator_nats", pa.float64()),
            ("position_nats", pa.list_(pa.float64())),
            ("canonicalised_nats", pa.float64()),
            ("marginal_nats", pa.float64()),
            ("marginal_nats_least", pa.float64()),
            ("gold", pa.int64()),
            ("variant", pa.string()),
            ("correct", pa.bool_()),
            ("correct_bytes", pa.bool_()),
            ("correct_pmi", pa.bool_()),
            ("fewest_tokens", pa.float64()),
            ("norm_correct_prob", pa.float64()),
            ("greedy", pa.bool_()),
            ("spans", pa.bool_()),
            ("shortened", pa.bool_()),
            ("choice_nats", pa.list_(pa.float64())),
            ("choice_bytes", pa.list_(pa.int64())),
        ]
    )
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, compression="zstd")
