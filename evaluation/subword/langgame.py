"""LangGame: which of four words is the longest, starts with a string, has a letter most often (after StochasTok, 2025).

Six types of question over one list of frequent words. Every draw is keyed by (seed, split, number of the question), so
a split is the same whatever else is asked for, and more training questions begin with the fewer ones.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import model_validator

from evaluation.subword.questions import Question, TaskData
from evaluation.subword.rules import heuristics, option_rules
from evaluation.subword.templates import Templates, Wording, templates
from evaluation.subword.words import describe_list, hold_out, word_list
from isotok.errors import DataError
from isotok.keyed import keyed_rng
from isotok.progress import say
from isotok.recipe import Field, Impl, recipe

if TYPE_CHECKING:
    import numpy as np

Type = Literal["most", "contains", "starts", "ends", "longest", "shortest"]
TYPES: tuple[Type, ...] = get_args(Type)
AFFIX_TYPES = ("contains", "starts", "ends")
HoldOut = Literal["words", "affix", "template", "sublen", "type"]
OPTIONS = 4
LEAST_WORDS = 5  # answers that a type, and words with two of the letter that a question, must have in training
_ATTEMPTS = 10_000  # of one question; a held-out affix is one in ten, and one in a hundred of those may not do


@recipe
class LangGame:
    """Which of four words ...? Six types; fine-tuned on `train_questions`, asked `test_questions` of each type.

    words: the training text's most frequent ones. templates: wordings, see evaluation.subword.templates. holdouts:
    what training never shows; each gives a split of its own that leaves this one restriction and keeps the others:
    words: one word in five, and strings that are such words; affix: letters and strings by their hash, one in ten;
    template: one wording; sublen: strings longer than half of the word, of five letters at most; type: one type.
    even_lengths: lengths tell neither the type nor the answer: `longest` and `shortest` are asked of any four words of
    which one is, and the answer of `most` has none to three longer ones beside it. Without it, as in the paper, one
    long word among short ones can only be `longest`, words with a letter twice are longer than others, and a rule that
    reads no question gets half of them right.
    """

    words: Annotated[int, Field(ge=20)] = 1000
    train_questions: Annotated[int, Field(ge=1)] = 40_000
    test_questions: Annotated[int, Field(ge=1)] = 1000
    point_questions: Impl[Annotated[int, Field(ge=1)]] = 1200
    templates: Wording = "compact"
    holdouts: tuple[HoldOut, ...] = ("words", "affix", "template")
    held_out_type: Literal["", Type] = ""
    even_lengths: bool = False
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def label(self) -> str:
        return "langgame" if self.templates == "compact" else "langgame_paper"

    @property
    def fine_tuned(self) -> bool:
        return True

    def data(self, corpus: Path) -> TaskData:
        """Raises DataError where the corpus or the list is too short, naming the type that lacks words."""
        words = word_list(corpus, self.words)
        made = _Maker(self, words)
        splits, train = made.splits(), made.train()
        return TaskData(
            name=self.label,
            train=train,
            splits=splits,
            main="words" if "words" in splits else "test",
            matched={split: "test" for split in splits if split != "test"},
            words=words,
            about={**made.about(), **heuristics(splits, option_rules(train))},
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.holdouts)) < len(self.holdouts):
            raise ValueError("holdouts: one of them comes twice")
        if ("type" in self.holdouts) != bool(self.held_out_type):
            raise ValueError("holdouts has 'type' and held_out_type names it, or neither")
        return self


def affix_is_held_out(aux: str) -> bool:
    """By the sha256 of the letter or string alone: one in ten."""
    return int(hashlib.sha256(aux.encode()).hexdigest(), 16) % 10 == 0


@dataclass(frozen=True)
class _Rules:
    """What the questions of one split may use. affix, sublen: True: only what is held out; False: only the rest;
    None: all. barred: strings that may not be asked for."""

    split: str
    words: tuple[str, ...]
    letters: tuple[str, ...]
    types: tuple[Type, ...]
    templates: Templates
    affix: bool | None
    sublen: bool | None
    barred: frozenset[str]
    even_lengths: bool

    def allows(self, kind: str, aux: str, word: str) -> bool:
        if not aux:
            return True
        if self.affix is not None and affix_is_held_out(aux) != self.affix:
            return False
        if self.sublen is not None and kind in AFFIX_TYPES and (2 * len(aux) > len(word)) != self.sublen:
            return False
        return aux not in self.barred


class _Maker:
    """The questions of a recipe over its word list."""

    def __init__(self, recipe: LangGame, words: Sequence[str]) -> None:
        self.recipe = recipe
        held = {name: name in recipe.holdouts for name in get_args(HoldOut)}
        self.seen, self.unseen = hold_out(words, recipe.seed) if held["words"] else (tuple(words), ())
        known, new = templates(recipe.templates, held["template"])
        self.letters = _letters(self.seen, LEAST_WORDS)
        self.types = tuple(kind for kind in TYPES if kind != recipe.held_out_type)
        common: dict[str, Any] = {
            "even_lengths": recipe.even_lengths,
            "words": self.seen,
            "letters": self._side(self.letters, False),
            "types": self.types,
            "templates": known,
            "affix": False if held["affix"] else None,
            "sublen": False if held["sublen"] else None,
            "barred": frozenset(self.unseen),
        }
        changes: dict[str, dict[str, Any]] = {"test": {}}
        if held["words"]:
            letters = _letters(self.unseen, 1)
            letters = tuple(letter for letter in common["letters"] if letter in letters)
            changes["words"] = {"words": self.unseen, "letters": letters, "barred": frozenset()}
        if held["affix"]:
            letters = self._side(self.letters, True)
            asked = tuple(t for t in self.types if t in AFFIX_TYPES or (t == "most" and letters))
            if "most" in self.types and "most" not in asked:
                say(f"{recipe.label}: no letter that {LEAST_WORDS} words have twice is held out: affix without `most`")
            changes["affix"] = {"affix": True, "letters": letters, "types": asked}
        if new:
            changes["template"] = {"templates": new}
        if held["sublen"]:
            changes["sublen"] = {"sublen": True, "types": tuple(t for t in self.types if t in AFFIX_TYPES)}
        if held["type"]:
            changes["type"] = {"types": (recipe.held_out_type,)}
        self.training = _Rules(split="train", **common)
        self.asked = {name: _Rules(split=name, **{**common, **change}) for name, change in changes.items()}
        self._prompts: set[str] = set()
        for rules in (self.training, *self.asked.values()):
            self._check(rules)

    def splits(self) -> dict[str, tuple[Question, ...]]:
        """Made before the training questions, which then leave out what is asked here."""
        made = {}
        for name, rules in self.asked.items():
            n = self.recipe.test_questions * len(rules.types)
            made[name] = tuple(self._question(rules, i, rules.types[i % len(rules.types)]) for i in range(n))
        return made

    def train(self) -> tuple[Question, ...]:
        return tuple(self._question(self.training, i, None) for i in range(self.recipe.train_questions))

    def about(self) -> dict[str, Any]:
        strings = {
            name: {kind: sum(1 for _ in _strings(rules, kind)) for kind in rules.types if kind in AFFIX_TYPES}
            for name, rules in (("train", self.training), *self.asked.items())
        }
        return {
            "word_list": describe_list((*self.seen, *self.unseen), self.unseen),
            "templates": self.recipe.templates,
            "holdouts": list(self.recipe.holdouts),
            "types": {name: list(rules.types) for name, rules in self.asked.items()},
            "letters": {
                name: "".join(rules.letters)
                for name, rules in (("train", self.training), *self.asked.items())
                if "most" in rules.types
            },
            "strings": {name: counts for name, counts in strings.items() if counts},
        }

    def _side(self, letters: Sequence[str], held_out: bool) -> tuple[str, ...]:
        if "affix" not in self.recipe.holdouts:
            return tuple(letters)
        return tuple(letter for letter in letters if affix_is_held_out(letter) == held_out)

    def _check(self, rules: _Rules) -> None:
        """Raise DataError for a type that cannot be asked of the words of a split."""
        least = LEAST_WORDS if rules.words is self.seen else 2
        for kind in rules.types:
            if kind in AFFIX_TYPES:
                short = None if any(True for _ in _strings(rules, kind)) else "no string to ask for"
            elif kind in _LENGTHS and rules.even_lengths:
                short = None if len(rules.words) >= 2 * OPTIONS else f"{len(rules.words)} words"
            elif kind == "most":
                short = None if rules.letters else f"no letter that {LEAST_WORDS} training words have twice or more"
            else:
                answers, others = (sum(map(fits, rules.words)) for fits in _LENGTHS[kind])
                enough = answers >= least and others >= max(least, OPTIONS - 1)
                short = None if enough else f"{answers} words to be the answer and {others} for the other options"
            if short:
                raise DataError(
                    f"task {self.recipe.label}: its {len(rules.words)} words for {rules.split} are too few for the "
                    f"type {kind!r}: {short}; raise task.words={self.recipe.words} or take a larger corpus"
                )

    def _question(self, rules: _Rules, number: int, kind: Type | None) -> Question:
        """The question `number` of a split; no kind: drawn uniformly. No prompt comes twice in a task."""
        rng = keyed_rng("langgame", self.recipe.seed, rules.split, number)
        drawn = kind or rules.types[int(rng.integers(len(rules.types)))]
        for _ in range(_ATTEMPTS):
            found = _draw(drawn, rules, rng)
            if found is None:
                continue
            aux, answer, others = found
            order = rng.permutation(OPTIONS)
            words = tuple((answer, *others)[i] for i in order)
            prompt, template = rules.templates.draw(drawn, aux, words, rng)
            if prompt in self._prompts:
                continue
            self._prompts.add(prompt)
            return Question(
                id=f"{rules.split}-{number}",
                type=drawn,
                prompt=prompt,
                answer=f" {answer}",
                options=tuple(f" {word}" for word in words),
                gold=words.index(answer),
                group=answer,
                aux=aux,
                template=template,
                words=words,
            )
        raise DataError(
            f"task {self.recipe.label}: {len(rules.words)} words give no further question of type {drawn!r} after "
            f"{number:,} for {rules.split}: raise task.words, or ask for fewer (task.train_questions, "
            "task.test_questions)"
        )


_LENGTHS: Mapping[str, Any] = {
    "longest": (lambda word: len(word) >= 7, lambda word: len(word) <= 4),
    "shortest": (lambda word: len(word) <= 3, lambda word: len(word) >= 6),
}


def _draw(kind: str, rules: _Rules, rng: "np.random.Generator") -> tuple[str, str, list[str]] | None:
    """(letter or string, answer, other options); None where the draw fails and must be made again."""
    words, aux = rules.words, ""
    if kind in AFFIX_TYPES:
        answer = words[int(rng.integers(len(words)))]
        most = min(5 if rules.sublen else 3, len(answer))
        size = 1 + int(rng.integers(most))
        start = {"starts": 0, "ends": len(answer) - size}.get(kind)
        if start is None:
            start = int(rng.integers(len(answer) - size + 1))
        aux = answer[start : start + size]
        if not rules.allows(kind, aux, answer):
            return None
    elif kind == "most":
        aux = rules.letters[int(rng.integers(len(rules.letters)))]
    order = (words[i] for i in rng.permutation(len(words)))
    others = []
    if kind in AFFIX_TYPES:
        has = {"contains": str.__contains__, "starts": str.startswith, "ends": str.endswith}[kind]
        for word in order:
            if not has(word, aux):
                others.append(word)
                if len(others) == OPTIONS - 1:
                    return aux, answer, others
        return None
    if kind == "most":
        right, wrong = (lambda word: word.count(aux) >= 2), (lambda word: word.count(aux) <= 1)
    else:
        right, wrong = _LENGTHS[kind]
    if rules.even_lengths:
        return _draw_evenly(kind, aux, list(order), right, wrong, rng)
    found = ""
    for word in order:
        if right(word):
            found = found or word
        elif wrong(word) and len(others) < OPTIONS - 1:
            others.append(word)
        if found and len(others) == OPTIONS - 1:
            return aux, found, others
    return None


def _draw_evenly(
    kind: str,
    aux: str,
    mixed: Sequence[str],
    right: Callable[[str], bool],
    wrong: Callable[[str], bool],
    rng: "np.random.Generator",
) -> tuple[str, str, list[str]] | None:
    """`longest` and `shortest` among words of any length; the answer of `most` with as many longer ones beside it as
    the draw has it. So lengths tell neither the type nor, where it is not asked for, the answer."""
    if kind != "most":
        first, *others = sorted(mixed[:OPTIONS], key=len, reverse=kind == "longest")
        return (aux, first, others) if len(first) != len(others[0]) else None
    found = next(filter(right, mixed))
    longer = int(rng.integers(OPTIONS))
    above = [word for word in mixed if wrong(word) and len(word) > len(found)][:longer]
    below = [word for word in mixed if wrong(word) and len(word) <= len(found)][: OPTIONS - 1 - longer]
    return (aux, found, [*above, *below]) if len(above) + len(below) == OPTIONS - 1 else None


def _letters(words: Sequence[str], least: int) -> tuple[str, ...]:
    """The letters that at least `least` of the words have twice or more, in order."""
    counts = Counter(letter for word in words for letter in set(word) if word.count(letter) >= 2)
    return tuple(sorted(letter for letter, n in counts.items() if n >= least))


def _strings(rules: _Rules, kind: str) -> Iterator[str]:
    """The different strings that questions of an affix type can ask for, sorted."""
    found = set()
    for word in rules.words:
        for size in range(1, min(5 if rules.sublen else 3, len(word)) + 1):
            starts = {"starts": [0], "ends": [len(word) - size]}.get(kind, list(range(len(word) - size + 1)))
            found |= {word[i : i + size] for i in starts if rules.allows(kind, word[i : i + size], word)}
    yield from sorted(found)
