"""Looking at vocabularies and segmentations: against the library's ids, the package's own counts, and by hand."""

import html.parser
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from isotok.errors import DataError
from tokenization import encode_text, token_bytes
from tokenization.bpe import byte_level_bpe, count_superwords, merge_vocabulary, merges_of
from tokenization.segmentation_view import Piece, cell_width, html_page, lines, segment
from tokenization.tokenizer import finish
from tokenization.visible import printable, visible, visible_bytes
from tokenization.vocabulary_view import read_vocabulary

MERGES = [
    ("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("Ġ", "o"), ("Ġo", "f"), ("Ã", "©"), ("Ġ", "Ġ"), ("1", "2"), (",", "Ċ"),
    ("Ġ", "Ã"), ("Ċ", "Ċ"), ("Ġof", "Ġthe"), ("Ġof", "Ġ"), ("ĠofĠthe", "Ġt"), (",", "Ġthe"), ("he", "Ã"), ("Ġ", "12"),
    ("Ċ", "Ġt"), ("ĊĊ", "Ġ"), ("ĠÃ", "Ġt"),
]  # fmt: skip


def superwords() -> Tokenizer:
    return byte_level_bpe(merge_vocabulary(MERGES), MERGES, "superbpe_stage2")


def unigram() -> Tokenizer:
    scores = [("<unk>", 0.0), ("▁", -3.0), ("▁the", -1.0), ("t", -4.0), ("h", -4.0), ("e", -4.0), (".", -4.0)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return tokenizer


def word_piece() -> Tokenizer:
    words = ["[UNK]", "[CLS]", "the", "##the", "of", "##s", "5", "##5", "."]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[CLS]"])
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    return tokenizer


def byte_fallback() -> Tokenizer:
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "t", "he", "h", "e", "▁t", "▁the"]
    merges = [("h", "e"), ("▁", "t"), ("▁t", "he")]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def suffixed() -> Tokenizer:
    tokens = ["t", "h", "e", "e</w>", "th", "the</w>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, [("t", "h"), ("th", "e</w>")], end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def look(tokenizer):
    return read_vocabulary(json.loads(tokenizer.to_str()))


def cut(tokenizer, text):
    return segment("name", tokenizer, look(tokenizer), text)


def shown(tokenizer, text):
    return [piece.shown if piece.id is not None else ("gap", piece.shown) for piece in cut(tokenizer, text).pieces]


def kinds(tokenizer):
    return {kind: [entry.spelling for entry in entries] for kind, entries in look(tokenizer).by_kind().items()}


@given(st.text(st.characters()) | st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")))
def test_what_is_shown_can_be_printed_and_seen(text):
    # Python's own notion of printable: no control, format, private, unassigned or separator but the space.
    assert visible(text).isprintable() and " " not in visible(text)
    assert printable(text).isprintable()
    assert visible(visible(text)) == visible(text)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b" of\tthe\n", "·of→the↵"),
        (b"\x1b[31mred\x07\x00\x7f", "␛[31mred␇␀␡"),
        (b"\xc3", "<C3>"),
        ("é".encode(), "é"),
        (b" \xe6\x97", "·<E6><97>"),
        ("日本 🎉".encode(), "日本·🎉"),
        ("a\u202eb\u200b\u00a0\ufeff".encode(), "a<U+202E>b<U+200B><U+00A0><U+FEFF>"),
        ("\u0301x\ufe0f".encode(), "◌\u0301x<U+FE0F>"),
        ("\u009b31m\u2028".encode(), "<U+009B>31m<U+2028>"),
        (b"", ""),
    ],
)
def test_signs_for_what_cannot_be_seen(data, expected):
    assert visible_bytes(data) == expected


def test_entries_of_a_byte_level_vocabulary_stand_for_the_bytes_that_the_package_gives_them():
    fast = finish(superwords(), {})
    vocabulary = look(fast.backend_tokenizer)
    assert [entry.id for entry in vocabulary.entries] == list(range(len(fast)))
    assert [entry.data for entry in vocabulary.entries] == token_bytes(fast)
    spelled = {entry.id: entry.spelling for entry in vocabulary.entries}
    assert [(spelled[a], spelled[b]) for a, b, _ in vocabulary.merges] == merges_of(fast.backend_tokenizer)
    assert len(vocabulary.superwords()) == count_superwords(spelled.values())


