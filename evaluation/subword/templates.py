"""Wordings of LangGame's questions: the paper's, and compact ones of half as many tokens.

In every prompt each option stands after a space, so that it has the form of the answer, which brings its own space.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Wording = Literal["compact", "paper"]

_PAPER_PHRASES = {
    "most": "has the most letter '{aux}'s?",
    "contains": "contains '{aux}'?",
    "starts": "starts with '{aux}'?",
    "ends": "ends with '{aux}'?",
    "longest": "is the longest?",
    "shortest": "is the shortest?",
}
_PHRASES = {
    "most": "has most '{aux}'",
    "contains": "contains '{aux}'",
    "starts": "starts with '{aux}'",
    "ends": "ends with '{aux}'",
    "longest": "is longest",
    "shortest": "is shortest",
}
_COMPACT = (
    "which {phrase}? {words}:",
    "which {phrase}: {words}.",
    "{phrase}: {words}:",
    "of {words} which {phrase}?",
    "one of {words} {phrase}:",
    "in {words}, what {phrase}?",  # the last is held out
)
_HEADS = ("Which {one}", "Which of {the} {many}", "What {one}")  # the last is held out
_INTROS = ("{the} {many}:", "{the} {many} are:", "These are {the} {many}:")  # likewise
_ONE = ("word", "", "string", "option", "choice", "option word", "option string")
_MANY = ("options", "choices", "option words", "option strings")
_THE = ("the", "the possible", "the available")


@dataclass(frozen=True)
class Templates:
    """Wordings to draw from: by number, all of one side of the hold-out (of the paper's, heads and intros)."""

    wording: Wording
    heads: tuple[int, ...]
    intros: tuple[int, ...] = (0,)

    def draw(self, kind: str, aux: str, words: Sequence[str], rng: "np.random.Generator") -> tuple[str, str]:
        """(prompt, name of its template) of a question of type `kind` over `words`."""
        if self.wording == "compact":
            number = _pick(self.heads, rng)
            phrase = _PHRASES[kind].format(aux=aux)
            return _COMPACT[number].format(phrase=phrase, words=", ".join(words)), f"compact{number}"
        head, intro, the, one, many = (
            _pick(values, rng) for values in (self.heads, self.intros, range(3), range(len(_ONE)), range(len(_MANY)))
        )
        list_first = int(rng.integers(2))
        parts = {"the": _THE[the], "one": _ONE[one], "many": _MANY[many]}
        question = f"{_HEADS[head].format(**parts)} {_PAPER_PHRASES[kind].format(aux=aux)}"
        question = question.replace("  ", " ")  # where `one` is empty; the official generator leaves both spaces
        listed = f"{_capital(_INTROS[intro].format(**parts))} [ {', '.join(words)}]."
        both = (listed, question) if list_first else (question, listed)
        return f"{both[0]} {both[1]} Answer:", f"head{head}-intro{intro}-{the}{one}{many}{'lq'[1 - list_first]}"


def templates(wording: Wording, hold_out: bool) -> tuple[Templates, Templates | None]:
    """(the templates of training, those of the test alone or None): one compact wording, or a head with an intro."""
    if wording == "compact":
        every = tuple(range(len(_COMPACT)))
        if not hold_out:
            return Templates(wording, every), None
        return Templates(wording, every[:-1]), Templates(wording, every[-1:])
    heads, intros = tuple(range(len(_HEADS))), tuple(range(len(_INTROS)))
    if not hold_out:
        return Templates(wording, heads, intros), None
    return Templates(wording, heads[:-1], intros[:-1]), Templates(wording, heads[-1:], intros[-1:])


def _pick(values: Sequence[int], rng: "np.random.Generator") -> int:
    return values[int(rng.integers(len(values)))]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
