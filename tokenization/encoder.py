"""Text → ids, fast: our own encoder for byte-level BPE with any boundaries, the library's for everything else.

Superwords make most fast encoders wrong without a word, so none is trusted: ours takes a vocabulary only if it knows
each part of its `tokenizer.json`, and is compared with the library on probe strings before it is used.
"""

import itertools
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from isotok.errors import DataError
from isotok.progress import say
from tokenization.chunks import thread_count
from tokenization.pretokenize import NAMES, pretokenizer
from tokenization.tokenizer import byte_alphabet, encode_texts

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerFast


class Encoder(Protocol):
    """Ids of texts, no specials added, special-token strings as text: what `encode_texts` gives."""

    name: str

    def encode(self, texts: Sequence[str]) -> "list[np.ndarray]":
        """One int32 array a text."""
        ...


def encoder_for(tokenizer: "PreTrainedTokenizerFast", threads: int | None = None) -> Encoder:
    """The fastest encoder that gives the library's ids for this tokenizer; says so where that is the library itself."""
    library = LibraryEncoder(tokenizer)
    vocabulary, name = parse_vocabulary(tokenizer), parse_pretokenizer(tokenizer)
    if isinstance(vocabulary, str) or name is None:
        why = vocabulary if isinstance(vocabulary, str) else "its pretokenizer is none of ours"
        say(f"encoding through the tokenizer library: {why}")
        return library
    own = KernelEncoder(name, vocabulary, threads=threads or thread_count())
    probes = probe_strings(tokenizer)
    for text, mine, theirs in zip(probes, own.encode(probes), library.encode(probes)):
        if mine.tolist() != theirs.tolist():
            say(f"encoding through the tokenizer library: our own encoder differs from it on {text[:40]!r}")
            return library
    return own


class LibraryEncoder:
    """`encode_batch_fast` of the tokenizer library, on as many threads as RAYON_NUM_THREADS allows."""

    name = "library"

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        self.tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> "list[np.ndarray]":
        import numpy as np

        return [np.array(ids, dtype=np.int32) for ids in encode_texts(self.tokenizer, texts)]


@dataclass(frozen=True)
class Vocabulary:
    """A byte-level BPE vocabulary as numbers.

    byte_ids: int32, 256. merges: int32 rows by rank: left, right, result. tokens: bytes by id, empty where an id stands
    for none. level: how many merges come before the first that joins words.
    """

    byte_ids: "np.ndarray"
    merges: "np.ndarray"
    tokens: list[bytes]
    level: int


class KernelEncoder:
    """Our own encoder: pieces by a scanner, words from a table of those seen before, then superwords."""

    name = "own"

    def __init__(self, pretokenizer_name: str, vocabulary: Vocabulary, threads: int) -> None:
        import numpy as np

        from tokenization import encode_kernel, superword_kernel

        self.pretokenizer_name, self.threads = pretokenizer_name, threads
        level = vocabulary.level
        below = [*vocabulary.byte_ids, *vocabulary.merges[:level, 2]]
        tokens = [vocabulary.tokens[index] for index in below]
        data = np.frombuffer(bytearray().join(tokens), np.uint8)
        ends = np.cumsum([0] + [len(token) for token in tokens])
        self.words, _ = encode_kernel.merge_table(vocabulary.merges[:level], vocabulary.byte_ids, data, ends)
        self.superwords: Any = None
        if level < len(vocabulary.merges):
            upper = vocabulary.merges[level:].copy()
            self.superwords, _ = encode_kernel.merge_table(upper, vocabulary.byte_ids, data[:0], ends[:1])
            outer = np.arange(len(vocabulary.tokens), dtype=np.int32)
            self.neighbours = superword_kernel.neighbour_set(upper, outer, outer.copy())
        self.parts = [encode_kernel.new_parts() for _ in range(threads)]

    def encode(self, texts: Sequence[str]) -> "list[np.ndarray]":
        import numpy as np

        data = [text.encode() for text in texts]
        total = sum(map(len, data))
        # Threads take texts of about the same bytes, in order.
        sizes = np.cumsum([len(part) for part in data])
        cuts = np.searchsorted(sizes, np.linspace(0, total, self.threads + 1)[1:-1], side="left") + 1
        bounds = [0, *np.minimum(cuts, len(data)).tolist(), len(data)]
        spans = [(lane, data[a:b]) for lane, (a, b) in enumerate(itertools.pairwise(bounds))]
        if self.threads == 1 or total < 10_000:
            return [ids for span in spans for ids in self._encode(*span)]
        with ThreadPoolExecutor(self.threads) as pool:
            return [ids for done in pool.map(lambda span: self._encode(*span), spans) for ids in done]

    def _encode(self, lane: int, texts: list[bytes]) -> "list[np.ndarray]":
        import numpy as np

        from tokenization import scanners

        if not texts:
            return []
        data = np.frombuffer(bytearray().join(texts), np.uint8)
        text_ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
        ends = scanners.piece_ends(self.pretokenizer_name, data, np.unique(text_ends[text_ends > 0]))
        ids, id_ends = self.encode_pieces(data, ends, lane)
        # A text ends where its last piece does.
        at = np.concatenate([[0], id_ends])[np.searchsorted(ends, text_ends, side="right")]
        return np.split(ids, at[:-1])

    def encode_pieces(self, data: "np.ndarray", ends: "np.ndarray", lane: int = 0) -> "tuple[np.ndarray, np.ndarray]":
        """Ids of pieces (uint8 joined, their int64 ends), each as if alone, and where each piece's ids end."""
        from tokenization import encode_kernel, superword_kernel

        ids, id_ends, self.parts[lane] = encode_kernel.encode_chunks(
            self.words, self.parts[lane], data, ends, encode_kernel.MAX_PARTS // self.threads
        )
        if len(id_ends) and id_ends[-1] < 0:
            raise DataError(
                f"a piece of more than {encode_kernel.MAX_PART_BYTES:,} bytes cannot be cut anywhere; "
                "encode the text in smaller parts"
            )
        if self.superwords is not None:
            superword_kernel.merge_ids(self.superwords, self.neighbours, ids, id_ends)
        return ids[: id_ends[-1] if len(id_ends) else 0], id_ends


