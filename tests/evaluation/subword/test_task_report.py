"""The report of a task from made-up answers: what it computes, what it refuses, what it never says."""

import csv
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats as distributions

from evaluation.subword.report import write_task_report
from evaluation.subword.report_runs import gather_task, trapezoid_weights
from isotok.errors import ConfigError, DataError
from tests.evaluation.subword.fake_task_runs import (
    ARMS,
    EARLY,
    HEURISTICS,
    LATE,
    POINTS,
    accuracy,
    refresh,
    rewrite,
    write_items,
    write_task_runs,
)
from tests.evaluation.test_report import EVIL, Page

Report = Callable[..., tuple[dict[str, Any], str, Path]]
Standard = tuple[dict[str, Any], dict[str, Any], str, Path]
TWO = {name: ARMS[name] for name in ("deterministic", "stochastok")}


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """Write runs and their report; yields (results.json, report.html, folder)."""

    def make(change: Callable[[dict[str, Any]], None] | None = None, **keys: Any) -> tuple[dict[str, Any], str, Path]:
        spec = write_task_runs(tmp_path / "runs", **keys)
        if change:
            change(spec)
        out = tmp_path / "runs" / "report" / "stochastok-22ff.partial"
        write_task_report(spec, out)
        return json.loads((out / "results.json").read_text()), (out / "report.html").read_text(), out

    return make


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> Standard:
    """The report of five arms with three seeds, to look at: (spec, results.json, report.html, folder)."""
    root = tmp_path_factory.mktemp("standard")
    spec, out = write_task_runs(root), root / "report" / "stochastok-22ff"
    write_task_report(spec, out)
    return spec, json.loads((out / "results.json").read_text()), (out / "report.html").read_text(), out


def rows_of(spec: dict[str, Any], arm: int, seed: int) -> tuple[Path, list[dict[str, Any]]]:
    folder = Path(spec["arms"][arm]["runs"][seed]["answers"])
    return folder, pq.read_table(folder / "items.parquet").to_pylist()


def area(rows: list[dict[str, Any]], split: str) -> float:
    """The mean over ln(questions) by trapezoids, in steps, over the questions that are asked at the first point."""
    early = {row["item"] for row in rows if row["point"] == POINTS[0] and row["split"] == split}
    kept = [row for row in rows if row["item"] in early]
    heights = [accuracy(kept, point=point, split=split, variant="") for point in POINTS]
    steps = [
        (heights[i] + heights[i + 1]) / 2 * (math.log(POINTS[i + 1]) - math.log(POINTS[i]))
        for i in range(len(POINTS) - 1)
    ]
    return sum(steps) / (math.log(POINTS[-1]) - math.log(POINTS[0]))


def test_the_endpoint_is_the_area_under_the_curve_computed_by_hand(report: Report) -> None:
    kept: dict[str, Any] = {}
    results, html, _ = report(kept.update, arms=TWO)
    primary = results["comparisons"][0]
    areas = {
        name: np.array([area(rows_of(kept, arm, seed)[1], "words") for seed in range(3)])
        for arm, name in enumerate(TWO)
    }
    a, b = areas["stochastok"], areas["deterministic"]
    assert (primary["kind"], primary["metric"], primary["split"]) == ("primary", "task_auc", "words")
    assert primary["delta"] == pytest.approx(a.mean() - b.mean())
    assert list(primary["values_a"].values()) == pytest.approx(a.tolist())
    assert primary["se_seeds"] == pytest.approx(math.sqrt(a.var(ddof=1) / 3 + b.var(ddof=1) / 3))
    assert primary["se"] == pytest.approx(math.hypot(primary["se_seeds"], primary["se_items"]))
    half = distributions.t.ppf(0.975, primary["df"]) * primary["se"]
    assert primary["interval"] == pytest.approx([primary["delta"] - half, primary["delta"] + half])
    assert primary["verdict"] == "A better"  # higher is better
    assert all(c["kind"] == "exploratory" and c["p_holm"] is not None for c in results["comparisons"][1:])
    assert results["task"]["curve"]["words"]["questions"] == EARLY
    text = Page(html).text
    assert "stochastok better" in text
    assert f"{primary['delta']:+.3f} of questions" in text
    assert "minimum detectable difference" in text


