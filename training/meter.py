"""Metrics of each step, and a progress line now and then."""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch

from isotok.progress import say
from training.setup import Agreed, Setup, Totals, spent
from training.streams import Batch
from training.tracking import bits_per_byte


class NotFinite(Exception):
    """The loss, or the gradient's norm, of a step is not finite."""

    def __init__(self, step: int, nats: float, norm: float | None, batch: Batch) -> None:
        self.step, self.batch = step, batch
        self.what = f"loss {nats} nats" + ("" if norm is None else f", gradient norm {norm}")
        super().__init__(self.what)


@dataclass
class Pending:
    """A step whose gradient norm may still be on the device."""

    row: dict[str, Any]
    norm: torch.Tensor
    batch: Batch


class Meter:
    """On every rank; only rank 0 writes and speaks.

    The norm of a gradient is read from a GPU a step later, when the loss of that step is, as reading waits for the
    device. It is checked before anything is updated or saved on top of it.
    """

    def __init__(self, setup: Setup, totals: Totals) -> None:
        self.setup, self.totals = setup, totals
        self.pending: Pending | None = None
        self.eager = setup.engine.device.type == "cpu"
        self.norm = 0.0
        self.restart_clock()

    def restart_clock(self) -> None:
        self.since = time.monotonic()
        self.tokens = self.bytes = self.steps = 0
        self.nats = self.waited_s = self.busy_s = 0.0

    def add(self, batch: Batch, agreed: Agreed, norm: torch.Tensor, lr: float, waited_s: float, took_s: float) -> None:
        totals, plan = self.totals, self.setup.plan
        row = {
            **spent(plan, totals),
            "lr": lr,
            "train_nats": agreed.nats,
            "train_bytes": agreed.bytes,
            "train_bpb": bits_per_byte(agreed.nats, agreed.bytes),
        }
        self.pending = Pending(row, norm, batch)
        totals.train_s += took_s
        totals.data_wait_s += waited_s
        self.waited_s += waited_s
        self.busy_s += took_s
        self.steps += 1
        self.tokens += batch.step_tokens
        self.bytes += agreed.bytes
        self.nats += agreed.nats
        if self.eager:
            self.flush()
        if self.setup.tracker is not None and time.monotonic() - self.since >= self.setup.training.log_every_s:
            self.line(lr)

    def flush(self) -> None:
        """Read what is pending from the device and write it down; raises NotFinite."""
        step, self.pending = self.pending, None
        if step is None:
            return
        self.norm = float(step.norm)
        if not math.isfinite(self.norm):
            raise NotFinite(step.row["step"], step.row["train_nats"], self.norm, step.batch)
        if self.setup.tracker is not None:
            self.setup.tracker.write({**step.row, "grad_norm": self.norm})

    def line(self, lr: float) -> None:
        plan, step = self.setup.plan, self.totals.step
        elapsed_s = max(time.monotonic() - self.since, 1e-9)
        flops_per_s = self.steps * plan.flops_per_step / elapsed_s
        wait = self.waited_s / max(self.busy_s, 1e-9)
        left_s = (plan.stop_step - step) * elapsed_s / self.steps
        bpb = bits_per_byte(self.nats, self.bytes)
        say(
            f"step {step:,}/{plan.stop_step:,} {step / plan.steps:.1%} of budget | "
            f"{'-' if bpb is None else f'{bpb:.4f}'} bits/byte | lr {lr:.2e} | grad {self.norm:.2f} | "
            f"{self.tokens / elapsed_s:,.0f} tok/s | {self.bytes / elapsed_s:,.0f} B/s | {flops_per_s:.2e} FLOP/s | "
            f"data wait {wait:.1%} | {int(left_s) // 60}:{int(left_s) % 60:02d} left"
        )
        assert self.setup.tracker is not None
        self.setup.tracker.write_timing(
            {
                "step": step,
                "train_s": self.totals.train_s,
                "tokens_per_s": self.tokens / elapsed_s,
                "bytes_per_s": self.bytes / elapsed_s,
                "flops_per_s": flops_per_s,
                "data_wait_share": wait,
            }
        )
        self.restart_clock()
