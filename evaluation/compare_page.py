"""The comparison as tables of plain data, and the HTML page."""

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.cells import MISSING, Cell, Table, count, number, share, signed
from evaluation.intrinsic import ALPHAS


def main_table(results: Mapping[str, Any]) -> Table:
    """What to read first; the terminal shows it too."""
    tokens = first(results)["all"]["tokens"]
    columns = (
        ("tokenizer", ""),
        ("vocabulary", "without specials"),
        ("t", "entries at the transition"),
        ("bytes/token", "B/N"),
        ("tokens", f"N; against {results['order'][0]}"),
        ("tokens/word", "N/W"),
        ("superwords", "of N"),
        ("Rényi 2.5", "of log₂ V"),
        ("used", "of V"),
        ("prefix stable", "at word ends"),
        ("exact", "of documents"),
    )
    rows = []
    for label, made in in_order(results):
        figures = made["all"]
        rows.append(
            (
                Cell(label, note="" if made["algorithm"] in label else made["algorithm"]),
                _cell(figures["vocabulary_size"], count),
                _cell(made["vocab_size_at_transition"], count),
                _cell(figures["bytes_per_token"], number),
                _cell(figures["tokens"], count, note=f"{figures['tokens'] / tokens:.3f}×" if tokens else ""),
                _cell(figures["tokens_per_word"], number),
                _cell(figures["superword_share"], share),
                _cell(figures["renyi_efficiency"]["2.5"], number),
                _cell(figures["vocabulary_share_used"], share),
                _cell(figures["prefix_stability"]["word_end"], share),
                _cell(figures["documents_exact"], share),
            )
        )
    text = results["text"]
    caption = (
        f"On {text['documents']:,} documents, {text['bytes']:,} bytes"
        f"{' (' + text['name'] + ')' if text['name'] else ''}. B bytes, N tokens, W words between white space, "
        "V vocabulary without special tokens. Held-out text of one kind: other text gives other figures."
    )
    return Table(caption, columns, tuple(rows), sortable=True)


