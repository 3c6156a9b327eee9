"""Some files of a Python source package, picked while it streams by: fetched through pip or from a local copy.

Nothing is unpacked to disk, built or run, and what was not picked is not kept.
"""

import contextlib
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from isotok.errors import DataError
from isotok.progress import progress

_PIECE = 1 << 20
_PIPE = Path(__file__).with_name("sdist_pipe.py")


def pick_members(
    name: str,
    version: str,
    archive: Path | None,
    sha256: str,
    wanted: Callable[[str], bool],
    take: Callable[[str, bytes], None],
    done: Callable[[], bool],
) -> None:
    """Call `take(path, content)` for each file of NAME-VERSION.tar.gz whose path `wanted` says yes to.

    Paths are without the package's own folder. When `done` says so nothing more is taken, but all is still read, for
    the checksum. Raises DataError for a file that is missing, broken or not the one with this sha256; what `take` was
    given is to be used only after this returned.
    """
    with contextlib.ExitStack() as stack:
        size: int | None
        if archive is not None:
            try:
                raw: IO[bytes] = stack.enter_context(open(archive, "rb"))
            except OSError as error:
                raise DataError(f"benchmark.archive={archive}: cannot be read ({error.strerror})") from None
            where, size = str(archive), archive.stat().st_size
        else:
            raw, where, size = stack.enter_context(_fetched(name, version, sha256))
        advance = stack.enter_context(progress(f"reading {name} {version}", size, "B"))
        stream = _Hashed(raw, advance)
        try:
            _walk(stream, wanted, take, done)
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise DataError(f"{where}: not a whole .tar.gz ({error}); get it again") from None
        while stream.read(_PIECE):
            pass
        found = stream.sha256.hexdigest()
        if found != sha256:
            raise DataError(
                f"{where}: sha256 {found}, but benchmark.sha256 is {sha256}; get the file of version {version} again, "
                "or set benchmark.sha256 if another one is meant"
            )


class _Hashed:
    """A stream whose bytes are hashed as they are read."""

    def __init__(self, raw: IO[bytes], advance: Callable[[float], None]) -> None:
        self.raw, self.advance, self.sha256 = raw, advance, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self.raw.read(size)
        self.sha256.update(data)
        self.advance(len(data))
        return data


def _walk(
    stream: Any, wanted: Callable[[str], bool], take: Callable[[str, bytes], None], done: Callable[[], bool]
) -> None:
    with tarfile.open(fileobj=stream, mode="r|gz", bufsize=_PIECE) as tar:
        for member in tar:
            path = member.name.partition("/")[2]
            if member.isfile() and wanted(path):
                content = tar.extractfile(member)
                assert content is not None
                take(path, content.read())
            tar.members = []  # type: ignore[attr-defined]  # otherwise every member passed by is kept
            if done():
                return


@contextlib.contextmanager
def _fetched(name: str, version: str, sha256: str) -> Iterator[tuple[IO[bytes], str, int | None]]:
    """(stream, what it is, its size) of a source package that pip finds, with pip's configuration."""
    way_out = "or get the file elsewhere and name it with benchmark.archive=PATH"
    # -P: the folder of the program is no place to import from.
    command = [sys.executable, "-P", str(_PIPE), name, version]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
        assert process.stdout is not None
        try:
            header = process.stdout.readline()
            found = json.loads(header) if header else None
            if found is None:
                process.wait()
                raise DataError(
                    f"{name} {version}: pip cannot fetch its source ({_last_line(log)}); try again, {way_out}"
                )
            if found["sha256"] not in (None, sha256):
                raise DataError(
                    f"{name} {version}: the index offers {found['filename']} with sha256 {found['sha256']}, "
                    f"but benchmark.sha256 is {sha256}; {way_out.removeprefix('or ')}"
                )
            try:
                yield process.stdout, found["filename"], found["size"]
            except DataError as error:
                # A stream that broke off looks like a broken file; what broke it is in the log.
                if process.wait() and (reason := _last_line(log)):
                    raise DataError(
                        f"{name} {version}: the download stopped ({reason}); try again, {way_out}"
                    ) from None
                raise error
        finally:
            process.kill()


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
