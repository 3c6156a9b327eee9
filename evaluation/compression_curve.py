"""Bytes a token against vocabulary size: measured by keeping a tokenizer's first merges, and as published."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotok.errors import DataError
from isotok.files import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Liu, Hayase et al. (2025), "SuperBPE: Space Travel for Language Models", arXiv 2503.13423: encoding efficiency by
# vocabulary size, from the repository of the paper. The vocabulary is merges + 243 entries of the alphabet.
PUBLISHED: dict[str, Any] = {
    "source": "Liu, Hayase et al. 2025, arXiv 2503.13423, and its repository",
    "text": "1.0 GB of held-out OLMo 2 training data (English web text), vocabularies of 200,000",
    "order": ["BPE", "no pretokenizer", "SuperBPE t=20k", "SuperBPE t=80k", "SuperBPE t=160k", "SuperBPE t=180k"],
    "merges": [1000, 5000, 10000, 20000, 30000, 50000, 80000, 100000, 120000, 160000, 180000, 200000],
    "bytes_per_token": {
        "BPE": [2.568, 3.371, 3.703, 3.986, 4.121, 4.259, 4.352, 4.385, 4.408, 4.438, 4.448, 4.457],
        "no pretokenizer": [2.564, 3.505, 3.995, 4.505, 4.808, 5.193, 5.551, 5.721, 5.860, 6.077, 6.165, 6.243],
        "SuperBPE t=20k": [2.567, 3.372, 3.705, 4.024, 5.135, 5.548, 5.919, 6.091, 6.231, 6.447, 6.534, 6.610],
        "SuperBPE t=80k": [2.567, 3.372, 3.705, 3.989, 4.124, 4.263, 4.398, 5.926, 6.179, 6.458, 6.553, 6.634],
        "SuperBPE t=160k": [2.567, 3.372, 3.705, 3.989, 4.124, 4.263, 4.356, 4.389, 4.413, 4.505, 6.078, 6.337],
        "SuperBPE t=180k": [2.567, 3.372, 3.705, 3.989, 4.124, 4.263, 4.356, 4.389, 4.413, 4.443, 4.596, 6.092],
    },
    "by_transition": {
        "merges": 200000,
        "transition": [20000, 40000, 60000, 80000, 100000, 120000, 140000, 160000, 180000],
        "bytes_per_token": [6.610, 6.628, 6.634, 6.634, 6.618, 6.567, 6.478, 6.337, 6.092],
    },
}


def compression_curve(folder: Path, texts: Sequence[str], sizes: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Bytes a token of texts under a BPE tokenizer cut back to `sizes` vocabulary entries (specials apart).

    A vocabulary's prefix is what its trainer would have stopped at, so one tokenizer gives the whole curve (SuperBPE's
    under its stage-2 pretokenizer throughout, as in the paper's sweep). Sizes beyond the vocabulary are left out; the
    whole vocabulary comes last. Default sizes: `curve_sizes`. Each point: vocabulary, merges, bytes, tokens,
    bytes_per_token. DataError names a folder whose model is not BPE with merges.
    """
    spec = bpe_spec(folder)
    alphabet, merges = _alphabet(spec), spec["model"]["merges"]
    full = len(alphabet) + len(merges)
    if sizes is None:
        sizes = curve_sizes(len(alphabet), full, transition_of(folder))
    wanted = sorted({size - len(alphabet) for size in sizes if len(alphabet) <= size < full} | {len(merges)})
    n_bytes = sum(len(text.encode()) for text in texts)
    points = []
    for n in wanted:
        tokenizer = truncated(spec, n)
        tokens = sum(
            len(encoding.ids) for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        )
        points.append(
            {
                "vocabulary": tokenizer.get_vocab_size(with_added_tokens=False),
                "merges": n,
                "bytes": n_bytes,
                "tokens": tokens,
                "bytes_per_token": n_bytes / tokens if tokens else None,
            }
        )
    return points


def bpe_spec(folder: Path) -> dict[str, Any]:
    """tokenizer.json of a BPE tokenizer, merges as pairs; DataError where there is none."""
    spec: dict[str, Any] = read_json(folder / "tokenizer.json")
    model = spec.get("model") or {}
    if model.get("type") != "BPE" or not model.get("merges") or model.get("continuing_subword_prefix"):
        raise DataError(f"{folder}: no BPE model with merges; a curve is made by leaving merges away")
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    return {**spec, "model": {**model, "merges": merges}}


def truncated(spec: Mapping[str, Any], n: int) -> "Tokenizer":
    """The tokenizer with its first n merges and the entries that these make; special tokens are left out."""
    from tokenizers import Tokenizer

    model = spec["model"]
    merges = model["merges"][:n]
    kept = [*_alphabet(spec), *dict.fromkeys(left + right for left, right in merges)]
    vocabulary = {entry: index for index, entry in enumerate(dict.fromkeys(kept))}
    cut = {**model, "vocab": vocabulary, "merges": [list(merge) for merge in merges]}
    nothing = {"post_processor": None, "truncation": None, "padding": None}
    return Tokenizer.from_str(json.dumps({**spec, **nothing, "model": cut, "added_tokens": []}))


def transition_of(folder: Path) -> int | None:
    """Entries at the hand-over between SuperBPE's stages, None for other tokenizers."""
    path = folder / "metadata.json"
    value = read_json(path).get("vocab_size_at_transition") if path.is_file() else None
    return int(value) if isinstance(value, int) else None


def curve_sizes(alphabet: int, full: int, transition: int | None = None) -> list[int]:
    """Twelve sizes at even ratios from a few merges to all, and close steps after the transition, where it jumps."""
    start = min(max(2 * alphabet, 64), full)
    sizes = {round(start * (full / start) ** (k / 11)) for k in range(12)}
    if transition is not None and alphabet <= transition < full:
        sizes |= {transition} | {transition + round((full - transition) * share) for share in (0.03, 0.1, 0.25, 0.5)}
    return sorted(sizes)


def _alphabet(spec: Mapping[str, Any]) -> list[str]:
    """Entries that no merge makes and that are not added tokens, in id order."""
    made = {left + right for left, right in spec["model"]["merges"]}
    added = {token["content"] for token in spec.get("added_tokens") or []}
    left_out = made | added - {spec["model"].get("unk_token")}
    vocabulary: Mapping[str, int] = spec["model"]["vocab"]
    return [entry for entry in sorted(vocabulary, key=vocabulary.__getitem__) if entry not in left_out]
