"""Answers the marked tasks from the text between the marks, and from nothing else."""

import re

from evaluation.subword.questions import Question, parts

MARK = "⊗"


def shown(question: Question) -> str:
    """The prompt with a sign for each mark."""
    return MARK.join(parts(question))


def solve(text: str) -> str:
    """The answer of a prompt with signs for its marks."""
    content, _, asked = text.rpartition("\n")
    if found := re.fullmatch(r"Question: what is item (\d+) of ([A-Z][a-z]+)\? Answer:", asked):
        (line,) = [line for line in content.replace(MARK, "").split("\n") if line.split(":")[0] == found[2]]
        return " " + re.findall(r"[a-z]+(?=[,.])", line)[int(found[1]) - 1]
    if found := re.fullmatch(r"Question: how many times does ([a-z]+) appear between the marks\? Answer:", asked):
        _, inside, _ = content.split(MARK)
        return f" {re.findall('[A-Za-z]+', inside).count(found[1])}"
    if asked == "Question: what is the parity of the bits before the mark? Answer:":
        before, _ = content.split(MARK)
        return " 1" if before.count("1") % 2 else " 0"
    assert asked == "Question: copy the text between the marks. Answer:"
    _, inside, _ = content.split(MARK)
    return inside[len(" [") : -len(" ]")]


def length(question: Question, marks: int) -> int:
    """Words, numbers, signs, newlines and marks of a question with its answer and its end."""
    return len(re.findall(r"[A-Za-z]+|[0-9]+|[.,:?\[\]]|\n", question.prompt + question.answer)) + marks + 1
