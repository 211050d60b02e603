"""`rlent report` and `rlent plot` on real runs: what is in the page, that a browser shows it, and that its statistics are right."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image
from runs import train

from rlent.cli import commands
from rlent.errors import DataError, UsageError
from rlent.plots.looks import looks
from rlent.report import compare
from rlent.report.collect import collect
from rlent.studies import fork
from rlent.studies.fork import Parent

EVALUATED = ["eval.every=2", "eval.n=4", "eval.ks=[1,4]", "eval.problems=8", "sampler.n=8", "checkpoint.every=3", "checkpoint.keep=9"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of GRPO, a branch of Clip-Cov from the first, and evaluations of all three."""
    home = tmp_path_factory.mktemp("sweep")
    for seed in (0, 1):
        train(home / f"grpo-{seed}", "recipe=grpo", f"seed={seed}", "trainer.steps=6", *EVALUATED)
    parent = Parent.read(str(home / "grpo-0"))
    (branch,) = fork.plan(parent, 3, ["recipe=clipcov"], home / "grpo-0" / "forks" / "step_000003")
    fork.make(branch, parent, 3)
    assert commands.train([], resume=str(branch.folder)) == 0
    return home


@pytest.fixture(scope="module")
def page(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "report.html"
    assert commands.report([str(sweep / "grpo-0"), str(sweep)], str(out)) == 0
    return out


def test_the_page_has_every_part_and_needs_nothing_from_outside(page: Path) -> None:
    text = page.read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == [
        "Results",
        "What differs",
        "Fork of grpo at step 3",
        "While training",
        "Score against entropy",
        "Covariance",
        "pass@k",
        "Paired differences from grpo",
        "Cost",
        "How this was made",
    ]
    assert "Entropy, over" in text or "Entropy, with one seed each: grpo went from" in text
    assert "with shape.clip_cov(fraction=" in text and "from step 3 of grpo on" in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text), "every link is inside the page"
    assert {m for m in re.findall(r"https?://[^\"' <)]+", text)} <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)), "figures do not share names"


def test_every_figure_has_its_numbers_beside_it_and_inside(page: Path) -> None:
    text, folder = page.read_text(), page.with_name("report_data")
    names = re.findall(r'<figure id="([^"]+)">', text)
    assert {"fork_3", "curves", "law", "covariance", "pass_at_k", "differences", "cost"} == set(names)
    assert {p.stem for p in folder.glob("*.csv")} == set(names)
    curves = list(csv.DictReader(io.StringIO((folder / "curves.csv").read_text())))
    row = next(r for r in curves if (r["metric"], r["method"], r["step"]) == ("entropy/mean", "grpo", "2"))
    assert float(row["low"]) < float(row["mean"]) < float(row["high"])  # two seeds


def test_the_numbers_are_those_of_the_records(sweep: Path, page: Path) -> None:
    records = [
        [json.loads(line)["entropy/mean"] for line in (sweep / f"grpo-{s}" / "metrics.jsonl").read_text().splitlines()] for s in (0, 1)
    ]
    mean, low, high = (
        float(np.mean([np.mean(r[-5:]) for r in records])),
        min(np.mean(r[-5:]) for r in records),
        max(np.mean(r[-5:]) for r in records),
    )
    cells = re.sub(r"<[^>]+>", "|", page.read_text())
    assert f"{mean:.3f}|{low:.3f} to {high:.3f}" in cells
    fork_rows = list(csv.DictReader(io.StringIO((page.with_name("report_data") / "fork_3.csv").read_text())))
    first = next(r for r in fork_rows if (r["metric"], r["branch"], r["kind"], r["step"]) == ("entropy/mean", "clipcov", "minus grpo", "4"))
    assert float(first["mean"]) == 0.0  # the first step after the fork sampled the same responses from the same weights


def test_what_a_branch_has_from_its_parent_is_not_its_own(sweep: Path, page: Path) -> None:
    laws = list(csv.DictReader(io.StringIO((page.with_name("report_data") / "law.csv").read_text())))
    assert {r["step"] for r in laws if r["method"] == "grpo"} == {"2", "4"}
    assert {r["step"] for r in laws if r["method"] == "clipcov"} == {"4"}  # step 2 was trained as GRPO
    (branch,) = (sweep / "grpo-0" / "forks").glob("*/*")
    tokens = [json.loads(line)["tokens/step"] for line in (branch / "metrics.jsonl").read_text().splitlines()]
    cells = re.sub(r"<[^>]+>", "|", page.read_text()).partition("sampled tokens a run")[2].partition("clipcov")[2]
    assert re.findall(r"[\d,]+", cells)[0] == f"{sum(tokens[3:]):,.0f}"


