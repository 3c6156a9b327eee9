"""Rules that do not read the question: what they get right says nothing of a model that gets no more."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evaluation.subword.questions import Question

Rule = Callable[[Question], Sequence[float]]
"""A question -> a value of each option; the largest is the rule's answer."""


def option_rules(train: Sequence[Question] = ()) -> dict[str, Rule]:
    """By length or letters of the options, and by place.

    `odd length, or a letter twice` takes the one option whose length sets it apart, as only the answer of LangGame's
    `longest` or `shortest` is, and else a word with a letter twice: options tell the type. With train, `answer most
    often before` takes the option that was the answer in the largest share of the training questions that showed it.
    """
    rules: dict[str, Rule] = {
        "longest": lambda q: [len(option) for option in q.options],
        "shortest": lambda q: [-len(option) for option in q.options],
        "most distinct letters": lambda q: [len(set(option)) for option in q.options],
        "fewest distinct letters": lambda q: [-len(set(option)) for option in q.options],
        "odd length, or a letter twice": _gives_itself_away,
        "first": lambda q: [-place for place in range(len(q.options))],
        "last": lambda q: list(range(len(q.options))),
    }
    if train:
        shown = Counter(option for question in train for option in question.options)
        right = Counter(question.answer for question in train)
        rules["answer most often before"] = lambda q: [right[option] / max(1, shown[option]) for option in q.options]
    return rules


def heuristics(splits: Mapping[str, Sequence[Question]], rules: Mapping[str, Rule]) -> dict[str, Any]:
    """`heuristics` and `heuristics_by_type` of a task's `about`: {split: {rule: share right}}, {split: {type: ...}}.

    Options that a rule cannot tell apart count in parts.
    """
    scores = {
        split: [(question.type, {name: _score(question, rule) for name, rule in rules.items()}) for question in asked]
        for split, asked in splits.items()
    }
    return {
        "heuristics": {split: _means([own for _, own in made]) for split, made in scores.items()},
        "heuristics_by_type": {
            split: {
                kind: _means([own for other, own in made if other == kind])
                for kind in dict.fromkeys(kind for kind, _ in made)
            }
            for split, made in scores.items()
        },
    }


def _score(question: Question, rule: Rule) -> float:
    values = rule(question)
    best = [place for place, value in enumerate(values) if value == max(values)]
    return (question.gold in best) / len(best)


def _means(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: round(sum(own[name] for own in scores) / len(scores), 4) for name in scores[0]} if scores else {}


def _gives_itself_away(question: Question) -> list[float]:
    words = [option.strip() for option in question.options]
    sizes = sorted(map(len, words))
    if sizes[-1] - sizes[-2] >= 3:
        return [len(word) for word in words]
    if sizes[1] - sizes[0] >= 3:
        return [-len(word) for word in words]
    return [float(len(set(word)) < len(word)) for word in words]
