"""Weights to begin with: those of a transformers folder, in place of the seed's."""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotok.errors import ConfigError, DataError, one_line
from isotok.files import sha256_file

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

_SAME = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "tie_word_embeddings",
    "hidden_act",
    "activation_function",
    "rms_norm_eps",
    "layer_norm_epsilon",
    "layer_norm_eps",
    "rope_parameters",
    "use_parallel_residual",
    "meta_token_id",
    "meta_layers",
    "meta_mask",
    "meta_positions",
)
"""What makes two configs compute the same from the same weights, beside shapes."""
_ADDED = ("meta_norm.", "meta_attn.")
"""Weights that a model with meta tokens has and its family has not."""

_DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout")


def init_fingerprint(path: str | Path, where: str = "training.init_from") -> dict[str, Any]:
    """sha256 of config.json and of each weights file of a transformers folder: what keys hold of it.

    Raises ConfigError, naming `where`, for a folder that has none.
    """
    folder = Path(path)
    weights = sorted(folder.glob("model*.safetensors")) if folder.is_dir() else []
    if not weights or not (folder / "config.json").is_file():
        raise ConfigError(
            f"{where}={path}: no transformers folder (config.json and model.safetensors); "
            "`isotok export` and finished runs (model/) make one"
        )
    return {
        "config": sha256_file(folder / "config.json"),
        "weights": {file.name: sha256_file(file) for file in weights},
    }


def config_of_folder(folder: Path, tokenizer: "PreTrainedTokenizerFast", where: str) -> "PreTrainedConfig":
    """The config of a transformers folder, to be trained on: without dropout, and no padding id whose row is frozen.

    Raises ConfigError for an architecture whose FLOPs are not known, and for another tokenizer than the folder's.
    """
    from transformers import AutoConfig

    import modeling.meta_models  # noqa: F401  # registers what transformers does not know
    from modeling.flops import GATED_MLP

    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{where}={folder}: its config.json cannot be read ({one_line(error)})") from None
    if config.model_type.removeprefix("meta_") not in GATED_MLP:
        raise ConfigError(f"{where}={folder}: model type {config.model_type!r}; known are {', '.join(GATED_MLP)}")
    for name in _DROPOUTS:
        if getattr(config, name, None):
            setattr(config, name, 0.0)
    config.bos_token_id, config.pad_token_id = None, None
    config.eos_token_id = tokenizer.eos_token_id
    _check_tokenizer(folder, config, tokenizer, where)
    return config


def check_same(config: "PreTrainedConfig", folder: Path, tokenizer: "PreTrainedTokenizerFast", where: str) -> None:
    """Raise ConfigError where a folder's model is not of a config, or was trained with another tokenizer.

    Two differences may be: a model with meta tokens goes on from its family's plain one where its second attention
    begins with an output of zeros, and rotary positions are stretched (YaRN).
    """
    theirs = config_of_folder(folder, tokenizer, where)
    added = config.model_type == f"meta_{theirs.model_type}"
    if added and config.meta_out_init != "zero":
        raise ConfigError(
            f"{where}={folder}: has no weights of meta-attention; with model.meta_out_init=zero it begins as one that "
            "changes nothing"
        )
    for key in _SAME:
        asked, has = getattr(config, key, None), getattr(theirs, key, None)
        if key == "rope_parameters" and asked and has and asked["rope_type"] == "yarn":
            asked, has = asked["rope_theta"], has["rope_theta"]
        if asked != has and not (added and (key in ("model_type", "vocab_size") or key.startswith("meta_"))):
            raise ConfigError(f"{where}={folder}: {key} is {has!r}, this run's model has {asked!r}")


def load_initial(model: "PreTrainedModel", folder: Path, where: str) -> None:
    """Put the weights of a transformers folder into a model. Raises ConfigError where their names or shapes differ.

    A model with meta tokens keeps its own weights where its family has none: the second attention, and the rows of
    tables after the folder's.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as hf_logging

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers imports DeepSpeed, which then talks
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(sys.stderr), torch.random.fork_rng(devices=[]):
            found: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{where}={folder}: its weights cannot be read ({one_line(error)})") from None
    finally:
        if bars:
            hf_logging.enable_progress_bar()
    loaded, report = found
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigError(f"{where}={folder}: holds no weights of {missing[0]}; it is no causal LM of this kind")
    given = dict(loaded.named_parameters())
    added = model.config.model_type == f"meta_{loaded.config.model_type}"
    tables = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)} if added else set()
    left = sorted(set(given) - {name for name, _ in model.named_parameters()})
    if left:
        raise ConfigError(f"{where}={folder}: has {left[0]}, which this run's model has not")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if added and name not in given and any(part in name for part in _ADDED):
                continue
            if id(parameter) in tables and len(given[name]) < len(parameter):
                parameter[: len(given[name])].copy_(given[name])
                continue
            if name not in given or given[name].shape != parameter.shape:
                shape = "none" if name not in given else "×".join(map(str, given[name].shape))
                wanted = "×".join(map(str, parameter.shape))
                raise ConfigError(f"{where}={folder}: {name} is {shape}, this run's model has {wanted}")
            parameter.copy_(given[name])


def _check_tokenizer(
    folder: Path, config: "PreTrainedConfig", tokenizer: "PreTrainedTokenizerFast", where: str
) -> None:
    """The folder's tokenizer has to give the same ids: the same model and the same cutting of text before it."""
    from tokenization.tokenizer import load_tokenizer

    if config.vocab_size < len(tokenizer):
        raise ConfigError(
            f"{where}={folder}: its vocabulary has {config.vocab_size} entries, the tokenizer {len(tokenizer)}"
        )
    if not (folder / "tokenizer.json").is_file():
        return
    ours, theirs = (_rules(one) for one in (tokenizer, load_tokenizer(folder)))
    for part in ours:
        if ours[part] != theirs[part]:
            raise ConfigError(f"{where}={folder}: was trained with another tokenizer (its {part} differs)")


def _rules(tokenizer: "PreTrainedTokenizerFast") -> dict[str, Any]:
    import json

    saved = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = {key: saved.get(key) for key in ("normalizer", "pre_tokenizer")}
    rules = {key: saved["model"].get(key) for key in ("type", "vocab", "merges")}
    return {"vocabulary": tokenizer.get_vocab(), **rules, **parts}
