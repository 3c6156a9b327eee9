"""What every tokenizer recipe yields, and how it is saved, loaded and used.

All are Hugging Face tokenizers: a folder that `AutoTokenizer` loads as `PreTrainedTokenizerFast`, `metadata.json`
(how it came about) and, for byte-level vocabularies, `id_bytes.npy` (UTF-8 bytes that each id stands for).
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from isotok.errors import ConfigError, DataError
from isotok.files import read_json, write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from tokenization.pretokenize import Chunking

END_OF_TEXT = "<|endoftext|>"


class TokenizerRecipe(Protocol):
    """What a class must have to be a tokenizer in isotok (plus the `@recipe` decorator)."""

    @property
    def label(self) -> str:
        """A short name for folders and progress lines, like `bpe-2048`."""
        ...

    def train(self, texts: Iterable[str]) -> "PreTrainedTokenizerFast":
        """Learn from texts (documents) and return a tokenizer whose end-of-text token is `<|endoftext|>`.

        A recipe that learns from counts of chunks names them in a property `chunkings` (a tuple of `Chunking`), asks
        for them with `chunks_of(texts, chunking)`, and shares them with every other recipe on that corpus.
        Attach what should be kept in `metadata.json` as a dict in `tokenizer.isotok_metadata`.
        """
        ...


def finish(tokenizer: "Tokenizer", metadata: dict[str, Any]) -> "PreTrainedTokenizerFast":
    """Add the end-of-text token after training (so merge ids do not move) and wrap for transformers.

    The class must be plain `PreTrainedTokenizerFast`: the GPT-2 classes of transformers 5 replace the
    pretokenizer on loading, silently, and with it every superword.
    """
    from transformers import PreTrainedTokenizerFast

    if tokenizer.token_to_id(END_OF_TEXT) is not None:
        raise DataError(f"the vocabulary has an entry {END_OF_TEXT!r} already; text of that form would end documents")
    tokenizer.add_special_tokens([END_OF_TEXT])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
    )
    fast.isotok_metadata = {**metadata, "vocab_size": len(fast) - 1, "specials": [END_OF_TEXT]}  # type: ignore[attr-defined]
    return fast


def train_tokenizer(
    recipe: TokenizerRecipe, corpus: Path, out: Path, counted: "Mapping[Chunking, Path] | None" = None
) -> dict[str, Any]:
    """Stage `tokenizer`: learn from the corpus' training split, save, load back and check.

    counted: folders of the counts that are there already (`count_corpus`), by chunking.
    Returns the headline figures. Raises DataError when the loaded tokenizer does not give back what was saved.
    """
    from tokenization.chunks import CountedTexts
    from tokenization.corpus import read_documents

    out.mkdir(parents=True, exist_ok=True)
    tokenizer = recipe.train(CountedTexts(corpus, counted or {}))
    metadata: dict[str, Any] = tokenizer.isotok_metadata
    if (corpus / "corpus.json").is_file():
        metadata["corpus_sha256"] = read_json(corpus / "corpus.json")["sha256"]
    save_tokenizer(tokenizer, out)
    probe = [document.text[:20_000] for _, document in zip(range(20), read_documents(corpus, "train"))]
    check_saved(tokenizer, out, probe, lossless=metadata.get("lossless", True))
    return {key: value for key, value in metadata.items() if isinstance(value, int | float | str)}


def save_tokenizer(tokenizer: "PreTrainedTokenizerFast", folder: Path) -> None:
    """Write the Hugging Face files, `metadata.json` and, for byte-level vocabularies, `id_bytes.npy`."""
    import numpy as np

    tokenizer.save_pretrained(folder)
    write_json(folder / "metadata.json", getattr(tokenizer, "isotok_metadata", {}))
    if is_byte_level(tokenizer) and getattr(tokenizer, "isotok_metadata", {}).get("lossless", True):
        sizes = np.array([len(piece) for piece in token_bytes(tokenizer)], dtype=np.int32)
        np.save(folder / "id_bytes.npy", sizes)


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """Load a tokenizer folder as transformers does; DataError names the folder if it cannot be used."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        raise DataError(f"{folder}: no tokenizer.json here; is this a tokenizer folder?")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the library raises bare Exception on a broken tokenizer.json
        raise DataError(f"{folder}: transformers cannot load this tokenizer ({error})") from error
    if tokenizer.eos_token_id is None:
        raise DataError(f"{folder}: the tokenizer has no end-of-text token; set eos_token in tokenizer_config.json")
    # What a file may bring along from its training or serving would cut, pad or vary the ids of a text.
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    if getattr(backend.model, "dropout", None) is not None:
        backend.model.dropout = None
    return cast("PreTrainedTokenizerFast", tokenizer)


