"""Errors a user is meant to read: one line that names the thing and the way out.

The command line prints `str(error)` and exits with `error.exit_code`; the traceback shows with `--debug` only.
Anything that is not an `IsotokError` is a bug in isotok.
"""


def one_line(error: BaseException) -> str:
    """What an error says, on one line; its class where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


class IsotokError(Exception):
    """Base of the errors that are the input's fault, not the code's."""

    exit_code = 1


class ConfigError(IsotokError):
    """A key, value or combination in the config is wrong; the message names key, value and what is allowed."""

    exit_code = 2


class DataError(IsotokError):
    """A corpus, file or artefact cannot be used; the message names file and record."""


class InterruptedRun(IsotokError):
    """A stage stopped on a signal, after leaving only what the same command can resume.

    signal_name: SIGINT is a user's wish and exits with 130, as shells have it; the others come from schedulers and exit
    with 75 (EX_TEMPFAIL), which says "run me again".
    """

    def __init__(self, message: str, signal_name: str = "SIGINT") -> None:
        super().__init__(message)
        self.signal_name = signal_name
        self.exit_code = 130 if signal_name == "SIGINT" else 75