def test_seeds_are_one_method_and_a_branch_of_the_parents_own_recipe_is_not_counted_twice(sweep: Path, tmp_path: Path) -> None:
    parent = Parent.read(str(sweep / "grpo-1"))
    (same,) = fork.plan(parent, 3, [], tmp_path)
    fork.make(same, parent, 3)
    found = collect([str(sweep), str(sweep / "grpo-0"), str(same.folder)])
    assert [(m.label, m.seeds) for m in found.methods] == [("grpo", [0, 1]), ("clipcov", [0])]
    tree = next(t for t in found.trees if t.seed == 0)
    assert [label for label, _ in tree.branches] == ["grpo", "clipcov"] and tree.parent is not None


def test_variants_of_a_recipe_are_named_by_what_differs_and_settings_of_another_version_are_no_difference(
    sweep: Path, tmp_path: Path
) -> None:
    for name, old, new in (
        ("a", "tokens_per_part", "tokens_per_part"),
        ("b", "epochs: 1", "epochs: 1\n  of_a_later_version: 3"),
        ("c", "low: 0.2", "low: 0.1"),
    ):
        shutil.copytree(sweep / "grpo-1", tmp_path / name)
        file = tmp_path / name / "recipe.yaml"
        file.write_text(file.read_text().replace(old, new))
        about = json.loads((tmp_path / name / "run.json").read_text()) | {"id": name}
        (tmp_path / name / "run.json").write_text(json.dumps(about))
    found = collect([str(tmp_path)])
    assert [(m.label, len(m.runs)) for m in found.methods] == [("grpo low=0.2", 2), ("grpo low=0.1", 1)]
    assert found.methods[1].differences == ["loss.low: 0.2 -> 0.1"]


def test_a_run_in_progress_an_empty_one_and_what_is_no_run(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(sweep / "grpo-1", tmp_path / "a")
    (tmp_path / "a" / "status.json").write_text('{"state": "running", "step": 0, "reason": ""}')
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "entr')
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "metrics.jsonl").write_text("")
    assert commands.report([str(tmp_path)], str(tmp_path / "out.html")) == 0
    said = capsys.readouterr().err
    assert "a: running at step 6" in said and "b has logged no step yet" in said
    with pytest.raises(UsageError, match="is no run, sweep, fork or evaluation"):
        commands.report([str(tmp_path / "a" / "model")], str(tmp_path / "x.html"))
    (tmp_path / "notes.html").write_text("mine")
    with pytest.raises(UsageError, match="is no report; nothing was overwritten"):
        commands.report([str(tmp_path / "a")], str(tmp_path / "notes.html"))
    assert commands.report([str(tmp_path / "a")], str(tmp_path / "out.html")) == 0  # a report may be made again


@pytest.mark.slow
def test_evaluations_give_paired_tests_over_problems_and_the_model_before_training(sweep: Path, tmp_path: Path) -> None:
    places = [sweep / "grpo-0", sweep / "grpo-1", next((sweep / "grpo-0").glob("forks/*/*"))]
    kept = {"n": 4, "problems": 12, "pass_at_k": 4}
    for place in places:
        assert commands.evaluate([f"run={place}"], out=str(place / "eval" / "x"), **kept) == 0
    assert commands.evaluate(["model=tiny"], out=str(tmp_path / "start"), **kept) == 0
    out = tmp_path / "r.html"
    assert commands.report([*map(str, places), str(tmp_path / "start")], str(out)) == 0
    text = out.read_text()
    assert "its evaluation differs" not in text
    assert "Interquartile means" in text and "Wilcoxon" in text and "12 problems x 4 samples" in text
    lines = {r["method"] for r in csv.DictReader(io.StringIO((tmp_path / "r_data" / "pass_at_k.csv").read_text()))}
    assert lines == {"before training", "grpo", "clipcov"}
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r_data" / "differences.csv").read_text())))
    assert [(r["metric"], r["over"], r["pairs"]) for r in rows] == [("eval/pass@1", "problems", "12"), ("eval/pass@4", "problems", "12")]


# --- the browser -----------------------------------------------------------------------------------------------------


