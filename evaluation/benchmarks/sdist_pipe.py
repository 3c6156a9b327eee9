"""A program of its own: `python sdist_pipe.py NAME VERSION` writes a source package to stdout as it comes.

The first line is JSON, {"filename", "sha256" (or null), "size" (or null)}, the rest the file itself. pip's own
command line is read for where to look and how (indexes, find-links, proxy, certificates, passwords: files, environment
and defaults), pip's own session fetches, and nothing is unpacked, built or run. `pip download` is no way to do this: it
unpacks a source package and runs its set-up. pip promises none of the inner names used here and asks not to be
imported by other programs, so this stands alone in a process; whatever goes wrong ends in one line on stderr.
"""

import json
import logging
import sys
from typing import Any, BinaryIO

PIECE = 1 << 18


def main(name: str, version: str) -> None:
    out = sys.stdout.buffer
    sys.stdout = sys.stderr  # pip may print; the pipe holds the file alone
    said: list[str] = []  # an index that cannot be reached is no error for pip, but a line in its log
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.basicConfig(level=logging.DEBUG, handlers=[handler])
    try:
        send(name, version, out)
    except BrokenPipeError:
        raise SystemExit(1) from None
    except Exception as error:  # network, index, another pip: the reader gets one line
        failed = [line for line in said if line.startswith("Could not fetch")] if isinstance(error, LookupError) else []
        reason = " ".join("; ".join([str(error), *failed[-1:]]).split())[:400]
        print(f"{type(error).__name__}: {reason}", file=sys.stderr)
        raise SystemExit(1) from None


def send(name: str, version: str, out: BinaryIO) -> None:
    from pip._internal.commands import create_command
    from pip._internal.utils.temp_dir import global_tempdir_manager

    command: Any = create_command("download")
    options, _ = command.parse_args([])
    with command.main_context(), global_tempdir_manager():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options=options, session=session)
        sources = [
            candidate
            for candidate in finder.find_all_candidates(name)
            if not candidate.link.is_wheel and str(candidate.version) == version
        ]
        if not sources:
            raise LookupError(f"no source package {name} {version} where pip is told to look")
        link = sources[0].link
        # As it is stored: a transfer that is compressed once more would be undone on the way, and the hash be another.
        response = session.get(link.url_without_fragment, headers={"Accept-Encoding": "identity"}, stream=True)
        response.raise_for_status()
        size = response.headers.get("Content-Length")
        digest = link.hash if link.hash_name == "sha256" else None
        found = {"filename": link.filename, "sha256": digest, "size": int(size) if size else None}
        out.write(json.dumps(found).encode() + b"\n")
        for piece in response.iter_content(PIECE):
            out.write(piece)
        out.flush()


if __name__ == "__main__":
    main(*sys.argv[1:3])
