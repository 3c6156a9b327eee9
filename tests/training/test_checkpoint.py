"""Checkpoints: what is read back, what is passed over, what they were made for."""

from pathlib import Path

import pytest
import torch

from isotok.errors import ConfigError, DataError
from tests.training.checkpoints import save, tensors
from training import writer
from training.checkpoint import (
    KINDS,
    check_made_for,
    load_newest,
    open_checkpoint,
    steps_saved,
    verify,
)

FILES = ["weights.safetensors", "exp_avg.safetensors", "exp_avg_sq.safetensors", "state.json"]


def test_what_was_saved_is_read_back_by_name(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    save(tmp_path, 3)
    save(tmp_path, 200)
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest.state == {"step": 200, "rows": [[200, 0]]}
    assert not newest.native
    for kind in KINDS:
        assert newest.names(kind) == ["a.weight", "b"]
        assert torch.equal(newest.tensor(kind, "b"), torch.full((2, 3), 200.0))
        assert [name for name, _ in newest.read(kind)] == ["a.weight", "b"]
    other = open_checkpoint(newest.path)
    assert other == newest
    with pytest.raises(DataError, match=r"step-00000200: holds no exp_avg of 'c'"):
        other.tensor("exp_avg", "c")
    with pytest.raises(DataError, match="state.json"):
        open_checkpoint(tmp_path)


def test_a_kind_that_is_large_is_split_over_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SHARD_BYTES", 40)
    parts = {kind: {f"p{i}": torch.full((n,), float(i)) for i, n in enumerate((20, 4, 6, 1, 2))} for kind in KINDS}
    parts["exp_avg"] = {"small": torch.zeros(3)}
    with writer.CheckpointWriter(tmp_path, 2, False) as out:
        out.save({"step": 1}, parts)
    found = load_newest(tmp_path)
    assert found is not None
    # The tensor of 80 bytes takes a file to itself, 16 + 24 fit into one.
    assert [name for name in found.files if name.startswith("weights")] == [
        f"weights-{number:05d}.safetensors" for number in (1, 2, 3)
    ]
    assert (found.path / "exp_avg.safetensors").exists()
    for kind in KINDS:
        assert found.names(kind) == sorted(parts[kind])
        assert all(torch.equal(tensor, parts[kind][name]) for name, tensor in found.read(kind))
    (found.path / "weights-00002.safetensors").unlink()
    with pytest.raises(DataError, match="weights-00002.safetensors"):
        verify(found.path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_one_is_named_and_passed_over(
    tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2) / name
    data = path.read_bytes()
    if damage == "flip":
        at = len(data) * 2 // 3
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()
    found = load_newest(tmp_path)
    assert found is not None
    assert found.state["step"] == 1
    err = capsys.readouterr().err
    assert "step-00000002 is damaged" in err
    assert name in err
    assert (tmp_path / "damaged-step-00000002").is_dir()
    # Training comes past that step again, and saves over the damaged one.
    save(tmp_path, 2)
    again = load_newest(tmp_path)
    assert again is not None
    assert again.state["step"] == 2


def test_every_single_byte_counts(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    verify(path)
    for name in FILES:
        file = path / name
        data = file.read_bytes()
        for at in range(len(data)):
            file.write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
            with pytest.raises(DataError, match=f"step-00000001 is damaged .*{name}"):
                verify(path)
        file.write_bytes(data)
    verify(path)


@pytest.mark.parametrize(
    "text", ["{", "[]", "3", "null", '{"state": {}, "files": {}}', '{"state": 1, "files": 2, "sha256": "0"}', ""]
)
def test_any_state_file_is_survived(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (save(tmp_path, 1) / "state.json").write_text(text)
    assert load_newest(tmp_path) is None
    err = capsys.readouterr().err
    assert "state.json" in err
    assert "starting from step 0" in err


def test_leftovers_of_a_crash_are_swept(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for name in (".step-00000002.tmp", ".removed-step-00000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").write_bytes(b"half")
    found = load_newest(tmp_path)
    assert found is not None
    assert found.state["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_damaged_ones_neither_stand_in_the_way_nor_push_out_a_valid_one(tmp_path: Path) -> None:
    for step in (200, 400, 600):
        save(tmp_path, step)
    for step in (400, 600):
        (tmp_path / f"step-{step:08d}" / "weights.safetensors").write_bytes(b"torn")
    assert load_newest(tmp_path) is None
    save(tmp_path, 200)
    assert steps_saved(tmp_path) == [200]
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest.state["step"] == 200
    (tmp_path / "step-00000400.bak").mkdir()
    assert steps_saved(tmp_path) == [200]


def test_what_it_was_made_for_is_compared_key_by_key(tmp_path: Path) -> None:
    made_for = {
        "model": {"_target_": "modeling.recipes.Llama", "hidden_size": 32, "layers": 2},
        "tokenizer": "bpe-290-aaa",
        "budget": {"rows": 4},
        "training": {"betas": (0.9, 0.95)},
        "seed": 0,
    }
    with writer.CheckpointWriter(tmp_path, 2, False) as out:
        out.save({"step": 1, "made_for": made_for}, tensors(1))
    found = load_newest(tmp_path)
    assert found is not None
    check_made_for(found, made_for)
    cases = [
        ({"model": {**made_for["model"], "hidden_size": 64}}, r"model.hidden_size 64, the checkpoint has 32\."),
        ({"tokenizer": "bpe-290-bbb"}, 'tokenizer "bpe-290-bbb", the checkpoint has "bpe-290-aaa"'),
        ({"budget": {"rows": 8}, "seed": 1}, "budget.rows 8, the checkpoint has 4; seed 1, the checkpoint has 0"),
        ({"training": {"betas": (0.9, 0.99)}}, r"training.betas \[0.9, 0.99\], the checkpoint has \[0.9, 0.95\]"),
        ({"model": {**made_for["model"], "tied": True}}, "model.tied true, the checkpoint has none"),
        ({"model": {"_target_": "modeling.recipes.Llama", "layers": 2}}, "model.hidden_size not asked for, .* has 32"),
    ]
    for changes, message in cases:
        with pytest.raises(ConfigError, match=message) as raised:
            check_made_for(found, {**made_for, **changes})
        assert str(found.path) in str(raised.value)
        assert f"remove {tmp_path} to start over" in str(raised.value)
    many = {f"key{i}": i for i in range(9)}
    with pytest.raises(ConfigError, match=r"key5 5, the checkpoint has none and 3 more\."):
        check_made_for(found, {**made_for, **many})
    save(tmp_path, 2)
    silent = load_newest(tmp_path)
    assert silent is not None
    with pytest.raises(ConfigError, match="does not say what it was made for"):
        check_made_for(silent, made_for)