def test_questions_are_clustered_by_group(report: Report) -> None:
    """The variance from questions is that of sums over groups; a question without a group is one of its own."""
    kept: dict[str, Any] = {}

    def change(spec: dict[str, Any]) -> None:
        spec["endpoint"]["metric"] = "task_accuracy"
        kept.update(spec)

    primary = report(change, arms=TWO)[0]["comparisons"][0]
    means: list[dict[str, float]] = []
    groups: dict[str, str] = {}
    for arm in (1, 0):
        found: dict[str, float] = {}
        for seed in range(3):
            for row in rows_of(kept, arm, seed)[1]:
                if (row["point"], row["split"], row["variant"]) == (POINTS[-1], "words", ""):
                    found[row["item"]] = found.get(row["item"], 0.0) + row["correct"] / 3
                    groups[row["item"]] = row["group"] or row["item"]
        means.append(found)
    delta = sum(means[0].values()) / LATE - sum(means[1].values()) / LATE
    sums: dict[str, float] = {}
    for item, group in groups.items():
        sums[group] = sums.get(group, 0.0) + (means[0][item] - means[1][item] - delta) / LATE
    n = len(sums)
    assert primary["groups"] == n
    assert primary["delta"] == pytest.approx(delta)
    assert primary["se_items"] == pytest.approx(math.sqrt(n / (n - 1) * sum(s * s for s in sums.values())))


def test_weights_are_those_of_the_trapezoid_rule() -> None:
    assert trapezoid_weights([5, 10, 20, 40]) == pytest.approx([1 / 6, 1 / 3, 1 / 3, 1 / 6])
    assert sum(trapezoid_weights([5, 6, 40])) == pytest.approx(1)
    heights, points = np.array([0.3, 0.5, 0.9]), np.log([5, 6, 40])
    mean = np.trapezoid(heights, points) / (points[-1] - points[0])
    assert np.dot(trapezoid_weights([5, 6, 40]), heights) == pytest.approx(mean)


def test_files_and_agreement(standard: Standard) -> None:
    spec, results, html, out = standard
    assert {p.name for p in out.iterdir()} == {"results.json", "table.csv", "report.md", "report.html"}
    with open(out / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["arm", "seed", "point", "split", "variant", "type", "metric", "value", "n"]
    for arm, name in enumerate(ARMS):
        items = rows_of(spec, arm, 2)[1]
        own = [row for row in rows if row["arm"] == name and row["seed"] == "2"]
        last = {"point": "40000", "split": "words", "variant": "", "metric": "acc"}
        for kind in ("", "most"):
            row = next(r for r in own if r["type"] == kind and last.items() <= r.items())
            where = {"point": 40_000, "split": "words", "variant": ""} | ({"type": kind} if kind else {})
            assert float(row["value"]) == pytest.approx(accuracy(items, **where))
            assert int(row["n"]) == (LATE // 6 if kind else LATE)
        found = next(float(r["value"]) for r in own if r["metric"] == "auc" and r["split"] == "words")
        assert found == pytest.approx(area(items, "words"))
        mean = results["arms"][name]["points"]["40000"]["words"]["acc"]["mean"]
        assert f"{mean:.1%}" in html
        assert f"| {name.replace('_', chr(92) + '_')} " in (out / "report.md").read_text()


def test_main_table_has_intervals_differences_and_reference_rows(standard: Standard) -> None:
    _, results, html, _ = standard
    rows = Page(html).rows
    head = next(row for row in rows if row and row[0] == "arm")
    row = next(row for row in rows if row and row[0].startswith("stochastok3 seeds"))
    at = head.index("wordsmain, accuracy")
    made = results["arms"]["stochastok"]["points"]["40000"]["words"]["acc"]
    low, high = made["interval"]
    values = np.array(list(made["values"].values()))
    half = distributions.t.ppf(0.975, 2) * values.std(ddof=1) / math.sqrt(3)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half))
    assert row[at] == f"{made['mean']:.1%}{100 * low:.1f} to {100 * high:.1f}%"
    assert row[1] == "+8.2%"
    delta = results["comparisons"][0]["delta"]
    assert row[head.index("Δ AUCto deterministic")].startswith(f"{delta:+.3f}[")
    for rule, value in {"chance": 0.25, **HEURISTICS}.items():
        assert next(r for r in rows if r and r[0] == f"{rule}no model")[at] == f"{value:.1%}"
    assert next(r for r in rows if r and r[0].startswith("no_pretrain"))[1] == "–"


