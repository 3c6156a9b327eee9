"""The local executor: what a dead, failing or interrupted stage does to the others, and how signals reach them."""

import os
import signal
import subprocess
import textwrap
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from isotok.errors import DataError, InterruptedRun, IsotokError
from scripts.compose import add_plugins
from scripts.local import run_graph
from scripts.store import Node, Store
from tests.processes import running, until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("local")]

PLUGIN = """
    import os, signal, subprocess, sys, time
    from pathlib import Path
    from isotok.errors import DataError
    from isotok.recipe import recipe
    from tokenization.documents import Corpus, Document

    @recipe
    class Stage(Corpus):
        does: str
        folder: str

        @property
        def label(self):
            return self.does

        def fingerprint(self):
            return {}

        def documents(self, tally=None):
            here = Path(self.folder)
            try:
                here.joinpath(f"started-{self.does}").write_text(str(os.getpid()))
                self.misbehave(here)
            except KeyboardInterrupt as stop:
                if self.does == "stubborn":
                    time.sleep(600)
                time.sleep(0.3)  # cleaning up takes its time
                here.joinpath(f"cleaned-{self.does}").write_text(stop.signal_name)
                raise
            for index in range(40):
                yield Document(f"{index}", f"text {index} " * 20 + self.does, f"{index}", "all")

        def misbehave(self, here):
            if self.does == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.does == "fail":
                raise DataError("record 3 is torn")
            if self.does == "bug":
                raise ZeroDivisionError("a bug")
            if self.does == "exit":
                os._exit(9)
            if self.does == "family":
                child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
                here.joinpath("grandchild").write_text(str(child.pid))
                os.kill(os.getpid(), signal.SIGKILL)
            if self.does == "stopped":
                wait_for(here / "started-long")
                os.kill(os.getpid(), signal.SIGUSR1)
            if self.does in ("long", "longer", "stubborn", "stopped"):
                wait_for(here / "go")

    def wait_for(path):
        while not (path.exists() and (path.name == "go" or path.read_text())):
            time.sleep(0.02)
"""

