"""Files whole or absent; locks that outlive neither their process nor their machine."""

import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from isotok import files
from isotok.errors import DataError, IsotokError


def test_write_leaves_no_temp_and_replaces(tmp_path):
    files.write_json(tmp_path / "a.json", {"x": 1})
    files.write_json(tmp_path / "a.json", {"x": 2})
    assert files.read_json(tmp_path / "a.json") == {"x": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert files.read_json(tmp_path / "a.json") == {"x": 2}


def test_full_disk_keeps_the_old_file_and_says_so(tmp_path, monkeypatch):
    files.write_text(tmp_path / "a", "old")

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(IsotokError, match="no space left"):
        files.write_text(tmp_path / "a", "new")
    monkeypatch.undo()
    assert (tmp_path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_read_json_names_broken_and_missing_files(tmp_path):
    (tmp_path / "b.json").write_text("{")
    for name in ("b.json", "c.json"):
        with pytest.raises(DataError, match=name):
            files.read_json(tmp_path / name)


def test_free_space_is_checked(tmp_path):
    with pytest.raises(IsotokError, match="MB free, x needs"):
        files.check_free_space(tmp_path, 1e18, "x")


def _hold(path, seconds, log):
    with files.lock(path, poll_s=0.02):
        log.put(("in", os.getpid(), time.monotonic()))
        time.sleep(seconds)
        log.put(("out", os.getpid(), time.monotonic()))


def test_lock_excludes(tmp_path):
    context = multiprocessing.get_context("fork")
    log = context.Queue()
    children = [context.Process(target=_hold, args=(tmp_path / "l", 0.15, log)) for _ in range(3)]
    for child in children:
        child.start()
    events = sorted((log.get(timeout=10) for _ in range(6)), key=lambda event: event[2])
    for child in children:
        child.join()
    assert [kind for kind, _, _ in events] == ["in", "out"] * 3
    assert not (tmp_path / "l").exists()


def test_lock_of_a_dead_process_is_taken_over(tmp_path):
    code = "import sys, os, pathlib; from isotok.files import lock\nwith lock(pathlib.Path(sys.argv[1])): os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "l")], check=False)
    assert (tmp_path / "l").exists()
    start = time.monotonic()
    with files.lock(tmp_path / "l"):
        assert time.monotonic() - start < 5


def test_lock_of_another_host_is_waited_for_until_stale(tmp_path):
    path = tmp_path / "l"
    path.write_text('{"host": "elsewhere", "pid": 1, "job": "7"}')
    assert not files._stale(path)
    os.utime(path, (0, time.time() - files.LOCK_STALE_S - 1))
    assert files._stale(path)


def test_publish_renames_a_whole_folder(tmp_path):
    (tmp_path / "x.partial" / "deep").mkdir(parents=True)
    (tmp_path / "x.partial" / "deep" / "f").write_text("1")
    (tmp_path / "x.partial" / "deep" / "dangling").symlink_to("nowhere")
    files.publish_dir(tmp_path / "x.partial", tmp_path / "x")
    assert (tmp_path / "x" / "deep" / "f").read_text() == "1"
    assert not (tmp_path / "x.partial").exists()
