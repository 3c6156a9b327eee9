"""`isotok plan`: what each arm would cost and where the comparison is unequal, before anything is trained."""

import dataclasses
import sys
import time
from typing import IO, TYPE_CHECKING, Any

from isotok.errors import ConfigError
from isotok.progress import say
from scripts.compose import Experiment, Run
from scripts.graph import Graph, has_task, is_pretrained
from scripts.store import Store

if TYPE_CHECKING:
    from training.budget import Plan

TIMED_PASSES = 3
TIMED_FLOPS = 2e11


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One arm of the table. memory_bytes is an estimate; seconds comes from a measurement, None if not taken."""

    arm: str
    runs: int
    vocab_size: int
    total_parameters: int
    body_parameters: int
    head_share: float
    plan: "Plan"
    memory_bytes: float
    seconds: float | None
    assumed: bool


def plan_experiment(experiment: Experiment, graph: Graph, store: Store, *, measure: bool = False) -> list[Row]:
    """A row an arm that is pretrained, from its token data or, where there is none yet, from `assume`.

    Raises ConfigError naming the arm whose budget cannot be met.
    """
    rows = []
    for arm in experiment.arms:
        run = next(iter(arm.runs.values()))
        if not is_pretrained(run):
            continue
        try:
            rows.append(_row(arm.name, len(arm.runs), run, graph, store, measure))
        except ConfigError as error:
            raise ConfigError(f"arm {arm.name}: {error}") from None
    return rows


def _row(name: str, runs: int, run: Run, graph: Graph, store: Store, measure: bool) -> Row:
    from modeling.flops import forward_flops_per_token
    from modeling.init import count_parameters
    from tokenization import TokenData, load_tokenizer
    from training.budget import plan_run, resolve_budget

    # Only `isotok plan` (the one that measures) assumes: before training, budgets are held against the data itself.
    assumed = measure and run.assume.bytes_per_token is not None
    if assumed:
        # No data is read for an assumed arm, not even a fingerprint.
        vocab_size = run.assume.vocab_size or getattr(run.tokenizer, "vocab_size", 256) + 1
        train_bytes = run.assume.train_bytes or float("inf")
        plan = resolve_budget(
            run.budget,
            run.model,
            run.training,
            vocab_size=vocab_size,
            eos_id=vocab_size - 1,
            bytes_per_token=run.assume.bytes_per_token or 1.0,
            train_bytes=train_bytes,
        )
    else:
        encoded = graph.encode(run)
        data = TokenData.open(store.folder(encoded), "train")
        vocab_size = data.vocab_size
        tokenizer = load_tokenizer(store.folder(encoded.inputs["tokenizer"]))
        plan = plan_run(run.budget, run.model, run.training, run.transform, data, tokenizer)
    config = run.model.config(vocab_size, plan.context_tokens, vocab_size - 1)
    parameters = count_parameters(config)
    terms = forward_flops_per_token(config, plan.context_tokens)
    return Row(
        arm=name,
        runs=runs,
        vocab_size=vocab_size,
        total_parameters=parameters.total,
        body_parameters=parameters.body,
        head_share=terms["head"] / sum(terms.values()),
        plan=plan,
        memory_bytes=_memory_bytes(config, parameters.total, run, plan),
        seconds=_run_seconds(config, run, plan) if measure else None,
        assumed=assumed,
    )


def check_tasks(experiment: Experiment, rows: list[Row], graph: Graph, store: Store) -> None:
    """Resolve each arm's fine-tuning before anything is trained; the task and the tokenizers have to be there.

    Raises ConfigError naming the arm whose tokenizer cannot be scored, that has too few questions, or one too long for
    its context.
    """
    from modeling.meta_injection import meta_id_of
    from tokenization import TokenData, load_tokenizer
    from tokenization.tokenizer import is_byte_level
    from training.budget import plain_context_tokens
    from training.examples import read_examples
    from training.finetune import plan_finetune
    from training.rehearsal import micro_rows_of

    planned, read = {row.arm: row.plan.context_tokens for row in rows}, {}
    for arm in experiment.arms:
        run = next(iter(arm.runs.values()))
        if not has_task(run):
            continue
        encoded, task = graph.encode(run), graph.task(run)
        folders = store.folder(task), store.folder(encoded.inputs["tokenizer"])
        tokenizer = load_tokenizer(folders[1])
        try:
            if not is_byte_level(tokenizer):
                raise ConfigError(
                    f"tokenizer {run.tokenizer.label}: its ids stand for no fixed bytes, from which bits per byte and "
                    "written answers are read; a task needs a byte-level vocabulary"
                )
            if not run.task.fine_tuned:
                continue
            data = TokenData.open(store.folder(encoded), "train")
            context = planned.get(arm.name) or plain_context_tokens(run.budget.context_bytes, data)
            config = run.model.config(data.vocab_size, context, data.eos_id)
            same = (*folders, meta_id_of(config))
            if same not in read:
                read[same] = read_examples(folders[0], tokenizer, meta_id_of(config))
            plan = plan_finetune(run.finetuning, read[same], config, 0)
            micro_rows_of(run.engine, plan, data.vocab_size, run.engine.ranks, on_cpu=True)
        except ConfigError as error:
            raise ConfigError(f"arm {arm.name}: {error}") from None


def warnings(rows: list[Row]) -> list[str]:
    """What makes the arms unequal or the result weak, a line each."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        for warning in row.plan.warnings:
            lines.setdefault(warning, []).append(row.arm)
    found = [f"{', '.join(arms)}: {warning}" for warning, arms in lines.items()]
    for what, values in (
        ("body (non-embedding) parameters", {row.body_parameters for row in rows}),
        ("total parameters", {row.total_parameters for row in rows}),
    ):
        if len(values) > 1:
            found.append(f"models differ in {what}: {min(values):,} to {max(values):,}")
    if any(row.assumed for row in rows):
        arms = ", ".join(row.arm for row in rows if row.assumed)
        found.append(f"{arms}: bytes per token assumed (assume.bytes_per_token), not measured")
    return found


