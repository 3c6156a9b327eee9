"""Merge learning at full size, and against the slow reference thousands of times: `make soak`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks.corpus import Unavailable, default_folder, ensure
from tests.tokenization.reference_merges import code_point_merges, count_pieces, library_merges, replay_and_veto
from tokenization.chunks import Chunks, count_chunks
from tokenization.merges import Merge, Vetoes, learn_merges

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

MB = 50
BYTES, TRANSITION, VOCAB = 256, 24_000, 32_000


def file_texts(path: Path) -> Iterator[str]:
    """The file a megabyte or so of whole lines at a time."""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield (block + file.readline()).decode()


def file_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", newline="\n") as file:
        yield from file


@pytest.fixture(scope="module")
def corpus() -> Path:
    """Real text, built in the user's cache (or $ISOTOK_BENCH) when missing."""
    try:
        return ensure(default_folder(), [MB])[0]
    except Unavailable as error:
        pytest.skip(f"no corpus of {MB} MB: {error}")


@pytest.fixture(scope="module")
def words(corpus: Path) -> Chunks:
    return count_chunks(file_texts(corpus), "superbpe_stage1", "line")


@pytest.fixture(scope="module")
def inherited(words: Chunks) -> list[Merge]:
    return learn_merges(words, TRANSITION - BYTES)


def test_stage_1_equals_the_library_at_full_size(corpus: Path, words: Chunks, inherited: list[Merge]) -> None:
    learned = learn_merges(words, VOCAB - BYTES)
    assert len(learned) == VOCAB - BYTES
    assert learned[: len(inherited)] == inherited
    assert learned == library_merges(file_lines(corpus), VOCAB - BYTES, "superbpe_stage1")
    # Learning on from the first part is learning at once.
    assert learn_merges(words, VOCAB - TRANSITION, inherited=inherited) == learned[len(inherited) :]


def test_gpt2_equals_the_library_at_full_size(corpus: Path) -> None:
    learned = learn_merges(count_chunks(file_texts(corpus), "gpt2", "line"), VOCAB - BYTES)
    assert learned == library_merges(file_lines(corpus), VOCAB - BYTES, "gpt2")


@pytest.mark.parametrize(("pretokenizer", "cut"), [("none", False), ("superbpe_stage2", True)])
def test_stage_2_equals_the_code_point_mapping_at_full_size(
    corpus: Path, inherited: list[Merge], pretokenizer: str, cut: bool
) -> None:
    vetoes = Vetoes(forbid=(b": ",) if cut else ())
    chunks = count_chunks(file_texts(corpus), pretokenizer, "line")
    learned = learn_merges(chunks, VOCAB - TRANSITION, inherited=inherited, vetoes=vetoes)
    assert len(learned) == VOCAB - TRANSITION
    assert learned == code_point_merges(file_lines(corpus), VOCAB - TRANSITION, inherited, pretokenizer, cut)


def test_vetoes_hold_at_full_size(corpus: Path, inherited: list[Merge]) -> None:
    chunks = count_chunks(file_texts(corpus), "superbpe_stage2", "line")
    vetoes = Vetoes(forbid=(b": ",), max_words=4, max_bytes=40)
    learned = learn_merges(chunks, VOCAB - TRANSITION, inherited=inherited, vetoes=vetoes)
    results = [left + right for left, right in learned]
    assert len(set(results)) == VOCAB - TRANSITION
    assert not set(results) & {left + right for left, right in inherited}
    for result in results:
        assert ":Ġ" not in result
        assert sum(1 for part in result.split("Ġ") if part) <= 4
        assert len(result) <= 40


# Few letters, so that runs, ties and tokens spelled in two ways abound; letters of several bytes; what vetoes look at.
UNITS = st.sampled_from(["a", "ab", "ab ", "a: ", "aé ", "ab\n", "日本 a", "a1 2", "abcdefgh ", "a\t \x00"]).flatmap(
    lambda letters: st.lists(st.text(letters, max_size=30), min_size=1, max_size=12)
)
VETOES = st.builds(
    Vetoes,
    forbid=st.sampled_from([(), (b": ",), (b"aa",), (b"b", b"  "), (b"\xa9",)]),
    max_words=st.none() | st.integers(1, 4),
    max_bytes=st.none() | st.integers(2, 9),
)


@settings(max_examples=5000, deadline=None)
@given(
    units=UNITS,
    n_inherited=st.integers(0, 12),
    n_merges=st.integers(0, 60),
    names=st.sampled_from(
        [
            ("superbpe_stage1", "superbpe_stage2"),
            ("gpt2", "none"),
            ("none", "gpt2"),
            ("none", "none"),
            ("llama3", "none"),
        ]
    ),
    vetoes=VETOES,
    min_frequency=st.integers(1, 4),
)
def test_learning_equals_the_slow_reference(
    units: list[str], n_inherited: int, n_merges: int, names: tuple[str, str], vetoes: Vetoes, min_frequency: int
) -> None:
    inherited = replay_and_veto(count_pieces(units, names[0]), n_inherited)
    assert learn_merges(count_chunks(units, names[0], "document"), n_inherited) == inherited
    expected = replay_and_veto(count_pieces(units, names[1]), n_merges, inherited, vetoes, min_frequency)
    chunks = count_chunks(units, names[1], "document")
    assert learn_merges(chunks, n_merges, inherited=inherited, vetoes=vetoes, min_frequency=min_frequency) == expected
