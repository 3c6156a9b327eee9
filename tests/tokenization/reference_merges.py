"""Oracles for the merge learner: slow or through the library, and as obvious as possible.

`replay_and_veto` says what is wanted, in plain Python. `library_merges` and `code_point_merges` are the Hugging Face
trainer's word on it, where that trainer can say it: without vetoes by number of words or bytes.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from tokenization.pretokenize import PretokenizerName, pretokenizer
from tokenization.tokenizer import byte_alphabet

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tokenization.merges import Vetoes

Merge = tuple[str, str]

SPELLING = byte_alphabet()
BYTE = {char: byte for byte, char in enumerate(SPELLING)}
FIRST_CODE_POINT = 0x10000
BATCH = 2048


def replay_and_veto(
    chunks: Sequence[tuple[bytes, int]],
    n_merges: int,
    inherited: Sequence[Merge] = (),
    vetoes: "Vetoes | None" = None,
    min_frequency: int = 1,
) -> list[Merge]:
    """The merges learned after `inherited` from (bytes, count) chunks: all pairs counted anew before each."""
    tokens = [bytes([BYTE[char]]) for char in sorted(SPELLING)]
    words = [([tokens.index(bytes([byte])) for byte in chunk], count) for chunk, count in chunks]

    def apply(left: int, right: int) -> None:
        result = tokens[left] + tokens[right]
        if result not in tokens:
            tokens.append(result)
        for word, _ in words:
            word[:] = merged(word, left, right, tokens.index(result))

    for pair in inherited:
        left, right = (tokens.index(unspell(token)) for token in pair)
        apply(left, right)

    learned: list[Merge] = []
    banned: set[tuple[int, int]] = set()
    while len(learned) < n_merges:
        counts: Counter[tuple[int, int]] = Counter()
        for word, count in words:
            for pair_of_ids in pairwise(word):
                counts[pair_of_ids] += count
        allowed = [pair_of_ids for pair_of_ids in counts if pair_of_ids not in banned]
        if not allowed:
            break
        left, right = min(allowed, key=lambda pair_of_ids: (-counts[pair_of_ids], pair_of_ids))
        if counts[left, right] < min_frequency:
            break
        result = tokens[left] + tokens[right]
        if result in tokens or (vetoes is not None and violates(result, vetoes)):
            banned.add((left, right))
            continue
        learned.append((spell(tokens[left]), spell(tokens[right])))
        apply(left, right)
    return learned


def merged(word: Sequence[int], left: int, right: int, result: int) -> list[int]:
    """The word with every (left, right), from its beginning on, as one."""
    out = []
    i = 0
    while i < len(word):
        if i + 1 < len(word) and word[i] == left and word[i + 1] == right:
            out.append(result)
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out


def violates(result: bytes, vetoes: "Vetoes") -> bool:
    """Whether a token of these bytes is vetoed."""
    words = [part for part in result.split(b" ") if part]
    return (
        any(string in result for string in vetoes.forbid)
        or (vetoes.max_words is not None and len(words) > vetoes.max_words)
        or (vetoes.max_bytes is not None and len(result) > vetoes.max_bytes)
    )


def spell(token: bytes) -> str:
    """Bytes in the byte-level spelling."""
    return "".join(SPELLING[byte] for byte in token)


def unspell(token: str) -> bytes:
    """The bytes that a byte-level spelling stands for."""
    return bytes(BYTE[char] for char in token)


def count_pieces(units: Iterable[str], pretokenizer_name: PretokenizerName) -> list[tuple[bytes, int]]:
    """The chunks of units by the library's pretokenizer: what `replay_and_veto` takes."""
    split = pretokenizer(pretokenizer_name)
    counts = Counter(piece for unit in units for piece, _ in split.pre_tokenize_str(unit))
    return [(unspell(piece), count) for piece, count in counts.items()]


def library_merges(units: Iterable[str], n_merges: int, pretokenizer_name: PretokenizerName) -> list[Merge]:
    """The merges of the Hugging Face trainer over units (lines or documents), from all 256 bytes."""
    from tokenizers import Tokenizer, models, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pretokenizer(pretokenizer_name)
    trainer = trainers.BpeTrainer(vocab_size=256 + n_merges, initial_alphabet=sorted(SPELLING), show_progress=False)
    tokenizer.train_from_iterator(units, trainer=trainer)
    return merges_of(tokenizer)


def code_point_merges(
    units: Iterable[str],
    n_merges: int,
    inherited: Sequence[Merge],
    stage2_pretokenizer: PretokenizerName,
    cut_colon_space: bool = False,
) -> list[Merge]:
    """The merges of the Hugging Face trainer after `inherited`, each token of which is one code point to it.

    cut_colon_space: forbid ": " in results, by cutting the text there. Exact as long as no inherited token holds it
    and no two merges spell one token; raises ValueError on the latter, of which the library knows nothing.
    """
    names = entries_of(inherited)
    pieces = mapped_pieces(units, inherited, stage2_pretokenizer, cut_colon_space)
    learned = [(unmap(left, names), unmap(right, names)) for left, right in mapped_merges(pieces, len(names), n_merges)]
    entries = names + [left + right for left, right in learned]
    if len(set(entries)) < len(entries):
        raise ValueError("two merges spell one token: here the library's trainer is no oracle")
    return learned


def mapped_pieces(
    units: Iterable[str], inherited: Sequence[Merge], stage2_pretokenizer: PretokenizerName, cut_colon_space: bool
) -> Iterator[str]:
    """The pieces of stage 2 encoded with the inherited merges, id i as the code point 0x10000 + i."""
    from tokenizers import Tokenizer, models

    names = entries_of(inherited)
    encoder = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=list(inherited)))
    encoder.pre_tokenizer = pretokenizer(stage2_pretokenizer)
    remaining = iter(units)
    while batch := list(islice(remaining, BATCH)):
        for encoding in encoder.encode_batch(batch, add_special_tokens=False):
            piece = ""
            last_word, last_token = None, ""
            for word, index in zip(encoding.word_ids, encoding.ids):
                colon_space = last_token.endswith(":") and names[index].startswith("Ġ")
                if piece and (word != last_word or (cut_colon_space and colon_space)):
                    yield piece
                    piece = ""
                piece += chr(FIRST_CODE_POINT + index)
                last_word, last_token = word, names[index]
            if piece:
                yield piece


def mapped_merges(pieces: Iterable[str], n_tokens: int, n_merges: int) -> list[Merge]:
    """The merges of the Hugging Face trainer over mapped pieces, in mapped characters."""
    from tokenizers import Tokenizer, models, trainers

    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens + n_merges,
        initial_alphabet=[chr(FIRST_CODE_POINT + index) for index in range(n_tokens)],
        show_progress=False,
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.train_from_iterator(pieces, trainer=trainer)
    return merges_of(tokenizer)


def unmap(mapped: str, names: Sequence[str]) -> str:
    """The byte-level spelling of mapped characters."""
    return "".join(names[ord(char) - FIRST_CODE_POINT] for char in mapped)


def entries_of(merges: Sequence[Merge]) -> list[str]:
    """The vocabulary by id: 256 byte characters by code point, then what the merges make."""
    return list(dict.fromkeys([*sorted(SPELLING), *(left + right for left, right in merges)]))


def merges_of(tokenizer: "Tokenizer") -> list[Merge]:
    """The merge list of a trained BPE model."""
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]