def print_plan(rows: list[Row], file: IO[str] = sys.stdout) -> None:
    """The table and its warnings."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    columns: dict[str, Any] = {
        "arm": lambda r: r.arm + (f" ×{r.runs}" if r.runs > 1 else ""),
        "vocab": lambda r: f"{r.vocab_size:,}",
        "params": lambda r: _short(r.total_parameters),
        "body": lambda r: _short(r.body_parameters),
        "head": lambda r: f"{r.head_share:.0%}",
        "bytes/tok": lambda r: f"{r.plan.bytes_per_token:.2f}",
        "growth": lambda r: "" if r.assumed else f"{r.plan.growth:+.1%}",
        "context": lambda r: f"{r.plan.context_tokens}",
        "rows": lambda r: f"{r.plan.rows}",
        "steps": lambda r: f"{r.plan.stop_step:,}",
        "FLOPs": lambda r: f"{r.plan.flops:.3g}",
        "tokens": lambda r: _short(r.plan.tokens),
        "bytes": lambda r: _short(r.plan.bytes),
        "passes": lambda r: f"{r.plan.passes:.2f}",
        "memory": lambda r: _short(r.memory_bytes) + "B",
    }
    if not any(row.plan.growth for row in rows):
        del columns["growth"]
    if any(row.seconds is not None for row in rows):
        columns["time/run"] = lambda r: "" if r.seconds is None else _duration(r.seconds)
    for name in columns:
        table.add_column(name, justify="left" if name == "arm" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(show(row) for show in columns.values()))
    console = Console(file=file, width=None if file.isatty() else 180)
    console.print(table)
    for warning in warnings(rows):
        console.print(f"! {warning}", markup=False, highlight=False)


def _memory_bytes(config: Any, parameters: int, run: Run, plan: "Plan") -> float:
    """An estimate in fp32, a rank: weights, gradients, two moments; activations a layer; logits and their gradients.

    ZeRO shares out moments (1), gradients too (2), weights too (3). Raises ConfigError where ranks or micro-batches do
    not divide the rows.
    """
    from training.rehearsal import micro_rows_of

    engine = run.engine
    ids = micro_rows_of(engine, plan, config.vocab_size, engine.ranks, on_cpu=True) * plan.context_tokens
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    activations = 4 * ids * config.num_hidden_layers * (10 * config.hidden_size + 3 * inner)
    whole = {0: 16, 1: 8, 2: 4, 3: 0}[engine.zero]
    a_parameter = whole + (16 - whole) / engine.ranks
    return a_parameter * parameters + activations + 3 * 4 * ids * config.vocab_size


def _run_seconds(config: Any, run: Run, plan: "Plan") -> float | None:
    """Seconds of a run, from the fastest of a few passes over as many rows as the measurement affords.

    Several ranks are taken to share the work without loss.

    None for a model of which one row is too much for a quick look.
    """
    import torch

    from modeling.init import build_model
    from training.engines import prepare
    from training.loop import losses
    from training.process_group import choose_device
    from training.rehearsal import text_ids, with_metas

    affordable = TIMED_FLOPS * (100 if choose_device(run.engine).type == "cuda" else 1)
    rows = min(plan.rows, int(affordable / plan.flops_per_step * plan.rows))
    if rows < 1:
        return None
    say(f"measuring {TIMED_PASSES} passes of {run.model.label} with a vocabulary of {config.vocab_size:,}")
    engine = prepare(build_model(config, 0), run.training, run.engine)
    ids = torch.randint(text_ids(config), (rows, plan.context_tokens), device=engine.device)
    inputs, metas = with_metas(ids, plan, config)
    best = float("inf")
    for _ in range(TIMED_PASSES):
        start = time.perf_counter()
        loss, extra = losses(engine, inputs, ids, True, run.training.z_loss, metas=metas)
        engine.backward((loss + extra) / ids.numel())
        float(engine.update(0.0))
        best = min(best, time.perf_counter() - start)
    return best * plan.rows / rows * plan.stop_step / run.engine.ranks


def _short(number: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