def test_every_entry_has_one_kind():
    found = kinds(superwords())
    assert len(found.pop("single bytes")) == 256
    assert found == {
        "words with a leading space": ["Ġt", "Ġthe", "Ġo", "Ġof", "ĠofĠ"],
        "pieces without a leading space": ["he", "Ã©"],
        "superwords of 2 words": ["ĠofĠthe", ",Ġthe", "ĊĠt", "ĠÃĠt"],
        "superwords of 3 words": ["ĠofĠtheĠt"],
        "whitespace": ["ĠĠ", "ĊĊ", "ĊĊĠ"],
        "punctuation and symbols": [",Ċ"],
        "digits": ["12", "Ġ12"],
        "parts of characters": ["ĠÃ", "heÃ"],
    }
    assert list(found)[2:4] == ["superwords of 2 words", "superwords of 3 words"]


def test_lists_of_a_vocabulary():
    vocabulary = look(superwords())
    ranks = vocabulary.ranks()
    assert [(ranks[entry.id], entry.spelling) for entry in vocabulary.superwords()] == [
        (11, "ĠofĠthe"),
        (13, "ĠofĠtheĠt"),
        (14, ",Ġthe"),
        (17, "ĊĠt"),
        (19, "ĠÃĠt"),
    ]
    assert [entry.spelling for entry in vocabulary.longest()[:2]] == ["ĠofĠtheĠt", "ĠofĠthe"]
    assert vocabulary.duplicates() == []


@pytest.mark.parametrize(
    ("make", "spelling", "expected"),
    [
        (unigram, "▁ for a space", {"▁the": ("words with a leading space", b" the"), "<unk>": ("special tokens", b"")}),
        (
            word_piece,
            "## for a continuation",
            {
                "the": ("words with a leading space", b"the"),
                "##the": ("pieces without a leading space", b"the"),
                "[CLS]": ("special tokens", b""),
                "[UNK]": ("special tokens", b""),
            },
        ),
        (byte_fallback, "▁ for a space", {"<0xE2>": ("single bytes", b"\xe2"), "▁": ("whitespace", b" ")}),
        (suffixed, "</w> ends a word", {"the</w>": ("pieces without a leading space", b"the ")}),
    ],
)
def test_other_spellings(make, spelling, expected):
    vocabulary = look(make())
    assert vocabulary.spelling == spelling
    entries = {entry.spelling: (entry.kind, entry.data) for entry in vocabulary.entries}
    assert {token: entries[token] for token in expected} == expected


def test_duplicates_are_of_the_same_bytes_at_the_same_place():
    assert look(word_piece()).duplicates() == []  # "5" and "##5", "the" and "##the" are not the same
    groups = look(byte_fallback()).duplicates()
    assert {tuple(entry.spelling for entry in group) for group in groups} == {
        ("<0x20>", "▁"),
        ("<0x74>", "t"),
        ("<0x68>", "h"),
        ("<0x65>", "e"),
    }


def test_merges_of_old_files_and_of_other_spellings():
    file = json.loads(superwords().to_str())
    new = read_vocabulary(file)
    file["model"]["merges"] = [" ".join(merge) for merge in file["model"]["merges"]]
    del file["model"]["type"]
    assert read_vocabulary(file) == new
    vocab = {token: i for i, token in enumerate(["a", "##b", "ab", "##c", "abc"])}
    model = models.BPE(vocab, [("a", "##b"), ("ab", "##c")], continuing_subword_prefix="##")
    assert look(Tokenizer(model)).merges == ((0, 1, 2), (2, 3, 4))


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("the of,12é\n日\x1b<") | st.characters(exclude_categories=["Cs"])))
def test_a_byte_level_segmentation_has_the_package_s_ids_and_all_bytes(text):
    fast = finish(superwords(), {})
    made = segment("name", fast.backend_tokenizer, look(fast.backend_tokenizer), text)
    ids = [piece.id for piece in made.pieces]
    assert ids == encode_text(fast, text)
    pieces = token_bytes(fast)
    assert [piece.shown for piece in made.pieces] == [visible_bytes(pieces[i]) for i in ids]
    assert made.lossless and sum(piece.n_bytes for piece in made.pieces) == made.n_bytes == len(text.encode())
    assert made.n_tokens == len(ids)


