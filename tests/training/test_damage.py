"""Whole runs that find their newest checkpoint damaged, in any of its files: named, passed over, the same bits."""

import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isotok.errors import InterruptedRun
from modeling import Llama
from tests.training.whole_runs import finish, prepare, same_bits, started
from tokenization import StochasTok
from training import Budget, Engine, Training, pretrain
from training.checkpoint import step_folder, steps_saved

pytestmark = pytest.mark.slow

FILES = ("weights.safetensors", "exp_avg.safetensors", "exp_avg_sq.safetensors", "state.json")


def go(artefacts: dict[str, Path], out: Path, stop: bool = False) -> None:
    """24 steps with validations at 3, 6, 9 … and checkpoints there; a signal stops it in the third."""
    done = []

    def validate(model: Any) -> float:
        done.append(True)
        if stop and len(done) == 3:
            signal.raise_signal(signal.SIGTERM)
        return 1 + sum(float(parameter.abs().mean()) for parameter in model.parameters())

    pretrain(
        model=Llama(hidden_size=32, layers=2, heads=2, mlp_size=64),
        tokens=artefacts["tokens"],
        tokenizer=artefacts["tokenizer"],
        transform=StochasTok(),
        budget=Budget(amount=24, unit="steps", context_bytes=128, rows=4, max_epochs=2),
        training=Training(save_every_steps=5, validations=8, wandb="disabled"),
        engine=Engine(device="cpu"),
        out=out,
        validate=validate,
    )


@pytest.fixture(scope="module")
def runs(artefacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A whole run, and one that was stopped and holds the checkpoints of two steps."""
    whole, stopped = (tmp_path_factory.mktemp(name) / "run" for name in ("whole", "stopped"))
    go(artefacts, whole)
    with pytest.raises(InterruptedRun):
        go(artefacts, stopped, stop=True)
    return whole, stopped


def flip(path: Path, where: float) -> None:
    """Change one bit of the byte at a fraction of the file."""
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def newest(run_dir: Path) -> Path:
    return step_folder(run_dir / "checkpoints", steps_saved(run_dir / "checkpoints")[-1])


@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_any_file(
    artefacts: dict[str, Path],
    runs: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    where: float,
) -> None:
    whole, stopped = runs
    run = shutil.copytree(stopped, tmp_path / "run")
    before, damaged = steps_saved(run / "checkpoints")[-2:]
    assert {path.name for path in newest(run).iterdir()} == set(FILES)
    flip(newest(run) / name, where)
    go(artefacts, run)
    said = capsys.readouterr().err
    assert re.search(rf"warning: checkpoint \S+step-0*{damaged} is damaged \(.*{name}.*\); falling back", said), said
    assert f"resuming from step {before} of 24" in said
    same_bits(run, whole)


def _without_state(folder: Path) -> None:
    (folder / "state.json").unlink()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _cut_short(folder: Path) -> None:
    path = folder / "exp_avg.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _without_weights(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()


def _another_state(folder: Path) -> None:
    """One that reads well."""
    path = folder / "state.json"
    text = path.read_text()
    path.write_text(re.sub(r'"bytes": (\d+)', lambda found: f'"bytes": {int(found[1]) + 1}', text))
    assert path.read_text() != text


@pytest.mark.parametrize("damage", [_without_state, _empty, _cut_short, _without_weights, _another_state])
def test_missing_and_torn_files(
    artefacts: dict[str, Path],
    runs: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
) -> None:
    whole, stopped = runs
    run = shutil.copytree(stopped, tmp_path / "run")
    before = steps_saved(run / "checkpoints")[-2]
    folder = newest(run)
    damage(folder)
    go(artefacts, run)
    said = capsys.readouterr().err
    assert f"checkpoint {folder} is damaged" in said
    assert f"resuming from step {before} of 24" in said
    same_bits(run, whole)


def test_where_all_are_damaged_it_starts_over_aloud(
    artefacts: dict[str, Path], runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, stopped = runs
    run = shutil.copytree(stopped, tmp_path / "run")
    steps = steps_saved(run / "checkpoints")
    for step in steps:
        flip(step_folder(run / "checkpoints", step) / "weights.safetensors", 0.7)
    go(artefacts, run)
    said = capsys.readouterr().err
    assert said.count("is damaged") == len(steps) >= 2
    assert "no valid checkpoint left" in said and "starting from step 0" in said
    assert "resuming" not in said
    same_bits(run, whole)


@pytest.mark.slow
def test_a_flipped_bit_in_the_file_of_a_rank(artefacts: dict[str, Path], tmp_path: Path) -> None:
    engine = Engine(device="cpu", ranks=2, zero=1, checkpoint="native", timeout_s=60)
    whole, cut = (prepare(artefacts, tmp_path / name, engine, steps=30) for name in ("whole", "cut"))
    finish(whole, ranks=True)
    with started(cut, ranks=True) as run:
        run.until(lambda: run.noted("save", "end") == 2)
        run.kill()
    before, damaged = steps_saved(cut / "checkpoints")[-2:]
    name = "rank-00001.safetensors"
    flip(newest(cut) / name, 0.6)
    with started(cut, ranks=True) as run:
        assert run.wait() == 0, run.said()
        said = run.said()
    assert re.search(rf"step-0*{damaged} is damaged \({name} does not match its checksum\)", said), said
    assert f"resuming from step {before} of 30" in said
    same_bits(cut, whole)
