"""The command line: one line that names the thing and the way out, exit code ≠ 0, nothing half-written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def isotok(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        timeout=300,
    )


def half_written(store: Path) -> list[str]:
    return [str(path) for path in store.rglob("*") if path.suffix in (".partial", ".lock", ".tmp")]


def test_help_lists_commands_groups_and_keys(tmp_path):
    done = isotok("--help", cwd=tmp_path)
    assert done.returncode == 0
    for word in (
        "run",
        "plan",
        "corpus",
        "tokenizer",
        "encode",
        "pretrain",
        "benchmark",
        "evaluate",
        "export-tasks",
        "report",
        "ls",
        "rm",
        "worker",
    ):
        assert f"\n  {word} " in done.stdout
    more = isotok("tokenizer", "--help", cwd=tmp_path).stdout
    assert "superbpe" in more
    assert "bigbench, folder, none, olmes_cf, superbpe_list" in more
    assert "vocab_size: 2048" in more


def test_cfg_job_prints_the_composed_config(tmp_path):
    done = isotok("run", "experiment=demo", "tokenizer.vocab_size=300", "--cfg", "job", cwd=tmp_path)
    assert "vocab_size: 300" in done.stdout
    assert "stochastok" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runn"], "runn: no such command; did you mean run?"),
        (["run", "--fast"], "--fast: no such option"),
        (["run", "tokenizer.vocab_siz=1"], "did you mean vocab_size"),
        (["worker"], "needs one folder"),
        (["rm"], "name what to remove"),
        (["rm", "nothing"], "no such artefact"),
        (["ls", "stor=x"], "only store=PATH"),
        (["worker", "nowhere"], "nowhere"),
        (["run", "jobs=none"], "jobs="),
    ],
)
def test_wrong_commands_end_with_one_line(arguments, message, tmp_path):
    done = isotok(*arguments, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert done.stderr.startswith("isotok: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert "Traceback" in isotok(*arguments, "--debug", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("prepare", "overrides", "message"),
    [
        (lambda d: None, ["corpus.paths=[texts/*.txt]"], "texts/*.txt"),
        (lambda d: (d / "a.txt").write_bytes(b""), ["corpus.paths=[a.txt]"], "empty"),
        (lambda d: (d / "a.txt").write_bytes(b"fine\n\xff\xfe"), ["corpus.paths=[a.txt]"], "a.txt"),
        (lambda d: (d / "a.jsonl").write_text('{"text": "x"}\n{"txt": "y"}\n'), ["corpus.paths=[a.jsonl]"], "a.jsonl"),
        (lambda d: (d / "a.jsonl").write_text('{"text": "x"}\n{"te'), ["corpus.paths=[a.jsonl]"], "a.jsonl"),
    ],
    ids=["no match", "empty", "not UTF-8", "no field", "broken JSON"],
)
def test_bad_corpora_name_the_file(prepare, overrides, message, tmp_path):
    prepare(tmp_path)
    done = isotok("corpus", "corpus=local", *overrides, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("isotok: ")
    assert "Traceback" not in done.stderr
    assert half_written(tmp_path) == []


@pytest.mark.slow
def test_too_large_a_vocabulary_and_too_long_a_context(tiny_files, tmp_path):
    local = ["corpus=local", f"corpus.paths=[{tiny_files}/*.txt]"]
    done = isotok("tokenizer", *local, "tokenizer.vocab_size=90000", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tokenizer.vocab_size=90000, but this text holds only" in done.stderr
    small = [*local, "tokenizer.vocab_size=300", "model=llama_nano", "budget=smoke"]
    done = isotok("pretrain", *small, "budget.context_bytes=10000000", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "budget.context_bytes=10,000,000" in done.stderr.replace("10000000", "10,000,000")
    assert [p for p in (tmp_path / "runs" / "pretrain").glob("*") if not p.name.endswith(".partial")] == []


@pytest.mark.slow
def test_stage_prints_its_folder_last_and_does_no_work_twice(tiny_files, tmp_path):
    overrides = ["corpus=local", f"corpus.paths=[{tiny_files}/*.txt]", "tokenizer.vocab_size=300"]
    first = isotok("encode", *overrides, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / first.stdout.splitlines()[-1]
    assert (folder / "manifest.json").exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    again = isotok("encode", *overrides, cwd=tmp_path)
    assert again.stdout == first.stdout
    assert again.stderr == ""
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")} == before
    listed = isotok("ls", cwd=tmp_path).stdout
    assert folder.name in listed
    removed = isotok("rm", folder.name, cwd=tmp_path)
    assert removed.returncode == 0
    assert not folder.exists()


def test_a_shadowing_folder_is_named(tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").write_text("")
    done = isotok("ls", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "shadowed" in done.stderr
    assert str(tmp_path / "training") in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a tiny disk")
def test_full_disk_is_one_line_and_leaves_no_artefact(tiny_files, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("cannot mount a tiny disk here")
    try:
        done = isotok("corpus", "corpus=local", f"corpus.paths=[{tiny_files}/*.txt]", f"store={disk}", cwd=tmp_path)
        assert done.returncode == 1
        assert "free" in done.stderr.splitlines()[-1]
        assert half_written(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
