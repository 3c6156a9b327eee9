"""A task's questions to a model: the likeliest option, the greedy text.

A question is [end-of-text] ++ E(prompt), what follows is E(option ++ stop), in a task without a stop E(option) and
end-of-text: an option that begins another one has to end as well. Prompt and option are encoded apart, as in
fine-tuning, whatever the tokenizer would merge across.
"""

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.encoding import whole_text
from evaluation.forward import max_positions
from evaluation.subword.generate import greedy
from evaluation.subword.questions import Question
from evaluation.trees import TreeBuilder, score_trees
from isotok.errors import DataError
from isotok.progress import progress

Ids = Sequence[int]
_SPARE_BYTES = 16


@dataclass(frozen=True)
class Reply:
    """What a model made of one question.

    nats: -log P of each option; chosen: the option of fewest nats, the first of equals (-1: there are none);
    chosen_bytes: of fewest nats a byte. generated: the greedy text (None: not asked); exact: it is the answer, and
    ended.
    """

    nats: tuple[float, ...] = ()
    chosen: int = -1
    chosen_bytes: int = -1
    generated: str | None = None
    exact: bool | None = None


class Asker:
    """Asks questions in one tokenizer's ids. generating: whether texts are asked for, choosing: options. meta_id: of
    the token that stands at the marks of prompts."""

    def __init__(self, tokenizer: Any, stop: str, *, choosing: bool, generating: bool, meta_id: int | None = None):
        from tokenization.tokenizer import token_bytes

        self.tokenizer, self.meta_id = tokenizer, meta_id
        self.stop = stop
        self.choosing, self.generating = choosing, generating
        self.eos_id = int(tokenizer.eos_token_id)
        self._pieces = token_bytes(tokenizer) if generating else []

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """E of each text."""
        from tokenization.tokenizer import encode_texts

        return [list(ids) for ids in encode_texts(self.tokenizer, texts)]

    def prompts(self, questions: Sequence[Question]) -> list[list[int]]:
        """E of each prompt, with the meta token at its marks. Raises ConfigError where there are marks and no token."""
        from tokenization.tokenizer import encode_marked

        return encode_marked(self.tokenizer, [q.prompt for q in questions], [q.marks for q in questions], self.meta_id)

    def beyond(self, model: Any, questions: Sequence[Question], prompts: Sequence[Ids]) -> str:
        """Why the model's positions do not hold these prompts and the longest option; empty where they do."""
        limit = max_positions(model)
        options = self._ended({option for question in questions for option in question.options}).values()
        most = 1 + max(map(len, prompts), default=0) + max(map(len, options), default=0)
        return "" if limit is None or most <= limit else f"{most} tokens do not fit the model's {limit} positions"

    def ask(
        self,
        model: Any,
        questions: Sequence[Question],
        prompts: Sequence[Ids] | None = None,
        *,
        most_bytes: int | None = None,
        name: str = "questions",
    ) -> list[Reply]:
        """A reply to each question. prompts: ids of the prompts, E of them unless given; most_bytes: of a generated
        text, `text_limit` of the questions unless given.

        Raises DataError naming a question whose options have no finite log-probability.
        """
        ids = self.prompts(questions) if prompts is None else prompts
        rows = [[self.eos_id, *row] for row in ids]
        replies = [Reply() for _ in questions]
        with progress(name, len(questions) * (self.choosing + self.generating), "question") as advance:
            if self.choosing:
                replies = self._choose(model, questions, rows, advance)
            if self.generating:
                limit = text_limit(questions, self.stop) if most_bytes is None else most_bytes
                replies = self._generate(model, questions, rows, replies, limit, advance)
        return replies

    def _choose(
        self, model: Any, questions: Sequence[Question], rows: Sequence[Ids], advance: Callable[[float], None]
    ) -> list[Reply]:
        encoded = self._ended({option for question in questions for option in question.options})
        options = [[encoded[option] for option in question.options] for question in questions]
        nats = score_options(model, rows, options, advance)
        return [_choice(question, own) for question, own in zip(questions, nats)]

    def _ended(self, options: Set[str]) -> dict[str, list[int]]:
        """Ids of options with what ends them."""
        texts = sorted(options)
        end = [] if self.stop else [self.eos_id]
        return {text: [*ids, *end] for text, ids in zip(texts, self.encode([text + self.stop for text in texts]))}

    def _generate(
        self,
        model: Any,
        questions: Sequence[Question],
        rows: Sequence[Ids],
        replies: Sequence[Reply],
        most_bytes: int,
        advance: Callable[[float], None],
    ) -> list[Reply]:
        found = greedy(model, self._pieces, self.eos_id, rows, self.stop.encode(), most_bytes, advance)
        return [
            Reply(
                reply.nats,
                reply.chosen,
                reply.chosen_bytes,
                whole_text(made.data),
                made.ended and made.data == question.answer.encode(),
            )
            for question, reply, made in zip(questions, replies, found)
        ]


def text_limit(questions: Sequence[Question], stop: str) -> int:
    """Bytes that a generated text may have: the longest answer, its stop and some more to be looked at."""
    longest = max((len(question.answer.encode()) for question in questions), default=0)
    return longest + len(stop.encode()) + _SPARE_BYTES


def score_options(
    model: Any,
    prompts: Sequence[Ids],
    options: Sequence[Sequence[Ids]],
    advance: Callable[[float], None] | None = None,
) -> list[tuple[float, ...]]:
    """-log P, summed, of each option (ids) after its prompt (ids). What options have in common is run once."""
    builders, leaves = [], []
    for prompt, own in zip(prompts, options):
        builder = TreeBuilder(prompt)
        leaves.append([builder.path(builder.add(option)) for option in own])
        builders.append(builder)
    scores = score_trees(model, [builder.tree() for builder in builders], best=False, advance=advance)
    return [tuple(-math.fsum(score.log_p[path].tolist()) for path in paths) for score, paths in zip(scores, leaves)]


def _choice(question: Question, nats: tuple[float, ...]) -> Reply:
    if not nats:
        return Reply()
    if not np.isfinite(nats).all():
        raise DataError(
            f"question {question.id}: an option has a log-likelihood of {-max(nats)}; the model's weights or "
            "activations are not finite"
        )
    rates = [value / max(1, len(option.encode())) for value, option in zip(nats, question.options)]
    return Reply(nats, nats.index(min(nats)), rates.index(min(rates)))
