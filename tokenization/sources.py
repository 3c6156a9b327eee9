"""Corpora that need no download: the vendored literary text, and the docstrings of installed packages."""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import lzma
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from isotok.errors import ConfigError, DataError
from isotok.files import sha256_file
from isotok.recipe import Field, Impl, recipe
from tokenization.documents import Corpus, Document, Tally

EMBEDDED = Path(__file__).parent / "data" / "literary.jsonl.xz"
MIN_MODULE_BYTES = 200
_CHUNK = 64


@recipe
class Embedded(Corpus):
    """The vendored public-domain text: plays, poems and the King James Bible (see tokenization/data/README.md)."""

    @property
    def label(self) -> str:
        return "embedded"

    @property
    def licence(self) -> str:
        return "public domain (in the United Kingdom the King James Bible is under letters patent)"

    def fingerprint(self) -> dict[str, Any]:
        return {"name": EMBEDDED.name, "size": EMBEDDED.stat().st_size, "sha256": sha256_file(EMBEDDED)}

    def documents(self, tally: Tally | None = None) -> Iterator[Document]:
        try:
            with lzma.open(EMBEDDED, "rt", encoding="utf-8", newline="\n") as file:
                for line in file:
                    yield Document(**json.loads(line))
        except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
            raise DataError(f"{EMBEDDED}: damaged ({error}); install isotok again") from None


@recipe
class Docstrings(Corpus):
    """Docstrings of installed packages: one document a module, one group a package.

    Modules are parsed, never imported. Modules with less than 200 bytes of docstrings are left out.
    """

    packages: tuple[str, ...]
    workers: Impl[int] = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if not self.packages:
            raise ValueError("packages is empty: name at least three installed packages")
        if len(set(self.packages)) < len(self.packages):
            raise ValueError("packages names one twice")
        return self

    @property
    def label(self) -> str:
        return "docstrings"

    @property
    def licence(self) -> str:
        return "each package's own; the text is read where it is installed"

    def fingerprint(self) -> dict[str, Any]:
        owners = importlib.metadata.packages_distributions()
        found = {}
        for package in self.packages:
            digest = hashlib.sha256()
            for path, name in _modules(package):
                digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
            versions = [importlib.metadata.version(owner) for owner in sorted(set(owners.get(package, [])))]
            found[package] = {"version": ",".join(versions), "sha256": digest.hexdigest()}
        return {"packages": found}

    def documents(self, tally: Tally | None = None) -> Iterator[Document]:
        modules = [(package, path, name) for package in self.packages for path, name in _modules(package)]
        chunks = [[path for _, path, _ in modules[i : i + _CHUNK]] for i in range(0, len(modules), _CHUNK)]
        pairs = iter(modules)
        for texts in _map(_docstrings, chunks, self.workers):
            for text in texts:
                package, _, name = next(pairs)
                if text is None and tally is not None:
                    tally["modules that do not parse"] += 1
                if text is not None and len(text.encode()) >= MIN_MODULE_BYTES:
                    yield Document(name, text, package, "docstrings")


def _map(function: Any, items: list[Any], workers: int) -> Iterator[Any]:
    """`map` in order, in processes when there is more than one worker."""
    if workers == 1 or len(items) < 2:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(min(workers, len(items)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(function, items)


def _modules(package: str) -> list[tuple[Path, str]]:
    """(file, dotted name) of each module of an installed package, sorted by name."""
    try:
        spec = None if "." in package else importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise ConfigError(f"corpus.packages: {package!r} is not an installed top-level package (as `import` spells it)")
    roots = [Path(root) for root in spec.submodule_search_locations or []]
    if not roots and spec.origin and spec.origin.endswith(".py"):
        return [(Path(spec.origin), package)]
    found = []
    for root in roots:
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found.append((path, ".".join((package, *parts))))
    return sorted(found, key=lambda item: item[1])


def _docstrings(paths: list[Path]) -> list[str | None]:
    return [_module_docstrings(path) for path in paths]


def _module_docstrings(path: Path) -> str | None:
    """All docstrings of a module in source order, blank lines between; None for a file that does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    found: dict[str, None] = {}
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                found[text] = None  # a docstring repeated within its module counts once
        # Docstrings stand in statements only; expressions need no visit.
        children = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]
        todo.extend(reversed(children))
    return "\n\n".join(found).encode(errors="replace").decode()