def parse_vocabulary(tokenizer: "PreTrainedTokenizerFast", whole_entries: bool = False) -> Vocabulary | str:
    """The merges and tokens of a byte-level BPE that takes text as it is, or what else the tokenizer does.

    whole_entries: take one that encodes a piece that is an entry as this entry (`ignore_merges`), too; the caller
    checks that merges lead to every entry, so that it makes no difference.
    """
    import numpy as np

    backend = tokenizer.backend_tokenizer
    data: dict[str, Any] = json.loads(backend.to_str())
    model = data["model"]
    if model["type"] != "BPE":
        return f"its model is {model['type']}, not BPE"
    plain = {
        "dropout": (None,),
        "unk_token": (None,),
        "continuing_subword_prefix": (None, ""),
        "end_of_word_suffix": (None, ""),
        "byte_fallback": (False,),
        "ignore_merges": (False, True) if whole_entries else (False,),
    }
    for key, allowed in plain.items():
        if model.get(key, allowed[0]) not in allowed:
            return f"its model has {key}={model[key]!r}"
    if data["normalizer"] is not None:
        return "it normalizes text"
    if any(not token["special"] for token in data["added_tokens"]):
        return "it has added tokens that are matched in text"
    vocab: dict[str, int] = model["vocab"]
    alphabet = byte_alphabet()
    if any(char not in vocab for char in alphabet):
        return "it lacks some of the 256 bytes"
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    if any(part not in vocab for left, right in merges for part in (left, right, left + right)):
        return "a merge is not in its vocabulary"
    rows = np.array([(vocab[a], vocab[b], vocab[a + b]) for a, b in merges], np.int32).reshape(-1, 3)
    made = set(alphabet)
    for left, right in merges:
        if left not in made or right not in made or left + right in made:
            return f"its merge {left} {right} does not build on earlier ones alone"
        made.add(left + right)
    to_byte = {char: byte for byte, char in enumerate(alphabet)}
    tokens = [b""] * (max(vocab.values()) + 1)
    for token in made:
        tokens[vocab[token]] = bytes(to_byte[char] for char in token)
    byte_ids = np.array([vocab[char] for char in alphabet], np.int32)
    joins = (rank for rank, (left, right) in enumerate(merges) if "Ġ" in (left + right).lstrip("Ġ"))
    return Vocabulary(byte_ids, rows, tokens, next(joins, len(merges)))


def parse_pretokenizer(tokenizer: "PreTrainedTokenizerFast") -> str | None:
    """The name of a tokenizer's pretokenizer, or None where it is none of ours."""
    from tokenizers import Tokenizer, models
    from tokenizers.pre_tokenizers import ByteLevel

    def as_json(made: Any) -> Any:
        shell = Tokenizer(models.BPE())
        shell.pre_tokenizer = made
        return json.loads(shell.to_str())["pre_tokenizer"]

    step = json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"]
    if step == as_json(ByteLevel(add_prefix_space=False, use_regex=True)):
        return "gpt2"
    return next((name for name in NAMES if step == as_json(pretokenizer(name))), None)


def probe_strings(tokenizer: "PreTrainedTokenizerFast") -> list[str]:
    """Some two hundred strings that tell encoders apart: spaces, digits, line ends, superwords, bytes, specials."""
    fixed = [
        "", " ", "  ", "\n", "\n\n", " \n ", "\t\t", "\r\n", "a", " a", "a ", "a  b", "   indented\n    more\n",
        "in 2024, 1234567 x", "3.14159 and 1,000,000", "½Ⅷ٣", "it's we'll I'D 'ſ", "Answer: A", "a: b:c", "of the",
        " of the ", "By the way, I am a fan of the Milky Way.", "naïve façade é", "日本語のテキスト", "🎉🎉 👩‍👩‍👧",
        "\x00\x01\x7f", "\u00a0\u2028\u0085", "... --- ***", "http://a.b/c?d=e&f", "<|endoftext|>", "<|endoftext|> a",
        "aaaa" * 30, "ab" * 50, " " * 100, "=" * 100 + "\n", "x\ty\tz\n", "\ufeffbom", "A\u0301\u0302b", "İıſß",
    ]  # fmt: skip
    entries = (entry.replace("Ġ", " ").replace("Ċ", "\n") for entry in tokenizer.get_vocab())
    words = sorted((entry for entry in entries if " " in entry.strip() and entry.isascii()), key=lambda e: (len(e), e))
    chosen = words[:: max(1, len(words) // 80)][:80]
    return fixed + chosen + [left + right for left, right in itertools.pairwise(chosen)]
