"""What `isotok show` and `isotok segment` share: their arguments, tokenizers by path or name, lines with colours."""

import difflib
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotok.errors import ConfigError, DataError
from isotok.files import read_json
from isotok.progress import say
from tokenization.visible import printable
from tokenization.vocabulary_view import Vocabulary, read_vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What transformers can make a tokenizer.json of.
_OLDER_FILES = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tokenizer_config.json")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

Span = tuple[str, str]
"""Text and its rich style ("" for none)."""


def parse_arguments(
    command: str, arguments: Sequence[str], keys: Sequence[str], flags: Sequence[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """Names, and values of `KEY=VALUE`, `--KEY VALUE`, `--KEY=VALUE` or, for a flag, `--KEY`.

    Raises ConfigError for a key that is unknown, given twice or without its value.
    """
    known = [*keys, *flags]
    names: list[str] = []
    values: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") and not (equals and re.fullmatch(r"[a-z_]+", key)):
            if argument.startswith("-") and argument != "-":
                raise ConfigError(f"{command} {printable(argument)}: no such option (keys: {', '.join(known)})")
            names.append(argument)
            continue
        if key not in known:
            if Path(argument).exists():
                names.append(argument)
                continue
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"{command} {printable(argument)}: no such key{hint} (keys: {', '.join(known)})")
        if key in values:
            raise ConfigError(f"{command} {key}: given twice")
        given = value if equals else "true" if key in flags else next(rest, None)
        if given is None:
            raise ConfigError(f"{command} --{key}: needs a value, like {key}=VALUE")
        values[key] = given
    return names, values


def whole_number(key: str, value: str, otherwise: str = "") -> int:
    """A number from 0 up; ConfigError names key and value, and what else is allowed."""
    if not (value.isascii() and value.isdigit()):
        raise ConfigError(f"{key}={printable(value)}: not a whole number from 0 up{otherwise}")
    return int(value)


def true_or_false(key: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise ConfigError(f"{key}={printable(value)}: allowed are true and false")
    return value == "true"


@dataclass(frozen=True)
class Found:
    """A tokenizer to look at. file: its tokenizer.json, or a folder that transformers has to read."""

    name: str
    file: Path

    @cached_property
    def tokenizer(self) -> "Tokenizer":
        """Read by the library; DataError names the file that it cannot read."""
        from tokenizers import Tokenizer

        text = self._text
        try:
            return Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"{self.file}: the tokenizer library cannot read this ({printable(error)})") from None

    @cached_property
    def vocabulary(self) -> Vocabulary:
        self.tokenizer  # noqa: B018 - what the library accepts has, but for odd files, the fields that are read here
        try:
            return read_vocabulary(json.loads(self._text))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {printable(error)}"
            raise DataError(f"{self.file}: a tokenizer.json of a form not known here ({reason})") from None

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """What isotok wrote beside it (`metadata.json`), or nothing."""
        path = self.file.with_name("metadata.json")
        made = read_json(path) if path.is_file() else {}
        return made if isinstance(made, dict) else {}

    @cached_property
    def _text(self) -> str:
        if self.file.is_dir():
            return _through_transformers(self.file)
        try:
            return self.file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.file}: cannot be read as a tokenizer.json ({printable(error)})") from None


def find_tokenizers(name: str) -> list[Found]:
    """The tokenizers of a folder, a tokenizer.json, an artefact of any stage (several of a report), or a Hub name."""
    path = Path(name).expanduser()
    if path.is_file():
        return [Found(path.resolve().parent.name if path.name == "tokenizer.json" else path.stem, path)]
    if path.is_dir():
        found = list(dict.fromkeys(_in_folder(path)))
        if not found:
            raise DataError(
                f"{printable(name)}: no tokenizer here (no tokenizer.json, nor a manifest.json that names a tokenizer)"
            )
        return found
    if _HUB_NAME.fullmatch(name) and not ("/" in name and path.parent.is_dir()):
        return [Found(name, _from_hub(name))]
    raise DataError(f"{printable(name)}: no such file or folder")


