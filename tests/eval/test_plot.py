"""Figures: the lines are the numbers, the files are there, and nothing global is touched."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from rlent.errors import DataError
from rlent.eval import figures as plot
from rlent.eval.figures import curves, demo_table, plot_pass_at_k, plot_sets
from rlent.eval.report import Report
from rlent.eval.result import Evaluation, Tally
from rlent.plots.figure import darken, running_mean
from rlent.plots.looks import Look, looks
from rlent.track.record import read_metrics, series


def evaluation(label: str, correct: list[int], n: int = 8) -> Evaluation:
    tallies = tuple(
        Tally(str(i), "s", "1" * c + "0" * (n - c), 1, {2**j: 0.0 for j in range(4)}, 0, 0, {"ok": n}, n, 0.1)
        for i, c in enumerate(correct)
    )
    decoding = {"temperature": 1.0, "top_p": 0.95, "top_k": 0, "max_tokens": 16}
    return Evaluation(label, (1, 8), tallies, {"decoding": decoding, "seed": 4})


START = evaluation("start", [0, 1, 1, 2])
EVALS = {"GRPO": evaluation("GRPO", [0, 0, 8, 8]), "Clip-Cov": evaluation("Clip-Cov", [0, 2, 4, 8])}
RUNS = {
    name: [{"step": s, "entropy/mean": end + 0.6 * math.exp(-s / 9)} for s in range(1, 41)]
    for name, end in (("GRPO", 0.1), ("Clip-Cov", 0.4))
}


def test_panel_draws_the_estimates_and_their_bands() -> None:
    axes = Figure().add_subplot()
    plot._pass_panel(axes, EVALS, START, looks(EVALS))
    start, grpo, clip = axes.get_lines()
    assert start.get_linestyle() == "--" and start.get_color() == plot.START
    assert list(grpo.get_xdata()) == [1, 2, 4, 8]
    assert list(clip.get_ydata()) == [e.value for e in EVALS["Clip-Cov"].pass_at_k.values()]
    assert grpo.get_color() != clip.get_color() and grpo.get_marker() != clip.get_marker()
    band = axes.collections[2].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(max(e.high for e in EVALS["Clip-Cov"].pass_at_k.values()))
    assert band[:, 1].min() == pytest.approx(min(e.low for e in EVALS["Clip-Cov"].pass_at_k.values()))
    assert axes.get_xscale() == "log" and "samples" in axes.get_xlabel() and "share" in axes.get_ylabel()


def test_curves_writes_picture_vector_and_numbers(tmp_path: Path) -> None:
    made = curves(RUNS, EVALS, tmp_path / "sub" / "demo.png", start=START, caption="one seed")
    assert [p.name for p in made] == ["demo.png", "demo.svg", "demo.csv"]
    assert made[0].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    again = curves(RUNS, EVALS, tmp_path / "again", start=START, caption="one seed")
    assert "<svg" in made[1].read_text() and made[1].read_text() == again[1].read_text()  # the same numbers, the same file
    rows = list(csv.DictReader(made[2].open()))
    entropy = [float(r["value"]) for r in rows if r["name"] == "Clip-Cov" and r["metric"] == "entropy"]
    assert entropy == [r["entropy/mean"] for r in RUNS["Clip-Cov"]]
    shown = {(r["name"], int(r["x"])): float(r["value"]) for r in rows if r["metric"] == "pass_at_k"}
    assert shown["GRPO", 8] == 0.5 and shown["start", 1] == pytest.approx(0.125)
    assert {r["samples"] for r in rows if r["metric"] == "pass_at_k"} == {"8"}


def test_pass_figure_takes_a_list(tmp_path: Path) -> None:
    made = plot_pass_at_k(list(EVALS.values()), tmp_path / "pass")
    assert {r["name"] for r in csv.DictReader(made[2].open())} == {"GRPO", "Clip-Cov"}
    with pytest.raises(DataError, match="no evaluation"):
        plot_pass_at_k([], tmp_path / "none")


def test_every_run_needs_entropy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run 'GRPO' has no finite 'entropy/mean'"):
        curves({"GRPO": [{"step": 1, "loss": 0.1}, {"step": 2, "entropy/mean": math.nan}]}, EVALS, tmp_path / "x")


def test_series_leaves_out_rows_without_the_metric() -> None:
    rows = [
        {"step": 1, "entropy/mean": 0.5},
        {"step": 2, "eval/avg": 0.1},
        {"step": 3, "entropy/mean": None},
        {"step": 4, "entropy/mean": 0.25},
    ]
    assert series(rows) == ([1, 4], [0.5, 0.25])


def test_running_mean_is_centred_and_shrinks_at_the_ends() -> None:
    assert running_mean([0, 3, 6, 9], 3) == [1.5, 3, 6, 7.5]
    assert running_mean([1, 2], 1) == [1, 2]


def test_metrics_of_a_run_that_is_still_writing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "entropy/mean": 0.5}\n{"step": 2, "entr')
    assert read_metrics(tmp_path) == [{"step": 1, "entropy/mean": 0.5}]
    path.write_text('{"step": 1\n{"step": 2}\n')
    with pytest.raises(DataError, match="line 1"):
        read_metrics(path)
    with pytest.raises(DataError, match="there are no metrics"):
        read_metrics(tmp_path / "nowhere")


def test_demo_table_holds_first_and_last_entropy() -> None:
    table = demo_table(RUNS, EVALS, START, tail=10)
    assert list(table.columns[0].cells) == ["start", "GRPO", "Clip-Cov"]
    last = sum(r["entropy/mean"] for r in RUNS["Clip-Cov"][-10:]) / 10
    assert list(table.columns[2].cells)[2] == f"{last:.2f}"
    assert list(table.columns[4].cells)[1].startswith("0.50 (")
    assert table.caption == "4 problems x 8 samples, T 1, top-p 0.95, seed 4"


def test_no_pyplot_and_no_global_settings(tmp_path: Path) -> None:
    """In a process of its own: another test may have imported pyplot."""
    code = (
        "import sys, matplotlib as m; now = lambda: {k: m.rcParams[k] for k in m.rcParams if k != 'backend'}; before = now()\n"
        "from pathlib import Path; from rlent.eval.figures import plot_pass_at_k\n"
        "from rlent.eval.result import Evaluation, Tally\n"
        "e = Evaluation('x', (1, 2), (Tally('p', 's', '10', 1, {1: 0., 2: 0.}, 0, 0, {}, 2, .1),))\n"
        f"plot_pass_at_k([e], Path({str(tmp_path / 'x')!r}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules and now() == before\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_sets_are_drawn_with_their_intervals_and_the_means_beside_them(tmp_path: Path) -> None:
    greedy = Evaluation("GRPO", (1,), tuple(Tally(str(i), "g", v, 1, {1: 0.0}, 0, 0, {"ok": 1}, 1, 0.1) for i, v in enumerate("1101")))
    report = Report("GRPO", {"sampled": EVALS["GRPO"], "greedy": greedy})
    axes = Figure().add_subplot()
    plot._sets_panel(axes, [report], list(report.sets), looks(["GRPO"]))
    (bars,) = axes.containers
    assert list(bars[0].get_ydata()) == [0.5, 0.75, *(m.value for m in report.means.values())]
    low, high = bars[2][0].get_segments()[1][:, 1]
    assert (low, high) == pytest.approx((greedy.average.low, greedy.average.high))
    assert [t.get_text().replace("\n", "") for t in axes.get_xticklabels()] == [
        "sampled",
        "greedy",
        "mean_of_sets".replace("_", "", 1),
        "mean_of_rows".replace("_", "", 1),
    ]
    made = plot_sets([report], tmp_path / "sets")
    assert [p.name for p in made] == ["sets.png", "sets.svg", "sets.csv", "sets-dark.png"]
    rows = {(r["metric"], r["x"]): r for r in csv.DictReader(made[2].open())}
    assert float(rows["greedy/avg", "1"]["value"]) == 0.75 and rows["greedy/avg", "1"]["problems"] == "4"
    assert float(rows["sampled/pass_at_k", "8"]["value"]) == 0.5 and float(rows["mean_of_sets", ""]["value"]) == 0.625
    with pytest.raises(DataError, match="no sets"):
        plot_sets([], tmp_path / "none")


def test_on_a_dark_page_nothing_is_black_and_methods_keep_their_colours() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    plot._pass_panel(axes, EVALS, START, {"GRPO": Look("#d55e00", "s"), "Clip-Cov": Look("#000000", "X")})
    axes.legend()
    darken(figure)
    start, grpo, other = axes.get_lines()
    assert (
        grpo.get_color() == "#d55e00" and other.get_color() == other.get_markerfacecolor() == "#ffffff" and start.get_color() == plot.START
    )
    assert axes.collections[2].get_facecolor()[0][:3].tolist() == [1, 1, 1] and axes.collections[2].get_facecolor()[0][3] < 0.2
    texts = [axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_legend().get_texts()]
    assert {t.get_color() for t in texts} == {"#e6edf3"} and figure.get_facecolor()[:3] != (1, 1, 1)
