"""A source package like bigbench's, of a few kilobytes."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

CANARY = "BIG-BENCH CANARY GUID 1234"
HEAD: dict[str, Any] = {
    "canary": CANARY,
    "name": "x",
    "description": "x",
    "keywords": ["x"],
    "metrics": ["multiple_choice_grade"],
    "preferred_score": "multiple_choice_grade",
}
ANIMALS = ["cat", "dog", "owl", "hen", "ant", "bee", "cow", "elk", "fox", "gnu", "jay", "koi"]

TASKS: dict[str, dict[str, Any]] = {
    # all defaults: choices are listed
    "animals": {
        **HEAD,
        "examples": [{"input": f"Is a {a} an animal?", "target_scores": {"yes": 1, "no": 0}} for a in ANIMALS],
    },
    # prefixes of its own, an output prefix that ends in a space, choices not listed, a repeated example, ties
    "plain": {
        **HEAD,
        "task_prefix": "Say true or false. ",
        "example_input_prefix": "\nStatement: ",
        "example_output_prefix": "\nTrue? ",
        "append_choices_to_input": False,
        "few_shot_example_separator": "\n--",
        "examples": [
            {"input": "One is one.", "target_scores": {"true": 1.0, "false": 0.0}},
            {"input": "One is two.", "target_scores": {"true": 0.0, "false": 1.0}},
            {"input": "Perhaps.", "target_scores": {"true": 0.5, "false": 0.5}},
            {"input": "One is one.", "target_scores": {"true": 1.0, "false": 0.0}},
        ],
    },
    "sums/small": {
        **HEAD,
        "metrics": ["exact_str_match", "multiple_choice_grade"],
        "preferred_score": "exact_str_match",
        "choice_prefix": "\n- ",
        "examples": [{"input": "1 and 1", "target": "2", "target_scores": {"3": 0, "2": 1, "owl": 0}}],
    },
    "sums": {key: HEAD[key] for key in ("canary", "name", "description", "keywords")},
    # scores without a multiple-choice metric: the target is what counts
    "spelling": {
        **HEAD,
        "metrics": ["exact_str_match"],
        "preferred_score": "exact_str_match",
        "examples": [
            {"input": "The word hte is ", "target": ["the", "eth"]},
            {"input": "The word nad is ", "target": "and", "target_scores": {"and": 1, "dan": 0}},
        ],
    },
    "essays": {**HEAD, "metrics": ["bleu"], "examples": [{"input": "Write.", "target": ""}]},
}


def write_archive(path: Path, extra: dict[str, bytes] | None = None) -> str:
    """Write a package with TASKS and `extra` (by task); returns its sha256."""
    files = {f"bigbench/benchmark_tasks/{name}/task.json": json.dumps(task).encode() for name, task in TASKS.items()}
    files |= {f"bigbench/benchmark_tasks/{name}/task.json": content for name, content in (extra or {}).items()}
    files["setup.py"] = b"raise SystemExit('set-up must not run')"
    files["PKG-INFO"] = b"Metadata-Version: 2.1\nName: bigbench\nVersion: 1.0.0\n"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"bigbench-1.0.0/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()