def encode_text(tokenizer: "PreTrainedTokenizerFast", text: str) -> list[int]:
    """Ids of a text: no specials added, and special-token strings inside the text are encoded as text."""
    return encode_texts(tokenizer, [text])[0]


def encode_texts(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> list[list[int]]:
    """`encode_text` of many texts, on all cores that `RAYON_NUM_THREADS` allows."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def encode_marked(
    tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str], marks: Sequence[Sequence[int]], meta_id: int | None
) -> list[list[int]]:
    """`encode_text` of many texts, each cut at its marks (offsets of characters) with `meta_id` in the cuts.

    Raises ConfigError for a text with marks where there is no id for them.
    """
    if meta_id is None:
        for text, own in zip(texts, marks, strict=True):
            if own:
                raise ConfigError(
                    f"the prompt {text[:40]!r} has marks: they need a model with a meta token (model=meta_…)"
                )
        return encode_texts(tokenizer, texts)
    ends = [[0, *own, len(text)] for text, own in zip(texts, marks, strict=True)]
    parts = [text[a:b] for text, own in zip(texts, ends) for a, b in itertools.pairwise(own)]
    encoded = iter(encode_texts(tokenizer, parts))
    made = []
    for own in ends:
        ids = list(next(encoded))
        for _ in own[2:]:
            ids += [meta_id, *next(encoded)]
        made.append(ids)
    return made


def is_byte_level(tokenizer: "PreTrainedTokenizerFast") -> bool:
    """Whether every id stands for a fixed string of bytes spelled in the byte-level alphabet."""
    from tokenizers.decoders import ByteLevel

    return isinstance(tokenizer.backend_tokenizer.decoder, ByteLevel)


def token_bytes(tokenizer: "PreTrainedTokenizerFast") -> list[bytes]:
    """The bytes of each id, in id order; specials stand for none.

    From the vocabulary's own spelling, never by decoding single ids: lone bytes would decode to U+FFFD.
    """
    if not is_byte_level(tokenizer):
        raise ConfigError("token_bytes needs a byte-level vocabulary; this one's ids have no fixed bytes")
    to_byte = {char: byte for byte, char in enumerate(byte_alphabet())}
    specials = set(tokenizer.all_special_ids)
    added = tokenizer.added_tokens_decoder  # spelled as text, also where they are no specials
    pieces = [b""] * len(tokenizer)
    for token, index in tokenizer.get_vocab().items():
        if index in added:
            pieces[index] = b"" if index in specials or added[index].special else token.encode()
        elif index not in specials:
            pieces[index] = bytes(to_byte[char] for char in token)
    return pieces


def byte_alphabet() -> list[str]:
    """The printable character of each byte 0..255 in byte-level spelling (GPT-2's bytes_to_unicode)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (chr(256 + i) for i in range(256))
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]


def reiterable(texts: Iterable[str]) -> Iterable[str]:
    """The texts themselves, or a list of them if they can be read only once."""
    return list(texts) if isinstance(texts, Iterator) else texts


def check_saved(made: "PreTrainedTokenizerFast", folder: Path, texts: Sequence[str], *, lossless: bool = True) -> None:
    """Load a saved tokenizer as a user would and compare it with the trained one: ids, lossless text, superwords.

    lossless: whether decoding must give the text back; false for a tokenizer that is known to be lossy.

    Raises DataError naming the text, or the superword, that comes out differently.
    """
    loaded = load_tokenizer(folder)
    for text, before, after in zip(texts, encode_texts(made, texts), encode_texts(loaded, texts)):
        if before != after:
            raise DataError(
                f"{folder}: the saved tokenizer encodes {text[:40]!r}… differently from the trained one; this is a bug"
            )
        if lossless and loaded.decode(after) != text:
            raise DataError(
                f"{folder}: decode(encode(text)) differs from the text at {text[:40]!r}…; the tokenizer is lossy"
            )
    if not is_byte_level(loaded):
        return
    # A class of transformers that brings its own pretokenizer loses every superword and says nothing.
    superwords = [
        piece.decode()
        for piece in token_bytes(loaded)
        if b" " in piece.strip(b" ") and not piece.endswith(b" ") and _is_text(piece)
    ]
    torn = [word for word, ids in zip(superwords, encode_texts(loaded, superwords)) if len(ids) != 1]
    if len(torn) > len(superwords) // 2:
        raise DataError(f"{folder}: superwords like {torn[0]!r} are not encoded as one token after loading")


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