def test_no_pretraining_is_named_and_missed(report: Report, standard: Standard) -> None:
    text = Page(standard[2]).text
    assert re.search(r"no_pretrain was fine-tuned from random weights and gets \d\d\.\d% of words", text)
    assert "No arm was fine-tuned from random weights" in Page(report(arms=TWO)[1]).text


def test_what_the_reader_must_know(standard: Standard) -> None:
    text = Page(standard[2]).text
    assert "Only 81.0% of the task's words are single tokens" in text
    assert "Transforms lengthen text by different amounts" in text
    assert "dropout read 7.5% less text than deterministic" in text
    assert f"over {EARLY} questions of words, those asked at every point" in text
    assert "reproduce" not in text


def test_one_and_two_seeds(report: Report) -> None:
    results, html, _ = report(arms=TWO, seeds=1)
    primary = results["comparisons"][0]
    assert (primary["interval"], primary["p"], primary["verdict"]) == (None, None, "cannot tell")
    assert "cannot tell: one seed: not comparable" in html
    assert "of questions</dd>" not in html  # no Δ in the box
    results, html, _ = report(arms=TWO, seeds=2)
    primary = results["comparisons"][0]
    assert (primary["interval"], primary["verdict"]) == (None, "cannot tell")
    assert primary["range"][0] < primary["delta"] < primary["range"][1]
    assert "cannot tell: two seeds: range only" in html


def test_saturated_and_at_chance(report: Report) -> None:
    results, html, _ = report(arms=TWO, level=1.0)
    assert set(results["states"].values()) == {"saturated"}
    assert "Saturated: deterministic answers 95% or more of words" in html
    results, html, _ = report(arms=TWO, level=0.2)
    assert set(results["states"].values()) == {"at chance"}
    assert results["comparisons"][0]["verdict"] == "cannot tell"
    assert "no difference can show" in html


def test_what_a_rule_gets_unread_is_no_more_than_chance(report: Report) -> None:
    """Three of four questions right, but so has a rule that reads none of them."""

    def with_rule(spec: dict[str, Any]) -> None:
        for arm in spec["arms"]:
            for run in arm["runs"]:
                rewrite(Path(run["task"]) / "task.json", lambda task: task["about"].update(about))

    about: dict[str, Any] = {}
    results, _, _ = report(arms=TWO, level=0.75)
    assert set(results["states"].values()) == {""}
    assert not any(kind["at_chance"] for kind in results["arms"]["deterministic"]["by_type"]["words"].values())
    about["heuristics"] = {"words": {"longest": 0.9}}
    about["heuristics_by_type"] = {"words": {"most": {"shortest": 0.99}}}
    results, html, _ = report(arms=TWO, level=0.75, change=with_rule)
    assert {split for split, state in results["states"].items() if state == "at chance"} == {"words"}
    assert results["comparisons"][0]["verdict"] == "cannot tell" and results["comparisons"][0]["at_chance"]
    types = results["arms"]["deterministic"]["by_type"]["words"]
    assert [kind for kind, made in types.items() if made["at_chance"]] == ["most"]
    row = next(r for r in Page(html).rows if r and r[0] == "words, most")
    assert row[2] == "99.0%shortest"


