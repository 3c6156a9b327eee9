"""Minimal pairs of grammar (after BLiMP, Warstadt et al., arXiv:1912.00582): a good sentence and a bad one that differs
in a word or in order, from templates of our own in the English of the corpus that comes along.

Ten paradigms. Where the pair's two words differ in length, the good sentence is the longer one in every other item, so
length tells nothing. Whole sentences are scored after the separator, without division by length.
"""

from collections.abc import Callable, Iterator
from itertools import product

from evaluation.tasks.items import Item
from evaluation.tasks.sentences import TERMINATOR, Source, placed
from isotok.keyed import keyed_int, keyed_rng

Pair = tuple[str, str]
"""A good sentence and a bad one."""

_PEOPLE = {
    "king": "kings", "lord": "lords", "servant": "servants", "soldier": "soldiers", "brother": "brothers",
    "prophet": "prophets", "shepherd": "shepherds", "daughter": "daughters", "friend": "friends", "captain": "captains",
    "priest": "priests", "judge": "judges",
}  # fmt: skip
_THINGS = {
    "sword": "swords", "crown": "crowns", "house": "houses", "garden": "gardens", "horse": "horses",
    "stone": "stones", "letter": "letters", "river": "rivers", "tree": "trees", "lamp": "lamps",
}  # fmt: skip
_MEN = ("king", "lord", "prince", "duke", "father", "brother", "son", "man", "husband", "boy")
_WOMEN = ("queen", "lady", "princess", "mother", "sister", "daughter", "woman", "wife", "widow", "maid")


def _agreement() -> tuple[list[Pair], ...]:
    """The verb agrees with a noun beside it."""
    ends = ("in the city", "by the river", "in the house", "at the gate", "in the field", "with the people")
    halves: tuple[list[Pair], ...] = ([], [])
    for (one, many), end, (verb, verbs) in product(_PEOPLE.items(), ends, (("is", "are"), ("hath been", "have been"))):
        halves[0].append((f"The {one} {verb} {end}.", f"The {one} {verbs} {end}."))
        halves[1].append((f"The {many} {verbs} {end}.", f"The {many} {verb} {end}."))
    return halves


def _agreement_at_distance() -> tuple[list[Pair], ...]:
    """The verb agrees with the subject, though a noun of the other number stands next to it."""
    ends = ("spoken to the people", "gone to the city", "heard the word", "seen the light")
    halves: tuple[list[Pair], ...] = ([], [])
    for (one, many), (thing, things), end in product(_PEOPLE.items(), _THINGS.items(), ends):
        halves[0].append((f"The {one} near the {things} hath {end}.", f"The {one} near the {things} have {end}."))
        halves[1].append((f"The {many} near the {thing} have {end}.", f"The {many} near the {thing} hath {end}."))
    return halves


def _reflexive_gender() -> tuple[list[Pair], ...]:
    verbs = ("praised {}", "blamed {}", "hid {} in the house", "saw {} in the glass", "called {} happy", "killed {}")
    halves: tuple[list[Pair], ...] = ([], [])
    for half, people, good, bad in ((0, _MEN, "himself", "herself"), (1, _WOMEN, "herself", "himself")):
        for noun, verb in product(people, verbs):
            halves[half].append((f"The {noun} {verb.format(good)}.", f"The {noun} {verb.format(bad)}."))
    return halves


def _reflexive_number() -> tuple[list[Pair], ...]:
    verbs = ("praised {}", "blamed {}", "hid {} in the house", "saw {} in the glass", "made {} ready", "killed {}")
    halves: tuple[list[Pair], ...] = ([], [])
    for one, verb in product(_MEN, verbs):
        many = "men" if one == "man" else f"{one}s"
        halves[0].append((f"The {one} {verb.format('himself')}.", f"The {one} {verb.format('themselves')}."))
        halves[1].append((f"The {many} {verb.format('themselves')}.", f"The {many} {verb.format('himself')}."))
    return halves


def _demonstrative() -> tuple[list[Pair], ...]:
    starts = ("He gave them", "I have seen", "She came to", "They took away", "We found", "Remember")
    halves: tuple[list[Pair], ...] = ([], [])
    forms = (("this", "these"), ("that", "those"))
    for start, (thing, things), (near, nears) in product(starts, _THINGS.items(), forms):
        halves[0].append((f"{start} {near} {thing}.", f"{start} {nears} {thing}."))
        halves[1].append((f"{start} {nears} {things}.", f"{start} {near} {things}."))
    return halves


def _pronoun_case() -> tuple[list[Pair], ...]:
    """Subject forms before the verb, object forms after it."""
    forms = (("he", "him"), ("she", "her"), ("they", "them"), ("we", "us"), ("I", "me"))
    verbs = ("loved", "heard", "knew", "found", "followed", "saw")
    stays = (
        "went to",
        "came from",
        "stood by",
        "spoke with",
        "ran from",
        "sat with",
    )  # "him loved the king" is English
    halves: tuple[list[Pair], ...] = ([], [])
    for (subject, object_), (verb, stay), noun in product(forms, zip(verbs, stays), _PEOPLE):
        halves[0].append((_capital(f"{subject} {stay} the {noun}."), _capital(f"{object_} {stay} the {noun}.")))
        halves[1].append((f"The {noun} {verb} {object_}.", f"The {noun} {verb} {subject}."))
    return halves


