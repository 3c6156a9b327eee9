"""A task folder's splits as lm-eval tasks: YAML in TASK/lm_eval, for `isotok lm-eval --include_path TASK/lm_eval`.

The questions stay where they are, in TASK/<split>.jsonl; a few lines of Python beside the YAML read them, so the folder
may be moved. Columns get their types there: reading JSON by guess would take numbers and dates for something else.
"""

import json
from pathlib import Path

from evaluation.subword.questions import TaskData
from isotok.files import write_text

FOLDER = "lm_eval"
_READER = '''"""Reads a split of the task folder above for lm-eval."""

import json
from pathlib import Path

COLUMNS = ("id", "type", "prompt", "answer", "options", "gold")


def split(split, **_):
    from datasets import Dataset, Features, List, Value

    text = (Path(__file__).resolve().parent.parent / f"{split}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\\n") if line]
    types = {name: Value("string") for name in COLUMNS} | {"options": List(Value("string")), "gold": Value("int64")}
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    return {"test": Dataset.from_dict(columns, features=Features(types))}
'''
_COMMON = """task: {name}
custom_dataset: !function reader.split
dataset_kwargs:
  split: {split}
test_split: test
doc_to_text: prompt
target_delimiter: "" # answers bring their own space
num_fewshot: 0
metadata:
  version: 1
"""
_CHOICE = """# {task}, split {split}: the likeliest of the options. Unlike isotok's own figures, options do not end here
# (in end-of-text or the task's stop): lm-eval has no way to say it. That favours an option that begins another one.
{common}output_type: multiple_choice
doc_to_choice: options
doc_to_target: gold
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_bytes
    aggregation: mean
    higher_is_better: true
"""
_WRITTEN = """# {task}, split {split}: the answer written by greedy decoding, right if it is the same letter by letter.
{common}output_type: generate_until
doc_to_target: answer
generation_kwargs:
  until: [{stop}]
  max_gen_toks: {most}
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""


def write_lm_eval(data: TaskData, out: Path) -> list[str]:
    """Write lm-eval tasks for each split of `data` into the task folder `out`; returns their names.

    `<task>_<split>` is the choice among options, `<task>_<split>_written` the written answer, each where the task is
    asked so. Splits whose questions have marks are left out: lm-eval passes on text alone, which has none.
    """
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "reader.py", _READER)
    names = []
    for split, questions in data.splits.items():
        if any(question.marks for question in questions):
            continue
        kinds = {}
        if "choice" in data.modes and all(question.options for question in questions):
            kinds[f"{data.name}_{split}"] = _CHOICE
        if "generate" in data.modes:
            kinds[f"{data.name}_{split}_written"] = _WRITTEN
        most = max((len(question.answer.encode()) for question in questions), default=0) + 1  # a token has a byte
        for name, form in kinds.items():
            common = _COMMON.format(name=name, split=split)
            text = form.format(
                task=data.name, split=split, common=common, stop=json.dumps(data.stop or "\n"), most=most
            )
            write_text(folder / f"{name}.yaml", text)
            names.append(name)
    return names
