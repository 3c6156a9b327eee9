"""Saving: in the background, pruned, never half, on full disks, by several ranks."""

import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from isotok.errors import DataError, IsotokError
from isotok.files import read_json
from isotok.ranks import Ranks
from tests.training.checkpoints import save, tensors
from training import writer
from training.checkpoint import KINDS, load_newest, step_folder, steps_saved, verify
from training.writer import CheckpointWriter, read_best, save_native


class Gate:
    """A `before_publish` that holds the save until it is opened."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.open.wait(30)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_save_goes_on_beside_its_caller_and_shows_when_whole(tmp_path: Path) -> None:
    gate = Gate()
    out = CheckpointWriter(tmp_path, keep_last=2, keep_best=False)
    out.save({"step": 1}, tensors(1), gate)  # returns while the save is held
    assert gate.reached.wait(30)
    assert names(tmp_path) == [".step-00000001.tmp"], "all is written before `before_publish`, and nothing shows"
    assert len(names(tmp_path / ".step-00000001.tmp")) == 4
    gate.open.set()
    out.save({"step": 2}, tensors(2))  # waits for the one before
    assert steps_saved(tmp_path)[0] == 1
    out.wait()
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    assert not out.failed


def test_a_snapshot_is_not_torn_by_what_its_owner_does_next(tmp_path: Path) -> None:
    own = tensors(0, size=300_000)
    with CheckpointWriter(tmp_path, keep_last=20, keep_best=False) as out:
        for step in range(1, 9):
            for named in own.values():
                for tensor in named.values():
                    tensor.fill_(step)
            out.settle()
            out.save({"step": step}, {k: {n: t.clone() for n, t in named.items()} for k, named in own.items()})
    for step in range(1, 9):
        found = verify(step_folder(tmp_path, step))
        assert all(bool((t == step).all()) for kind in KINDS for _, t in found.read(kind))


def test_a_snapshot_is_let_go_once_it_is_saved(tmp_path: Path) -> None:
    import weakref

    held = tensors(1)
    seen = weakref.ref(held["weights"]["b"])
    with CheckpointWriter(tmp_path, keep_last=2, keep_best=False) as out:
        out.save({"step": 1}, held)
        del held
        out.settle()
        assert seen() is None


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    out = CheckpointWriter(tmp_path, keep_last=2, keep_best=True)
    for step, score in ((1, 2.0), (2, 1.5), (3, 1.5), (4, 1.7), (5, 1.6)):
        out.save({"step": step}, tensors(step))
        out.mark_best(step, score)  # waits for the save of that step
    out.wait()
    assert read_best(tmp_path) == (2, 1.5), "of equal ones the first"
    assert steps_saved(tmp_path) == [2, 4, 5]
    out.mark_best(3, 0.1)
    assert read_best(tmp_path) == (2, 1.5), "no folder of step 3"
    out.mark_best(5, float("nan"))
    assert read_best(tmp_path) == (2, 1.5)
    out.mark_best(5, 1.2)
    out.save({"step": 6}, tensors(6))
    out.save({"step": 7}, tensors(7))
    out.wait()
    assert steps_saved(tmp_path) == [5, 6, 7], "a former best is pruned like any other"


def test_without_keep_best_only_the_last_are_kept(tmp_path: Path) -> None:
    out = CheckpointWriter(tmp_path, keep_last=3, keep_best=False)
    for step in range(1, 7):
        out.save({"step": step}, tensors(step))
        out.mark_best(step, float(step))
    out.wait()
    assert steps_saved(tmp_path) == [4, 5, 6]


def test_the_best_outlives_a_resume_and_is_something_to_fall_back_to(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, keep_last=1, keep_best=True) as out:
        for step, score in ((10, 1.0), (20, 1.5), (30, 1.4)):
            out.save({"step": step}, tensors(step))
            out.mark_best(step, score)
    assert steps_saved(tmp_path) == [10, 30]
    (tmp_path / "step-00000030" / "weights.safetensors").write_bytes(b"torn")
    found = load_newest(tmp_path)
    assert found is not None
    assert found.state["step"] == 10
    with CheckpointWriter(tmp_path, keep_last=1, keep_best=True) as again:
        again.save({"step": 20}, tensors(20))
        again.mark_best(20, 1.5)
    assert read_best(tmp_path) == (10, 1.0)
    assert steps_saved(tmp_path) == [10, 20]


def test_a_best_that_was_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = CheckpointWriter(tmp_path, keep_last=2, keep_best=True)
    for step, score in ((10, 1.3), (20, 1.0)):
        out.save({"step": step}, tensors(step))
        out.mark_best(step, score)
    shutil.rmtree(tmp_path / "step-00000020")
    # The run goes on from 10, and will come to 20 again: what is noted stays.
    out.mark_best(10, 1.3)
    assert read_best(tmp_path) == (20, 1.0)
    # Past it, it does not come back.
    out.save({"step": 30}, tensors(30))
    out.mark_best(30, 1.1)
    assert read_best(tmp_path) == (30, 1.1)
    (tmp_path / "best.json").write_text('{"step":')
    out.save({"step": 40}, tensors(40))
    out.wait()
    assert "best.json cannot be read" in capsys.readouterr().err
    out.mark_best(40, 5.0)
    assert read_best(tmp_path) == (40, 5.0)


def test_a_removal_that_is_cut_short_leaves_no_half_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    real = shutil.rmtree

    def cut(path: Path, ignore_errors: bool = False) -> None:
        assert not path.name.startswith("step-"), "removed under its own name"
        if path.name.startswith(".removed"):
            (path / "state.json").unlink(missing_ok=True)
        else:
            real(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(writer.shutil, "rmtree", cut)
    save(tmp_path, 3)
    monkeypatch.undo()
    assert names(tmp_path) == [".removed-step-00000001", "step-00000002", "step-00000003"]
    assert load_newest(tmp_path) is not None
    assert names(tmp_path) == ["step-00000002", "step-00000003"]


def test_errors_come_out_of_wait_alone_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(named: dict, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    out = CheckpointWriter(tmp_path, keep_last=2, keep_best=True)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "save_file", full)
        out.save({"step": 2}, tensors(2))
        out.settle()
        assert out.failed
        out.save({"step": 3}, tensors(3))
        out.mark_best(1, 1.0)
        assert names(tmp_path) == ["step-00000001"], "no half, and nothing more until the error was seen"
        with pytest.raises(
            IsotokError, match=r"no space left on the disk for.*of step 2; the checkpoint of step 1 is kept"
        ):
            out.wait()
    out.wait()
    out.close()
    out.save({"step": 3}, tensors(3))
    out.wait()
    assert steps_saved(tmp_path) == [1, 3]


def test_a_failure_never_takes_the_place_of_another_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise IsotokError("metrics.jsonl: cannot be flushed")

    with pytest.raises(KeyboardInterrupt), CheckpointWriter(tmp_path, keep_last=2, keep_best=False) as out:
        out.save({"step": 1}, tensors(1), fail)
        raise KeyboardInterrupt
    assert "metrics.jsonl: cannot be flushed" in capsys.readouterr().err
    with (
        pytest.raises(IsotokError, match="cannot be flushed"),
        CheckpointWriter(tmp_path, keep_last=2, keep_best=False) as out,
    ):
        out.save({"step": 1}, tensors(1), fail)
    assert names(tmp_path) == []


def test_too_little_space_is_seen_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    out = CheckpointWriter(tmp_path, keep_last=2, keep_best=False)
    out.save({"step": 2}, tensors(2))
    assert out.failed, "known at once"
    with pytest.raises(IsotokError, match="a checkpoint needs about"):
        out.wait()
    with pytest.raises(IsotokError, match="a checkpoint needs about"):
        save_native(tmp_path, {"step": 2}, {"a": torch.zeros(3)}, Ranks())
    assert names(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs here: needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("foreseen", [True, False])
def test_a_disk_that_is_really_full(small_disk: Path, foreseen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small_disk / "checkpoints"
    out = CheckpointWriter(folder, keep_last=2, keep_best=False)
    out.save({"step": 1}, tensors(1, size=20_000))  # 240 kB
    out.wait()
    before = {path.name: path.read_bytes() for path in (folder / "step-00000001").iterdir()}
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 150_000))
    if not foreseen:  # others fill the disk between the check and the write
        monkeypatch.setattr(writer, "check_free_space", lambda *_: None)
    out.save({"step": 2}, tensors(2, size=20_000))
    with pytest.raises(
        IsotokError, match="a checkpoint needs about" if foreseen else "the checkpoint of step 1 is kept"
    ) as full:
        out.wait()
    assert "\n" not in str(full.value)
    if not foreseen:
        with pytest.raises(IsotokError, match="the checkpoint of step 1 is kept"):
            save_native(folder, {"step": 2}, {"a": torch.zeros(60_000)}, Ranks())
    assert names(folder) == ["step-00000001"]
    assert {path.name: path.read_bytes() for path in (folder / "step-00000001").iterdir()} == before
    ballast.unlink()
    out.save({"step": 2}, tensors(2, size=20_000))
    out.wait()
    newest = load_newest(folder)
    assert newest is not None
    assert newest.state["step"] == 2


def test_a_native_save_of_one_rank(tmp_path: Path) -> None:
    called: list[bool] = []
    state = {"step": 5, "layout": {"zero": 3, "ranks": 1}}
    save_native(tmp_path, state, {"flat.0": torch.arange(4.0)}, Ranks(), lambda: called.append(True))
    save_native(tmp_path, state, {"flat.0": torch.zeros(4)}, Ranks())  # there already
    found = load_newest(tmp_path)
    assert found is not None
    assert found.native
    assert found.state == state
    assert torch.equal(found.shard(0)["flat.0"], torch.arange(4.0))
    assert called == [True]
    with pytest.raises(DataError, match="shards of its ranks"):
        found.names("weights")
    with pytest.raises(DataError, match="rank-00001.safetensors: cannot be read"):
        found.shard(1)
    save(tmp_path, 6)
    save_native(tmp_path, {**state, "step": 7}, {"flat.0": torch.zeros(4)}, Ranks())
    CheckpointWriter(tmp_path, keep_last=2, keep_best=False).prune()
    assert steps_saved(tmp_path) == [6, 7]


def _native_worker(rank: int, folder: Path, port: int) -> None:
    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", rank=rank, world_size=2)
    ranks = Ranks(rank, 2, dist.group.WORLD)
    state: dict[str, Any] = {"step": 1, "layout": {"zero": 2, "ranks": 2}}
    try:
        save_native(folder, state, {"flat": torch.full((5,), float(rank))}, ranks)
        real = writer.save_file
        for failing in (0, 1):

            def fail(named: Any, path: Path, failing: int = failing) -> None:
                if rank == failing:
                    path.write_bytes(b"half")
                    raise OSError(errno.ENOSPC, "No space left on device")
                real(named, path)

            writer.save_file = fail
            # The same error on both ranks, and none of them left waiting.
            with pytest.raises(IsotokError, match="no space left.*of step 2; the checkpoint of step 1 is kept"):
                save_native(folder, {**state, "step": 2}, {"flat": torch.zeros(5)}, ranks)

            def bug(named: Any, path: Path, failing: int = failing) -> None:
                real(named, path)
                assert 1 / (rank != failing)

            writer.save_file = bug
            with pytest.raises(IsotokError, match=f"rank {failing} could not save its part .ZeroDivisionError"):
                save_native(folder, {**state, "step": 2}, {"flat": torch.zeros(5)}, ranks)
            writer.save_file = real

        def unflushed() -> None:
            raise IsotokError("metrics.jsonl: cannot be flushed")

        with pytest.raises(IsotokError, match="metrics.jsonl"):
            save_native(folder, {**state, "step": 2}, {"flat": torch.zeros(5)}, ranks, unflushed)
        if rank == 0:
            assert names(folder) == ["step-00000001"]
        ranks.barrier()
        save_native(folder, {**state, "step": 3}, {"flat": torch.full((5,), 10.0 + rank)}, ranks)
        (folder.parent / f"ended-{rank}").touch()
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_a_native_save_of_two_ranks(tmp_path: Path) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path / "checkpoints"
    mp.spawn(_native_worker, (folder, port), nprocs=2)
    assert names(tmp_path) == ["checkpoints", "ended-0", "ended-1"]
    assert names(folder) == ["step-00000001", "step-00000003"]
    found = load_newest(folder)
    assert found is not None
    assert sorted(read_json(found.path / "state.json")["files"]) == ["rank-00000.safetensors", "rank-00001.safetensors"]
    for rank in (0, 1):
        assert torch.equal(found.shard(rank)["flat"], torch.full((5,), 10.0 + rank))
    (found.path / "rank-00001.safetensors").unlink()
    before = load_newest(folder)
    assert before is not None
    assert before.state["step"] == 1
