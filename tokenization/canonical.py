"""Which token sequences are the beginning of some text's encoding, for byte-level BPE with any pretokenizer.

A sequence T is *canonical* if some text x has an encoding E(x) that begins with T. What may follow T is asked whenever
byte strings get probabilities from a model of tokens: mass that the model puts on other sequences is of no text.

Two things decide. Within a piece, BPE is local: T is what its bytes encode to exactly if no merge crosses a boundary
between two neighbours (`canonical_kernel`). And pieces must end at ends of tokens; where a piece ends can depend on
text that is still to come: on whether a letter follows white space, on how many digits follow a digit, on `'` and `s`.
So T is tried with each of a finite set of continuations, one for every way in which a regex can look ahead
(`situations`, and all kinds of characters where T ends inside one). Looking only at E of the bytes so far would never
visit the true path at a cut like `.\\n\\n|The`.

Regexes see kinds of characters, not characters. So answers are kept by *situation*: the end of the text with its runs
of one kind shortened, and where tokens end in it; likewise for the token that follows. A vocabulary of 100,000 tokens
has a few thousand such shapes.
"""

import itertools
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from isotok.errors import ConfigError, DataError
from tokenization import canonical_kernel, encode_kernel, scanners
from tokenization.encoder import KernelEncoder, parse_pretokenizer, parse_vocabulary
from tokenization.situations import (
    RUNS_KEPT,
    collapse,
    continued,
    cut_character,
    ends_in_contraction,
    is_text,
    restart_at,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_UNKNOWN = np.uint8(128)
_BOUNDARY, _INSIDE = canonical_kernel.BOUNDARY, canonical_kernel.INSIDE


class Canonical:
    """What may follow a canonical token sequence.

    tokens: bytes by id, empty for ids that stand for no text. Raises ConfigError for a tokenizer that is no byte-level
    BPE (or normalizes text, or matches added tokens in it).
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast"):
        vocabulary = parse_vocabulary(tokenizer, whole_entries=True)
        if isinstance(vocabulary, str):
            raise ConfigError(f"exact byte scores need a plain byte-level BPE, but {vocabulary}; use scoring=backoff")
        name = parse_pretokenizer(tokenizer)
        self._name = name
        self._library = None if name else tokenizer.backend_tokenizer.pre_tokenizer
        self._encoder = KernelEncoder(name or "none", vocabulary, threads=1)
        self.tokens = vocabulary.tokens
        made_by = np.full(len(self.tokens), -1, np.int32)
        made_by[vocabulary.merges[:, 2]] = np.arange(len(vocabulary.merges), dtype=np.int32)
        nothing = np.zeros(0, np.uint8), np.zeros(1, np.int64)
        self._table = encode_kernel.merge_table(vocabulary.merges, vocabulary.byte_ids, *nothing)[0]
        self._made_by = made_by
        self._crossed: dict[tuple[int, int], bool] = {}
        self._rows: dict[int, np.ndarray] = {}
        self._tails: dict[tuple[int, ...], tuple[bool, bytes, bytes]] = {}
        self._encoded: dict[bytes, tuple[int, ...]] = {}

        # Only tokens that their own bytes encode to can ever stand in an encoding.
        known = np.array([i for i, token in enumerate(self.tokens) if token], np.int32)
        joined = np.frombuffer(b"".join(self.tokens[i] for i in known), np.uint8)
        ends = np.cumsum([len(self.tokens[i]) for i in known], dtype=np.int64)
        id_ends = self._encoder.encode_pieces(joined, ends)[1]
        reached = known[np.diff(id_ends, prepend=0) == 1]
        self.unreachable = len(known) - len(reached)
        if self.unreachable and getattr(tokenizer.backend_tokenizer.model, "ignore_merges", False):
            raise ConfigError(
                f"exact byte scores need entries that merges lead to, but the tokenizer takes {self.unreachable} "
                "entries whole that they do not (ignore_merges); use scoring=backoff"
            )
        self.by_bytes = np.array(sorted(reached.tolist(), key=lambda i: self.tokens[i]), np.int32)
        self._sorted = [self.tokens[i] for i in self.by_bytes]
        self.longest = max(map(len, self._sorted))
        self._prefixes = {token[:n] for token in self._sorted for n in range(1, len(token) + 1)}
        self._exact = {token: int(i) for token, i in zip(self._sorted, self.by_bytes)}

        self._shapes: dict[bytes, int] = {}
        self._plain = self._token_shapes(named=False)
        self._named = self._token_shapes(named=True)  # for tokens that follow an apostrophe
        self._listed = list(self._shapes)
        self._situations: dict[tuple[bytes, bytes], np.ndarray] = {}

    # What may follow

    def next_tokens(self, ids: Sequence[int], rest: bytes = b"") -> np.ndarray:
        """Ids (int32) of the tokens t for which ids + [t] is canonical and the bytes of t begin with `rest`.

        ids: a canonical sequence, the separator before a document left out.
        """
        span = slice(0, len(self.by_bytes)) if not rest else self._range(rest)
        candidates = self.by_bytes[span]
        if not len(candidates):
            return candidates
        if rest and self._all_cross_inside_a_word(ids, rest, candidates):
            return candidates[:0]
        shape, marks = self._tail(ids)
        place = (self._named if ends_in_contraction(shape) else self._plain)[span]
        bits = self._bits(shape, marks, place)[place]
        if not ids:
            return candidates[bits != 0]
        good = bits & _BOUNDARY != 0
        unsure = np.flatnonzero(bits == _INSIDE)
        if len(unsure):
            good[unsure] = ~self._row(ids[-1], candidates[unsure], span, unsure)
        return candidates[good]

    def _all_cross_inside_a_word(self, ids: Sequence[int], rest: bytes, candidates: np.ndarray) -> bool:
        """A short way to an empty answer: no candidate can follow without a boundary, and between two small letters,
        but those after an apostrophe, none of our pretokenizers ever makes one."""
        if not self._name or not ids or not 0x61 <= rest[0] <= 0x7A:
            return False
        before = b"".join(self.tokens[i] for i in ids[-3:])[-3:]
        if len(before) < 3 or b"'" in before or not 0x61 <= before[-1] <= 0x7A:
            return False
        return bool(canonical_kernel.crossed(self._table, self._made_by, np.int32(ids[-1]), candidates).all())

    def valid_next(self, ids: Sequence[int], size: int | None = None) -> np.ndarray:
        """`next_tokens` as a bool array over `size` ids (of all tokens, unless said)."""
        mask = np.zeros(size or len(self.tokens), np.bool_)
        mask[self.next_tokens(ids)] = True
        return mask

    def may_end(self, ids: Sequence[int]) -> bool:
        """Whether a document may end here: ids are the encoding of their bytes, and these are whole characters."""
        if not ids:
            return True
        shape, marks = self._tail(ids)
        if not shape or cut_character(shape):
            return False
        return bool(self._fit([shape], np.array([len(shape)]), np.array([0]), marks)[0])

    def is_canonical(self, ids: Sequence[int]) -> bool:
        """Whether some text's encoding begins with these ids."""
        return all(ids[i] in self.next_tokens(ids[:i], self.tokens[ids[i]]) for i in range(len(ids)))

    def has_prefix(self, rest: bytes) -> bool:
        """Whether some reachable token begins with these bytes."""
        return rest in self._prefixes

    def exactly(self, piece: bytes) -> int | None:
        """The reachable token of exactly these bytes."""
        return self._exact.get(piece)

    def _range(self, rest: bytes) -> slice:
        if rest not in self._prefixes:
            return slice(0, 0)
        low = bisect_left(self._sorted, rest)
        return slice(low, bisect_left(self._sorted, rest + b"\xff" * self.longest, low))

    def _row(self, left: int, rights: np.ndarray, span: slice, places: np.ndarray) -> np.ndarray:
        """Whether a merge crosses the boundary of `left` with each of `rights` (by_bytes[span][places])."""
        if 4 * len(rights) < len(self.by_bytes):
            return np.asarray(canonical_kernel.crossed(self._table, self._made_by, np.int32(left), rights))
        if left not in self._rows:
            if len(self._rows) * len(self.by_bytes) > 1 << 28:
                self._rows.clear()
            self._rows[left] = canonical_kernel.crossed(self._table, self._made_by, np.int32(left), self.by_bytes)
        return self._rows[left][span][places]

    def crosses(self, left: int, right: int) -> bool:
        """Whether a merge crosses the boundary between two tokens, so that they never stand so within a piece."""
        known = self._crossed.get((left, right))
        if known is None:
            rights = np.array([right], np.int32)
            known = bool(canonical_kernel.crossed(self._table, self._made_by, np.int32(left), rights)[0])
            self._crossed[left, right] = known
        return known

    # Situations

    def _tail(self, ids: Sequence[int]) -> tuple[bytes, bytes]:
        """The end of the text of ids as (shape, marks): see the module, and `canonical_kernel.fits` for marks."""
        take = 8
        while True:
            last = tuple(ids[-take:])
            known = self._tails.get(last)
            if known is None:
                parts = [self.tokens[i] for i in last]
                marks, at = {}, 0
                for pair, part in zip(itertools.pairwise(last), parts):
                    at += len(part)
                    crossed = self._crossed.get(pair)
                    marks[at] = 2 if (self.crosses(*pair) if crossed is None else crossed) else 1
                if len(self._tails) > 500_000:
                    self._tails.clear()
                known = self._tails[last] = self._shortest(b"".join(parts), marks)
            enough, shape, kept = known
            if enough or take >= len(ids) or take >= 512:
                return shape, kept
            take *= 4

    def _shortest(self, raw: bytes, marks: dict[int, int]) -> tuple[bool, bytes, bytes]:
        """(whether raw is long enough, shape, marks) of its last five runs, or of more where these would fall into
        other pieces without what is before them (the `'s` of ` 's`)."""
        for runs_kept in (RUNS_KEPT, 2 * RUNS_KEPT, 4 * RUNS_KEPT):
            runs, begin, shape, kept = collapse(raw, marks, runs_kept=runs_kept, named_start=False)
            if runs <= runs_kept:
                return False, shape, kept
            if self._restarts(raw, begin):
                break
        return True, shape, kept

    def _restarts(self, raw: bytes, begin: int) -> bool:
        """Whether what follows byte `begin` of raw falls into the same pieces without what is before it."""
        first = next(i for i, byte in enumerate(raw) if byte & 0xC0 != 0x80)
        stop = len(raw) - len(cut_character(raw))
        ends, starts = self._pieces([raw[first:stop], raw[begin:stop]])
        split = int(np.searchsorted(ends, starts[1], side="right"))
        whole, local = ends[:split] + first, ends[split:] - starts[1] + begin
        return np.array_equal(whole[whole > begin], local)

    def _token_shapes(self, named: bool) -> np.ndarray:
        """Number of the shape of each token, in the order of `by_bytes`."""
        numbers = np.empty(len(self._sorted), np.int32)
        for k, token in enumerate(self._sorted):
            whole = is_text(token)
            shape = collapse(token, {}, runs_kept=None, named_start=named)[2] if whole else token
            numbers[k] = self._shapes.setdefault(shape, len(self._shapes))
        return numbers

    def _bits(self, shape: bytes, marks: bytes, wanted: np.ndarray) -> np.ndarray:
        """Bits of `canonical_kernel.fits` by number of token shape, known at least for those wanted."""
        found = self._situations.get((shape, marks))
        if found is None:
            found = self._situations[shape, marks] = np.full(len(self._shapes), _UNKNOWN, np.uint8)
        missing = np.unique(wanted[found[wanted] == _UNKNOWN])
        if len(missing):
            tried = [continued(shape + self._listed[number]) for number in missing.tolist()]
            counts = np.array([len(texts) for texts in tried])
            found[missing] = 0
            if counts.any():
                sizes = np.repeat([len(self._listed[number]) for number in missing.tolist()], counts)
                texts = list(itertools.chain.from_iterable(tried))
                bits = self._fit(texts, np.full(len(texts), len(shape)), sizes, marks)
                some = counts > 0
                starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
                found[missing[some]] = np.bitwise_or.reduceat(bits, starts[some])
        return found

    def _fit(self, texts: list[bytes], tails: np.ndarray, sizes: np.ndarray, marks: bytes) -> np.ndarray:
        ends, starts = self._pieces(texts)
        out = np.zeros(len(texts), np.uint8)
        canonical_kernel.fits(ends, starts, tails, sizes, np.frombuffer(b"\0" + marks, np.uint8), out)
        return out

    def _pieces(self, texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Piece ends of texts (none empty) joined, and where each text starts (one more at the end)."""
        starts = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        if self._name:
            return scanners.piece_ends(self._name, np.frombuffer(b"".join(texts), np.uint8), starts[1:]), starts
        if self._library is None:
            return starts[1:], starts
        lengths = [len(piece) for text in texts for piece, _ in self._library.pre_tokenize_str(text.decode())]
        ends = np.cumsum(lengths, dtype=np.int64)
        if int(ends[-1]) != int(starts[-1]):
            raise ConfigError("exact byte scores need a pretokenizer that keeps every byte; use scoring=backoff")
        return ends, starts

    # Encodings of text that ends anywhere

    def encode_pieces(self, pieces: Sequence[bytes]) -> list[tuple[int, ...]]:
        """Ids of pieces, each as if alone; pieces may be cut anywhere, inside a character too."""
        new = [piece for piece in dict.fromkeys(pieces) if piece not in self._encoded]
        if new:
            if len(self._encoded) > 200_000:
                self._encoded.clear()
                new = list(dict.fromkeys(pieces))
            data = np.frombuffer(b"".join(new), np.uint8)
            ids, ends = self._encoder.encode_pieces(data, np.cumsum([len(piece) for piece in new], dtype=np.int64))
            for piece, part in zip(new, np.split(ids, ends[:-1])):
                self._encoded[piece] = tuple(part.tolist())
        return [self._encoded[piece] for piece in pieces]

    def piece_patterns(self, text: bytes) -> tuple[np.ndarray, list[tuple[int, ...]]]:
        """How a text (which may end inside a character) can fall into pieces, whatever follows it.

        Returns the piece ends (int64, ascending, the last one aside) up to a byte from which they may differ, and the
        distinct ways on from there: ends before the text's own end.
        """
        cut = len(text) - len(cut_character(text))
        ends = self._pieces([text[:cut]])[0][:-1] if cut else np.zeros(0, np.int64)
        if self._name and len(text) > 2 and all(0x61 <= byte <= 0x7A for byte in text[-3:]):
            return ends, [()]  # inside a word all continuations agree on what is before
        start = restart_at(text[:cut])
        while True:
            local = self._pieces([text[start:cut]])[0][:-1] + start if start < cut else np.zeros(0, np.int64)
            if np.array_equal(local, ends[ends > start]) or start == 0:
                break
            # A restart inside a piece can go wrong; one at an end of a piece cannot.
            before = ends[ends < start]
            start = int(before[-1]) if len(before) and start not in ends else 0
        texts = list(continued(text[start:]))
        if not texts:
            raise DataError("text is not UTF-8")
        found, starts = self._pieces(texts)
        owner = np.searchsorted(starts, found, side="left") - 1
        place = found - starts[owner]
        inside = place < len(text) - start
        # Ways are told apart by sums of random numbers, one a place.
        sums = np.zeros(len(texts), np.uint64)
        np.add.at(sums, owner[inside], _noise(len(text) - start)[place[inside]])
        ways = []
        for k in np.sort(np.unique(sums, return_index=True)[1]).tolist():
            mine = place[inside & (owner == k)]
            ways.append(tuple((mine + start).tolist()))
        return ends[ends <= start], ways


@cache
def _noise(size: int) -> np.ndarray:
    return np.random.default_rng(1234).integers(1 << 63, size=size, dtype=np.uint64)
