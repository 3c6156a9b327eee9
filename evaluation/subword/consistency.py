"""Does a model care in which tokens a word comes? What the vocabulary allows, what the model expects, what it writes.

Three probes of a language model that take no instructions, after "Say Anything but This" (arXiv 2601.14658):

- static: in how many ways the tokens of the vocabulary spell a frequent word, and which types of edit
  (`evaluation.subword.artefacts`) lead from its encoding to another.
- phantom: for words of test text after their context, the mass that the model keeps for other tokens of the same
  bytes, as a share of the mass of all of them (`evaluation.stochastic` sums it, within bounds).
- generation: of the words in text sampled at temperature 1, the share written in other tokens than encoding that text
  gives.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from evaluation.encoding import Encoded, TextEncoder
from evaluation.forward import max_positions
from evaluation.stochastic import Span, score_spans
from evaluation.subword.artefacts import BOUNDARY, NEWLINE, TYPES, artefact
from evaluation.subword.generate import sample
from evaluation.subword.spellings import Spellings
from isotok.errors import DataError
from isotok.keyed import keyed_rng
from isotok.progress import progress, say

WORDS = 2000
SPELLINGS = 128
"""Encodings of a word whose types of edit are looked at: those of fewest tokens."""
SPANS = 200
SPAN_ROWS = 256
TEXT_BYTES = 200_000
SAMPLES, SAMPLE_IDS, PROMPT_IDS = 32, 96, 32
_WORD = re.compile(r" [^\W\d_]+(?:['’][^\W\d_]+)*(?![\w'’])")
_SENTENCE_END = re.compile(r"[.!?:;\n][\"'”’)\]]*\s*$")


def consistency(model: Any, tokenizer: Any, corpus: Any, seed: int) -> dict[str, Any] | None:
    """The three probes over the test split of the corpus' folder; None, and it is said, for a tokenizer whose ids
    have no fixed bytes or that does not give texts back."""
    from evaluation.evaluate import choose_documents
    from tokenization.corpus import read_documents
    from tokenization.tokenizer import is_byte_level

    if not is_byte_level(tokenizer):
        say("answers: no probe of consistency: the tokenizer's ids have no fixed bytes")
        return None
    encoder = TextEncoder(tokenizer)
    test = list(read_documents(corpus, "test"))
    documents = choose_documents(test, TEXT_BYTES)
    try:
        encoded = [encoder(document.text, f"test document {document.id}") for document in documents]
    except DataError as error:
        say(f"answers: no probe of consistency: {error}")
        return None
    texts = [document.text for document in documents]
    return {
        "static": static(encoder, frequent_words((document.text for document in test), WORDS)),
        "phantom": phantom(model, encoder, texts, encoded, SPANS, seed),
        "generation": generation(model, encoder, encoded, seed),
    }


def frequent_words(texts: Iterable[str], n: int) -> list[str]:
    """The n most frequent words that follow a space, without it, as they are written; equals by their letters."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(match.group()[1:] for match in _WORD.finditer(text))
    return [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:n]]


def static(encoder: TextEncoder, words: Sequence[str]) -> dict[str, Any]:
    """Of words after a space: `log2_encodings`, the mean; `several`, the share with more than one; `exposed`, the
    share that each type of edit can befall.

    Other encodings are of the same bytes, but for the two types that change whitespace: there the space is left out,
    or a newline's token, and the rest of the word's first token has to be an entry. Of a word's encodings the SPELLINGS
    shortest are looked at (`cut`: the share of words that have more); no word is taken to begin a sentence.
    """
    spellings = Spellings(encoder.bytes)
    logs, exposed, cut = [], Counter[str](), 0
    with progress("spellings", len(words), "word") as advance:
        for word in words:
            source = f" {word}".encode()
            own = _pieces(encoder, encoder(f" {word}").ids)
            count = spellings.count(source)
            logs.append(math.log2(count))
            cut += count > SPELLINGS
            exposed.update(_exposed(encoder, spellings, source, own))
            advance(1)
    n = len(words)
    return {
        "words": n,
        "log2_encodings": math.fsum(logs) / n if n else None,
        "several": sum(value > 0 for value in logs) / n if n else None,
        "exposed": {name: exposed[name] / n if n else None for name in TYPES},
        "spellings": SPELLINGS,
        "cut": cut / n if n else None,
    }


def _exposed(encoder: TextEncoder, spellings: Spellings, source: bytes, own: list[bytes]) -> set[str]:
    """The types of edit from a word's encoding to another."""
    found = set()
    for way in spellings.shortest(source, SPELLINGS):
        other = [encoder.bytes[index] for index in way]
        if other != own:
            found.add(artefact(own, other))
    bare = own[0].lstrip()
    for kind, other in (
        (BOUNDARY, [bare, *own[1:]] if bare else own[1:]),
        (NEWLINE, [b"\n", bare, *own[1:]] if bare else [b"\n", *own[1:]]),
    ):
        if all(spellings.knows(piece) for piece in other) and artefact(own, other) == kind:
            found.add(kind)
    return found


def choose_words(texts: Sequence[str], n: int, seed: int) -> list[Span]:
    """n words with the space before them, drawn by key from all in the texts; all where there are no more."""
    spans = []
    for number, text in enumerate(texts):
        ends = np.cumsum([0, *(len(char.encode()) for char in text)])
        spans += [Span(number, int(ends[m.start()]), int(ends[m.end()])) for m in _WORD.finditer(text)]
    order = keyed_rng("phantom mass", seed).permutation(len(spans))
    return [spans[i] for i in sorted(order[:n].tolist())]


