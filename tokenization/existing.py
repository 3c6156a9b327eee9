"""Any tokenizer that exists, as it is: a local folder, or a name on the Hugging Face Hub."""

import functools
import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from pydantic import model_validator

from isotok.errors import ConfigError, DataError
from isotok.recipe import Impl, recipe
from tokenization.local_files import fingerprint_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# What a tokenizer is loaded from; other files of a folder (weights, cards, our own metadata) do not change its ids.
_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_USUAL_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")
_SAMPLE_TEXTS, _SAMPLE_CHARACTERS = 200, 20_000


@recipe
class ExistingTokenizer:
    """A tokenizer that is not learned here.

    path: a folder with a `tokenizer.json`, or a name on the Hub; what exists as a folder is never asked of the Hub.
    revision: of a Hub name: commit, tag or branch; none is the newest. The commit stands in the fingerprint.
    eos_token: the entry that ends documents, where the tokenizer names none itself.
    allow_lossy: take it although texts of the corpus do not come back from their ids (unknown tokens, normalisation).
    Path and revision are no part of the artefact's key: the fingerprint is.
    """

    path: Impl[str]
    revision: Impl[str | None] = None
    eos_token: str | None = None
    allow_lossy: bool = False

    @model_validator(mode="after")
    def _something_to_load(self) -> Self:
        if not self.path:
            raise ValueError("path is empty: give a tokenizer's folder or a Hub name, like tokenizer.path=owner/name")
        if self._folder() is not None:
            if self.revision is not None:
                raise ValueError(f"revision={self.revision!r}: {self.path} is a local folder and has none")
        elif not _HUB_NAME.fullmatch(self.path):
            raise ValueError(f"path={self.path!r}: no such folder, and not a name on the Hub (name or owner/name)")
        return self

    @property
    def label(self) -> str:
        name = Path(self.path).resolve().name if self._folder() is not None else self.path.rsplit("/", 1)[-1]
        return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:32] or "existing"

    @property
    def vocab_size(self) -> int:
        """Entries without specials; loads the tokenizer."""
        tokenizer = self.load()
        return len(tokenizer) - len(special_ids(tokenizer))

    def fingerprint(self) -> dict[str, Any]:
        """What the artefact's key hashes: name, size and sha256 of a folder's files, or the commit of a Hub name."""
        folder = self._folder()
        if folder is None:
            return {"path": self.path, "revision": resolve_revision(self.path, self.revision)}
        files = [(folder / name, name) for name in _FILES if (folder / name).is_file()]
        return {"files": fingerprint_files(files)}

    def train(self, texts: Iterable[str]) -> "PreTrainedTokenizerFast":
        """Load; nothing is learned. The first texts are encoded to see that their ids say all of them.

        Raises DataError naming what cannot be loaded or, unless `allow_lossy`, what is lost.
        """
        tokenizer = self.load()
        lost = what_is_lost(tokenizer, (text[:_SAMPLE_CHARACTERS] for text in itertools.islice(texts, _SAMPLE_TEXTS)))
        if lost and not self.allow_lossy:
            raise DataError(f"{self.path}: {lost}; tokenizer.allow_lossy=true takes it nevertheless")
        specials = special_ids(tokenizer)
        tokenizer.isotok_metadata = {  # type: ignore[attr-defined]
            "algorithm": _model(tokenizer)["type"].lower(),
            "source": self.path,
            "revision": self.fingerprint().get("revision"),
            "vocab_size": len(tokenizer) - len(specials),
            "specials": tokenizer.convert_ids_to_tokens(sorted(specials)),
            "lossless": not lost,
            "lost": lost,
        }
        return tokenizer

    def load(self) -> "PreTrainedTokenizerFast":
        """The tokenizer with its end-of-text token; DataError names what is wrong with it."""
        folder = self._folder()
        revision = None if folder else resolve_revision(self.path, self.revision)
        tokenizer = load_existing(str(folder or self.path), revision)
        return with_end_of_text(tokenizer, self.path, self.eos_token)

    def _folder(self) -> Path | None:
        folder = Path(self.path).expanduser()
        return folder if folder.is_dir() else None


