"""One finished smoke experiment for every module that looks at it."""

from pathlib import Path

import pytest

from tests.scripts.smoke import arguments, isotok


@pytest.fixture(scope="session")
def first(tiny_files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(working folder, report folder) of a finished smoke experiment; not to be written to."""
    cwd = tmp_path_factory.mktemp("first")
    done = isotok(cwd, "run", *arguments(tiny_files))
    return cwd, cwd / done.stdout.splitlines()[-1]
