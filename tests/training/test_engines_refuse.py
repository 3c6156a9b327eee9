"""What stops a run on several ranks, and what no engine begins with: each names the thing and the way out."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from isotok.errors import ConfigError
from tests.training.engine_lab import (
    AT,
    ENGINES,
    KINDS,
    TIED,
    UNTIED,
    Lab,
    checkpoint,
    column,
    engine_of,
    in_one_place,
    outcomes,
    same_bits,
    tensors_of,
    write_run,
)
from tokenization import BPE, encode_corpus, train_tokenizer
from training.worker import run as run_worker


@pytest.mark.slow
@in_one_place
@pytest.mark.parametrize("fault", ["loss", "gradient"])
@pytest.mark.parametrize("name", ENGINES)
def test_what_is_not_finite_on_one_rank_stops_all_before_an_update(lab: Lab, name: str, fault: str) -> None:
    """In step 9, after a checkpoint at 6; the next would be made after that step."""
    run, found = lab.again(name, f"fault-{fault}"), outcomes(lab.again(name, f"fault-{fault}"))
    assert len(found) == ENGINES[name][0]
    assert {outcome["error"] for outcome in found} == {"DataError"}
    assert len({outcome["text"] for outcome in found}) == 1, "ranks say different things"
    text = found[0]["text"]
    assert "step 9: loss nan nats: not finite" in text if fault == "loss" else "gradient norm nan: not finite" in text
    same_documents = outcomes(lab.again("single", f"fault-{fault}"))[0]["text"].partition("documents ")[2]
    assert text.partition("documents ")[2] == same_documents
    assert "the checkpoint of step 6 is kept" in text
    # It stopped at that step, with the state after the one before: not a step left out, not a step made.
    assert column(run, "step") == list(range(1, 9))
    assert column(run, "train_nats") == column(lab.start(name), "train_nats", 0, 8)
    assert (run / "after/optimizer_step").read_text() == "8"
    assert [path.name for path in (run / "checkpoints").glob("step-*")] == [checkpoint(run, AT).name]
    for kind in KINDS:
        kept, written = (tensors_of(checkpoint(one, AT), kind) for one in (run, lab.start(name)))
        assert same_bits(kept, written)
        assert all(tensor.isfinite().all() for tensor in tensors_of(run / "after", kind).values())
    for kind in (*KINDS, "working"):
        by_loss, by_gradient = (
            tensors_of(lab.again(name, f"fault-{one}") / "after", kind) for one in ("loss", "gradient")
        )
        assert same_bits(by_loss, by_gradient), f"{kind} differ by whether an update was tried"


@pytest.mark.slow
@in_one_place
@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("ddp", "few-rows", "engine.ranks=2: more than budget.rows=1; lower engine.ranks"),
        ("ddp", "odd-rows", "engine.ranks=2: does not divide budget.rows=3; take one of 1, 3"),
        (
            "ddp",
            "micro-rows",
            "engine.micro_rows=4: does not divide the 6 rows of a rank (budget.rows=12, 2 ranks); take one of 1, 2, ",
        ),
        (
            "ddp",
            "other-layout",
            "a native checkpoint of engine.zero=1 engine.ranks=2, this is engine.zero=0 engine.ranks=2",
        ),
        (
            "zero2",
            "other-layout",
            "a native checkpoint of engine.zero=1 engine.ranks=2, this is engine.zero=2 engine.ranks=2",
        ),
    ],
)
def test_ranks_refuse_together(lab: Lab, name: str, kind: str, message: str) -> None:
    found = outcomes(lab.again(name, kind))
    assert len(found) == 2
    for outcome in found:
        assert outcome["error"] == "ConfigError"
        assert message in outcome["text"]
        assert "\n" not in outcome["text"]


@pytest.mark.parametrize(
    ("rows", "micro_rows", "message"),
    [
        (1, "auto", r"engine\.ranks=2: more than budget\.rows=1"),
        (3, "auto", r"engine\.ranks=2: does not divide budget\.rows=3; take one of 1, 3$"),
        (8, 3, r"engine\.micro_rows=3: does not divide the 4 rows of a rank .* take one of 1, 2, 4$"),
    ],
)
def test_rows_are_refused_before_ranks_are_started(
    artefacts: dict[str, Path], tmp_path: Path, rows: int, micro_rows: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        write_run(artefacts, tmp_path / "run", engine_of("ddp", micro_rows=micro_rows), budget={"rows": rows})
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def finished(artefacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    run = write_run(artefacts, tmp_path_factory.mktemp("finished") / "run", engine_of("single"), budget={"amount": 2})
    run_worker(run)
    return run


@pytest.fixture(scope="module")
def other_artefacts(artefacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same text in another vocabulary of the same size: only the tokenizer's own file tells them apart."""
    root = tmp_path_factory.mktemp("other")
    folders = {**artefacts, "tokenizer": root / "tokenizer", "tokens": root / "tokens"}
    for name in ("tokenizer", "tokens"):
        folders[name].mkdir()
    train_tokenizer(BPE(vocab_size=290, forbid=("the",)), folders["corpus"], folders["tokenizer"])
    encode_corpus(folders["corpus"], folders["tokenizer"], folders["tokens"])
    return folders


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": UNTIED}, r"another run: model\.tied false, the checkpoint has true"),
        ({"budget": {"rows": 4}}, r"another run: batch\.rows 4, the checkpoint has 8"),
        ({"seed": 1}, r"another run: seed 1, the checkpoint has 0"),
        ({"budget": {"context_bytes": 64}}, r"another run: batch\.context_tokens"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    artefacts: dict[str, Path], finished: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    budget = {"amount": 4, **changes.get("budget", {})}
    run = write_run(
        artefacts, tmp_path / "run", engine_of("single", micro_rows="auto"), **{**changes, "budget": budget}
    )
    shutil.copytree(finished / "checkpoints", run / "checkpoints")
    with pytest.raises(ConfigError, match=message) as caught:
        run_worker(run)
    assert f"remove {run / 'checkpoints'} to start over" in str(caught.value)
    assert tensors_of(checkpoint(run, 2), "weights"), "and left where it is"


def test_a_checkpoint_of_another_tokenizer_is_refused(
    other_artefacts: dict[str, Path], finished: Path, tmp_path: Path
) -> None:
    run = write_run(other_artefacts, tmp_path / "run", engine_of("single"), budget={"amount": 4})
    shutil.copytree(finished / "checkpoints", run / "checkpoints")
    with pytest.raises(ConfigError, match=r"another run: .*tokenizer \"\w+\", the checkpoint has \"\w+\""):
        run_worker(run)


def test_the_same_checkpoint_in_a_run_like_it_is_gone_on_from(
    artefacts: dict[str, Path], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that what is refused above is refused for the reason given."""
    run = write_run(artefacts, tmp_path / "run", engine_of("single"), budget={"amount": 4}, model=TIED)
    shutil.copytree(finished / "checkpoints", run / "checkpoints")
    run_worker(run)
    assert "resuming from step 2 of 4" in capsys.readouterr().err


def test_zero_without_deepspeed_says_what_to_install(
    artefacts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "deepspeed" else real(name, *rest)
    )
    with pytest.raises(ConfigError, match=r"engine\.zero=2: needs DeepSpeed; pip install .*\[deepspeed\]"):
        write_run(artefacts, tmp_path / "run", engine_of("zero2"))


def test_a_command_that_builds_artefacts_is_refused_as_one_of_several_ranks(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scripts.worker import start_worker

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"WORLD_SIZE is set.*engine\.ranks=N; only `isotok worker RUN_DIR`"):
        start_worker(finished, engine_of("ddp"), [])
