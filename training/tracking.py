"""What a run writes down: metrics.jsonl (reproducible), timing.jsonl (not), and a wandb run that never needs a network.

A metrics line is flushed when written and on disk before the checkpoint of its step; on resume the file is cut back to
the checkpoint's step, so that it never holds a step twice.
"""

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any, Literal, TextIO

from isotok.errors import IsotokError, one_line
from isotok.files import canonical_json, is_full, write_text
from isotok.progress import say
from training.checkpoint import what_is_kept

WandbMode = Literal["offline", "online", "disabled"]


class Tracker:
    """Opens the files of a run at a step. `validated`: the steps whose validation is already written.

    Errors of writing, a full disk say, come out of `check` and `sync` alone: on one rank of several, an exception in
    `write` would leave the others in a collective. After one nothing more is written.
    """

    def __init__(self, run_dir: Path, step: int, wandb_mode: WandbMode, wandb_id: str, label: str) -> None:
        self._run_dir, self._metrics_path = run_dir, run_dir / "metrics.jsonl"
        rows = [row for row in read_metrics(self._metrics_path) if row["step"] <= step]
        write_text(self._metrics_path, "".join(canonical_json(row) + "\n" for row in rows))
        written = sum("train_nats" in row for row in rows)
        if written != step:
            say(f"warning: {self._metrics_path} holds {written} of the {step} steps before the checkpoint")
        self.validated = {row["step"] for row in rows if "validation_bpb" in row}
        self._metrics = open(self._metrics_path, "a", encoding="utf-8")  # noqa: SIM115  closed by close()
        self._timing = open(run_dir / "timing.jsonl", "a", encoding="utf-8")  # noqa: SIM115
        self._error: tuple[str, OSError] | None = None
        self._wandb = _start_wandb(run_dir, wandb_mode, wandb_id, label)

    def write(self, row: dict[str, Any]) -> None:
        """One metrics line."""
        self._append(self._metrics, row)
        if self._wandb is not None:
            try:
                self._wandb.log({key: value for key, value in row.items() if key != "step"}, step=row["step"])
            except Exception as error:
                say(f"warning: wandb stopped ({one_line(error)}); metrics go on in {self._metrics_path}")
                self._wandb = None

    def write_timing(self, row: dict[str, Any]) -> None:
        self._append(self._timing, row)

    @property
    def failed(self) -> bool:
        """Whether a line could not be written, and `check` would raise."""
        return self._error is not None

    def check(self) -> None:
        """Raise an IsotokError that names the file that could not be written and the checkpoint that is kept."""
        if self._error is not None:
            name, error = self._error
            reason = "no space left on the disk" if is_full(error) else error.strerror
            kept = what_is_kept(self._run_dir / "checkpoints")
            raise IsotokError(
                f"{name}: cannot be written ({reason}); {kept}. Free some space and run the same command"
            ) from error

    def sync(self) -> None:
        """Metrics on disk: call before a checkpoint. Raises what `check` does."""
        try:
            os.fsync(self._metrics.fileno())
        except OSError as error:
            self._error = self._error or (self._metrics.name, error)
        self.check()

    def close(self) -> None:
        for file in (self._metrics, self._timing):
            with contextlib.suppress(OSError):  # it tries the line that failed once more
                file.close()
        if self._wandb is not None:
            try:
                self._wandb.finish()
            except Exception as error:
                say(f"warning: wandb did not finish ({one_line(error)}); metrics are in {self._metrics_path}")

    def _append(self, file: TextIO, row: dict[str, Any]) -> None:
        if self._error is not None:
            return
        try:
            file.write(canonical_json(row) + "\n")
            file.flush()
        except OSError as error:
            self._error = (file.name, error)


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
        say(f"warning: wandb did not start ({one_line(error)}); going on without it")
        return None
