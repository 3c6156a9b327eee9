"""Marks of questions: kept in files, checked, part of what was asked, and nothing of it where there are none."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.subword.questions import Question, TaskData, check_task, parts, read_task, write_task
from isotok.errors import DataError

ASKED = Question("q", "t", "what is before the mark?", " it", marks=(4, 24))


def task(*questions: Question, train: tuple[Question, ...] = ()) -> TaskData:
    return TaskData("own", train, {"test": questions}, "test", modes=("generate",))


def test_marks_come_back_from_the_folder_and_questions_without_them_have_none(tmp_path: Path) -> None:
    made = task(ASKED, Question("plain", "t", "what?", " it"))
    write_task(made, tmp_path)
    assert read_task(tmp_path) == made
    marked, plain = (json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines())
    assert marked["marks"] == [4, 24] and "marks" not in plain


@given(st.text(min_size=1), st.data())
def test_parts_are_cut_at_the_marks(prompt: str, data: st.DataObject) -> None:
    marks = tuple(sorted(data.draw(st.sets(st.integers(1, len(prompt))))))
    question = Question("q", "t", prompt, " a", marks=marks)
    check_task(task(question))
    cut = parts(question)
    assert len(cut) == len(marks) + 1 and "".join(cut) == prompt
    assert tuple(len("".join(cut[: i + 1])) for i in range(len(marks))) == marks


@pytest.mark.parametrize("marks", [(0,), (25,), (-1, 3), (5, 5), (7, 4)])
def test_marks_that_no_prompt_can_have_are_refused(marks: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"test question 'q': marks \[.*prompt's 24 characters"):
        check_task(task(replace(ASKED, marks=marks)))


def test_marks_are_part_of_what_is_asked() -> None:
    bare = replace(ASKED, marks=())
    assert len({bare.hash, ASKED.hash, replace(ASKED, marks=(4,)).hash}) == 3
    assert bare.hash == "dc5818dbf8ca0732"  # as before there were marks
    check_task(task(ASKED, train=(replace(ASKED, marks=(4,)), replace(bare, id="bare"))))
    with pytest.raises(DataError, match="its prompt is in train as well"):
        check_task(task(ASKED, train=(ASKED,)))


@pytest.mark.parametrize("marks", [["4"], "4", 4, [True]])
def test_marks_of_another_kind_are_no_question(tmp_path: Path, marks: object) -> None:
    write_task(task(ASKED), tmp_path)
    path, listed = tmp_path / "test.jsonl", tmp_path / "task.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "marks": marks}) + "\n")
    from isotok.files import sha256_file

    content = json.loads(listed.read_text())
    content["files"]["test"]["sha256"] = sha256_file(path)
    listed.write_text(json.dumps(content))
    with pytest.raises(DataError, match="test.jsonl:1: not a question"):
        read_task(tmp_path)