def test_segmentations_by_hand():
    assert shown(superwords(), "the of the te,\né") == ["t", "he", "·of·the·t", "e", ",↵", "é"]
    assert shown(superwords(), "日") == ["<E6>", "<97>", "<A5>"]
    assert shown(unigram(), "the the.x") == ["the", "·the", ".", "x"]
    assert shown(word_piece(), "the THEs of?") == ["the", ("gap", "·"), "THE", "s", ("gap", "·"), "of", "?"]
    # The space that the normalizer puts in front shares its place with the first letter.
    assert shown(byte_fallback(), "he 日 the") == ["·", "he", "·", "<E6>", "<97>", "<A5>", "·the"]
    assert shown(suffixed(), "the the") == ["the", ("gap", "·"), "the"]


def test_what_does_not_give_the_text_back_is_told():
    assert cut(unigram(), "the the.").lossless
    assert cut(byte_fallback(), "the 日").lossless
    lossy = cut(word_piece(), "the THE?")
    assert not lossy.lossless and lossy.n_unknown == 1 and [p.unknown for p in lossy.pieces][-1]
    few = Tokenizer(models.BPE({"a": 0}, []))
    few.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert not cut(few, "ab").lossless  # the library drops what it has no id for


def test_nothing_is_added_cut_off_or_left_to_chance():
    text = "the of the of the [CLS]"
    made = cut(word_piece(), text)  # its file asks for two tokens at most, padding and [CLS]
    assert made.n_bytes == sum(piece.n_bytes for piece in made.pieces)
    assert 1 not in [piece.id for piece in made.pieces]
    dropped = superwords()
    dropped.model.dropout = 0.9
    assert look(dropped).dropout == pytest.approx(0.9)
    assert cut(dropped, "of the of the") == cut(superwords(), "of the of the")


def test_special_strings_in_a_text_are_text():
    fast = finish(superwords(), {})
    made = segment("name", fast.backend_tokenizer, look(fast.backend_tokenizer), "a <|endoftext|>")
    assert fast.eos_token_id not in [piece.id for piece in made.pieces] and made.lossless


def test_text_that_cannot_be_encoded_is_refused():
    tokenizer = Tokenizer(models.Unigram([("a", -1.0)]))
    with pytest.raises(DataError, match="cannot encode this text"):
        cut(tokenizer, "b")


@given(st.text(st.sampled_from("ab 日🎉\n"), max_size=60), st.integers(4, 12), st.booleans(), st.integers(0, 1))
def test_lines_break_between_tokens_and_hold_all_of_them(text, width, ids, gap):
    pieces = cut(superwords(), text).pieces
    drawn = list(lines(pieces, width, ids=ids, gap=gap))
    assert "".join(piece.shown for line in drawn for piece in line) == "".join(piece.shown for piece in pieces)
    for line in drawn:
        assert sum(cell_width(piece, ids) + gap for piece in line) <= max(width, 5)
        assert not any(piece.ends_line for piece in line[:-1])
    ends = [piece.ends_line for piece in pieces]
    assert len(list(lines(pieces, 0))) == sum(ends) + (ends[-1:] == [False])


def test_a_token_wider_than_the_line_is_divided_and_stays_one_token():
    piece = Piece(7, "abcdefgh日", 11, ends_line=True)
    drawn = list(lines([piece, piece], 4))
    assert [[part.shown for part in line] for line in drawn] == [["abcd"], ["efgh"], ["日"]] * 2
    assert [part.continues for line in drawn for part in line] == [True, True, False] * 2


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.tokens: list[str] = []
        self.at: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "span":
            self.tokens.append("")
            self.at.append(dict(attrs)["class"])

    def handle_data(self, data):
        if self.tokens and data.strip():
            self.tokens[-1] += data


def test_html_is_inert_self_contained_and_the_same_each_time():
    text = "the <script>alert(1)</script>\n</div><img src=x onerror='y'> \" of the &amp; \x1b]0;x\x07\u202e"
    tokenizer = superwords()
    made = segment('<b onclick="x">\x1b', tokenizer, look(tokenizer), text)
    page = html_page(text, [made, made])
    assert page == html_page(text, [made, made])
    assert "://" not in page and "\x1b" not in page and "\u202e" not in page
    parsed = _Page()
    parsed.feed(page)
    assert parsed.tags <= {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "p",
        "section",
        "div",
        "span",
        "br",
    }
    assert parsed.attributes <= {"lang", "charset", "http-equiv", "content", "name", "class", "title"}
    n = len(made.pieces)
    assert parsed.tokens[: n - 1] == [piece.shown for piece in made.pieces][: n - 1]
    assert "<small>" in html_page(text, [made], ids=True)