def browser() -> str:
    found = next((b for name in ("chromium", "chromium-browser", "google-chrome") if (b := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here; apt-get install chromium brings this test back")
    return found


def shown(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--v=0"]
    command += [f"--user-data-dir={file.parent / 'profile'}", "--window-size=1180,3600", *options, f"file://{file}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_browser_shows_every_figure_in_light_and_dark_without_a_complaint(page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text("<html><body><script>nothing.here()</script></body></html>")
    assert "CONSOLE" in shown(broken, "--dump-dom").stderr, "complaints would be seen"
    done = shown(page, "--dump-dom")
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count("<figure") == done.stdout.count("<svg") == 7
    grpo = {"light": (0xD5, 0x5E, 0x00), "dark": (0xF2, 0x81, 0x3A)}
    for mode, switch in (("light", "--blink-settings=preferredColorScheme=1"), ("dark", "--blink-settings=preferredColorScheme=0")):
        picture = tmp_path / f"{mode}.png"
        assert "CONSOLE" not in shown(page, switch, f"--screenshot={picture}").stderr
        pixels = (image.imread(picture)[..., :3] * 255).round().astype(int)
        assert (pixels[5, 5] > 200).all() == (mode == "light"), "the paper"
        inside = np.abs(pixels - np.array(grpo[mode])).max(-1) < 12
        assert inside.sum() > 500, f"GRPO's colour on {mode} paper"


# --- plot ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_any_metric_is_drawn_with_its_numbers(sweep: Path, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made" / f"x.{ending}"
    assert commands.plot([str(sweep), "ratio/max", "cov/top_0.02"], str(out), as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["files"] == [str(out), str(out.with_suffix(".csv"))]
    assert out.stat().st_size > 5000
    rows = list(csv.DictReader(io.StringIO(out.with_suffix(".csv").read_text())))
    assert {r["metric"] for r in rows} == {"ratio/max", "cov/top_0.02"} and max(int(r["step"]) for r in rows) == 6


def test_a_metric_that_is_not_there_and_a_wrong_ending_are_named(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no run here has logged 'entropy/meen'; did you mean 'entropy/mean'"):
        commands.plot([str(sweep), "entropy/meen"], str(tmp_path / "x.png"))
    with pytest.raises(UsageError, match=r"ends in .png or .svg"):
        commands.plot([str(sweep), "entropy/mean"], str(tmp_path / "x.pdf"))
    with pytest.raises(UsageError, match="found no metric"):
        commands.plot([str(sweep)], str(tmp_path / "x.png"))


# --- statistics and looks --------------------------------------------------------------------------------------------


def test_sign_flips_are_counted_exactly_and_holm_corrects_in_order() -> None:
    assert compare.sign_flip(np.array([1.0, 2.0, 3.0])) == 0.25  # +++ and --- of 8
    assert compare.sign_flip(np.array([1.0, -1.0])) == 1.0
    assert compare.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def evaluation(correct: list[int], n: int = 4, **settings: Any) -> Any:
    from rlent.eval.result import Evaluation, Tally

    tallies = [Tally(f"p{i}", "s", "1" * c + "0" * (n - c), 1, {1: 0.0}, 0, 0, {"ok": n}, n, 0.0) for i, c in enumerate(correct)]
    return Evaluation("e", (1, n), tuple(tallies), {"about": {"model": "tiny", "checkpoint": None}, **settings})


def test_a_difference_is_taken_problem_by_problem_over_the_mean_of_seeds() -> None:
    from rlent.report.collect import Method, RunData

    def method(label: str, *seeds: list[int]) -> Method:
        runs = [RunData(Path("x"), label, {"seed": i}, {}, {}, [{"step": 1}], [evaluation(c)]) for i, c in enumerate(seeds)]
        return Method(label, runs)

    one, two = method("a", [0, 1, 2, 4], [0, 1, 2, 4]), method("b", [1, 2, 3, 4], [1, 2, 4, 4])
    (d,) = compare.paired([one, two], {"eval/pass@1": 1})
    assert d.value == pytest.approx(np.mean([0.25, 0.25, 0.375, 0.0])) and d.pairs == 4 and d.over == "problems"
    assert compare.iqm(two, 1).value == pytest.approx(np.mean([0.5, 0.5, 0.75, 1.0]))  # the middle half of eight values
    assert np.isnan(compare.iqm(method("c", [0, 4]), 1).low), "one seed has no interval"


def test_evaluations_that_were_made_otherwise_are_named() -> None:
    from rlent.report.collect import Method, RunData

    def method(label: str, *heats: float) -> Method:
        evals = [evaluation([1, 2], decoding={"temperature": heat}) for heat in heats]
        return Method(label, [RunData(Path("x"), label, {"seed": i}, {}, {}, [{"step": 1}], [e]) for i, e in enumerate(evals)])

    assert compare.unlike([method("a", 1.0, 1.0), method("b", 1.0)]) == []
    (said,) = compare.unlike([method("a", 1.0, 1.0), method("b", 0.6)])
    assert said == "b, seed 0: its evaluation differs from that of a, seed 0: decoding.temperature was 1.0 and is 0.6"


def test_nine_methods_are_told_apart_in_curves_legend_and_tables() -> None:
    from rlent.report import figures, page
    from rlent.report.collect import Method, RunData

    rows = [{"step": t, "entropy/mean": 1 / t} for t in range(1, 101)]
    methods = [Method(name, [RunData(Path("x"), name, {"seed": 0}, {}, {}, rows, [])]) for name in ("grpo", *(f"m{i}" for i in range(8)))]
    look = looks([m.label for m in methods])
    drawn = figures.metric_panels(methods, ["entropy/mean"], look)
    lines, handles = drawn.figure.axes[0].get_lines(), drawn.figure.legends[0].get_lines()
    for seen in (lines, handles):
        dashes = {(line.get_color(), str(line._unscaled_dash_pattern), line.get_marker()) for line in seen}
        assert len(dashes) == len(seen) == 9
    swatches = {page.named("x", own) for own in look.values()}
    assert len(swatches) == 9 and sum("repeating-linear-gradient" in s for s in swatches) == 2


@pytest.mark.parametrize(("seeds", "said"), [(1, "one seed cannot tell"), (3, "3 seeds are too few"), (6, "is larger than chance")])
def test_the_sentence_blames_few_seeds_and_not_chance(seeds: int, said: str) -> None:
    """Flipping the signs of n differences gives no p below 2 / 2^n."""
    from rlent.report.collect import Collection, Method, RunData
    from rlent.report.command import sentence

    def method(label: str, score: float) -> Method:
        rows = [{"step": t, "entropy/mean": 1.0, "eval/pass@4": score} for t in (1, 2)]
        return Method(label, [RunData(Path("x"), label, {"seed": i}, {}, {}, rows, []) for i in range(seeds)])

    methods = [method("grpo", 0.3), method("clipcov", 0.3 if seeds > 3 else 0.6)]
    text = sentence(Collection(methods, [], None, [], []), compare.paired(methods, {"eval/pass@4": 4}), [1, 4])
    assert said in text, text
    assert ("p cannot be below 0.25" in text) == (seeds == 3)


@pytest.mark.parametrize(("p", "sure"), [(0.049, True), (0.05, False), (0.3, False)])
def test_a_difference_is_more_than_chance_only_where_its_corrected_p_is_below_a_twentieth(p: float, sure: bool) -> None:
    """An interval that leaves out 0 is not enough: it is not corrected for the number of methods compared."""
    from rlent.report.collect import Collection, Method, RunData
    from rlent.report.command import sentence

    def method(label: str, score: float) -> Method:
        rows = [{"step": t, "entropy/mean": 1.0, "eval/pass@4": score} for t in (1, 2)]
        return Method(label, [RunData(Path("x"), label, {"seed": i}, {}, {}, rows, []) for i in range(8)])

    methods = [method("grpo", 0.3), method("clipcov", 0.4)]
    found = [compare.Paired("clipcov", "eval/pass@4", 0.1, 0.05, 0.15, p, 8, "seeds")]
    text = sentence(Collection(methods, [], None, [], []), found, [4])
    assert ("More than chance over seeds explains, against grpo: clipcov +0.100" in text) == sure, text
    assert ("no difference from grpo is larger than chance" in text) != sure, text


@pytest.mark.parametrize("seeds", [1, 3])
def test_captions_speak_of_seeds_and_corrections_only_where_there_are_some(seeds: int) -> None:
    from rlent.report import command, figures
    from rlent.report.collect import Method, RunData

    def method(label: str) -> Method:
        rows = [{"step": t, "entropy/mean": 1.0, "eval/pass@4": 0.3} for t in (1, 2)]
        return Method(label, [RunData(Path("x"), label, {"seed": i}, {}, {}, rows, []) for i in range(seeds)])

    methods = [method("grpo"), method("clipcov")]
    drawn = figures.differences(compare.paired(methods, {"eval/pass@4": 4}), "grpo", looks(["grpo", "clipcov"]))
    for caption in (command._reading(methods, None), drawn.caption):
        assert ("Holm" in caption) == (seeds > 1), caption
    assert ("range over seeds" in command._reading(methods, None)) == (seeds > 1)
    assert "Holm" in command._reading(methods, 64) and "p:" not in command._reading(methods[:1], 64)
