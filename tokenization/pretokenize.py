"""Named pretokenizers, one table: how text falls into the pieces that no merge may cross.

`superbpe_*` are the two stages of the published tokenizers of Liu, Hayase et al. (2025, arXiv 2503.13423),
`superbpe2025_*` those of the authors' later English recipe. Stage 1 is also the fair BPE control's:
words with their leading space, digits in threes, no contractions. Any other regex goes by `regex:PATTERN`.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator

from isotok.recipe import recipe

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer

Feed = Literal["line", "document"]
REGEX = "regex:"

# Regexes as the reference tokenizers publish them; they are data, not code.
_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DIGITS_FROM_RIGHT = r"(?=(\d{3})+(?!\d))"
_SUPERBPE_WORDS = _DIGITS_FROM_RIGHT + r"| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SUPERBPE2025_WORDS = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SUPERBPE2025_LINES = r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]{2,}[\r\n/]*| +(?!\S)"

# name -> (isolate digit runs first?, split regex or None)
_TABLE: dict[str, tuple[bool, str | None]] = {
    "gpt2": (False, _GPT2),
    "llama3": (False, _LLAMA3),
    "superbpe_stage1": (True, _SUPERBPE_WORDS),
    "superbpe_stage2": (True, _DIGITS_FROM_RIGHT),
    "superbpe2025_stage1": (False, _SUPERBPE2025_WORDS),
    "superbpe2025_stage2": (False, _SUPERBPE2025_LINES),
    "none": (False, None),
    # Merges are learned from these pieces; encoding splits otherwise (`tokenization.triadic.dress`).
    "triadic_marker": (True, _SUPERBPE_WORDS),
    "triadic_vocabulary": (True, _SUPERBPE_WORDS),
}


NAMES = tuple(_TABLE)


def _check_name(name: str) -> str:
    if name.startswith(REGEX):
        from tokenizers import Regex

        try:
            Regex(name.removeprefix(REGEX))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"not a regex that the tokenizer library (Oniguruma) understands: {error}") from None
    elif name not in _TABLE:
        raise ValueError(f"no pretokenizer of that name; allowed: {', '.join(_TABLE)}, {REGEX}PATTERN")
    return name


PretokenizerName = Annotated[str, AfterValidator(_check_name)]
"""A name of the table, or `regex:` and a pattern whose matches, and what is between them, are the pieces."""


@recipe
class Chunking:
    """How text falls into the chunks that are counted: the pieces of a pretokenizer, over lines or whole documents."""

    pretokenizer: PretokenizerName
    feed: Feed = "line"

    @property
    def name(self) -> str:
        """The pretokenizer's name, a hash standing for a regex."""
        if self.pretokenizer.startswith(REGEX):
            return "regex" + hashlib.sha256(self.pretokenizer.encode()).hexdigest()[:8]
        return self.pretokenizer

    @property
    def label(self) -> str:
        return f"{self.name}-{self.feed}"


def pretokenizer(name: str) -> "PreTokenizer":
    """The Hugging Face pretokenizer of that name, or of `regex:PATTERN`: splits, then bytes to their alphabet."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    digits, regex = (False, name.removeprefix(REGEX)) if name.startswith(REGEX) else _TABLE[name]
    steps: list[PreTokenizer] = []
    if digits:
        steps.append(Digits(individual_digits=False))
    if regex is not None:
        steps.append(Split(Regex(regex), behavior="isolated"))
    # ByteLevel last: a split after it would see the byte alphabet instead of the text.
    steps.append(ByteLevel(add_prefix_space=False, use_regex=False))
    return Sequence(steps)


def feed_units(texts: Iterable[str], feed: Feed) -> Iterator[str]:
    """What a trainer is fed: whole documents, or their lines with the newline, split at "\n" alone.

    Line by line is how the reference trains from files; then no entry spans a newline.
    """
    for text in texts:
        if feed == "document":
            yield text
            continue
        start = 0
        while start < len(text):
            end = text.find("\n", start) + 1 or len(text)
            yield text[start:end]
            start = end
