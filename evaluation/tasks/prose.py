"""Tasks about sentences as they stand: which ending, which order, which spelling, which last word, and where a
sentence is cut."""

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from evaluation.tasks.items import Item
from evaluation.tasks.sentences import TERMINATOR, Sentence, Source, bare, choice_item, is_plain, misspelled
from isotok.keyed import keyed_rng

CHOICES = 4
CLOZE_WORDS = 4
_LAST_WORD = re.compile(r"([^\W\d_]{4,})([.,;:!?]*)")


def cloze(source: Source, seed: int) -> Iterator[Item]:
    """The last four words of a sentence among the last four of three sentences of other documents.

    The context is the line before (where there is one) and the sentence's beginning; choices start with their space.
    """
    ordered = source.ordered(seed, "iso_cloze")
    for sentence in ordered:
        rng = keyed_rng(seed, "iso_cloze", "choices", sentence.id)
        others = endings(ordered, sentence, rng, lambda other: ending(other, CLOZE_WORDS))
        if others:
            context = _lead(sentence) + " ".join(sentence.words[:-CLOZE_WORDS])
            yield choice_item(sentence, context, ending(sentence, CLOZE_WORDS), others, rng)


def ending(sentence: Sentence, words: int) -> str:
    """The last words of a sentence with the space before them."""
    return " " + " ".join(sentence.words[-words:]) + TERMINATOR


def endings(
    ordered: Sequence[Sentence], sentence: Sentence, rng: np.random.Generator, cut: Callable[[Sentence], str]
) -> list[str]:
    """Three different endings, `cut` from sentences of other documents; none where there are not three."""
    chosen = [cut(sentence)]
    for at in rng.permutation(len(ordered))[:64]:
        other = ordered[int(at)]
        if other.document.id != sentence.document.id and cut(other) not in chosen:
            chosen.append(cut(other))
        if len(chosen) == CHOICES:
            return chosen[1:]
    return []


def _lead(sentence: Sentence) -> str:
    return sentence.before + "\n" if sentence.before else ""


def wordorder(source: Source, seed: int) -> Iterator[Item]:
    """A sentence among three shuffles of its words, whole strings scored after the separator."""
    for sentence in source.ordered(seed, "iso_wordorder"):
        rng = keyed_rng(seed, "iso_wordorder", "choices", sentence.id)
        chosen = [sentence.text + TERMINATOR]
        for _ in range(16):
            shuffled = " ".join(sentence.words[int(i)] for i in rng.permutation(len(sentence.words))) + TERMINATOR
            if shuffled not in chosen:
                chosen.append(shuffled)
            if len(chosen) == CHOICES:
                yield choice_item(sentence, "", chosen[0], chosen[1:], rng)
                break


def typo(source: Source, seed: int) -> Iterator[Item]:
    """A sentence among three copies with one word misspelled: two letters swapped, or one replaced.

    A misspelling is never a word of the documents that the sentences are from.
    """
    for sentence in source.ordered(seed, "iso_typo"):
        rng = keyed_rng(seed, "iso_typo", "choices", sentence.id)
        places = [i for i, word in enumerate(sentence.words) if is_plain(word)]
        chosen = [sentence.text + TERMINATOR]
        for _ in range(16 if places else 0):
            place = places[int(rng.integers(len(places)))]
            word = misspelled(sentence.words[place], rng)
            changed = " ".join((*sentence.words[:place], word, *sentence.words[place + 1 :])) + TERMINATOR
            if bare(word) not in source.known and changed not in chosen:
                chosen.append(changed)
            if len(chosen) == CHOICES:
                yield choice_item(sentence, "", chosen[0], chosen[1:], rng)
                break


def lastword(source: Source, seed: int) -> Iterator[Item]:
    """The last word of a sentence that ends its line, where the text before has that word already (after LAMBADA,
    Paperno et al., arXiv:1606.06031). One choice: the word with its space, the punctuation after it and the newline.

    The context is up to 320 bytes of the passage before, and the sentence without its last word of four letters or
    more.
    """
    for sentence in source.ordered(seed, "iso_lastword"):
        found = _LAST_WORD.fullmatch(sentence.words[-1])
        context = sentence.passage + " ".join(sentence.words[:-1])
        if found and sentence.ends_line and found[1] in re.findall(r"\w+", context):
            rng = keyed_rng(seed, "iso_lastword", "choices", sentence.id)
            yield choice_item(sentence, context, f" {sentence.words[-1]}{TERMINATOR}", (), rng)


def boundary(source: Source, seed: int) -> Iterator[Item]:
    """Cloze whose context ends where a token may go on: inside a word (`mid-word`), and between two words that often
    stand side by side, where a superword may lie (`mid-phrase`).

    All choices of an item begin with the same piece, the rest of the word or the phrase's second word, so where the
    text is cut must not change which choice is the likeliest. What follows has as many words in each.
    """
    ordered = source.ordered(seed, "iso_boundary")
    for sentence in ordered:
        made = [cut(source, ordered, sentence, seed) for cut in (_mid_word, _mid_phrase)]
        if all(made):
            yield from (item for item in made if item)


def _mid_word(source: Source, ordered: Sequence[Sentence], sentence: Sentence, seed: int) -> Item | None:
    word = sentence.words[-CLOZE_WORDS - 1]
    if not is_plain(word):
        return None
    rng = keyed_rng(seed, "iso_boundary", "mid-word", sentence.id)
    at = int(rng.integers(1, len(word) - 1))
    before = _lead(sentence) + "".join(w + " " for w in sentence.words[: -CLOZE_WORDS - 1])
    return _cut_item(ordered, sentence, rng, before + word[:at], word[at:], CLOZE_WORDS, "mid-word")


def _mid_phrase(source: Source, ordered: Sequence[Sentence], sentence: Sentence, seed: int) -> Item | None:
    places = range(3, len(sentence.words) - 2)  # of the second word: three words before it, two to six after it
    near = [place for place in places if len(sentence.words) - place <= 7]
    place = max(near, key=lambda i: (source.pairs[sentence.words[i - 1], sentence.words[i]], i))
    if source.pairs[sentence.words[place - 1], sentence.words[place]] < 2:
        return None
    rng = keyed_rng(seed, "iso_boundary", "mid-phrase", sentence.id)
    context = _lead(sentence) + " ".join(sentence.words[:place])
    rest = len(sentence.words) - place - 1
    return _cut_item(ordered, sentence, rng, context, " " + sentence.words[place], rest, "mid-phrase")


def _cut_item(
    ordered: Sequence[Sentence],
    sentence: Sentence,
    rng: np.random.Generator,
    context: str,
    shared: str,
    words: int,
    variant: str,
) -> Item | None:
    others = endings(ordered, sentence, rng, lambda other: shared + ending(other, words))
    if not others:
        return None
    name = f"{sentence.id}:{variant}"
    gold = shared + ending(sentence, words)
    return choice_item(sentence, context, gold, others, rng, id=name, variant=variant, source=sentence.id)
