"""One finished smoke experiment for every module that looks at it."""

from pathlib import Path

import pytest

from tests.scripts.smoke import arguments, isotok
from tests.scripts.task_smoke import task_arguments, write_texts


@pytest.fixture(scope="session")
def first(tiny_files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(working folder, report folder) of a finished smoke experiment; not to be written to."""
    cwd = tmp_path_factory.mktemp("first")
    done = isotok(cwd, "run", *arguments(tiny_files))
    return cwd, cwd / done.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files with words enough for a task about words."""
    return write_texts(tmp_path_factory.mktemp("words") / "texts")


@pytest.fixture(scope="session")
def first_task(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(working folder, report folder) of a finished subword-task experiment; not to be written to."""
    cwd = tmp_path_factory.mktemp("first_task")
    done = isotok(cwd, "run", *task_arguments(texts))
    return cwd, cwd / done.stdout.splitlines()[-1]
