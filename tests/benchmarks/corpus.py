"""A real-text corpus for benchmarks: `python tests/benchmarks/corpus.py [FOLDER] [--mb 10 50 200 300 1000]`.

FOLDER, else `$ISOTOK_BENCH`, else `~/.cache/isotok/bench`, gets `real-N.txt` (the first N MB, 10^6 bytes each, of one
text: blocks of up to 40 lines, shuffled), `scale-1000.txt` (1 GB: all the real text there is, more than half of it,
and the rest recombined from it, see `recombined`) and `sources.json` (packages, versions, bytes, hashes).

The text is the documentation, dictionaries and manuals of Debian packages, fetched with `apt-get download` and read
with `dpkg-deb` (no root needed, nothing is installed), and the docstrings of the installed Python packages of
`MODULES`. Same packages, same files: order and cuts come from fixed seeds. What versions Debian and the environment
serve changes over the years, so quote the hashes that this prints with any figure.

Markup goes away crudely: some debris stays, as in text from the web; a paragraph of HTML is one line. A line of 40
bytes or more is kept the first time only, as in a deduplicated corpus: templates would flatter every learner, ours
most.
"""

import argparse
import gzip
import hashlib
import html
import json
import mmap
import os
import random
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from itertools import count, islice, pairwise, repeat
from pathlib import Path
from typing import Any, BinaryIO

PACKAGES = """
anarchism bible-kjv-text cppreference-doc-en-html debian-handbook dict-foldoc dict-freedict-deu-eng dict-gcide
dict-jargon doc-debian erlang-doc fortunes fortunes-de fortunes-it ghc-doc gnome-user-docs installation-guide-amd64
libboost1.74-doc libglib2.0-doc libgtk-3-doc libreoffice-help-cs libreoffice-help-de libreoffice-help-el
libreoffice-help-en-us libreoffice-help-es libreoffice-help-fr libreoffice-help-hi libreoffice-help-hu
libreoffice-help-it libreoffice-help-ja libreoffice-help-ko libreoffice-help-nl libreoffice-help-pl
libreoffice-help-pt-br libreoffice-help-ru libreoffice-help-sv libreoffice-help-tr libreoffice-help-zh-cn
linux-doc-6.1 manpages-de manpages-dev manpages-es manpages-fr manpages-ja manpages-pl manpages-ru maxima-doc
nodejs-doc octave-doc openjdk-17-doc perl-doc postgresql-doc-15 python-django-doc python-pandas-doc
python-sympy-doc python3.11-doc qtbase5-doc-html rust-doc sqlite3-doc vim-runtime wordnet-base
""".split()  # noqa: SIM905
MODULES = ["torch", "transformers", "datasets", "accelerate", "huggingface_hub", "numpy", "scipy", "sympy", "networkx"]

MB = 10**6
SIZES = (10, 50, 200, 300)
SCALE = 1000
BLOCK_LINES = 40
MOST_OF_ONE_SOURCE = 36 * MB
GIVE_UP_AFTER = 3  # packages in vain
SHORT = 40  # bytes; shorter lines may repeat