def in_order(results: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(label, figures) of the tokenizers as they were given."""
    return [(label, results["tokenizers"][label]) for label in results["order"]]


def first(results: Mapping[str, Any]) -> dict[str, Any]:
    return in_order(results)[0][1]


def all_tables(results: Mapping[str, Any]) -> dict[str, Table]:
    tables = {
        "main": main_table(results),
        "words": _words(results),
        "distribution": _distribution(results),
        "stability": _stability(results),
        "edits": _edits(results),
        "speed": _speed(results),
        "published": _published(results),
    }
    if len(results["text"]["domains"]) > 1:
        tables["domains"] = _domains(results)
    if any(made["parity"] for made in results["tokenizers"].values()):
        tables["parity"] = _parity(results)
    return tables


def render(results: Mapping[str, Any]) -> str:
    """The HTML page: one file, all text escaped, no network."""
    from evaluation.compare_figures import all_figures
    from evaluation.figures import PALETTE, PALETTE_DARK
    from evaluation.report import page_environment

    missing = {label: made["missing"] for label, made in in_order(results) if made["missing"]}
    reasons: dict[tuple[str, str], list[str]] = {}
    for label, why in missing.items():
        for figure, reason in why.items():
            reasons.setdefault((figure.replace("_", " "), reason), []).append(label)
    page = (
        page_environment()
        .get_template("compare.html")
        .render(
            results=results,
            tables=all_tables(results),
            figures=all_figures(results),
            reasons=reasons,
            lossy=[
                (label, share(made["all"]["documents_exact"]))
                for label, made in in_order(results)
                if made["all"]["documents_exact"] < 1
            ],
            palette=PALETTE,
            palette_dark=PALETTE_DARK,
        )
    )
    return str(page)


def _words(results: Mapping[str, Any]) -> Table:
    columns = (
        ("tokenizer", ""),
        ("continued", "of W"),
        ("one token", "of word types"),
        ("stable", "whole split"),
        ("stable inside", "cuts inside"),
        ("superwords", "of bytes"),
        ("words", "a superword"),
        ("characters", "a token"),
        ("bytes/token", "median document"),
    )
    rows = []
    for label, made in in_order(results):
        figures = made["all"]
        stable = figures["context_stability"] or {"whole": None, "inside": None}
        rows.append(
            (
                Cell(label),
                _cell(figures["continued_words"], share),
                _cell(figures["one_token_types"], share),
                _cell(stable["whole"], share),
                _cell(stable["inside"], share),
                _cell(figures["superword_byte_share"], share),
                _cell(figures["words_per_superword"], _two),
                _cell(figures["characters_per_token"], number),
                _cell(figures["bytes_per_token_median"], number),
            )
        )
    base = first(results)["all"]
    repeated = base["context_stability"]
    caption = f"{base['words']:,} words, {base['word_types']:,} distinct" + (
        f"; stable: of the {repeated['words']:,} occurrences of words that occur twice or more." if repeated else "."
    )
    return Table(caption, columns, tuple(rows), sortable=True)


def _distribution(results: Mapping[str, Any]) -> Table:
    columns = (
        ("tokenizer", ""),
        *((f"Rényi α={alpha:g}", "of log₂ V") for alpha in ALPHAS),
        ("frequency Gini", "over V"),
        ("entries used", "of V"),
        ("unreachable", "of entries that are text"),
        ("unknown tokens", "of N"),
    )
    rows = []
    for label, made in in_order(results):
        figures, vocabulary = made["all"], made["vocabulary"]
        lost = vocabulary["unreachable"]
        rows.append(
            (
                Cell(label),
                *(_cell(figures["renyi_efficiency"][f"{alpha:g}"], number) for alpha in ALPHAS),
                _cell(figures["frequency_gini"], number),
                _cell(figures["vocabulary_used"], count, note=f"of {count(figures['vocabulary_size'])}"),
                _cell(lost, count, note="" if lost is None else f"of {count(vocabulary['text_entries'])}"),
                _cell(figures["unknown_share"], share),
            )
        )
    return Table("Over all documents. No single α ranks tokenizers.", columns, tuple(rows), sortable=True)


def _stability(results: Mapping[str, Any]) -> Table:
    columns = (
        ("tokenizer", ""),
        ("at word ends", "of cut points"),
        ("at any character", "of cut points"),
        ("unstable word ends", "number"),
    )
    rows = []
    for label, made in in_order(results):
        figures = made["all"]["prefix_stability"]
        at, n = figures["word_end"], figures["word_end_cuts"]
        rows.append(
            (
                Cell(label),
                _cell(at, share, note=f"{n:,} cuts"),
                _cell(figures["character"], share, note=f"{figures['character_cuts']:,} cuts"),
                _cell(None if at is None else round((1 - at) * n), count),
            )
        )
    return Table(
        "Cut points at which the tokens of what stands before are a prefix of the tokens of the whole passage.",
        columns,
        tuple(rows),
        sortable=True,
    )


def _edits(results: Mapping[str, Any]) -> Table:
    from evaluation.stability import EDITS

    names = {"typo": "misspelled word", "capitals": "word in capitals", "doubled_space": "doubled space"}
    columns = [("tokenizer", "")]
    for kind in EDITS:
        columns += [(names[kind], "tokens more"), ("", "ids that differ")]
    columns = [(title or "distance", hint) for title, hint in columns]
    rows = []
    for label, made in in_order(results):
        robust = made["all"]["robustness"]
        cells = [Cell(label)]
        for kind in EDITS:
            cells.append(_cell(robust[kind]["token_change"], lambda value: signed(value, 2)))
            cells.append(_cell(robust[kind]["edit_distance"], _two))
        rows.append(tuple(cells))
    base = first(results)["all"]["robustness"]
    tried = ", ".join(f"{names[kind]} {base[kind]['passages']}" for kind in EDITS)
    return Table(
        f"Means over passages, one change in each. Passages: {tried}.", tuple(columns), tuple(rows), sortable=True
    )


def _domains(results: Mapping[str, Any]) -> Table:
    sizes = results["text"]["domains"]
    columns = (("tokenizer", ""), *((domain, f"{n / 1000:,.0f} kB") for domain, n in sizes.items()))
    rows = [
        (Cell(label), *(_cell(made["domains"][domain]["bytes_per_token"], number) for domain in sizes))
        for label, made in in_order(results)
    ]
    return Table(
        "Bytes a token by domain. All figures by domain are in compare.csv.", columns, tuple(rows), sortable=True
    )


def _parity(results: Mapping[str, Any]) -> Table:
    base = first(results)["parity"]
    others = sorted(name for name in base["languages"] if name != base["reference"])
    columns = (
        ("tokenizer", ""),
        (f"tokens, {base['reference']}", "a line"),
        *((name, f"bytes {base['languages'][name]['byte_premium']:.2f}×") for name in others),
        ("max/min", "of tokens"),
        ("fairness Gini", "tokens a line"),
    )
    rows = []
    for label, made in in_order(results):
        figures = made["parity"]
        rows.append(
            (
                Cell(label),
                _cell(figures["languages"][base["reference"]]["tokens_per_line"], _two),
                *(_cell(figures["languages"][name]["premium"], _times) for name in others),
                _cell(figures["max_over_min"], _times),
                _cell(figures["fairness_gini"], number),
            )
        )
    skipped = f", {base['lines_skipped']:,} left out (empty in some language)" if base["lines_skipped"] else ""
    caption = f"Tokens of the same {base['lines']:,} lines over those in {base['reference']}{skipped}."
    return Table(caption, columns, tuple(rows), sortable=True)


def _speed(results: Mapping[str, Any]) -> Table:
    columns = (("tokenizer", ""), ("MB/s", "of processor time, one thread"), ("text timed", "kB"))
    rows = []
    for label, timing in ((label, results["timing"][label]) for label in results["order"]):
        n = timing["bytes"] / 1000 if timing["bytes"] else None
        rows.append((Cell(label), _cell(timing["mb_per_s"], _two), _cell(n, count)))
    caption = "Measured once on the machine that made this page, through the tokenizers library."
    return Table(caption, columns, tuple(rows), sortable=True)


def _published(results: Mapping[str, Any]) -> Table:
    published = results["published"]
    names: Sequence[str] = published["order"]
    columns = (("merges", ""), *((name, "") for name in names))
    rows = [
        (Cell(count(n), sort=n), *(_cell(published["bytes_per_token"][name][i], number) for name in names))
        for i, n in enumerate(published["merges"])
    ]
    return Table(f"{published['source']}: bytes a token on {published['text']}.", columns, tuple(rows))


def _cell(value: Any, write: Any, note: str = "") -> Cell:
    if value is None:
        return Cell(MISSING, sort=-1.0, muted=True)
    return Cell(write(value), sort=float(value), note=note)


def _two(value: float | None) -> str:
    return number(value, 2)


def _times(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}×"