def _in_folder(folder: Path, above: frozenset[Path] = frozenset()) -> list[Found]:
    real = folder.resolve()
    if real in above:
        return []
    if (folder / "tokenizer.json").is_file():
        return [Found(real.parent.name if real.name == "model" else real.name, folder / "tokenizer.json")]
    named = _named_in(real)
    for places in (named, [folder / "model"]):
        found = [made for place in places if place.is_dir() for made in _in_folder(place, above | {real})]
        if found:
            return found
    if named:
        raise DataError(f"{printable(folder)}: made with {printable(named[0])}, which is not there; was it removed?")
    return [Found(real.name, folder)] if any((folder / older).is_file() for older in _OLDER_FILES) else []


def _named_in(artefact: Path) -> list[Path]:
    """The tokenizer that an artefact was made with, or those of a report or comparison."""
    manifest = read_json(artefact / "manifest.json") if (artefact / "manifest.json").is_file() else {}
    run = read_json(artefact / "run.json") if (artefact / "run.json").is_file() else {}  # a training under way
    inputs = manifest.get("inputs", {}) if isinstance(manifest, dict) else {}
    root = artefact.parent.parent
    if "tokenizer" in inputs:
        return [root / str(inputs["tokenizer"])]
    if isinstance(run, dict) and "tokenizer" in run:
        return [Path(str(run["tokenizer"]))]
    several = [str(made) for made in inputs.values() if str(made).startswith(("tokenizer/", "encode/", "evaluate/"))]
    return [root / made for made in several]


def _through_transformers(folder: Path) -> str:
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # whatever a foreign file makes of it
        first = printable(str(error).strip().split("\n")[0])
        raise DataError(f"{folder}: no tokenizer.json, and transformers cannot make one ({first})") from None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise DataError(f"{folder}: a tokenizer in Python only ({type(tokenizer).__name__}); it has no tokenizer.json")
    return str(backend.to_str())


def _from_hub(name: str) -> Path:
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    try:
        # Asked for its commit first: unlike a download that is not tried five times, and a mistyped path fails soon.
        commit = HfApi().model_info(name, timeout=10).sha
        return Path(hf_hub_download(name, "tokenizer.json", revision=commit))
    except Exception as error:  # network, authentication, unknown name: all read alike to the user
        reason = f"{type(error).__name__}: {printable((str(error).strip().splitlines() or [''])[0])}"
    kept = try_to_load_from_cache(name, "tokenizer.json")
    if isinstance(kept, str):
        say(f"{name}: the copy from before; the Hub cannot be asked ({reason})")
        return Path(kept)
    raise DataError(
        f"{name}: no such file or folder, and the Hugging Face Hub gives no tokenizer.json for it ({reason})"
    )


def write_lines(lines: Iterable[Sequence[Span]]) -> None:
    """Lines to stdout: in colours on a terminal that has them, as plain text elsewhere."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # an ASCII terminal is no reason to fail
    if not in_colour():
        for line in lines:
            print("".join(text for text, _ in line).rstrip(" "))
        return
    from rich.text import Text

    console = _console()
    for line in lines:
        console.print(Text.assemble(*line), soft_wrap=True)


def in_colour() -> bool:
    """Whether stdout is a terminal with colours (and NO_COLOR is not set)."""
    console = _console()
    return console.is_terminal and console.color_system is not None and not console.no_color


def terminal_width() -> int:
    """Columns of the terminal; 100 elsewhere, so that a file does not depend on a window."""
    return int(_console().width) if sys.stdout.isatty() else 100


def columns(rows: Sequence[Sequence[Span]], align: str) -> list[list[Span]]:
    """Rows as lines with aligned cells. align: for each column "l", or "r" for numbers."""
    from rich.cells import cell_len

    widths = [max((cell_len(row[i][0]) for row in rows), default=0) for i in range(len(align))]
    made = []
    for row in rows:
        line: list[Span] = [("  ", "")]
        for i, (text, style) in enumerate(row):
            space = " " * (widths[i] - cell_len(text))
            before, after = (space, "") if align[i] == "r" else ("", space)
            line += [(before, ""), (text, style), (after + "  ", "")]
        made.append(line)
    return made


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)