def load_existing(path: str, revision: str | None = None) -> "PreTrainedTokenizerFast":
    """Load a local folder or, where there is none of that name, from the Hub; DataError says why it cannot be used.

    `tokenizer.json` decides wherever there is one: the model classes of transformers put a pretokenizer of their own
    in the place of the file's. Truncation and padding that the file may hold are switched off.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    local = Path(path).is_dir()
    if local:
        _check_files(Path(path))
    loader: Any = PreTrainedTokenizerFast if not local or (Path(path) / "tokenizer.json").is_file() else AutoTokenizer
    try:
        try:
            tokenizer = loader.from_pretrained(path, revision=revision, local_files_only=local)
        except Exception:
            if loader is AutoTokenizer or local:
                raise
            tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)  # a Hub name without tokenizer.json
    except Exception as error:  # the libraries raise dozens of kinds, bare Exception among them
        reason = (str(error).splitlines() or [""])[0]
        where = path if local else f"{path} (no folder of that name; on the Hub)"
        raise DataError(
            f"{where}: transformers cannot load this tokenizer ({type(error).__name__}: {reason})"
        ) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise DataError(
            f"{path}: a slow tokenizer ({type(tokenizer).__name__}); only fast ones are used: convert it to a folder "
            "with a tokenizer.json"
        )
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.clean_up_tokenization_spaces = False  # decoding would drop spaces before punctuation
    top = max(tokenizer.get_vocab().values(), default=-1)
    if top >= len(tokenizer):
        raise DataError(
            f"{path}: ids go up to {top} with only {len(tokenizer)} entries; fill the gaps in its vocabulary"
        )
    return tokenizer


def with_end_of_text(
    tokenizer: "PreTrainedTokenizerFast", path: str, eos_token: str | None
) -> "PreTrainedTokenizerFast":
    """The tokenizer with an end-of-text token: its own, or the entry `eos_token`. DataError says how to set one."""
    vocab = tokenizer.get_vocab()
    if eos_token is not None:
        if eos_token not in vocab:
            raise ConfigError(f"tokenizer.eos_token={eos_token!r}: {path} has no such entry")
        tokenizer.eos_token = eos_token
    if tokenizer.eos_token_id is None:
        found = [name for name in _USUAL_ENDS if name in vocab]
        hint = f"such as {', '.join(found)}" if found else "and there is none of the usual names"
        raise DataError(
            f"{path}: the tokenizer has no end-of-text token; name one of its entries with tokenizer.eos_token=…, "
            f"{hint}"
        )
    return tokenizer


def what_is_lost(tokenizer: "PreTrainedTokenizerFast", texts: Iterable[str]) -> str:
    """How many of the texts do not come back from their ids, with the first one; empty where all do."""
    from tokenization.tokenizer import encode_texts

    sample = list(texts)
    unknown = unknown_id(tokenizer)
    unknowns = with_unknown = differing = 0
    first = ""
    for text, ids in zip(sample, encode_texts(tokenizer, sample)):
        count = ids.count(unknown) if unknown is not None else 0
        back = cast(str, tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        unknowns, with_unknown, differing = unknowns + count, with_unknown + (count > 0), differing + (back != text)
        if back != text and not first:
            at = next((i for i, (a, b) in enumerate(zip(text, back)) if a != b), min(len(text), len(back)))
            first = f"{text[at : at + 20]!r} comes back as {back[at : at + 20]!r}"
    if not differing and not unknowns:
        return ""
    return (
        f"{differing} of {len(sample)} texts do not come back from their ids ({unknowns} unknown tokens in "
        f"{with_unknown} of them); the first: {first}"
    )


def unknown_id(tokenizer: "PreTrainedTokenizerFast") -> int | None:
    """The id that stands for text that the vocabulary does not have; None where there is none."""
    model = _model(tokenizer)
    if model["type"] == "Unigram":
        return cast("int | None", model.get("unk_id"))
    token = model.get("unk_token")
    return tokenizer.get_vocab().get(token) if token else None


def special_ids(tokenizer: "PreTrainedTokenizerFast") -> set[int]:
    """Ids that stand for no text: the named special tokens, and added ones that are marked as special."""
    marked = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return marked | set(tokenizer.all_special_ids)


@functools.cache
def resolve_revision(path: str, revision: str | None) -> str:
    """The commit of a Hub name's revision, asked once a process; a commit of 40 digits is not asked for."""
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import HfApi

    try:
        sha = HfApi().model_info(path, revision=revision).sha
    except Exception as error:  # network, authentication, unknown name: all read alike to the user
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"{path}: no folder of that name, and the Hub cannot be asked for it ({type(error).__name__}: {reason}); "
            "check path and network, or pin it with tokenizer.revision=<commit of 40 digits>"
        ) from None
    if not sha:
        raise DataError(f"{path}: the Hub names no commit; pin it with tokenizer.revision=<commit of 40 digits>")
    return str(sha)


def _check_files(folder: Path) -> None:
    file = folder / "tokenizer.json"
    if not file.is_file():
        if not any(
            (folder / name).is_file() for name in _FILES if name not in ("config.json", "tokenizer_config.json")
        ):
            raise DataError(f"{folder}: no tokenizer.json here; is this a tokenizer folder?")
        return
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON ({error}); the file is damaged or cut off") from None
    if not isinstance(data, dict) or "model" not in data:
        raise DataError(f"{file}: has no model; this is not a file of the tokenizers library")


def _model(tokenizer: "PreTrainedTokenizerFast") -> dict[str, Any]:
    model: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return model
