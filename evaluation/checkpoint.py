"""A checkpoint folder -> model, tokenizer and the context it was trained with. Local files only, no code from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from isotok.errors import ConfigError, DataError
from isotok.files import read_json, sha256_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Dtype = Literal["float32", "bfloat16", "float16", "auto"]


@dataclass(frozen=True)
class Checkpoint:
    """`model` ready to score, its `tokenizer`, and the context in bytes that it is scored with."""

    model: Any
    tokenizer: "PreTrainedTokenizerFast"
    context_bytes: int


def load_checkpoint(
    folder: Path,
    tokenizer: Path | None = None,
    context_bytes: int | None = None,
    device: str = "auto",
    dtype: Dtype = "float32",
) -> Checkpoint:
    """Load what `folder` holds; `tokenizer` is its own unless another folder is named.

    Raises ConfigError for a folder that is none or where the context is unknown, DataError where tokenizer and
    checkpoint do not belong together.
    """
    from tokenization import load_tokenizer

    if not folder.is_dir():
        raise ConfigError(
            f"pretrained={folder}: no such folder; only local checkpoints are loaded, no names of the Hub"
        )
    if not (folder / "config.json").is_file():
        inside = folder / "model"
        hint = f"; did you mean {inside}?" if (inside / "config.json").is_file() else ""
        raise ConfigError(f"pretrained={folder}: no config.json here{hint}")
    context = trained_context_bytes(folder) if context_bytes is None else context_bytes
    source = folder if tokenizer is None else tokenizer
    loaded = load_tokenizer(source)
    _check_own_tokenizer(folder, source)
    model = load_model(folder, device, dtype)
    check_vocabulary(model, loaded, f"{source}")
    return Checkpoint(model, loaded, context)


def trained_context_bytes(folder: Path) -> int:
    """`budget.context_bytes` of the run.json that training leaves beside the checkpoint's folder."""
    path = folder.resolve().parent / "run.json"
    try:
        return int(read_json(path)["budget"]["context_bytes"])
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:
        raise ConfigError(
            f"context_bytes: not given, and {path} does not say it; add context_bytes=BYTES (the text that one row of "
            "training held)"
        ) from error


def check_vocabulary(model: Any, tokenizer: Any, name: str) -> None:
    """DataError where the tokenizer has ids that the model does not know. A padded model may have more."""
    known, ids = int(model.config.vocab_size), 1 + max(tokenizer.get_vocab().values())
    if ids > known:
        raise DataError(f"{name}: the tokenizer has {ids} ids, the model {known}; they do not belong together")


def _check_own_tokenizer(folder: Path, source: Path) -> None:
    own, other = folder / "tokenizer.json", source / "tokenizer.json"
    if own.is_file() and sha256_file(own) != sha256_file(other):
        raise DataError(
            f"tokenizer={source}: not the tokenizer that {folder} was trained with ({own} is another file); "
            "leave out tokenizer=, or name the right folder"
        )


def load_model(folder: Path, device: str, dtype: Dtype = "float32") -> Any:
    """The model on `device` (`auto`: CUDA where there is one), in evaluation mode."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    import modeling.meta_models  # noqa: F401  # registers what transformers does not know

    if dtype not in get_args(Dtype):
        raise ConfigError(f"dtype={dtype}: allowed are {', '.join(get_args(Dtype))}")
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device={device}: no CUDA device here; use auto or cpu")
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype="auto" if dtype == "auto" else getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: transformers cannot load this model ({error})") from error
    finally:
        if bar:
            logging.enable_progress_bar()
    return model.to(name).eval()
