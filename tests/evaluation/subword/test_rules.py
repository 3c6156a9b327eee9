"""Rules that read no question, on questions made by hand."""

from collections.abc import Sequence

from evaluation.subword.questions import Question
from evaluation.subword.rules import heuristics, option_rules


def shares(questions: Sequence[Question], train: Sequence[Question] = ()) -> dict[str, float]:
    found: dict[str, float] = heuristics({"test": questions}, option_rules(train))["heuristics"]["test"]
    return found


def test_a_tie_counts_in_parts() -> None:
    question = Question("q", "most", "p", " aa", (" aa", " b", " cc", " d"), 0)
    found = shares([question])
    assert found["longest"] == 0.5
    assert found["shortest"] == 0
    assert found["fewest distinct letters"] == 0.25
    assert (found["first"], found["last"]) == (1, 0)
    assert "answer most often before" not in found
    assert shares([question], [question])["answer most often before"] == 1


def test_options_that_tell_the_type_are_counted() -> None:
    """As a solver that never reads the question would: the report has to show what that gets."""
    longest = Question("a", "longest", "p", " letters", (" aa", " be", " letters", " do"), 2)
    shortest = Question("b", "shortest", "q", " be", (" another", " be", " letters", " kindest"), 1)
    most = Question("c", "most", "r", " sees", (" sees", " star", " plum", " cord"), 0)
    found = shares([longest, shortest, most])
    assert found["odd length, or a letter twice"] == 1


def test_types_are_counted_apart() -> None:
    longest = Question("a", "longest", "p", " letters", (" aa", " be", " letters", " do"), 2)
    most = Question("c", "most", "r", " sees", (" plums", " sees", " star", " cord"), 1)
    made = heuristics({"test": [longest, most, most], "none": []}, option_rules())
    assert made["heuristics"]["test"]["longest"] == 0.3333
    assert {kind: own["longest"] for kind, own in made["heuristics_by_type"]["test"].items()} == {
        "longest": 1,
        "most": 0,
    }
    assert made["heuristics"]["none"] == made["heuristics_by_type"]["none"] == {}