PARENT = """
import sys
from pathlib import Path
from scripts.cli import main
import scripts.cli
from tests.scripts.test_local import build
scripts.cli._dispatch = lambda arguments: build(Path(arguments[0]), *arguments[1:])
main()
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "misbehaving_stage.py").write_text(textwrap.dedent(PLUGIN))
    return tmp_path


def stage(place: Path, does: str, needs: Node | None = None) -> Node:
    config = {"corpus": {"_target_": "misbehaving_stage.Stage", "does": does, "folder": str(place)}}
    inputs = {"needs": needs} if needs else {}
    return Node(stage="corpus", name=does, key=f"{does}-key", format=1, inputs=inputs, config=config)


def build(place: Path, *targets: str) -> None:
    """Build stages that need nothing of each other, as the command line does."""
    add_plugins([str(place / "plugin")])
    run_graph(
        [stage(place, does) for does in targets],
        Store(place / "runs"),
        jobs=2,
        threads=1,
        plugins=[str(place / "plugin")],
    )


def built(place: Path) -> set[str]:
    return {path.parent.name.partition("-")[0] for path in (place / "runs").glob("*/*/manifest.json")}


def parent(place: Path, *targets: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return running(PARENT, str(place), *targets)


def started(place: Path, *names: str) -> bool:
    files = [place / f"started-{name}" for name in names]
    return all(file.exists() and file.read_text() for file in files)


def pid_of(place: Path, name: str) -> int:
    return int((place / f"started-{name}").read_text())


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize(
    ("does", "kind", "message"),
    [
        ("kill", IsotokError, r"^corpus kill: its process was killed by SIGKILL \(out of memory\?.*\); run the same"),
        ("exit", IsotokError, r"^corpus exit: its process ended with exit code 9"),
        ("fail", DataError, r"^record 3 is torn(\n|$)"),
    ],
)
def test_a_stage_that_fails_leaves_the_others_alone(
    does: str, kind: type[IsotokError], message: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = stage(place, does)
    after_it = stage(place, "after", needs=bad)
    others = [stage(place, f"other {i}") for i in range(3)]
    with pytest.raises(IsotokError, match=message) as caught:
        run_graph([after_it, *others], Store(place / "runs"), jobs=2, threads=1, plugins=[str(place / "plugin")])
    assert type(caught.value) is kind
    assert built(place) == {"other 0", "other 1", "other 2"}
    assert "corpus after: left out" in capfd.readouterr().err
    pids = {pid_of(place, f"other {i}") for i in range(3)}
    assert len(pids) < 3, "a process builds one artefact after another"


def test_a_bug_keeps_its_traceback(place: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        build(place, "bug", "other")
    assert "misbehaving_stage.py" in caught.value.__notes__[0]
    assert built(place) == {"other"}


def test_what_a_killed_stage_started_ends_with_it(place: Path) -> None:
    with pytest.raises(IsotokError, match="killed by SIGKILL"):
        build(place, "family", "other")
    until(lambda: gone(int((place / "grandchild").read_text())), 5)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_a_signal_stops_the_stages_as_the_same_signal(number: signal.Signals, code: int, place: Path) -> None:
    with parent(place, "long", "longer", "waits for a place") as process:
        until(lambda: started(place, "long", "longer"))
        process.send_signal(number)
        process.send_signal(number)
        err = process.communicate(timeout=30)[1]
        assert process.returncode == code, err
        for name in ("long", "longer"):
            assert (place / f"cleaned-{name}").read_text() == number.name
        assert err.splitlines()[-1].startswith(f"isotok: stopped by {number.name}, 2 stages stopped")
        assert "Traceback" not in err
        assert not started(place, "waits for a place")
        assert [path.name for path in (place / "runs").glob("*/*")] == []


def test_a_second_signal_ends_the_stages_at_once(place: Path) -> None:
    with parent(place, "stubborn", "longer") as process:
        until(lambda: started(place, "stubborn", "longer"))
        process.send_signal(signal.SIGTERM)
        until((place / "cleaned-longer").exists)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        err = process.communicate(timeout=10)[1]
        assert process.returncode == 75
        assert err.splitlines()[-1] == "isotok: interrupted; run the same command again to go on"
        assert gone(pid_of(place, "stubborn"))


def test_one_stage_that_is_interrupted_stops_the_others_gently(place: Path) -> None:
    with pytest.raises(InterruptedRun, match="stopped by SIGUSR1, 2 stages stopped") as caught:
        build(place, "stopped", "long", "other")
    assert caught.value.exit_code == 75
    assert (place / "cleaned-long").read_text() == "SIGUSR1"
    assert built(place) == set()


def test_a_signal_to_an_idle_process_does_no_harm(place: Path) -> None:
    with parent(place, "quick", "long") as process:
        until(lambda: started(place, "long") and "quick" in built(place))
        time.sleep(0.3)
        os.kill(pid_of(place, "quick"), signal.SIGINT)
        until(lambda: gone(pid_of(place, "quick")), 5)
        (place / "go").touch()
        err = process.communicate(timeout=30)[1]
        assert process.returncode == 0, err
        assert built(place) == {"quick", "long"}
        assert "Traceback" not in err


def test_stages_end_when_their_parent_is_killed(place: Path) -> None:
    with parent(place, "long", "longer") as process:
        until(lambda: started(place, "long", "longer"))
        process.kill()
        process.wait()
        until(lambda: gone(pid_of(place, "long")) and gone(pid_of(place, "longer")), 5)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_a_stage_in_the_process_itself_is_interrupted(number: signal.Signals, code: int, place: Path) -> None:
    with parent(place, "long") as process:  # one artefact: no child is started
        until(lambda: started(place, "long"))
        assert pid_of(place, "long") == process.pid
        process.send_signal(number)
        err = process.communicate(timeout=30)[1]
        assert process.returncode == code
        assert err.splitlines()[-1] == "isotok: interrupted; run the same command again to go on"
        assert [path.name for path in (place / "runs").glob("*/*")] == []
