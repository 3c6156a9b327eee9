"""The generated tasks, the same for every tokenizer: they depend on held-out documents and the seed alone.

Text is taken as it stands. Every draw is keyed by (seed, task, item), so items do not depend on one another nor on the
order of the documents. A change of items raises the task's version.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from evaluation.tasks import arithmetic, minimal_pairs, prose, robustness, sentences, words
from evaluation.tasks.items import Item, Normalization, TaskSet
from isotok.errors import ConfigError


@dataclass(frozen=True)
class Task:
    """How a task is made.

    times: items for each one that is asked for. compare_methods: score it by every method there is.
    """

    make: Callable[[sentences.Source, int], Iterator[Item]]
    normalization: Normalization = "bytes"
    times: int = 1
    compare_methods: bool = False
    version: int = 1


TASKS: dict[str, Task] = {
    "iso_cloze": Task(prose.cloze),
    "iso_wordorder": Task(prose.wordorder),
    "iso_typo": Task(prose.typo),
    "iso_minpair": Task(minimal_pairs.minpair, normalization="none", times=5),
    "iso_lastword": Task(prose.lastword),
    "iso_spell": Task(words.spell),
    "iso_charcount": Task(words.charcount),
    "iso_reverse": Task(words.reverse),
    "iso_arith": Task(arithmetic.arith),
    "iso_robust": Task(robustness.robust, times=len(robustness.VARIANTS)),
    "iso_boundary": Task(prose.boundary, normalization="none", times=2, compare_methods=True),
}
COMPARE_METHODS = frozenset(name for name, task in TASKS.items() if task.compare_methods)


def generate_tasks(documents: Sequence[Any], names: Sequence[str], items: int, seed: int) -> list[TaskSet]:
    """Make `items` items of each named task, times the task's `times`, or as many as the documents yield.

    `documents` have `id`, `text`, `group`, `domain`. Same documents and seed: same items, byte for byte.
    """
    for name in names:
        if name not in TASKS:
            raise ConfigError(f"task {name!r}: unknown; there are {', '.join(TASKS)}")
    source = sentences.source(documents)
    made = []
    for name in names:
        task = TASKS[name]
        found = tuple(islice(task.make(source, seed), items * task.times))
        reason = None if found else f"the test split yields no item ({len(source.sentences)} sentences fit for tasks)"
        made.append(TaskSet(name, found, task.version, normalization=task.normalization, missing=reason))
    return made
