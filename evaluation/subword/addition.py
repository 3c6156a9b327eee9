"""Addition: sums that the training text never had, asked of the pretrained model itself.

A question is `$a+b=` as in the text of `corpus=addition`, its answer the sum from the last digit to the first; it is
right if the text up to the next `$` is the answer exactly. Greedy decoding alone: there is nothing to choose from.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from evaluation.subword.questions import Question, TaskData
from isotok.errors import DataError
from isotok.keyed import keyed_rng
from isotok.recipe import Field, Impl, recipe

MIN_DIGITS_PER_TOKEN = 2.0
"""Of the numbers in questions and answers: with less, a vocabulary of subwords is not tested as one."""
STOP = "$"
Problem = tuple[int, int]


@recipe
class AdditionTask:
    """The held-out problems of an addition corpus, and problems with numbers of one digit more.

    questions: at most so many of the test split; longer: so many with one digit more, 0 for none. The corpus says how
    many digits a number has. type: how many digits are carried; group: the sum; aux: `overflow` where the sum has a
    digit more than a.
    """

    questions: Annotated[int, Field(ge=1)] = 5000
    longer: Annotated[int, Field(ge=0)] = 1000
    point_questions: Impl[Annotated[int, Field(ge=1)]] = 5000
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def label(self) -> str:
        return "addition"

    @property
    def fine_tuned(self) -> bool:
        return False

    def data(self, corpus: Path) -> TaskData:
        """Raises DataError for a corpus of other text, or one whose held-out problems are in its training text."""
        train, held_out = _problems(corpus, "train"), _problems(corpus, "test")
        known = {frozenset(problem) for problem in train}
        leaked = [problem for problem in held_out if frozenset(problem) in known]
        if leaked:
            a, b = leaked[0]
            raise DataError(f"{corpus}: the training text has {len(leaked)} of the held-out problems, such as {a}+{b}")
        digits = len(str(max(a for a, _ in train)))
        asked = {"test": self._some(held_out, digits)}
        if self.longer:
            asked["longer"] = _longer(digits + 1, self.longer, self.seed)
        most_common = Counter(a + b for a, b in train).most_common(1)[0][0]
        rules: dict[str, Callable[[int, int], int]] = {
            "the training text's most common answer": lambda a, b: most_common,
            "each digit alone, nothing carried": _without_carry,
        }
        return TaskData(
            name=self.label,
            train=(),
            splits={split: tuple(_question(split, *problem) for problem in made) for split, made in asked.items()},
            main="test",
            modes=("generate",),
            matched={"longer": "test"} if self.longer else {},
            stop=STOP,
            about={
                "digits": digits,
                "problems": {"train": len(train), "test": len(held_out), "asked": len(asked["test"])},
                "min_digits_per_token": MIN_DIGITS_PER_TOKEN,
                "heuristics": {split: _shares(made, rules) for split, made in asked.items()},
                "heuristics_by_type": {
                    split: {kind: _shares(own, rules) for kind, own in _by_type(made).items()}
                    for split, made in asked.items()
                },
            },
        )

    def _some(self, problems: Sequence[Problem], digits: int) -> list[Problem]:
        order = keyed_rng("addition questions", self.seed, digits).permutation(len(problems))
        return [problems[i] for i in order[: self.questions]]


def carries(a: int, b: int) -> int:
    """How many columns of the sum carry a one to the next."""
    count = carry = 0
    while a or b:
        carry = int(a % 10 + b % 10 + carry > 9)
        count, a, b = count + carry, a // 10, b // 10
    return count


def _problems(corpus: Path, split: str) -> list[Problem]:
    from tokenization.addition import read_problems
    from tokenization.corpus import read_documents

    path = corpus / f"{split}.parquet"
    return [
        problem
        for document in read_documents(corpus, split)
        for problem in read_problems(document.text, f"{path}: document {document.id}")
    ]


def _longer(digits: int, count: int, seed: int) -> list[Problem]:
    """Distinct problems with numbers of so many digits; fewer than asked for only where there are no more."""
    rng = keyed_rng("longer addition questions", seed, digits)
    size = 10**digits
    found: dict[Problem, None] = {}
    while len(found) < min(count, size * (size - size // 10)):
        found[int(rng.integers(size // 10, size)), int(rng.integers(size))] = None
    return list(found)


def _question(split: str, a: int, b: int) -> Question:
    from tokenization.addition import answer_of, prompt_of

    answer = answer_of(a, b)
    return Question(
        id=f"{split}-{a}+{b}",
        type=_type(a, b),
        prompt=prompt_of(a, b),
        answer=answer,
        group=answer,
        aux="overflow" if len(answer) > len(str(a)) else "",
    )


def _without_carry(a: int, b: int) -> int:
    place, total = 1, 0
    while a or b:
        total += (a + b) % 10 * place
        place, a, b = place * 10, a // 10, b // 10
    return total


def _type(a: int, b: int) -> str:
    return f"carry{carries(a, b)}"


def _by_type(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        found.setdefault(_type(*problem), []).append(problem)
    return found


def _shares(problems: Sequence[Problem], rules: Mapping[str, Callable[[int, int], int]]) -> dict[str, float]:
    return {name: sum(rule(a, b) == a + b for a, b in problems) / len(problems) for name, rule in rules.items()}
