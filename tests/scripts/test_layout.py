"""The house rules that a machine can hold: imports point one way, nothing heavy before the config is parsed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAY_IMPORT = {
    "isotok": set(),
    "tokenization": {"isotok"},
    "modeling": {"isotok"},
    "training": {"isotok", "tokenization", "modeling"},
    "evaluation": {"isotok", "tokenization", "modeling"},
    "scripts": {"isotok", "tokenization", "modeling", "training", "evaluation"},
}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package):
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                assert top not in MAY_IMPORT or top in MAY_IMPORT[package] | {package}, f"{path}: imports {name}"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["run", "experiment=demo", "--cfg", "job"], ["ls"]]
)
def test_no_heavy_import_before_the_config_is_parsed(arguments, tmp_path):
    code = (
        "import sys\nfrom scripts.cli import main\n"
        f"main({arguments!r})\n"
        "heavy = {'torch', 'transformers', 'datasets', 'lm_eval', 'matplotlib', 'wandb'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_every_package_needs_no_extra():
    code = (
        "import sys\n"
        "for name in ('deepspeed', 'flash_attn', 'liger_kernel', 'pytest', 'hypothesis'): sys.modules[name] = None\n"
        "import isotok, tokenization, modeling, training, evaluation, scripts.cli, scripts.stages\n"
        "import training.worker, evaluation.evaluate, evaluation.report"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_file_is_out_of_hand():
    files = [path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py")]
    long = [path for path in files if len(path.read_text().splitlines()) > 500]
    assert not long, f"over 500 lines, probably two subjects: {long}"
