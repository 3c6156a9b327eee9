"""BPE-dropout (Provilkov et al., 2020): merges of the training stream are left out at random; a seeded transform.

Two procedures carry the name. `reference`: at every step list all merges that apply to a piece, drop each with
probability q, apply the best-ranked that is left, until none is left. `queue`: as the Hugging Face library does with
`model.dropout`, where a dropped merge comes back after the next one that is not: at the same q it splits far less.
Pieces are the tokenizer's own: words for BPE, whole lines or more for SuperBPE, where a step has many candidates and
seldom all are dropped, so that the same q splits less. Compare arms at equal growth, not at equal q.
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from isotok.errors import ConfigError, DataError
from isotok.keyed import keyed_int
from isotok.recipe import Field, recipe
from tokenization.transform import Apply, Spent

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerFast

PieceEnds = Callable[["np.ndarray"], "np.ndarray"]
"""UTF-8 bytes of a text (uint8) -> where its pieces end (int64)."""


@recipe
class BPEDropout:
    """Random dropping of merges at training time.

    q: probability that a merge is dropped; 0 leaves the ids as they are, 1 gives bytes.
    variant: `reference` or `queue`, see the module.
    fresh: new draws each epoch; false repeats the first epoch's.
    """

    q: Annotated[float, Field(ge=0, le=1)] = 0.1
    variant: Literal["reference", "queue"] = "reference"
    fresh: bool = True

    @property
    def label(self) -> str:
        return f"dropout-{self.q:g}" + ("-queue" if self.variant == "queue" else "")

    def bind(self, tokenizer: "PreTrainedTokenizerFast", seed: int) -> Apply:
        """ConfigError if the tokenizer is no byte-level BPE."""
        pieces = piece_splitter(tokenizer)
        table, text_bytes, bounds = merge_table(tokenizer)

        def apply(ids: "np.ndarray", epoch: int, unit: int, spent: Spent = (0.0, 0.0), /) -> "np.ndarray":
            import numpy as np

            from tokenization import dropout_kernel

            if self.q == 0:
                return ids
            key = keyed_int("bpe_dropout", seed, epoch if self.fresh else 0, unit)
            # Added tokens stay and cut the unit into texts, as they do when text is encoded.
            fixed = np.flatnonzero(bounds[ids.astype(np.int64) + 1] == bounds[ids]).tolist()
            parts, start = [], 0
            for at in [*fixed, len(ids)]:
                if at > start:
                    data = _spelled(ids[start:at], text_bytes, bounds)
                    stream = np.uint64((key + start) & (2**64 - 1))
                    parts.append(
                        dropout_kernel.drop_merges(table, data, pieces(data), self.q, self.variant == "queue", stream)
                    )
                parts.append(ids[at : at + 1])
                start = at + 1
            return np.concatenate(parts).astype(ids.dtype)

        return apply


def merge_table(tokenizer: "PreTrainedTokenizerFast") -> tuple[Any, "np.ndarray", "np.ndarray"]:
    """The merges of a byte-level BPE for the kernel, and the bytes of all ids: joined (uint8), bounds (int64, ids + 1).

    Added tokens, special or not, have no bytes here. Raises ConfigError if the tokenizer is no byte-level BPE.
    """
    import numpy as np

    from tokenization import encode_kernel
    from tokenization.tokenizer import byte_alphabet, is_byte_level

    model: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocab: dict[str, int] = model.get("vocab", {})
    alphabet = byte_alphabet()
    affixes = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    if model["type"] != "BPE" or affixes or not is_byte_level(tokenizer) or any(char not in vocab for char in alphabet):
        raise ConfigError("transform=bpe_dropout needs a byte-level BPE with all 256 bytes; this tokenizer is another")
    to_byte = {char: byte for byte, char in enumerate(alphabet)}
    added = set(tokenizer.added_tokens_decoder)
    spelled = [b""] * len(tokenizer)
    for entry, index in vocab.items():
        if index not in added:
            spelled[index] = bytes(to_byte[char] for char in entry)
    # A pair that is listed twice has its last rank, as in the library.
    ranks = {(left, right): rank for rank, (left, right) in enumerate(map(_pair, model["merges"]))}
    pairs = sorted(ranks, key=ranks.__getitem__)
    rows = np.array([(vocab[a], vocab[b], vocab[a + b]) for a, b in pairs], np.int32).reshape(-1, 3)
    byte_ids = np.array([vocab[char] for char in alphabet], np.int32)
    text_bytes = np.frombuffer(bytearray().join(spelled), np.uint8)
    bounds = np.cumsum([0] + [len(entry) for entry in spelled])
    table, _ = encode_kernel.merge_table(rows, byte_ids, text_bytes, bounds)
    return table, text_bytes, bounds


def piece_splitter(tokenizer: "PreTrainedTokenizerFast") -> PieceEnds:
    """How the tokenizer's own pretokenizer cuts a text; compiled where it is one of ours, else through the library."""
    import numpy as np

    from tokenization import scanners
    from tokenization.pretokenize import pretokenizer

    own = tokenizer.backend_tokenizer.pre_tokenizer
    if own is None:
        raise ConfigError("transform=bpe_dropout: the tokenizer has no pretokenizer, so no byte-level one")
    state = own.__getstate__()
    for name in sorted(scanners.NAMES):
        if pretokenizer(name).__getstate__() == state:
            return lambda data: scanners.piece_ends(name, data, np.array([len(data)]))

    def library_ends(data: "np.ndarray") -> "np.ndarray":
        # In the byte-level spelling that the pieces come in, a character is a byte.
        sizes = [len(piece) for piece, _ in own.pre_tokenize_str(data.tobytes().decode())]
        ends = np.cumsum(np.array(sizes, dtype=np.int64))
        if not len(ends) or ends[-1] != len(data):
            raise ConfigError(
                "transform=bpe_dropout: the tokenizer's pretokenizer changes the text (add_prefix_space?); "
                "its pieces cannot be told from ids"
            )
        return ends

    return library_ends


def _spelled(ids: "np.ndarray", text_bytes: "np.ndarray", bounds: "np.ndarray") -> "np.ndarray":
    """The bytes that ids stand for, joined (uint8). DataError if they are no text: the scanners rely on UTF-8."""
    import numpy as np

    starts = bounds[ids]
    sizes = bounds[ids.astype(np.int64) + 1] - starts
    ends = np.cumsum(sizes)
    data = text_bytes[np.arange(ends[-1]) + np.repeat(starts - (ends - sizes), sizes)]
    try:
        data.tobytes().decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"transform=bpe_dropout: ids that spell no UTF-8 ({error.reason} at byte {error.start})"
        ) from None
    return data


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """A merge as tokenizer.json has it: a list of two, or in older files one string with a space."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right
