"""How CUTE's questions are worded, in our own words, and the sentences that they are about."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

Type = Literal[
    "spell",
    "spell_inverse",
    "contains_char",
    "contains_word",
    "orth",
    "sem",
    "ins_char",
    "del_char",
    "sub_char",
    "swap_char",
    "ins_word",
    "del_word",
    "sub_word",
    "swap_word",
]
TYPES: tuple[Type, ...] = get_args(Type)
SENTENCES = 50_000  # the first of the training text
_SENTENCE = re.compile(r"[A-Za-z]+(?: [A-Za-z]+){2,9}[.!?]")
_END = re.compile(r"(?<=[.!?])\s+")
_CAPITALS = re.compile(r"[A-Z]{2}")

_QUESTIONS: dict[str, str] = {
    "spell": "spell {text}:",
    "spell_inverse": "join {text}:",
    "contains_char": "is '{old}' in {text}?",
    "contains_word": "is the word '{old}' in: {text}",
    "orth": "in spelling, is {text} nearer to {old} or {new}?",
    "sem": "in meaning, is {text} nearer to {old} or {new}?",
    "ins": "put {unit}'{new}' after every '{old}' of {text}",
    "del": "take every {unit}'{old}' out of {text}",
    "sub": "put {unit}'{new}' for every '{old}' of {text}",
    "swap": "exchange {unit}'{old}' and '{new}' of {text}",
}
_INSTRUCTIONS: dict[str, str] = {
    "spell": "Write the letters of the word with a space between them.",
    "spell_inverse": "Write the word that these letters make.",
    "contains_char": "Say Yes if the letter is in the word and No if it is not.",
    "contains_word": "Say Yes if the word is in the sentence and No if it is not.",
    "orth": "Say which of two words has nearly the same letters as the first word.",
    "sem": "Say which of two words has nearly the same meaning as the first word.",
    "ins_char": "Write the word with the new letter after every place of the other.",
    "del_char": "Write the word without a letter, wherever it is.",
    "sub_char": "Write the word with one letter for another, wherever it is.",
    "swap_char": "Write the word with two letters in each other's place.",
    "ins_word": "Write the sentence with the new word after every place of the other.",
    "del_word": "Write the sentence without a word, wherever it is.",
    "sub_word": "Write the sentence with one word for another, wherever it is.",
    "swap_word": "Write the sentence with two words in each other's place.",
}


def question(kind: str, text: str, old: str = "", new: str = "") -> str:
    """What is asked, ready for an answer that brings its space."""
    operation, _, level = kind.partition("_")
    if operation not in ("ins", "del", "sub", "swap"):
        return _QUESTIONS[kind].format(text=text, old=old, new=new)
    unit, text = ("word ", f"the words: {text}") if level == "word" else ("", f"{text}:")
    return _QUESTIONS[operation].format(unit=unit, old=old, new=new, text=text)


def prompt(kind: str, asked: str, shown: Sequence[tuple[str, str]]) -> str:
    """A question after solved ones (question, answer) and an instruction; alone where none are shown."""
    if not shown:
        return asked
    examples = "".join(f"{i}. Question: {q} Answer:{a}\n" for i, (q, a) in enumerate(shown, 1))
    return f"{_INSTRUCTIONS[kind]}\n{examples}Question: {asked} Answer:"


def sentences(texts: Iterable[str], most: int = SENTENCES) -> tuple[str, ...]:
    """Different sentences of 3 to 10 words of letters a to z, in lower case, that end in . ! or ?, in reading order.

    They have no other mark, so no quotation either, and nothing in capitals.
    """
    found: dict[str, None] = {}
    for text in texts:
        for part in _parts(text):
            if _SENTENCE.fullmatch(part) and not _CAPITALS.search(part):
                found[part.lower()] = None
                if len(found) == most:
                    return tuple(found)
    return tuple(found)


def _parts(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield from _END.split(" ".join(paragraph.split()))


def units(kind: str, text: str) -> tuple[str, ...]:
    """The letters of a word or the words of a sentence, without its end mark."""
    return tuple(text[:-1].split(" ")) if kind.endswith("_word") else tuple(text)


def joined(kind: str, parts: Sequence[str], text: str) -> str:
    """A word from letters, or a sentence from words with the end mark of `text`."""
    return " ".join(parts) + text[-1] if kind.endswith("_word") else "".join(parts)