_HIDDEN = re.compile(r"<!--.*?-->|<(script|style|head|nav)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_VERBATIM = re.compile(r"(<pre\b.*?</pre\s*>)", re.DOTALL | re.IGNORECASE)
_BREAKS = re.compile(r"</?(?:p|div|li|ul|ol|tr|table|h\d|br|dt|dd|dl|pre|section|page|title|item|note)\b[^>]*>", re.I)
_CELLS = re.compile(r"</t[dh]\s*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^>]*>|<[!?][^>]*>")
_ROFF_COMMAND = re.compile(
    r"^[.'](?:\\\"|(?:TH|so|ie?|el|de|ds|nr|tr|ft|ad|nh|hy|if|sp|in|ta|ne|RS|RE)\b).*$", re.MULTILINE
)
_ROFF_MACRO = re.compile(r"^[.']\s*[A-Za-z]{1,2}\s*", re.MULTILINE)
_ROFF_ESCAPE = re.compile(r"\\f(?:\[[^\]]*\]|\(..|.)|\\[&|^/,c%:]|\\s[-+]?\d+|\\m\[[^\]]*\]")
_BLANKS = re.compile(r"[ \t\f\v\xa0]+$|\r", re.MULTILINE)
_DOCSTRING = re.compile(r'"""(.*?)"""', re.DOTALL)


class Unavailable(Exception):
    """The packages cannot be downloaded here."""


def default_folder() -> Path:
    """`$ISOTOK_BENCH` or a folder in the user's cache: never one in the repository."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("ISOTOK_BENCH") or cache / "isotok" / "bench")


def corpus_file(folder: Path, mb: int) -> Path:
    """Where the corpus of that many MB lies, built or not."""
    return folder / (f"scale-{mb}.txt" if mb > max(SIZES) else f"real-{mb}.txt")


def ensure(folder: Path, sizes: Iterable[int]) -> list[Path]:
    """The corpus files of these sizes in MB, built now where one is missing. Raises Unavailable without packages."""
    sizes = sorted(set(sizes))
    files = [corpus_file(folder, mb) for mb in sizes]
    if not all(file.is_file() for file in files):
        build(folder, sizes)
    return files


def build(folder: Path, sizes: Iterable[int]) -> None:
    """Download, strip, shuffle and cut; smallest file first. Peak memory about 0.6 GB, a few minutes."""
    folder.mkdir(parents=True, exist_ok=True)
    listing = folder / "sources.json"
    sources: dict[str, Any] = json.loads(listing.read_text(encoding="utf-8")) if listing.is_file() else {}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        pool, blocks = _pool(folder / "debs", Path(scratch), sources)
        for mb in sorted(set(sizes)):
            out = corpus_file(folder, mb)
            pieces = _blocks(pool, blocks) if mb <= max(SIZES) else _scale(pool, blocks)
            _write(out, pieces, mb * MB)
            digest = hashlib.sha256()
            with out.open("rb") as file:
                while chunk := file.read(MB):
                    digest.update(chunk)
            sources[out.name] = {"bytes": out.stat().st_size, "sha256": digest.hexdigest()}
            print(f"{out}: {out.stat().st_size:,} bytes, sha256 {digest.hexdigest()}", flush=True)
    listing.write_text(json.dumps(sources, indent=1) + "\n", encoding="utf-8")


def _pool(debs: Path, scratch: Path, sources: dict[str, Any]) -> tuple[Path, list[tuple[int, int]]]:
    """All text in one file, and its blocks (start, end) in shuffled order."""
    seen: set[int] = set()
    blocks: list[tuple[int, int]] = []
    pool = scratch / "pool.txt"
    missing = []
    with pool.open("wb") as out:
        for name in [*PACKAGES, *MODULES]:
            mine: list[tuple[int, int]] = []
            if name in PACKAGES:
                deb = _download(name, debs)
                if deb is None:
                    missing.append(name)
                    if len(missing) == GIVE_UP_AFTER and not blocks:
                        raise Unavailable(
                            f"Debian packages cannot be downloaded: {', '.join(missing)} (apt-get update?)"
                        )
                    continue
                texts, version = _package_texts(deb), deb.name.split("_")[1]
            else:
                spec = find_spec(name)
                if spec is None or not spec.submodule_search_locations:
                    missing.append(name)
                    continue
                texts, version = _docstrings(Path(next(iter(spec.submodule_search_locations)))), "as installed"
            for text in texts:
                _append(text, out, seen, mine)
            random.Random(name).shuffle(mine)
            size = 0
            for block in mine:
                if size < MOST_OF_ONE_SOURCE:
                    size += block[1] - block[0]
                    blocks.append(block)
            sources[name] = {"version": version, "bytes": size}
            print(f"{name} {version}: {size / MB:.1f} MB of text", flush=True)
    total = sum(end - start for start, end in blocks)
    if missing:
        print(f"not to be had here, left out: {', '.join(missing)}", file=sys.stderr)
    if total < 0.5 * max(SIZES) * MB:
        raise Unavailable(f"only {total / MB:.0f} MB of text: most packages cannot be downloaded (apt-get update?)")
    print(f"in all {total / MB:.1f} MB", flush=True)
    random.Random(0).shuffle(blocks)
    return pool, blocks


def _download(package: str, debs: Path) -> Path | None:
    """The package's archive, kept in `debs`; None when Debian's archive cannot be had or lacks it."""
    debs.mkdir(parents=True, exist_ok=True)
    if not (found := sorted(debs.glob(f"{package}_*.deb"))):
        try:
            subprocess.run(
                ["apt-get", "download", "-q", package], cwd=debs, check=True, capture_output=True, timeout=300
            )
        except (OSError, subprocess.SubprocessError):
            return None
        found = sorted(debs.glob(f"{package}_*.deb"))
    return found[0] if found else None


def _append(text: str, out: BinaryIO, seen: set[int], blocks: list[tuple[int, int]]) -> None:
    """Write a text's new lines, if they are more than a page's frame, and add their blocks."""
    fresh = [b""]
    for line in _BLANKS.sub("", text).encode().split(b"\n"):
        if len(line) >= SHORT:
            key = int.from_bytes(hashlib.blake2b(line, digest_size=8).digest(), "little")
            if key in seen:
                continue
            seen.add(key)
        if line or fresh[-1]:  # no runs of empty lines
            fresh.append(line)
    fresh = fresh[1:]
    if sum(map(len, fresh)) < 200:
        return
    for index in range(0, len(fresh), BLOCK_LINES):
        start = out.tell()
        out.write(b"\n".join(fresh[index : index + BLOCK_LINES]) + b"\n")
        blocks.append((start, out.tell()))


def _package_texts(deb: Path) -> Iterator[str]:
    """The texts in a package, in its order; what is not text is passed over."""
    unpack = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE)
    with unpack, tarfile.open(fileobj=unpack.stdout, mode="r|") as archive:
        for member in archive:
            path = Path(member.name)
            packed = path.suffix in (".gz", ".dz")
            kind = _kind(path.with_suffix("") if packed else path)
            content = archive.extractfile(member) if kind and member.isfile() else None
            if content is not None:
                raw = content.read()
                yield _plain(gzip.decompress(raw) if packed else raw, kind)
    if unpack.returncode:
        raise OSError(f"{deb}: dpkg-deb cannot read it; delete it and try again")


def _kind(path: Path) -> str:
    """What sort of text a file holds, by its name: page, manual, plain, or nothing."""
    suffix = path.suffix.lower()
    if "_sources" in path.parts:  # what the pages beside it were made from
        return ""
    if suffix in (".html", ".htm", ".xhtml", ".page"):
        return "page"
    if "man" in path.parts and re.fullmatch(r"\.[1-8]\w*", suffix):
        return "manual"
    if suffix in (".txt", ".pod", ".rst", ".md", ".dict") or path.name.startswith("data."):
        return "plain"
    return "plain" if "fortunes" in path.parts and not suffix else ""


def _plain(raw: bytes, kind: str) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    if kind == "page":
        parts = _VERBATIM.split(_HIDDEN.sub("", text))
        parts[::2] = [_CELLS.sub(" ", _BREAKS.sub("\n", re.sub(r"\s+", " ", part))) for part in parts[::2]]
        parts[::2] = [re.sub(r"\n\s+", "\n", _TAG.sub("", part)) for part in parts[::2]]
        text = html.unescape(_TAG.sub("", "".join(parts)))
    elif kind == "manual":
        text = plain_roff(text)
    return text.replace("\0", "")


def plain_roff(text: str) -> str:
    """A manual page without most of its roff."""
    text = _ROFF_MACRO.sub("", _ROFF_COMMAND.sub("", text))
    return _ROFF_ESCAPE.sub("", text).replace("\\-", "-").replace("\\(", "").replace("\\e", "\\")


def _docstrings(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*.py")):
        yield "\n".join(_DOCSTRING.findall(path.read_text(encoding="utf-8", errors="replace")))


def _blocks(pool: Path, blocks: list[tuple[int, int]]) -> Iterator[bytes]:
    with pool.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for start, end in blocks:
            yield data[start:end]


def _scale(pool: Path, blocks: list[tuple[int, int]]) -> Iterator[bytes]:
    """The real text, then blocks of it recombined, as often as they are asked for."""
    yield from _blocks(pool, blocks)
    for seed in count(1):
        draw = random.Random(seed)
        yield from map(recombined, _blocks(pool, blocks), repeat(draw))


def recombined(block: bytes, draw: random.Random) -> bytes:
    """A block whose lines are cut into runs of four words, the runs dealt anew to its lines.

    Lines are then as long and as diverse as fresh lines (next to none repeats one of the real text), pairs and short
    phrases keep their frequencies inside a run, and one junction in four is new, so that distinct pairs of tokens go
    on growing. What does not grow is the stock of words: fresh text would bring new ones.
    """
    runs, shape = [], []
    for line in block.split(b"\n"):
        body = line.lstrip(b" ")
        words = body.split(b" ")
        cuts = [0, *range(draw.randrange(1, 5), len(words), 4), len(words)]
        pieces = [b" ".join(words[a:b]) for a, b in pairwise(cuts)]
        runs += pieces
        shape.append((line[: len(line) - len(body)], len(pieces)))
    draw.shuffle(runs)
    dealt = iter(runs)
    return b"\n".join(indent + b" ".join(islice(dealt, size)) for indent, size in shape)


def _take(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Pieces up to size bytes in all, the last one cut after its last whole line."""
    for piece in pieces:
        if len(piece) > size:
            yield piece[: piece.rfind(b"\n", 0, size) + 1]
            return
        size -= len(piece)
        yield piece


def _write(path: Path, pieces: Iterable[bytes], size: int) -> None:
    part = path.with_suffix(".part")
    with part.open("wb", buffering=MB) as out:
        out.writelines(_take(pieces, size))
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=default_folder())
    parser.add_argument("--mb", nargs="+", type=int, default=[*SIZES, SCALE], help="sizes to write, in 10^6 bytes")
    options = parser.parse_args()
    try:
        build(options.folder, options.mb)
    except Unavailable as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
