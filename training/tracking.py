"""What a run writes down: metrics.jsonl (reproducible), timing.jsonl (not), and a wandb run that never needs a network.

A metrics line is flushed when written and on disk before the checkpoint of its step; on resume the file is cut back to
the checkpoint's step, so that it never holds a step twice.
"""

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any, Literal

from isotok.files import canonical_json, write_text
from isotok.progress import say

WandbMode = Literal["offline", "online", "disabled"]


class Tracker:
    """Opens the files of a run at a step. `validated`: the steps whose validation is already written."""

    def __init__(self, run_dir: Path, step: int, wandb_mode: WandbMode, wandb_id: str, label: str) -> None:
        self._metrics_path = run_dir / "metrics.jsonl"
        rows = [row for row in read_metrics(self._metrics_path) if row["step"] <= step]
        write_text(self._metrics_path, "".join(canonical_json(row) + "\n" for row in rows))
        written = sum("train_nats" in row for row in rows)
        if written != step:
            say(f"warning: {self._metrics_path} holds {written} of the {step} steps before the checkpoint")
        self.validated = {row["step"] for row in rows if "validation_bpb" in row}
        self._metrics = open(self._metrics_path, "a", encoding="utf-8")  # noqa: SIM115  closed by close()
        self._timing = open(run_dir / "timing.jsonl", "a", encoding="utf-8")  # noqa: SIM115
        self._wandb = _start_wandb(run_dir, wandb_mode, wandb_id, label)

    def write(self, row: dict[str, Any]) -> None:
        """One metrics line."""
        self._metrics.write(canonical_json(row) + "\n")
        self._metrics.flush()
        if self._wandb is not None:
            try:
                self._wandb.log({key: value for key, value in row.items() if key != "step"}, step=row["step"])
            except Exception as error:
                say(f"warning: wandb stopped ({_one_line(error)}); metrics go on in {self._metrics_path}")
                self._wandb = None

    def write_timing(self, row: dict[str, Any]) -> None:
        self._timing.write(canonical_json(row) + "\n")
        self._timing.flush()

    def sync(self) -> None:
        """Metrics on disk: call before a checkpoint."""
        os.fsync(self._metrics.fileno())

    def close(self) -> None:
        self._metrics.close()
        self._timing.close()
        if self._wandb is not None:
            with contextlib.suppress(Exception):
                self._wandb.finish(quiet=True)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file up to the first one that is torn."""
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break
            if not line.endswith("\n") or not isinstance(row, dict) or "step" not in row:
                break
            rows.append(row)
    return rows


def bits_per_byte(nats: float, n_bytes: int) -> float | None:
    """None where no bytes were credited: a lossy vocabulary credits a document's bytes at its last id."""
    return nats / (math.log(2) * n_bytes) if n_bytes else None


def _start_wandb(run_dir: Path, mode: WandbMode, run_id: str, label: str) -> Any:
    """A wandb run, or None when it is disabled or does not start: tracking is not worth a run."""
    if mode == "disabled":
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        import wandb

        settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False, init_timeout=30)
        return wandb.init(
            project="isotok", name=label, id=run_id, resume="allow", mode=mode, dir=run_dir, settings=settings
        )
    except Exception as error:
        say(f"warning: wandb did not start ({_one_line(error)}); going on without it")
        return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
