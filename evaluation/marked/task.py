"""The marked tasks (after Shah et al., 2025): recall, segment counting, parity and copying, learned by a curriculum.

Every draw is keyed by (kind, seed, split, number of the question), so a split is the same whatever else is asked for.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from evaluation.marked import copying, counting, parity, recall
from evaluation.marked.draft import Draft
from evaluation.marked.levels import Level, fits, parse_level, question_pieces
from evaluation.marked.lists import Words, sides
from evaluation.subword.questions import TRAIN, Question, TaskData
from evaluation.subword.words import describe_list
from isotok.errors import DataError
from isotok.keyed import keyed_rng
from isotok.recipe import Field, Impl, recipe
from tokenization.word_lists import NAMES, NOUNS

Kind = Literal["recall", "counting", "parity", "copying"]
HELD_OUT = "held_out"
MAJORITY = "the training questions' most common answer"
KINDS: dict[Kind, ModuleType] = {"recall": recall, "counting": counting, "parity": parity, "copying": copying}
_ATTEMPTS = 1000  # of one question
LevelName = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]


@recipe
class MarkedTask:
    """One of four tasks whose prompts have marks; fine-tuned along a curriculum of levels, asked at each of them.

    levels: of the curriculum, `AxB` or lengths in pieces, smaller ones first (evaluation.marked.levels says what they
    are of each kind). Training has a phase for each, of equal size (to one) and in this order; a phase draws from its
    level and, with a chance of `replay`, from any earlier one. Fewer training questions are the beginning of each phase
    of the more. test_levels: asked, but never trained, larger than all of levels. A split `level<L>` for each of both,
    of `test_questions`; the headline is the last trained level. names, items: the first so many of the word lists.
    held_out: one name and noun in ten are for a split of that name alone, at the last trained level.
    placement: task: marks as the task has them; none: no mark, in recall alone, as marks state the other questions.
    """

    kind: Kind
    levels: tuple[LevelName, ...]
    test_levels: tuple[LevelName, ...] = ()
    names: Annotated[int, Field(ge=2, le=NAMES)] = 50
    items: Annotated[int, Field(ge=2, le=NOUNS)] = 50
    train_questions: Annotated[int, Field(ge=1)] = 90_000
    replay: Annotated[float, Field(ge=0, lt=1)] = 0.2
    test_questions: Annotated[int, Field(ge=1)] = 1000
    point_questions: Impl[Annotated[int, Field(ge=1)]] = 500
    placement: Literal["task", "none"] = "task"
    held_out: bool = False
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def label(self) -> str:
        return self.kind

    @property
    def fine_tuned(self) -> bool:
        return True

    def data(self, corpus: Path) -> TaskData:
        """Whatever the corpus. Raises DataError where a level has no further question, no prompt coming twice."""
        made = _Maker(self)
        asked, train = made.splits(), made.train()
        main = _split(self.levels[-1])
        outside = [*map(_split, self.test_levels), *([HELD_OUT] if self.held_out else [])]
        return TaskData(
            name=self.label,
            train=train,
            splits={split: tuple(question for question, _ in own) for split, own in asked.items()},
            main=main,
            modes=("generate",),
            matched=dict.fromkeys(outside, main),
            words=made.shown(),
            about={**made.about(), **_heuristics(asked, train)},
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.levels:
            raise ValueError("levels is empty: give at least one, like levels=[4x3] or levels=[128]")
        parsed = {}
        for key in ("levels", "test_levels"):
            try:
                parsed[key] = [parse_level(name) for name in getattr(self, key)]
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
        both = parsed["levels"] + parsed["test_levels"]
        if len({bool(level.length) for level in both}) > 1:
            raise ValueError("levels and test_levels: all shapes, or all lengths")
        if any(low.size >= high.size for low, high in pairwise(parsed["levels"])):
            raise ValueError(f"levels={list(self.levels)}: each has to be larger than the one before")
        last, beyond = parsed["levels"][-1], parsed["test_levels"]
        if any(level.size <= last.size for level in beyond) or len(set(self.test_levels)) < len(beyond):
            raise ValueError(
                f"test_levels={list(self.test_levels)}: different ones, larger than the last trained, {last.name}"
            )
        if self.placement == "none" and self.kind != "recall":
            raise ValueError(
                f"placement=none: marks state the question of kind={self.kind}; recall alone can lack them"
            )
        if self.train_questions < len(self.levels):
            raise ValueError(
                f"train_questions={self.train_questions}: at least one for each of {len(self.levels)} levels"
            )
        if self.held_out and self.kind == "parity":
            raise ValueError("held_out=true: parity has no words to hold out")
        self._check_words(parsed)
        return self

    def _check_words(self, parsed: Mapping[str, Sequence[Level]]) -> None:
        problem = KINDS[self.kind].problem
        known, new = sides(self.names, self.items, self.seed, self.held_out)
        for key, levels in parsed.items():
            for level in levels:
                if found := problem(level, known):
                    raise ValueError(
                        f"{key}: {level.name} of {self.kind}: {found} (names={self.names}, items={self.items})"
                    )
        if new and (found := problem(parsed["levels"][-1], new)):
            raise ValueError(
                f"held_out=true: the split at {self.levels[-1]} has {len(new.names)} names and {len(new.items)} items: "
                f"{found}; raise names={self.names} or items={self.items}"
            )


class _Maker:
    """The questions of a recipe."""

    def __init__(self, recipe: MarkedTask) -> None:
        self.recipe = recipe
        self.known, self.new = sides(recipe.names, recipe.items, recipe.seed, recipe.held_out)
        self.levels = [parse_level(name) for name in recipe.levels]
        self._taken: set[tuple[str, tuple[int, ...]]] = set()

    def splits(self) -> dict[str, list[tuple[Question, Draft]]]:
        """Made before the training questions, which then leave out what is asked here."""
        places = {
            _split(name): (parse_level(name), self.known) for name in (*self.recipe.levels, *self.recipe.test_levels)
        }
        if self.new:
            places[HELD_OUT] = self.levels[-1], self.new
        return {
            split: [self._question(split, i, level, words) for i in range(self.recipe.test_questions)]
            for split, (level, words) in places.items()
        }

    def train(self) -> tuple[Question, ...]:
        """By phases. They are made in turns, so that a prompt that comes twice is drawn anew in the same place however
        many questions there are."""
        phases: list[list[Question]] = [[] for _ in self.levels]
        for number in range(self.recipe.train_questions):
            i, phase = divmod(number, len(self.levels))
            key = f"{TRAIN}-{self.levels[phase].name}"
            choice = keyed_rng("marked replay", self.recipe.kind, self.recipe.seed, key, i)
            replayed = phase > 0 and choice.random() < self.recipe.replay
            level = self.levels[int(choice.integers(phase)) if replayed else phase]
            phases[phase].append(self._question(key, i, level, self.known)[0])
        return tuple(question for phase in phases for question in phase)

    def shown(self) -> tuple[str, ...]:
        """The words whose share of single tokens is printed."""
        every = [words for words in (self.known, self.new) if words]
        if self.recipe.kind == "parity":
            return "0", "1"
        names = [name for words in every for name in words.names] if self.recipe.kind != "copying" else []
        return tuple(names + [item for words in every for item in words.items])

    def about(self) -> dict[str, Any]:
        held = self.new or Words((), ())
        lists = {
            "names": describe_list((*self.known.names, *held.names), held.names),
            "items": describe_list((*self.known.items, *held.items), held.items),
        }
        return {
            "kind": self.recipe.kind,
            "placement": self.recipe.placement,
            "levels": list(self.recipe.levels),
            "test_levels": list(self.recipe.test_levels),
            "replay": self.recipe.replay,
            **({"word_lists": lists} if self.recipe.kind != "parity" else {}),
        }

    def _question(self, split: str, number: int, level: Level, words: Words) -> tuple[Question, Draft]:
        """The question `number` of a split, and its draft. No prompt with its marks comes twice in a task."""
        rng = keyed_rng("marked", self.recipe.kind, self.recipe.seed, split, number)
        for _ in range(_ATTEMPTS):
            draft: Draft = KINDS[self.recipe.kind].draw(level, words, rng, number)
            asked = draft.prompt, draft.marks
            if asked in self._taken:
                continue
            if not fits(level, question_pieces(draft.prompt, len(draft.marks), draft.answer)):
                raise AssertionError(f"{self.recipe.kind} {level.name}: a question is not of its level: {draft}")
            self._taken.add(asked)
            question = Question(
                id=f"{split}-{number}",
                type=draft.type,
                prompt=draft.prompt,
                answer=draft.answer,
                group=draft.group,
                aux=draft.aux,
                marks=draft.marks if self.recipe.placement == "task" else (),
            )
            return question, draft
        raise DataError(
            f"task {self.recipe.label}: no further question of level {level.name} for {split}: ask for fewer, or take "
            "larger levels or more words (task.levels, task.names, task.items)"
        )


def _split(level: str) -> str:
    return f"level{level}"


def _heuristics(asked: Mapping[str, Sequence[tuple[Question, Draft]]], train: Sequence[Question]) -> dict[str, Any]:
    """`heuristics` and `heuristics_by_type` of `about`: what rules without a model get."""
    most_common = Counter(question.answer for question in train).most_common(1)[0][0]
    scores = {
        split: [(q.type, {**draft.rules, MAJORITY: float(q.answer == most_common)}) for q, draft in own]
        for split, own in asked.items()
    }
    return {
        "heuristics": {split: _means([own for _, own in made]) for split, made in scores.items()},
        "heuristics_by_type": {
            split: {
                kind: _means([own for other, own in made if other == kind])
                for kind in sorted({kind for kind, _ in made}, key=lambda kind: (len(kind), kind))
            }
            for split, made in scores.items()
        },
    }


def _means(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: round(sum(own[name] for own in scores) / len(scores), 4) for name in scores[0]}
