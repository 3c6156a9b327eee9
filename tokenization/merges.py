"""Merge learning: unique chunks with counts → merges, equal to the Hugging Face trainer's, from any merges on.

What the library cannot do and SuperBPE needs: go on from inherited merges, and veto results by what they hold. The
inner loops are in `merge_kernel.py`.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isotok.errors import DataError
from isotok.progress import progress
from tokenization.chunks import Chunks, thread_count
from tokenization.tokenizer import byte_alphabet

if TYPE_CHECKING:
    import numpy as np

Merge = tuple[str, str]
"""Left and right token in the byte-level spelling ("Ġ" is a space)."""

ALPHABET = sorted(byte_alphabet())
"""The 256 byte characters by code point, as the library orders them: id 0 is `!`."""

_INT32_SLOTS = 1 << 31  # beyond so many symbols, positions take eight bytes
_KEPT_PARTS = 1 << 18  # distinct words whose ids are kept while inherited merges are applied: 20 to 40 MB
_STEPS = 100  # of a progress bar; between them a Ctrl-C gets through


@dataclass(frozen=True)
class Vetoes:
    """What no new token may be, tested on its bytes, for good. A second token of the same bytes is always vetoed.

    forbid: strings that it may not contain. max_words: most non-empty parts between spaces. max_bytes: longest.
    """

    forbid: tuple[bytes, ...] = ()
    max_words: int | None = None
    max_bytes: int | None = None


def learn_merges(
    chunks: Chunks,
    n_merges: int,
    *,
    inherited: Sequence[Merge] = (),
    vetoes: Vetoes | None = None,
    min_frequency: int = 1,
    threads: int | None = None,
) -> list[Merge]:
    """The merges that add `n_merges` tokens to the 256 bytes and the inherited merges' results.

    Inherited merges are applied to the chunks first, verbatim and without vetoes. Then the most frequent pair of
    neighbours is merged, ties by the smallest pair of ids (256 bytes by code point of their character, then merges in
    order), until there are enough, or fewer where no pair is left that occurs `min_frequency` times.
    threads: for applying the inherited merges; the result does not depend on it.
    Raises DataError for inherited merges that are no list of merges, or a chunk too long to be encoded.
    """
    import numpy as np

    from tokenization import merge_kernel as kernel
    from tokenization.token_table import Rules, token_table

    vetoes = vetoes or Vetoes()
    tokens, _ = _token_bytes(inherited)
    target = len(tokens) + n_merges
    data, ends = _joined(tokens)
    ids, id_ends = apply_merges(chunks, inherited, threads=threads)
    order = np.argsort(-chunks.counts, kind="stable")
    symbols, bounds, weights = kernel.lay_out(ids, id_ends, order, chunks.counts)
    del ids, id_ends, order
    target = min(target, len(tokens) + len(symbols))  # each merge takes at least one symbol away
    merges = np.zeros((target, 2), np.int32)
    table = token_table(data, ends, len(tokens), target)
    forbid, forbid_ends = _joined(vetoes.forbid)
    rules = Rules(
        forbid,
        forbid_ends,
        -1 if vetoes.max_words is None else vetoes.max_words,
        -1 if vetoes.max_bytes is None else vetoes.max_bytes,
    )
    n, floor = len(tokens), max(1, min_frequency)
    threshold = None
    position = np.empty(0, np.int32 if len(symbols) < _INT32_SLOTS else np.int64)
    with progress("learning merges", total=n_merges) as advance:
        while n < target and len(weights):
            counters = kernel.count_hashed(symbols, bounds, weights)
            threshold = _next_threshold(counters, target - n, bounds, symbols, weights, threshold, floor)
            bits = kernel.likely(counters, threshold)
            del counters
            state = kernel.track(symbols, bounds, weights, bits, threshold, position, table, n, target + 1)
            while n < target and state.sizes[kernel.HEAP]:
                until = min(target, n + max(1, n_merges // _STEPS))
                state = kernel.merge(symbols, bounds, weights, state, threshold, rules, until, merges)
                advance(int(state.sizes[kernel.TOKENS]) - n)
                n = int(state.sizes[kernel.TOKENS])
            table = state.tokens
            del state
            if threshold == floor:
                break
            kernel.squeeze(symbols, bounds)
    spelled = list(_spell(tokens))
    learned = []
    for left, right in merges[len(tokens) : n].tolist():
        learned.append((spelled[left], spelled[right]))
        spelled.append(spelled[left] + spelled[right])
    return learned


def apply_merges(
    chunks: Chunks, merges: Sequence[Merge], *, threads: int | None = None
) -> tuple["np.ndarray", "np.ndarray"]:
    """Each chunk in ids (int32, joined; their ends int64) after all merges: BPE encoding, chunk by chunk."""
    import numpy as np

    tokens, rows = _token_bytes(merges)
    byte_ids = np.empty(256, np.int32)
    byte_ids[[token[0] for token in tokens[:256]]] = np.arange(256)
    if not merges:
        return byte_ids[chunks.data], chunks.ends

    from tokenization import encode_kernel as kernel

    table, twice = kernel.merge_table(np.array(rows, np.int32).reshape(-1, 3), byte_ids, *_joined(tokens))
    if twice >= 0:
        raise DataError(f"merge {twice} ({' '.join(merges[twice])}) is in the list of merges a second time")
    threads = threads or thread_count()
    cuts = np.searchsorted(chunks.ends, np.linspace(0, len(chunks.data), threads + 1)[1:-1]).tolist()
    spans = list(zip([0, *cuts], [*cuts, len(chunks)]))

    def encode(span: tuple[int, int]) -> tuple["np.ndarray", "np.ndarray"]:
        first, last = span
        begin = int(chunks.ends[first - 1]) if first else 0
        end = int(chunks.ends[last - 1]) if last else 0
        data, ends = chunks.data[begin:end], chunks.ends[first:last] - begin
        ids, id_ends, _ = kernel.encode_chunks(table, kernel.new_parts(), data, ends, _KEPT_PARTS // threads)
        return ids, id_ends

    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(encode, spans))
    for (first, _), (_, ends) in zip(spans, parts):
        if len(ends) and ends[-1] < 0:
            chunk = first + int(np.argmax(ends < 0))
            size = int(chunks.ends[chunk] - (chunks.ends[chunk - 1] if chunk else 0))
            raise DataError(
                f"a piece of {size:,} bytes cannot be cut anywhere, at most {kernel.MAX_PART_BYTES:,} can be encoded; "
                "lower corpus.max_document_bytes or use a pretokenizer that splits it"
            )
    if threads == 1:
        return parts[0]
    offsets = np.cumsum([0] + [len(ids) for ids, _ in parts]).tolist()
    id_ends = np.concatenate([ends + offset for (_, ends), offset in zip(parts, offsets)])
    joined = np.empty(offsets[-1], np.int32)
    for offset in offsets[:-1]:
        ids, _ = parts.pop(0)  # let go of each as soon as it is copied
        joined[offset : offset + len(ids)] = ids
    return joined, id_ends


def _next_threshold(
    counters: "np.ndarray",
    needed: int,
    bounds: "np.ndarray",
    symbols: "np.ndarray",
    weights: "np.ndarray",
    last: int | None,
    floor: int,
) -> int:
    """A count below which the pairs of now are probably not needed; a wrong guess costs time, never the result."""
    from tokenization import merge_kernel as kernel

    by_pair = kernel.nth_largest(counters, needed)
    if last is not None:
        return max(floor, min(by_pair, last // 2))
    # Words: most become one token, so half of the count of the last one that might.
    return max(floor, by_pair, kernel.nth_largest(kernel.unit_weights(symbols, bounds, weights), needed) // 2)


def _token_bytes(merges: Sequence[Merge]) -> tuple[list[bytes], list[tuple[int, int, int]]]:
    """The bytes of every token, 256 bytes first, and merges as ids (left, right, result)."""
    to_byte = {char: byte for byte, char in enumerate(byte_alphabet())}
    tokens = [bytes([to_byte[char]]) for char in ALPHABET]
    ids = {char: index for index, char in enumerate(ALPHABET)}
    rows = []
    for number, (left, right) in enumerate(merges):
        if left not in ids or right not in ids:
            unknown = right if left in ids else left
            raise DataError(
                f"merge {number} ({left} {right}): {unknown!r} is neither a byte nor an earlier merge's result"
            )
        if left + right not in ids:
            ids[left + right] = len(tokens)
            tokens.append(tokens[ids[left]] + tokens[ids[right]])
        rows.append((ids[left], ids[right], ids[left + right]))
    return tokens, rows


def _spell(tokens: Iterable[bytes]) -> Iterable[str]:
    alphabet = byte_alphabet()
    return ("".join(alphabet[byte] for byte in token) for token in tokens)


def _joined(strings: Sequence[bytes]) -> tuple["np.ndarray", "np.ndarray"]:
    """Byte strings joined (uint8) and their ends (int64) behind a 0."""
    import numpy as np

    data = np.frombuffer(bytearray().join(strings), np.uint8)
    return data, np.cumsum([0] + [len(string) for string in strings])