def test_generated_answers_at_one_point(report: Report) -> None:
    """A task that is asked of the pretrained model itself: no choice, no chance, no curve."""
    results, html, _ = report(arms=TWO, generated=True, points=(0,))
    page = Page(html)
    assert results["task"]["measure"] == "exact"
    assert results["task"]["curve"] == {}
    assert results["comparisons"][0]["metric"] == "task_exact"
    assert "AUC" not in page.text
    assert sum(tag == "svg" for tag, _ in page.tags) == 2
    assert "1.40 digits a token" in page.text
    assert next(r for r in page.rows if r and r[0] == "nothing carriedno model")[3] == "12.0%"


def test_stages_that_are_missing_are_dashes(report: Report) -> None:
    def take_out(spec: dict[str, Any]) -> None:
        for arm in spec["arms"]:
            for run in arm["runs"]:
                run["evaluate"] = None
                rewrite(Path(run["answers"]) / "results.json", lambda r: r.update(consistency=None, retok={}))

    results, html, _ = report(take_out, arms=TWO)
    assert results["arms"]["deterministic"]["bits_per_byte"]["text"] is None
    assert 'id="consistency"' not in html
    assert 'id="retok"' not in html


def test_other_encodings_on_the_same_questions(standard: Standard) -> None:
    spec, results, html, _ = standard
    made = results["arms"]["dropout"]["retok"]
    own = [row for seed in range(3) for row in rows_of(spec, 1, seed)[1]]
    for variant in ("", "stochastok-0.5"):
        asked = [r for r in own if r["variant"] == variant and r["point"] == 40_000 and r["split"] == "test"]
        expected = accuracy([r for r in asked if int(r["item"][-4:]) < EARLY])
        assert made[variant]["acc"]["mean"] == pytest.approx(expected)
    assert made["stochastok-0.5"]["growth"] == 0.38
    assert "80.0% as canonical" in html


@pytest.mark.slow
def test_equal_input_gives_equal_bytes(report: Report) -> None:
    _, _, out = report(arms=TWO)
    first = {p.name: p.read_bytes() for p in out.iterdir()}
    report(arms=TWO)
    assert first == {p.name: p.read_bytes() for p in out.iterdir()}


def test_paths_and_times_only_where_they_belong(report: Report, tmp_path: Path) -> None:
    results, html, out = report(arms=TWO)
    text = json.dumps({key: value for key, value in results.items() if key not in ("provenance", "timing")})
    assert str(tmp_path) not in text + html
    assert "wall_s" not in text
    for links in results["provenance"]["manifests"].values():
        assert set(links) == {"task", "tokenizer", "pretrain", "finetune", "answers", "evaluate"}
        for link in links.values():
            assert (out / link).is_file()


def test_one_file_without_network_or_scripts(standard: Standard) -> None:
    html = standard[2]
    assert "http" not in html.replace("http-equiv", "")
    assert "//" not in re.sub(r"<style>.*?</style>|<script>.*?</script>", "", html, flags=re.S)
    page = Page(re.sub(r"<script>.*?</script>", "", html, flags=re.S))
    assert not any(tag in ("link", "img", "iframe", "object", "embed", "base", "form") for tag, _ in page.tags)
    assert not any(
        "src" in attributes or any(key.startswith("on") for key in attributes) for _, attributes in page.tags
    )
    assert "url(" not in html.replace("url(#", "")
    assert not any("hidden" in attributes for _, attributes in page.tags)
    assert sum(tag == "svg" for tag, _ in page.tags) == 2
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_foreign_text_is_inert(report: Report) -> None:
    def harm(spec: dict[str, Any]) -> None:
        spec["title"] = spec["experiment"] = EVIL
        spec["notes"] = [EVIL]

    arms = {"deterministic": ARMS["deterministic"], EVIL: ARMS["stochastok"], "#0067a5": ARMS["no_pretrain"]}
    results, html, out = report(harm, arms=arms, text=EVIL)
    page = Page(html)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not any(tag == "img" for tag, _ in page.tags)
    assert "<script>alert" not in html
    assert page.text.count("alert(1)") > 10
    assert EVIL in results["notes"]
    assert "<script>" not in (out / "report.md").read_text().replace("\\<", "")


