"""Who holds up the others, judged from the ranks' reports; and what reports there are. With processes: test_launch."""

import os
import time
from pathlib import Path

import pytest

from training.watchdog import Report, Watchdog, find_culprit, group_timeout_s, read_report, report_path

HOST = "here"


def report(rank: int, phase: str, step: int = 7, phase_s: float = 50, at: float = 0, **other: object) -> Report:
    fields = {"pid": os.getpid(), "host": HOST, "verdict": "", **other}
    return Report(rank=rank, step=step, phase=phase, phase_s=phase_s, time=at, **fields)  # type: ignore[arg-type]


def judge(*after: Report, silent: tuple[int, ...] = (), size: int | None = None) -> tuple[int | None, str]:
    """The culprit, where all but the silent ranks have written a new report in the meantime."""
    before = {
        one.rank: Report(**{**vars(one), "time": one.time - (0 if one.rank in silent else 10), "verdict": ""})
        for one in after
    }
    return find_culprit(before, {one.rank: one for one in after}, size or len(after), HOST)


def test_a_rank_that_fetches_holds_up_those_that_wait() -> None:
    rank, reason = judge(report(0, "agree"), report(1, "fetch", phase_s=49), report(2, "step", phase_s=51))
    assert rank == 1
    assert reason == f"rank 1 (here, pid {os.getpid()}) is stuck in fetch at step 7 for 49 s"


def test_a_rank_at_work_holds_up_those_that_agree() -> None:
    assert judge(report(0, "save"), report(1, "agree"))[0] == 0
    assert judge(report(0, "agree"), report(1, "step"))[0] == 1
    assert judge(report(0, "validate", phase_s=60), report(1, "step", phase_s=50))[0] == 0


def test_a_rank_that_is_a_step_behind_holds_up_the_others() -> None:
    assert judge(report(0, "step", step=8, phase_s=60), report(1, "step"))[0] == 1
    assert judge(report(0, "step", step=8, phase_s=60), report(1, "agree"))[0] == 1


def test_silence_is_worse_than_any_phase() -> None:
    rank, reason = judge(report(0, "fetch"), report(1, "step", at=time.time() - 90), silent=(1,))
    assert rank == 1
    assert reason.endswith("has not been heard of for 90 s, last at step 7 in step")
    gone = judge(report(0, "fetch"), report(1, "agree", pid=2**22 + 1))
    assert gone[0] == 1, "its last report is new, its process is gone"
    elsewhere = judge(report(0, "fetch"), report(1, "agree", pid=2**22 + 1, host="there"))
    assert elsewhere[0] == 0, "process ids of another host say nothing here"


def test_all_that_are_silent_are_named() -> None:
    rank, reason = judge(report(0, "agree"), report(2, "agree"), size=4, silent=(2,))
    assert rank == 1
    assert reason == "rank 1 has never been heard of; nor have ranks 2, 3"


def test_ranks_in_the_same_phase_blame_no_one() -> None:
    for phase in ("agree", "step", "save"):
        rank, reason = judge(report(0, phase, phase_s=52), report(1, phase))
        assert rank is None
        assert reason == f"the ranks wait for each other in {phase} at step 7: look at the network between them"


def test_a_rank_that_is_done_is_no_culprit() -> None:
    assert judge(report(0, "export"), report(1, "done"), silent=(1,))[0] == 0


def test_a_single_rank_is_the_culprit() -> None:
    assert judge(report(0, "step")) == (0, f"rank 0 (here, pid {os.getpid()}) is stuck in step at step 7 for 50 s")


def test_an_earlier_verdict_stands() -> None:
    verdict = "rank 2 is stuck in fetch"
    assert judge(report(0, "agree"), report(1, "agree", pid=2**22 + 1, verdict=verdict))[1] == verdict


def test_reports_are_there_from_the_start_and_follow(tmp_path: Path) -> None:
    watchdog = Watchdog(tmp_path, 1, 2, timeout_s=0.4)
    first = read_report(tmp_path, 1)
    assert first is not None
    assert (first.phase, first.step, first.pid) == ("start", 0, os.getpid())
    for _ in range(40):  # longer than its timeout: a rank that goes on is left alone
        watchdog.enter("step", 3)
        time.sleep(0.02)
    seen = read_report(tmp_path, 1)
    assert seen is not None
    assert (seen.phase, seen.step) == ("step", 3)
    assert seen.time > first.time
    watchdog.close()
    last = read_report(tmp_path, 1)
    assert last is not None
    assert last.phase == "done"


def test_a_single_process_leaves_no_report(tmp_path: Path) -> None:
    watchdog = Watchdog(tmp_path, 0, 1, timeout_s=60)
    assert read_report(tmp_path, 0) is not None
    watchdog.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rank": 0}'])
def test_a_report_that_cannot_be_read_is_none(text: str, tmp_path: Path) -> None:
    assert read_report(tmp_path, 0) is None
    report_path(tmp_path, 0).parent.mkdir()
    report_path(tmp_path, 0).write_text(text)
    assert read_report(tmp_path, 0) is None


def test_process_groups_wait_longer_than_the_watchdog() -> None:
    assert group_timeout_s(1800) > 1800 + 60
