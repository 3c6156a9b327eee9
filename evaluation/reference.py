"""Reference lines for bits per byte: what simple models without a tokenizer reach on the same held-out documents.

Byte models of order 0, 2 and 3 with Witten-Bell interpolation (Witten and Bell, 1991; Chen and Goodman, 1999):

    p_k(b | c) = (n(c, b) + t(c) p_{k-1}(b | c')) / (n(c) + t(c)),    p_{-1} = 1/256

where c' is c without its first byte, n counts in the training text and t(c) is the number of distinct bytes seen
after c. Contexts stay within a document: its first bytes are predicted by lower orders. `xz` is how much longer the
compressed training text gets with the test documents behind it.
"""

import lzma
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isotok.progress import say

if TYPE_CHECKING:
    from evaluation.evaluate import Evaluation

MAX_TRAIN_BYTES = 32_000_000  # references read this much of the training split at most: memory and xz's speed


def reference(train_texts: Iterable[str], test_texts: Iterable[str]) -> dict[str, Any]:
    """`byte_unigram`, `markov_2`, `markov_3`, `xz` in bits per byte, and the bytes they are of.

    Training documents are read in order up to MAX_TRAIN_BYTES.
    """
    train: list[bytes] = []
    size = 0
    for text in train_texts:
        data = text.encode()
        if size + len(data) > MAX_TRAIN_BYTES and train:
            break
        train.append(data)
        size += len(data)
    test = [text.encode() for text in test_texts]
    total = sum(map(len, test))
    bits = markov_bits(train, test, (0, 2, 3))
    return {
        "byte_unigram": bits[0] / total,
        "markov_2": bits[2] / total,
        "markov_3": bits[3] / total,
        "xz": xz_bits(train, test) / total,
        "train_bytes": size,
        "test_bytes": total,
    }


def markov_bits(train: Sequence[bytes], test: Sequence[bytes], orders: Sequence[int]) -> dict[int, float]:
    """Total bits of the test documents under each order (at most 3)."""
    train_bytes, train_places = _joined(train)
    test_bytes, test_places = _joined(test)
    p = np.full(len(test_bytes), 1 / 256)
    bits = {}
    for order in range(max(orders) + 1):
        # Only places with `order` bytes before them in their document; the others keep the lower order's p.
        here = np.flatnonzero(test_places >= order)
        grams, counts = np.unique(_grams(train_bytes, train_places, order), return_counts=True)
        contexts, first = np.unique(grams >> 8, return_index=True)
        seen = np.add.reduceat(counts, first) if len(first) else first
        types = np.diff(np.append(first, len(grams)))
        wanted = _grams(test_bytes, test_places, order)
        n_gram = _look_up(grams, counts, wanted)
        n_context, t_context = _look_up(contexts, seen, wanted >> 8), _look_up(contexts, types, wanted >> 8)
        below = p[here]
        mass = n_context + t_context
        p[here] = np.where(mass > 0, (n_gram + t_context * below) / np.maximum(mass, 1), below)
        if order in orders:
            bits[order] = float(-np.log2(p).sum())
    return bits


def _joined(documents: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """All bytes in a row, and the place of each within its document."""
    data = np.frombuffer(b"".join(documents), dtype=np.uint8)
    sizes = np.array([len(d) for d in documents], dtype=np.int64)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    return data, np.arange(len(data)) - starts


def _grams(data: np.ndarray, places: np.ndarray, order: int) -> np.ndarray:
    """`order` + 1 bytes as one uint32, the last byte lowest, for each place that has so many before it."""
    here = np.flatnonzero(places >= order)
    grams = np.zeros(len(here), dtype=np.uint32)
    for back in range(order, -1, -1):
        grams = (grams << np.uint32(8)) | data[here - back]
    return grams


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """values[i] where keys[i] == wanted, else 0. `keys` are sorted."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def xz_bits(train: Sequence[bytes], test: Sequence[bytes]) -> float:
    """Bits by which xz (LZMA2, preset 6, dictionary as long as the whole text) grows when test follows train."""
    before, after = b"".join(train), b"".join(test)
    dictionary = max(4096, len(before) + len(after))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": dictionary}]

    def size(data: bytes) -> int:
        return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters))

    with ThreadPoolExecutor(2) as pool:  # lzma works outside the interpreter lock
        alone, both = pool.map(size, (before, before + after))
    return 8.0 * (both - alone)


def write_reference(recipe: "Evaluation", corpus: Path, out: Path) -> dict[str, Any]:
    """Write `out`/reference.json for the test documents that `recipe` chooses from the corpus; returns its content."""
    from evaluation.evaluate import choose_documents
    from isotok.files import write_json
    from tokenization.corpus import read_documents

    test = choose_documents(read_documents(corpus, "test"), recipe.max_bytes)
    say("reference: byte models and xz")
    figures = reference((d.text for d in read_documents(corpus, "train")), [d.text for d in test])
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "reference.json", figures)
    return figures