def test_other_questions_are_refused_by_name(tmp_path: Path) -> None:
    spec = write_task_runs(tmp_path, arms=TWO)
    folder, rows = rows_of(spec, 1, 1)
    write_items(folder, rows[1:])
    refresh(folder)
    with pytest.raises(DataError, match="arm stochastok seed 1: its items.parquet lists other questions than"):
        gather_task(spec)
    rows[0]["item_hash"] = "ff" * 8
    write_items(folder, rows)
    refresh(folder)
    with pytest.raises(DataError, match="arm stochastok seed 1: its items.parquet lists other questions than"):
        gather_task(spec)


def test_figures_that_contradict_their_items_are_refused(tmp_path: Path) -> None:
    spec = write_task_runs(tmp_path, arms=TWO)
    folder, rows = rows_of(spec, 1, 2)
    rows[5]["correct"] = not rows[5]["correct"]
    write_items(folder, rows)
    with pytest.raises(
        DataError, match="arm stochastok seed 2: results.json says acc .* of words after 5000 questions"
    ):
        gather_task(spec)


def test_another_task_or_other_points_are_refused(tmp_path: Path) -> None:
    spec = write_task_runs(tmp_path, arms=TWO)
    other = tmp_path / "task" / "other"
    other.mkdir()
    task = json.loads((tmp_path / "task" / "langgame-12ab" / "task.json").read_text())
    task["files"]["words"]["sha256"] = "00" * 32
    (other / "task.json").write_text(json.dumps(task))
    spec["arms"][1]["runs"][1]["task"] = str(other)
    with pytest.raises(DataError, match="arm stochastok seed 1 was asked another task.*files differs"):
        gather_task(spec)
    spec = write_task_runs(tmp_path, arms=TWO)
    folder, rows = rows_of(spec, 1, 0)
    write_items(folder, [row for row in rows if row["point"] != 5000])
    refresh(folder)
    with pytest.raises(DataError, match="arm stochastok seed 0 was asked after 10,000, 20,000, 40,000 questions"):
        gather_task(spec)


def test_wrong_specs_are_refused(tmp_path: Path) -> None:
    spec = write_task_runs(tmp_path, arms=TWO)

    def endpoint(**keys: Any) -> dict[str, Any]:
        return {**spec, "endpoint": {**spec["endpoint"], **keys}}

    for wrong, message in (
        ({**spec, "baseline": "none"}, "baseline='none' is not an arm"),
        (endpoint(arms=["stochastok", "none"]), "endpoint.arms: 'none'"),
        (endpoint(metric="accuracy"), "endpoint.metric='accuracy': one of task_auc"),
        (endpoint(metric="task_exact"), "was not asked so"),
        (endpoint(split="nouns"), "endpoint.split='nouns': not a split"),
        (endpoint(direction="lower"), "endpoint.direction='lower'"),
        (endpoint(smallest_difference=0), "endpoint.smallest_difference=0"),
        ({**spec, "arms": [*spec["arms"], spec["arms"][0]]}, "two arms are called"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            gather_task(wrong)
    with pytest.raises(DataError, match="no finished run"):
        gather_task({**spec, "arms": [*spec["arms"], {"name": "late", "overrides": [], "runs": []}]})
    single = write_task_runs(tmp_path / "single", arms=TWO, points=(40_000,))
    single["endpoint"]["metric"] = "task_auc"
    with pytest.raises(ConfigError, match="needs two points or more"):
        gather_task(single)
