"""Recipes of training: the optimizer and its schedule, fine-tuning on questions, and the engine that runs either."""

from dataclasses import fields
from typing import Annotated, Literal

import pydantic

from isotok.recipe import Field, Impl, recipe

Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


@recipe
class Training:
    """AdamW (Loshchilov and Hutter, 2019) with a warmup and a schedule in fractions of the budget.

    betas, eps, weight_decay: weight decay goes to matrices; to embeddings and the head only with decay_embeddings.
    clip: largest norm of the gradient. schedule: `cosine`, or `wsd` (warmup, stable, decay over the last `decay` of the
    budget; Hu et al., 2024). warmup: fraction of the steps, at least min_warmup_steps. min_lr_ratio: the end of the
    schedule over lr. precision: `bf16` computes in bfloat16 under autocast and keeps fp32 weights and moments.
    z_loss: weight of the squared log of the softmax's denominator in the loss that is minimised, never in one that is
    reported (PaLM, Chowdhery et al., 2022). validation_bytes: how much validation text a point scores. validations:
    points, spread evenly up to the end. save_every_steps, keep_last, keep_best: checkpoints are written this often, the
    last few are kept and the one with the best validation. init_from: a folder of transformers whose weights are gone
    on from, in place of the seed's; keys hold what is in them, not where they lie.
    """

    lr: Annotated[float, Field(gt=0)] = 1.5e-3
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    decay_embeddings: bool = False
    clip: Annotated[float, Field(gt=0)] = 1.0
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["cosine", "wsd"] = "cosine"
    warmup: Fraction = 0.05
    min_warmup_steps: Annotated[int, Field(ge=0)] = 50
    decay: Fraction = 0.2
    min_lr_ratio: Fraction = 0.1
    precision: Literal["fp32", "bf16"] = "fp32"
    validation_bytes: Annotated[int, Field(ge=1)] = 25_000
    validations: Annotated[int, Field(ge=0)] = 6
    save_every_steps: Impl[Annotated[int, Field(ge=1)]] = 200
    keep_last: Impl[Annotated[int, Field(ge=1)]] = 2
    keep_best: Impl[bool] = True
    log_every_s: Impl[Annotated[float, Field(ge=0)]] = 10.0
    wandb: Impl[Literal["offline", "online", "disabled"]] = "offline"
    init_from: Impl[str] = ""

    @pydantic.model_validator(mode="after")
    def _check(self) -> "Training":
        if self.schedule == "wsd" and self.warmup + self.decay > 1:
            raise ValueError(f"warmup={self.warmup} and decay={self.decay} add up to more than the budget")
        return self


@recipe
class Finetuning:
    """Training on a task's questions, with the loss on their answers only; AdamW and a cosine schedule.

    init: whose weights it begins with, `pretrained` or `random`, the control that never saw the text. questions: how
    many are read in all, rounded up to whole steps. max_epochs: passes over the task's training questions that are
    allowed. batch: questions a step, the same ones for every tokenizer. rows: sequences that they are packed into.
    points: after so many questions the model is kept, at the end of the step that reads the last of them; the end
    itself always is. The other keys are those of `Training`.
    """

    init: Literal["pretrained", "random"] = "pretrained"
    questions: Annotated[int, Field(ge=1)] = 40_000
    max_epochs: Annotated[float, Field(gt=0)] = 1.0
    batch: Annotated[int, Field(ge=1)] = 64
    rows: Annotated[int, Field(ge=1)] = 8
    points: tuple[Annotated[int, Field(ge=1)], ...] = (5_000, 10_000, 20_000, 40_000)
    lr: Annotated[float, Field(gt=0)] = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    decay_embeddings: bool = False
    clip: Annotated[float, Field(gt=0)] = 1.0
    warmup: Fraction = 0.05
    min_warmup_steps: Annotated[int, Field(ge=0)] = 50
    min_lr_ratio: Fraction = 0.1
    precision: Literal["fp32", "bf16"] = "fp32"
    save_every_steps: Impl[Annotated[int, Field(ge=1)]] = 200
    keep_last: Impl[Annotated[int, Field(ge=1)]] = 2
    log_every_s: Impl[Annotated[float, Field(ge=0)]] = 10.0
    wandb: Impl[Literal["offline", "online", "disabled"]] = "offline"

    @pydantic.model_validator(mode="after")
    def _check(self) -> "Finetuning":
        if self.batch % self.rows:
            raise ValueError(f"batch={self.batch} questions cannot be shared out evenly over rows={self.rows}")
        if list(self.points) != sorted(set(self.points)):
            raise ValueError(f"points={list(self.points)} are not in ascending order")
        if self.points and self.points[-1] > self.questions:
            raise ValueError(f"points={list(self.points)}: the last one is after questions={self.questions}")
        steps = list(self.point_steps)
        if len(steps) < len({*self.points, self.questions}):
            raise ValueError(f"points={list(self.points)}: two of them fall into one step of batch={self.batch}")
        return self

    @property
    def label(self) -> str:
        return f"{self.init}-{self.questions}"

    @property
    def steps(self) -> int:
        return -(-self.questions // self.batch)

    @property
    def point_steps(self) -> dict[int, int]:
        """step → the point in questions that the model is kept for after it."""
        return {-(-point // self.batch): point for point in sorted({*self.points, self.questions})}

    def training(self) -> Training:
        """What the loop and the optimizer go by."""
        both = {f.name: getattr(self, f.name) for f in fields(self) if f.name in Training.__annotations__}  # type: ignore[arg-type]
        return Training(**both, validations=0, keep_best=False)


@recipe
class Engine:
    """How the steps are run; none of it changes the result beyond rounding.

    In fp32 that is the order of sums. With training.precision=bf16 ZeRO rounds more than autocast does (working
    weights, and gradients summed over micro-batches): the arms of one comparison keep to one of the two.

    device: `auto` is CUDA where there is one. ranks: processes that share a step's rows, one a GPU; under torchrun,
    srun or accelerate their number wins. zero: what DeepSpeed shares out over them: 0 nothing (plain, or DDP for
    several ranks), 1 the optimizer's state, 2 gradients too, 3 weights too (Rajbhandari et al., 2020). threads: of
    torch on the CPU, a rank. micro_rows: rows of a forward pass on one rank, `auto` fits them to memory. compile:
    torch.compile the model. checkpoint: `gathered` can be read by any engine on any ranks; `native` holds each rank's
    own part, for models too large to gather, and is read by the same engine on as many ranks only. timeout_s: a run
    in which no rank gets any further for so long is stopped.
    """

    device: Impl[Literal["auto", "cpu", "cuda"]] = "auto"
    ranks: Impl[Annotated[int, Field(ge=1)]] = 1
    zero: Impl[Literal[0, 1, 2, 3]] = 0
    threads: Impl[Annotated[int, Field(ge=1)]] = 1
    micro_rows: Impl[Annotated[int, Field(ge=1)] | Literal["auto"]] = "auto"
    compile: Impl[bool] = False
    checkpoint: Impl[Literal["gathered", "native"]] = "gathered"
    timeout_s: Impl[Annotated[float, Field(gt=0)]] = 1800.0

    @pydantic.model_validator(mode="after")
    def _check(self) -> "Engine":
        if self.checkpoint == "native" and self.zero == 0:
            raise ValueError("checkpoint=native is for zero=1, 2 or 3; without, every rank holds the whole anyway")
        if self.compile and self.zero == 3:
            raise ValueError("compile=true does not go with zero=3, which takes weights apart around each layer")
        return self
