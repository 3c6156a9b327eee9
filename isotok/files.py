"""Files that are whole or absent: atomic writes, renames, locks, checksums, disk space."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isotok.errors import DataError, IsotokError

LOCK_STALE_S = 180.0
_HEARTBEAT_S = 20.0


def canonical_json(data: Any) -> str:
    """JSON with sorted keys and no spaces: equal data, equal text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash_key(data: Any, digits: int = 12) -> str:
    """The first hex digits of the sha256 of canonical JSON: the key of an artefact."""
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()[:digits]


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_verified(path: Path, sha256: str, listed_in: str) -> str:
    """A text file whose checksum another one lists. Raises DataError naming it where it is missing or was edited."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(
            f"{path}: its sha256 is not the one in {listed_in}: it was edited or damaged after it was written; "
            "remove the task's folder and run again"
        )
    return data.decode()


def fsync_path(path: Path) -> None:
    """Flush a file or a folder's entries to disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one, never a part."""
    temp = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temp, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise _space_error(error, path) from error
    fsync_path(path.parent)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    """`write_text` of indented JSON with sorted keys; refuses NaN."""
    write_text(path, json.dumps(data, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; DataError names the file when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: not found; the artefact is incomplete, remove its folder and run again") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); remove its folder and run again") from None


def publish_dir(partial: Path, final: Path) -> None:
    """fsync every file of `partial`, then rename it to `final`, which must not exist."""
    for root, _, names in os.walk(partial):
        for name in names:
            path = Path(root) / name
            if not path.is_symlink():  # a link may lead nowhere; the folder's entry holds it
                fsync_path(path)
        fsync_path(Path(root))
    partial.rename(final)
    fsync_path(final.parent)


def check_free_space(folder: Path, needed_bytes: float, what: str) -> None:
    """Raise before a stage that would fill the disk half way."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise IsotokError(
            f"{folder}: {free / 1e6:,.0f} MB free, {what} needs about {needed_bytes / 1e6:,.0f} MB; "
            "free some space or set store=PATH to another disk"
        )


def is_full(error: BaseException) -> bool:
    """Whether the disk or a quota is full, as Python, safetensors or this module say it."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "no space left" in str(error).lower()


def _space_error(error: OSError, path: Path) -> Exception:
    if is_full(error):
        return IsotokError(f"{path}: no space left on the disk; free some or set store=PATH to another disk")
    return error


@contextlib.contextmanager
def lock(path: Path, *, poll_s: float = 0.5, on_wait: Any = None, on_poll: Any = None) -> Iterator[None]:
    """Hold `path` as a lock file: created exclusively, heartbeat by mtime, no fcntl (NFS).

    It holds host, pid and job. A lock is stale, and is taken over, when its process is gone (same host) or its
    heartbeat is older than LOCK_STALE_S (any host: the pid may be another process by now). `on_wait(owner)` is called
    once before waiting, `on_poll()` each time before looking again; it may raise.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID", "")}
    waited = False
    while True:
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            break
        except FileExistsError:
            if _stale(path):
                _break_stale(path)
                continue
            if not waited and on_wait is not None:
                on_wait(_read_owner(path))
            waited = True
            if on_poll is not None:
                on_poll()
            time.sleep(poll_s)
        except OSError as error:
            raise IsotokError(
                f"{path}: cannot write here ({error.strerror}); set store=PATH to another folder"
            ) from None
    try:
        with os.fdopen(fd, "w") as file:
            json.dump(owner, file)
    except OSError as error:
        path.unlink(missing_ok=True)  # others would wait for an owner that says nothing
        raise _space_error(error, path) from error
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(_HEARTBEAT_S):
            with contextlib.suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if _read_owner(path) == owner:  # not if this process hung so long that another one took over
            path.unlink(missing_ok=True)


def _read_owner(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _stale(path: Path) -> bool:
    try:
        age_s = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    owner = _read_owner(path)
    if not owner:  # created a moment ago and not yet written, or torn by a crash
        return age_s > 2 * _HEARTBEAT_S
    if owner.get("host") == socket.gethostname():
        try:
            os.kill(int(owner["pid"]), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
    return age_s > LOCK_STALE_S


def _break_stale(path: Path) -> None:
    # One waiter at a time, and only after another look: the lock may be a living successor's by now.
    guard = path.with_name(path.name + ".breaking")
    try:
        os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - guard.stat().st_mtime > LOCK_STALE_S:
                guard.unlink()
        time.sleep(0.05)
        return
    try:
        if _stale(path):
            path.unlink(missing_ok=True)
    finally:
        guard.unlink(missing_ok=True)