def phantom(
    model: Any, encoder: TextEncoder, texts: Sequence[str], encoded: Sequence[Encoded], n: int, seed: int
) -> dict[str, Any]:
    """1 - P(word's encoding) / P(its bytes, in any tokens) after the context: mean and median over words.

    The sum is bounded from both sides: `mean` counts what was summed, `mean_most` also what may be left (a word takes
    SPAN_ROWS rows of ids at most). `nats`: the mean of the log of the ratio. `crossed`: words that a token reaches
    across, which are left out: in a superword no tokens are the word's.
    """
    spans = choose_words(texts, n, seed)
    scores = score_spans(model, encoder, encoded, spans, None, rows=SPAN_ROWS)
    scored = [score for score in scores if score is not None]
    gaps = [score.canonical - score.marginal for score in scored]
    masses = [-math.expm1(-gap) for gap in gaps]
    most = [-math.expm1(score.marginal_least - score.canonical) for score in scored]
    return {
        "words": len(scored),
        "crossed": len(spans) - len(scored),
        "mean": _mean(masses),
        "median": float(np.median(masses)) if masses else None,
        "mean_most": _mean(most),
        "nats": _mean(gaps),
    }


def generation(model: Any, encoder: TextEncoder, encoded: Sequence[Encoded], seed: int) -> dict[str, Any]:
    """Of whole words in sampled text: `phantom`, the share in other tokens than the encoding of the text has; `types`:
    how many of each type of edit from that encoding; `untyped`: those that share a token with their neighbours.

    Prompts are the beginnings of test documents, PROMPT_IDS tokens each. A text is used up to the first bytes that are
    no UTF-8, and not at all if the tokenizer does not give it back: `broken` counts both.
    """
    limit = max_positions(model)
    size = PROMPT_IDS if limit is None else max(1, min(PROMPT_IDS, limit // 2))
    starts = [e.ids[:size].tolist() for e in encoded if len(e.ids)]
    prompts = [starts[k % len(starts)] for k in range(SAMPLES)] if starts else []
    rngs = [keyed_rng("consistency of samples", seed, k) for k in range(len(prompts))]
    made = sample(model, encoder.eos_id, [[encoder.eos_id, *ids] for ids in prompts], SAMPLE_IDS, rngs)
    words = phantoms = broken = untyped = 0
    types: Counter[str] = Counter()
    for prompt, drawn in zip(prompts, made):
        drawn = _spelling(encoder, drawn)
        text, whole = _valid(b"".join(_pieces(encoder, [*prompt, *drawn])))
        broken += not whole
        begin = int(encoder.lengths[prompt].sum())
        try:
            found = edits(encoder, [*prompt, *drawn], text, begin)
        except DataError:
            broken += whole
            continue
        for edit in found:
            words += 1
            if edit is not None:
                phantoms += 1
                untyped += not edit
                types[edit] += 1
    return {
        "words": words,
        "phantom": phantoms / words if words else None,
        "types": {name: types[name] for name in TYPES},
        "untyped": untyped,
        "texts": len(prompts),
        "broken": broken,
    }


def edits(encoder: TextEncoder, ids: Sequence[int], text: str, begin: int) -> list[str | None]:
    """For each word of the text that `ids` begin with, from byte `begin` on: None where its tokens are those of the
    text's encoding, else the type of edit, empty where a token reaches beyond the word. The text's last word is left
    out unless something follows it: it may be cut off."""
    plain = encoder(text, "sampled text")
    ends = np.cumsum(encoder.lengths[list(ids)])
    size = len(text.encode())
    offsets = np.cumsum([0, *(len(char.encode()) for char in text)])
    found: list[str | None] = []
    for match in _WORD.finditer(text):
        first, stop = int(offsets[match.start()]), int(offsets[match.end()])
        if first < begin or stop >= size:
            continue
        written, whole = _covering(encoder, np.asarray(ids), ends, first, stop)
        expected, known = _covering(encoder, plain.ids, plain.ends, first, stop)
        if written == expected and whole == known:
            found.append(None)
        elif not (whole and known):
            found.append("")
        else:
            initial = bool(_SENTENCE_END.search(text[: match.start()])) or not text[: match.start()].strip()
            found.append(artefact(expected, written, initial))
    return found


def _covering(
    encoder: TextEncoder, ids: np.ndarray, ends: np.ndarray, first: int, stop: int
) -> tuple[list[bytes], bool]:
    """The tokens that hold bytes first to stop, and whether they hold no others."""
    low = int(np.searchsorted(ends, first, side="right"))
    high = int(np.searchsorted(ends, stop, side="left")) + 1
    pieces = _pieces(encoder, ids[low:high])
    start = int(ends[low]) - len(pieces[0])
    return pieces, start == first and int(ends[high - 1]) == stop


def _pieces(encoder: TextEncoder, ids: Iterable[int]) -> list[bytes]:
    return [encoder.bytes[int(index)] for index in ids]


def _spelling(encoder: TextEncoder, ids: Sequence[int]) -> list[int]:
    """Ids up to the first that stands for no bytes."""
    for at, index in enumerate(ids):
        if index >= len(encoder.bytes) or not encoder.bytes[index]:
            return list(ids[:at])
    return list(ids)


def _valid(data: bytes) -> tuple[str, bool]:
    """The text before the first bytes that are no UTF-8, and whether there are none."""
    try:
        return data.decode(), True
    except UnicodeDecodeError as error:
        return data[: error.start].decode(), False


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
