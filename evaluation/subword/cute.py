"""CUTE: fourteen tasks on the letters of words and the words of sentences (after Edman, Schmid and Fraser, 2024).

A generator of our own over the corpus' frequent words and short sentences, not the published rows. Every question has
both an answer to write and options to choose from. Draws are keyed by (seed, side, type, number).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import model_validator

from evaluation.subword.cute_text import TYPES, Type, joined, prompt, question, sentences, units
from evaluation.subword.edits import LETTERS, draw_edit, wrong_results
from evaluation.subword.questions import Question, TaskData
from evaluation.subword.rules import Rule, heuristics, option_rules
from evaluation.subword.words import describe_list, hold_out, word_list
from isotok.errors import DataError
from isotok.keyed import keyed_int, keyed_rng
from isotok.progress import say
from isotok.recipe import Field, Impl, recipe

if TYPE_CHECKING:
    import numpy as np

    from evaluation.subword.likeness import Likeness, Neighbours

SHORTEST = 3
LEAST_SOURCES = 20  # words or sentences of each side that a type needs
SPARE_ATTEMPTS = 50
_ONE_IN = 5
_EXAMPLES = "examples"


@recipe
class Cute:
    """Fourteen tasks; fine-tuned on `train_questions` (0: asked of the pretrained model), at most `test_questions` of
    each type are asked, fewer where the words give no more.

    words: the training text's most frequent of three letters or more; one in five is kept for the test (the same
    words as LangGame's of this seed). train_words: training questions take theirs from so many, without the kept
    ones. Sentences are split likewise. shots: solved examples before each question; 0: the question alone, in few
    tokens.
    """

    words: Annotated[int, Field(ge=50)] = 1000
    train_words: Annotated[int, Field(ge=50)] = 5000
    train_questions: Annotated[int, Field(ge=0)] = 40_000
    test_questions: Annotated[int, Field(ge=1)] = 200
    point_questions: Impl[Annotated[int, Field(ge=1)]] = 1400
    shots: Annotated[int, Field(ge=0, le=8)] = 0
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def label(self) -> str:
        return "cute"

    @property
    def fine_tuned(self) -> bool:
        return self.train_questions > 0

    def data(self, corpus: Path) -> TaskData:
        """Raises DataError where words or sentences are too few for a type; orth and sem are then left out and said
        to be missing in `about`."""
        made = _Maker(self, corpus)
        test = made.test()
        train = made.train()
        return TaskData(
            name=self.label,
            train=train,
            splits={"test": test},
            main="test",
            modes=("choice", "generate"),
            words=made.listed,
            stop="" if self.fine_tuned else "\n",
            about={
                **made.about(),
                "questions": {"train": _by_type(train), "test": _by_type(test)},
                **heuristics({"test": test}, option_rules() | made.rules()),
            },
        )

    @model_validator(mode="after")
    def _can_be_known(self) -> Self:
        if not self.train_questions and not self.shots:
            raise ValueError("train_questions=0 with shots=0: a model cannot know what is asked; set shots=4")
        if self.train_words < self.words:
            raise ValueError(f"train_words={self.train_words} is less than words={self.words}, which it has to hold")
        return self


@dataclass(frozen=True)
class _Drawn:
    """A question before it is worded: what it is about, its units, the answer among its options (first)."""

    text: str
    old: str
    new: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class _Side:
    """What the questions of training, or those of the test, are about."""

    name: str
    words: tuple[str, ...]
    offered: "Neighbours"
    sentences: tuple[str, ...]
    alike: "Likeness"

    def sources(self, kind: Type) -> Sequence[str]:
        if kind in ("orth", "sem"):
            return self.alike.asked()
        return self.sentences if kind.endswith("_word") else self.words


class _Maker:
    """The questions of a recipe over a corpus."""

    def __init__(self, recipe: Cute, corpus: Path) -> None:
        from evaluation.subword.likeness import Neighbours, likeness
        from tokenization.corpus import read_documents

        def texts() -> Iterator[str]:
            return (document.text for document in read_documents(corpus, "train"))

        self.recipe = recipe
        every = word_list(corpus, recipe.train_words, shortest=SHORTEST, key="task.train_words")
        self.listed = every[: recipe.words]
        seen, unseen = hold_out(every, recipe.seed, one_in=_ONE_IN)
        asked = tuple(word for word in unseen if word in set(self.listed))
        self.unseen = asked
        found = sentences(texts())
        held = [keyed_int("held-out sentence", recipe.seed, text) % _ONE_IN == 0 for text in found]
        alike = likeness(texts(), every, [(seen, seen), (unseen, every)])
        self.every = frozenset(every)
        self.cosines = alike[0].cosines
        self.sides = {
            "train": _Side(
                "train", seen, Neighbours(seen), tuple(t for t, out in zip(found, held) if not out), alike[0]
            ),
            "test": _Side("test", asked, Neighbours(every), tuple(t for t, out in zip(found, held) if out), alike[1]),
        }
        self.missing: dict[str, str] = {}
        for kind in TYPES:
            self._check(kind)
        self.types = tuple(kind for kind in TYPES if kind not in self.missing)
        self._prompts: set[str] = set()
        self._orders: dict[tuple[str, Type], list[int]] = {}
        self._shown: dict[Type, list[tuple[str, str]]] = {}
        if recipe.shots:
            for kind in self.types:
                made = (self._question(self.sides["train"], kind, i, _EXAMPLES) for i in range(recipe.shots))
                asked_before = [q for q in made if q is not None]
                self._shown[kind] = [(q.prompt, q.answer) for q in asked_before]

    def test(self) -> tuple[Question, ...]:
        """Types in turn, those with fewer questions end earlier."""
        side = self.sides["test"]
        made: dict[Type, list[Question]] = {}
        for kind in self.types:
            endless = (self._question(side, kind, i, "test") for i in range(self.recipe.test_questions))
            made[kind] = [q for q in endless if q is not None]
        rows = [made[kind][i : i + 1] for i in range(self.recipe.test_questions) for kind in self.types]
        return tuple(q for row in rows for q in row)

    def train(self) -> tuple[Question, ...]:
        """Types drawn uniformly, of those that have questions left; none that is asked in the test or shown."""
        side = self.sides["train"]
        made: list[Question] = []
        left, counts = list(self.types), Counter[str]()
        while len(made) < self.recipe.train_questions:
            if not left:
                raise DataError(
                    f"task cute: the training words give {len(made):,} questions, task.train_questions="
                    f"{self.recipe.train_questions:,}: ask for fewer or raise task.train_words"
                )
            drawn = left[int(keyed_rng("cute type", self.recipe.seed, len(made), len(left)).integers(len(left)))]
            found = self._question(side, drawn, counts[drawn], "train")
            if found is None:
                left.remove(drawn)
                say(f"cute: after {counts[drawn]:,} training questions of type {drawn!r} the words give no other")
                continue
            counts[drawn] += 1
            made.append(found)
        return tuple(made)

    def about(self) -> dict[str, Any]:
        return {
            "word_list": describe_list(self.listed, self.unseen),
            "train_words": len(self.sides["train"].words),
            "sentences": {name: len(side.sentences) for name, side in self.sides.items()},
            "missing": dict(self.missing),
            "groups": {
                "letters": [kind for kind in self.types if not kind.endswith("_word") and kind not in ("orth", "sem")],
                "words": [kind for kind in self.types if kind.endswith("_word")],
                "likeness": [kind for kind in self.types if kind in ("orth", "sem")],
            },
            "meaning": "company of words in the training text (PPMI, singular vectors) in place of fastText's vectors; "
            f"alike from a cosine of {self.cosines[1]:.2f}, not alike up to {self.cosines[0]:.2f}",
        }

    def rules(self) -> dict[str, Rule]:
        return {"nearest to the others": _nearness, "is a frequent word": self._known}

    def _known(self, q: Question) -> list[float]:
        spelled = ["".join(option.split()) if q.type == "spell" else option.strip() for option in q.options]
        return [float(word in self.every) for word in spelled]

    def _check(self, kind: Type) -> None:
        short = {name: n for name, side in self.sides.items() if (n := len(side.sources(kind))) < LEAST_SOURCES}
        if not short:
            return
        (name, n) = next(iter(short.items()))
        what = "sentences of 3 to 10 plain words" if kind.endswith("_word") else "words"
        reason = f"{n} {what} for {name} that fit the type {kind!r}, it needs {LEAST_SOURCES}"
        if kind not in ("orth", "sem"):
            raise DataError(f"task cute: {reason}: take a larger corpus, or raise task.words={self.recipe.words}")
        self.missing[kind] = reason
        say(f"cute: without {kind}: {reason}")

    def _question(self, side: _Side, kind: Type, number: int, stream: str) -> Question | None:
        """The question `number` of a type, about the words or sentences in turn; None where there is no further."""
        sources = side.sources(kind)
        order = self._orders.setdefault(
            (stream, kind), keyed_rng("cute order", self.recipe.seed, stream, kind).permutation(len(sources)).tolist()
        )
        rng = keyed_rng("cute", self.recipe.seed, stream, kind, number)
        for attempt in range(len(order) + SPARE_ATTEMPTS):
            text = sources[order[(number + attempt) % len(order)]]
            drawn = self._draw(side, kind, text, rng)
            if drawn is None:
                continue
            asked = question(kind, drawn.text, drawn.old, drawn.new)
            # Whether it was shown, asked or trained on is a matter of the question, not of what stands before it.
            if asked in self._prompts:
                continue
            self._prompts.add(asked)
            right = drawn.options[0]
            options = [drawn.options[i] for i in rng.permutation(len(drawn.options))]
            if kind.startswith("contains"):
                options = ["Yes", "No"]
            elif kind in ("orth", "sem"):
                options = [drawn.old, drawn.new]  # in the order of the question, which was drawn
            words = (drawn.text, drawn.old, drawn.new) if kind in ("orth", "sem") else (text,)
            return Question(
                id=f"{stream}-{kind}-{number}",
                type=kind,
                prompt=prompt(kind, asked, self._shown.get(kind, [])),
                answer=f" {right}",
                options=tuple(f" {option}" for option in options),
                gold=options.index(right),
                group=text,
                aux=" ".join(part for part in (drawn.old, drawn.new) if part),
                template=f"shots{len(self._shown.get(kind, []))}",
                words=words if not kind.endswith("_word") else (),
            )
        return None

    def _draw(self, side: _Side, kind: Type, text: str, rng: "np.random.Generator") -> _Drawn | None:
        if kind in ("spell", "spell_inverse"):
            return _spelling(kind, text, side.offered, rng)
        if kind in ("orth", "sem"):
            return _likeness(kind, text, side.alike, rng)
        parts = units(kind, text)
        vocabulary = self.listed if kind.endswith("_word") else LETTERS
        if kind.startswith("contains"):
            yes = bool(rng.integers(2))
            pool = sorted(set(parts))
            if not yes:
                # Of another sentence, a word of the list would be rarer than those that are in sentences.
                other = side.sentences[int(rng.integers(len(side.sentences)))] if kind == "contains_word" else ""
                pool = sorted(set(units(kind, other) if other else LETTERS) - set(parts))
            if not pool:
                return None
            unit = pool[int(rng.integers(len(pool)))]
            return _Drawn(text, unit, "", ("Yes", "No") if yes else ("No", "Yes"))
        operation = kind.partition("_")[0]
        edit = draw_edit(operation, parts, vocabulary, rng)  # type: ignore[arg-type]
        if edit is None:
            return None
        results = (edit.apply(parts), *wrong_results(edit, parts, vocabulary, rng))
        return _Drawn(text, edit.old, edit.new, tuple(joined(kind, result, text) for result in results))


def _spelling(kind: Type, word: str, offered: "Neighbours", rng: "np.random.Generator") -> _Drawn:
    """Among words, as what is no word would be ruled out unread, around one of the four, drawn: were it always the
    answer, that would be the one in the middle."""
    near = offered.of(word)
    middle = word if rng.integers(4) == 0 else near[int(rng.integers(len(near)))]
    others = [other for other in offered.of(middle) if other not in (word, middle)]
    wrong = [] if middle == word else [middle]
    wrong += [others[i] for i in rng.permutation(len(others))[: 3 - len(wrong)]]
    write: Callable[[str], str] = " ".join if kind == "spell" else str
    text = word if kind == "spell" else " ".join(word)
    return _Drawn(text, "", "", tuple(write(option) for option in (word, *wrong)))


def _likeness(kind: Type, word: str, alike: "Likeness", rng: "np.random.Generator") -> _Drawn:
    spelled, used = (others[word][int(rng.integers(len(others[word])))] for others in (alike.spelled, alike.used))
    right, wrong = (spelled, used) if kind == "orth" else (used, spelled)
    first, second = (right, wrong) if rng.integers(2) else (wrong, right)
    return _Drawn(word, first, second, (right, wrong))


def _by_type(questions: Sequence[Question]) -> dict[str, int]:
    counts = Counter(q.type for q in questions)
    return {kind: counts[kind] for kind in TYPES if counts[kind]}


def _nearness(q: Question) -> list[float]:
    """How like the others an option is: near misses of the answer may give it away."""
    from evaluation.subword.likeness import ratio

    options = [units(q.type, option[1:]) for option in q.options]
    return [round(sum(ratio(a, b) for b in options), 9) for a in options]