def _second_person() -> tuple[list[Pair], ...]:
    """thou art, you are."""
    forms = (("art", "are"), ("hast", "have"), ("wilt", "will"), ("shalt", "shall"))
    ends = {
        "art": ("my friend", "a great king", "in the city", "a wise man", "the lord of this land", "his servant",
                "full of grief", "my brother", "welcome here", "not alone"),
        "hast": ("a good name", "seen my face", "done this thing", "no sword", "lost thy way", "heard the voice",
                 "taken the crown", "a gentle heart", "spoken well", "many sons"),
    }  # fmt: skip
    later = ("go to the city", "see my face", "hear the voice", "be a king", "find the way", "fear no man",
             "speak to the people", "take the crown", "know the truth", "come again")  # fmt: skip
    halves: tuple[list[Pair], ...] = ([], [])
    for thou, you in forms:
        for end in ends.get(thou, later):
            halves[0].append((f"Thou {thou} {end}.", f"Thou {you} {end}."))
            halves[1].append((f"You {you} {end.replace('thy', 'your')}.", f"You {thou} {end.replace('thy', 'your')}."))
    more = ("And now", "Behold,", "I know")
    for half, pairs in enumerate(tuple(list(half) for half in halves)):
        halves[half].extend(
            (f"{start} {good[0].lower()}{good[1:]}", f"{start} {bad[0].lower()}{bad[1:]}")
            for start, (good, bad) in product(more, pairs)
        )
    return halves


def _word_order() -> tuple[list[Pair], ...]:
    """Article or preposition before what belongs to it; the same words in both."""
    ends = (("went", "to"), ("came", "from"), ("stood", "in"), ("looked", "upon"), ("sat", "by"))
    halves: tuple[list[Pair], ...] = ([], [])
    for noun, (verb, preposition), thing in product(_PEOPLE, ends, _THINGS):
        good = f"The {noun} {verb} {preposition} the {thing}."
        halves[0].append((good, f"The {noun} {verb} {preposition} {thing} the."))
        halves[1].append((good, f"The {noun} {verb} the {preposition} {thing}."))
    return halves


def _verb_after_modal() -> tuple[list[Pair], ...]:
    verbs = (
        ("give", "gave"), ("come to", "came to"), ("see", "saw"), ("know", "knew"), ("draw", "drew"), ("hold", "held"),
        ("write of", "wrote of"), ("speak of", "spoke of"), ("bear", "bore"), ("take", "took"),
    )  # fmt: skip
    return (
        [
            (f"The {noun} {modal} {base} the {thing}.", f"The {noun} {modal} {past} the {thing}.")
            for noun, modal, (base, past), thing in product(_PEOPLE, ("will", "shall", "must"), verbs, _THINGS)
        ],
    )


def _article() -> tuple[list[Pair], ...]:
    starts = ("He saw", "There was", "She spoke of", "It was", "They brought him", "I dreamed of")
    vowels = ("apple", "angel", "enemy", "evil man", "old man", "army", "oath", "ass", "island", "empty house")
    others = ("king", "sword", "garden", "stone", "letter", "good man", "friend", "crown", "river", "captain")
    halves: tuple[list[Pair], ...] = ([], [])
    for half, nouns, good, bad in ((0, vowels, "an", "a"), (1, others, "a", "an")):
        for start, noun in product(starts, nouns):
            halves[half].append((f"{start} {good} {noun}.", f"{start} {bad} {noun}."))
    return halves


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


PARADIGMS: dict[str, Callable[[], tuple[list[Pair], ...]]] = {
    "agreement": _agreement,
    "agreement-at-distance": _agreement_at_distance,
    "reflexive-gender": _reflexive_gender,
    "reflexive-number": _reflexive_number,
    "demonstrative": _demonstrative,
    "pronoun-case": _pronoun_case,
    "second-person": _second_person,
    "word-order": _word_order,
    "verb-after-modal": _verb_after_modal,
    "article": _article,
}
"""Pairs of each paradigm, in parts that are taken in turn."""


def minpair(source: Source, seed: int) -> Iterator[Item]:
    """Pairs of the ten paradigms in turn, so that any number of items has as many of each. The documents play no
    part."""
    for row in zip(*(_ordered(name, make(), seed) for name, make in PARADIGMS.items())):
        for paradigm, number, (good, bad) in row:
            rng = keyed_rng(seed, "iso_minpair", "choices", good, bad)
            choices, place = placed(good + TERMINATOR, [bad + TERMINATOR], rng)
            yield Item(f"{paradigm}:{number:03}", "", paradigm, paradigm, "", choices, place)


def _ordered(name: str, parts: tuple[list[Pair], ...], seed: int) -> Iterator[tuple[str, int, Pair]]:
    """A pair of each part in turn, every part in an order of its own."""
    shuffled = [sorted(part, key=lambda pair: keyed_int(seed, "iso_minpair", name, *pair)) for part in parts]
    in_turn = (pair for row in zip(*shuffled) for pair in row)
    for number, pair in enumerate(in_turn):
        yield name, number, pair
