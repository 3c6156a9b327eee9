"""What a tokenizer does to a text, without a model. Special tokens count nowhere.

`intrinsic` gives the few figures that a checkpoint's results need; `measure` gives all of them, pooled and by domain.
What each figure means and what it is divided by is in `evaluation.intrinsic_glossary`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from isotok.errors import DataError
from isotok.recipe import Field, recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from evaluation.tokenized import Cut, Reader

ALPHAS = (1.0, 2.5, 3.0)
UNSPACED = 15  # mean characters a word from which white space is not what separates words
_INNER_BOUNDARY = re.compile(rb"\S\s+\S")
_BYTE_WORD = re.compile(rb"\S+")


@recipe
class Measure:
    """How much is sampled; figures without a key here are over the whole text.

    passages: pieces of text from which cut points and perturbations are taken; passage_characters: their length.
    cuts: cut points of each kind tried in a passage (prefix stability).
    edits: passages that are perturbed, once in each way (robustness).
    speed_bytes: text that is timed, after as much other text to warm up; 0: no timing.
    seed: key of what is sampled, the same for every tokenizer.
    """

    passages: Annotated[int, Field(ge=1)] = 400
    passage_characters: Annotated[int, Field(ge=16)] = 300
    cuts: Annotated[int, Field(ge=1)] = 5
    edits: Annotated[int, Field(ge=0)] = 300
    speed_bytes: Annotated[int, Field(ge=0)] = 500_000
    seed: Annotated[int, Field(ge=0)] = 1234


def is_superword(token: bytes) -> bool:
    """Whether white space stands between two other bytes of the token: it spans a word boundary."""
    return _INNER_BOUNDARY.search(token) is not None


def intrinsic(tokens_of_documents: Sequence[np.ndarray], n_bytes: int, token_bytes: Sequence[bytes]) -> dict[str, Any]:
    """Figures over documents given as ids. `token_bytes`: the bytes of each id, empty for specials.

    `vocabulary_size` and `vocabulary_used` count entries that stand for bytes; `superword_share` is by count of tokens.
    """
    counts = np.zeros(len(token_bytes), dtype=np.int64)
    for ids in tokens_of_documents:
        counts += np.bincount(ids, minlength=len(token_bytes))
    plain = np.array([len(b) > 0 for b in token_bytes])
    superword = np.array([is_superword(b) for b in token_bytes])
    tokens = int(counts[plain].sum())
    return {
        "bytes": int(n_bytes),
        "tokens": tokens,
        "bytes_per_token": n_bytes / tokens if tokens else None,
        "vocabulary_size": int(plain.sum()),
        "vocabulary_used": int(((counts > 0) & plain).sum()),
        "superword_share": float(counts[superword].sum() / tokens) if tokens else None,
    }


def measure(
    tokenizer: "PreTrainedTokenizerFast", documents: Iterable[tuple[str, str]], options: Measure | None = None
) -> dict[str, Any]:
    """All intrinsic figures of a tokenizer over documents (text, domain).

    Returns {"vocabulary": …, "all": …, "domains": {domain: …}, "missing": {figure: why it is None},
    "timing": …}; everything but "timing" depends on the tokenizer, the documents and the options alone.
    Raises DataError when there is no text.
    """
    from evaluation.speed import encode_speed
    from evaluation.stability import perturbations, prefix_stability, sample_passages
    from evaluation.tokenized import Reader

    options = options or Measure()
    given = [(text, domain) for text, domain in documents if text]
    if not given:
        raise DataError("no text to measure the tokenizers on: every document is empty")
    texts, domains = [text for text, _ in given], [domain for _, domain in given]
    reader = Reader(tokenizer)
    timing = encode_speed(reader, texts, options.speed_bytes)  # first: what follows would warm its caches with the text
    cuts = reader.cut(texts, domains)
    alone = _one_token_words(reader, {word for cut in cuts for word in cut.words.texts})
    passages = sample_passages(given, options.passages, options.passage_characters, options.seed)
    stable = prefix_stability(reader, passages, options.cuts, options.seed)
    robust = perturbations(reader, passages[: options.edits], options.seed)

    def figures(domain: str | None) -> dict[str, Any]:
        chosen = [cut for cut in cuts if domain in (None, cut.domain)]
        return text_figures(chosen, reader, alone) | {"prefix_stability": stable(domain), "robustness": robust(domain)}

    names = sorted(set(domains))
    pooled = figures(None)
    return {
        "vocabulary": vocabulary_figures(reader),
        "all": pooled,
        "domains": {name: figures(name) for name in names} if len(names) > 1 else {names[0]: pooled},
        "missing": _missing(reader, pooled),
        "timing": timing,
    }


def text_figures(cuts: Sequence["Cut"], reader: "Reader", alone: set[str]) -> dict[str, Any]:
    """Figures of some documents, each ratio beside its denominator. `alone`: word types that are one token."""
    counts = np.zeros(reader.n_ids, dtype=np.int64)
    for cut in cuts:
        counts += np.bincount(cut.ids, minlength=reader.n_ids)
    counts = counts[reader.entries]
    n_bytes, characters = sum(len(cut.source) for cut in cuts), sum(len(cut.text) for cut in cuts)
    tokens, size = int(counts.sum()), len(counts)
    words = sum(len(cut.words.texts) for cut in cuts)
    types = {word for cut in cuts for word in cut.words.texts}
    # Without spaces between words these would be figures about whole sentences.
    spaced = bool(words) and characters / words <= UNSPACED
    continued = sum(bool(inner) for cut in cuts for _, inner, _ in cut.words.splits)
    superwords, superword_bytes, superword_words = _superwords(cuts)
    unknown = int(sum((cut.ids == reader.unknown_id).sum() for cut in cuts)) if reader.unknown_id is not None else 0
    return {
        "documents": len(cuts),
        "bytes": n_bytes,
        "characters": characters,
        "words": words,
        "tokens": tokens,
        "bytes_per_token": ratio(n_bytes, tokens),
        "bytes_per_token_median": _median([len(c.source) / len(c.ids) for c in cuts if len(c.ids)]),
        "tokens_per_word": ratio(tokens, words) if spaced else None,
        "characters_per_token": ratio(characters, tokens),
        "continued_words": ratio(continued, words) if spaced else None,
        "word_types": len(types),
        "one_token_types": ratio(len(types & alone), len(types)) if spaced else None,
        "context_stability": context_stability(cuts) if spaced else None,
        "superwords": superwords,
        "superword_share": ratio(superwords, tokens),
        "superword_byte_share": ratio(superword_bytes, n_bytes),
        "words_per_superword": ratio(superword_words, superwords),
        "vocabulary_size": size,
        "vocabulary_used": int((counts > 0).sum()),
        "vocabulary_share_used": ratio(int((counts > 0).sum()), size),
        "renyi_efficiency": {f"{alpha:g}": renyi_efficiency(counts, size, alpha) for alpha in ALPHAS},
        "frequency_gini": gini(counts),
        "documents_exact": ratio(sum(cut.exact for cut in cuts), len(cuts)),
        "unknown_tokens": unknown,
        "unknown_share": ratio(unknown, tokens),
    }


def context_stability(cuts: Sequence["Cut"]) -> dict[str, Any]:
    """How often two occurrences of the same word are split alike.

    For each occurrence of a word that occurs at least twice: the share of the word's other occurrences with the same
    split, averaged over these occurrences ("words": how many). `whole` compares cuts inside the word and whether it
    shares a token with either neighbour, `inside` the cuts inside it alone.
    """
    whole: dict[str, Counter[Any]] = {}
    for cut in cuts:
        for word, split in zip(cut.words.texts, cut.words.splits):
            whole.setdefault(word, Counter())[split] += 1
    words, same_whole, same_inside = 0, 0.0, 0.0
    for splits in whole.values():
        n = splits.total()
        if n < 2:
            continue
        inside: Counter[Any] = Counter()
        for (_, cuts_inside, _), count in splits.items():
            inside[cuts_inside] += count
        words += n
        same_whole += sum(c * (c - 1) for c in splits.values()) / (n - 1)
        same_inside += sum(c * (c - 1) for c in inside.values()) / (n - 1)
    return {"words": words, "whole": ratio(same_whole, words), "inside": ratio(same_inside, words)}


def vocabulary_figures(reader: "Reader") -> dict[str, Any]:
    """What needs no text: sizes, and entries that are text but that encoding this very text does not yield."""
    size = int(reader.entries.sum())
    figures: dict[str, Any] = {"size": size, "specials": reader.specials, "byte_level": reader.pieces is not None}
    if reader.pieces is None:
        return figures | {"text_entries": None, "unreachable": None, "unreachable_share": None}
    texts: dict[int, str] = {}
    for index, piece in enumerate(reader.pieces):
        if piece:
            try:
                texts[index] = piece.decode()
            except UnicodeDecodeError:
                continue
    lost = sum(ids != [index] for index, ids in zip(texts, reader.ids(list(texts.values()))))
    return figures | {
        "text_entries": len(texts),
        "unreachable": lost,
        "unreachable_share": ratio(lost, len(texts)),
    }


def renyi_efficiency(counts: np.ndarray, size: int, alpha: float) -> float | None:
    """H_α / log2(size) of token counts, H_α the Rényi entropy in bits (α = 1: Shannon's)."""
    used = counts[counts > 0].astype(float)
    if not len(used) or size < 2:
        return None
    p = used / used.sum()
    entropy = -(p * np.log2(p)).sum() if alpha == 1 else math.log2((p**alpha).sum()) / (1 - alpha)
    return float(max(entropy, 0.0) / math.log2(size))


def gini(values: "Sequence[float] | np.ndarray") -> float | None:
    """Σᵢ Σⱼ |xᵢ − xⱼ| / (2 n² mean): 0 when all are equal; None without values or when they sum to 0."""
    x = np.sort(np.asarray(values, dtype=float))
    n, total = len(x), float(np.sum(x))
    if not n or total == 0:
        return None
    return float(2 * (np.arange(1, n + 1) * x).sum() / (n * total) - (n + 1) / n)


def ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _superwords(cuts: Sequence["Cut"]) -> tuple[int, int, int]:
    """Tokens that span a word boundary, their bytes, and the words and parts of words in them."""
    tokens = n_bytes = words = 0
    for cut in cuts:
        for start, end in zip(cut.starts.tolist(), cut.ends.tolist()):
            if end - start >= 3 and is_superword(piece := cut.source[start:end]):
                tokens += 1
                n_bytes += end - start
                words += len(_BYTE_WORD.findall(piece))
    return tokens, n_bytes, words


def _one_token_words(reader: "Reader", types: set[str]) -> set[str]:
    """Word types that are one token at the start of a text or after a space."""
    words = sorted(types)
    alone = reader.ids(words)
    spaced = reader.ids([" " + word for word in words])
    return {
        word
        for word, a, b in zip(words, alone, spaced)
        if min(len(a), len(b)) == 1 and reader.unknown_id not in (a if len(a) == 1 else b)
    }


def _missing(reader: "Reader", pooled: dict[str, Any]) -> dict[str, str]:
    """Why figures are None."""
    why = {}
    if reader.pieces is None:
        why["unreachable"] = (
            "the vocabulary is not byte-level: entries such as word ends have no text that would yield them alone"
        )
    if pooled["tokens_per_word"] is None:
        reason = f"more than {UNSPACED} characters between white space on average: no words to count by white space"
        why |= dict.fromkeys(("tokens_per_word", "continued_words", "one_token_types", "context_stability"), reason)
    if pooled["words_per_superword"] is None:
        why["words_per_superword"] = "no token of this text spans a word boundary"
    return why
