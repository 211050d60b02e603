"""`rlent report` and `rlent plot`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from rlent import __version__
from rlent.errors import DataError, UsageError, did_you_mean
from rlent.plots.looks import Look, looks
from rlent.plots.style import Drawn
from rlent.report import compare, figures, page
from rlent.report.collect import Collection, Method, collect
from rlent.system.write import write_text

LINES = 8
"""Lines of differences shown for a method before the rest is counted."""


def report(places: Sequence[str], out: str, *, force: bool = False) -> int:
    """Write the page, and beside it a folder with the numbers of every figure.

    Raises:
        UsageError: nothing to report on, or `out` is there already and is not a report.
    """
    file = Path(out)
    if file.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"-o {out}: a name that ends in .html is expected")
    data = file.with_name(f"{file.stem}_data")
    if file.exists() and not force and "<!-- rlent report" not in file.read_text(errors="replace")[-4000:]:
        raise UsageError(f"'{file}' is there already and is no report; nothing was overwritten. Choose another name, or --force")
    collection = collect(places)
    collection.notes += compare.unlike(collection.methods)
    drawn, body = compose(collection, data.name)
    data.mkdir(parents=True, exist_ok=True)
    for one in drawn:
        (data / f"{one.name}.csv").write_text(one.csv())
    text = page.page(title(collection), body)
    write_text(file, text.replace("</body>", f"<!-- rlent report {__version__} -->\n</body>"))
    print(f"{file} ({len(drawn)} figures, {file.stat().st_size // 1024} KiB); numbers in {data}")
    for note in collection.notes:
        print(f"note: {note}", file=sys.stderr)
    return 0


def title(collection: Collection) -> str:
    """What is compared."""
    labels = list(dict.fromkeys(m.runs[0].name for m in collection.methods))
    task = str(collection.base.runs[0].about.get("data", {}).get("name", "")).removesuffix("/train") or "one task"
    listed = ", ".join(labels[:4]) + (f" and {len(labels) - 4} more" if len(labels) > 4 else "")
    return f"{listed} on {task} ({Path(str(collection.base.config['model']['path'])).name})"


def compose(collection: Collection, place: str) -> tuple[list[Drawn], list[str]]:
    """The figures, and the page's body."""
    methods = collection.methods
    look = looks([m.label for m in methods])
    top = compare.largest_k(methods)
    recorded = sorted(
        {int(k[10:]) for m in methods for r in m.runs for row in r.rows for k in row if k.startswith("eval/pass@") and k[10:].isdigit()}
    )
    ks = [1, top] if top else recorded[:1] + recorded[-1:]
    ks = list(dict.fromkeys(k for k in ks if k))
    metrics = {f"eval/pass@{k}": k for k in ks}
    found = compare.paired(methods, metrics) if len(methods) > 1 else []
    drawn: list[Drawn] = []

    def show(one: Drawn | None) -> list[str]:
        if one is None:
            return []
        drawn.append(one)
        return [page.figure(one, place)]

    body = [f"<h1>{page.escape(title(collection))}</h1>", page.paragraph(sentence(collection, found, ks), "lead")]
    body += [page.heading("Results"), results(methods, look, ks, found)]
    body += [page.paragraph(_reading(methods, top), "small")]
    if len(methods) > 1:
        body += [page.heading("What differs"), differences(methods, look)]
    if collection.trees:
        for step in sorted({t.step for t in collection.trees}):
            for parent in dict.fromkeys(t.name for t in collection.trees if t.step == step):
                group = [t for t in collection.trees if t.step == step and t.name == parent]
                body += [page.heading(f"Fork of {parent} at step {step}"), *show(figures.fork_tree(group, look))]
    body += [page.heading("While training")]
    body += show(figures.metric_panels(methods, ["entropy/mean", "reward/mean", "length/mean"], look))
    body += _section("Score against entropy", show(figures.law(collection, look)))
    body += _section("Covariance", show(figures.covariance(methods, look)))
    body += _section("pass@k", show(figures.pass_at_k(collection, look)))
    if found:
        body += _section(f"Paired differences from {methods[0].label}", show(figures.differences(found, methods[0].label, look)))
    body += _section("Interquartile means", show(figures.interquartile(methods, ks, look)) if ks else [])
    body += [page.heading("Cost"), costs(methods, look), *show(figures.cost(methods, look))]
    alarms = _alarms(methods)
    if alarms:
        body += [page.heading("Alarms"), page.bullets(alarms)]
    if collection.notes:
        body += [page.heading("Notes"), page.bullets(collection.notes)]
    body += [page.heading("How this was made"), *_made(collection)]
    return drawn, body


def _section(text: str, parts: list[str]) -> list[str]:
    return [page.heading(text), *parts] if parts else []


def sentence(collection: Collection, found: Sequence[compare.Paired], ks: Sequence[int]) -> str:
    """What one would say aloud."""
    methods = collection.methods
    counts = {len(m.runs) for m in methods}
    seeds = f"over {min(counts)} seeds" if min(counts) > 1 else "with one seed each" if len(methods) > 1 else "with one seed"
    parts = []
    for method in methods[:4]:
        first = _first(method, "entropy/mean")
        last = compare.at_end(method, "entropy/mean").value
        word = f"{method.label} went from {first:.2f} to {last:.2f} nats per token"
        if method is not methods[0]:
            word = f"{method.label} ended at {last:.2f}"
        parts.append(word)
    more = f" ({len(methods) - 4} more methods below)" if len(methods) > 4 else ""
    text = f"Entropy, {seeds}: {'; '.join(parts)}{more}."
    for k in ks[-1:]:
        curves = {m.label: c[0].get(k) for m in methods if (c := compare.pass_curve(m))}
        values = {label: p.value for label, p in curves.items() if p is not None}
        if len(values) > 1:
            best = max(values, key=lambda v: values[v])
            text += f" On pass@{k} {best} is highest ({values[best]:.3f}"
            text += (
                f"; {methods[0].label} {values[methods[0].label]:.3f})" if best != methods[0].label and methods[0].label in values else ")"
            )
            sure = [d for d in found if d.metric == f"eval/pass@{k}" and (d.low > 0 or d.high < 0) and d.p < 0.05]
            unsure = len([d for d in found if d.metric == f"eval/pass@{k}"]) - len(sure)
            if sure:
                listed = ", ".join(f"{d.label} {d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f})" for d in sure[:3])
                text += f". More than chance over {sure[0].over} explains, against {methods[0].label}: {listed}"
                text += f"; the other{'s are' if unsure > 1 else ' is'} not." if unsure else "."
            elif found and found[0].over == "seeds" and 1 < found[0].pairs and (least := 2.0 ** (1 - found[0].pairs)) >= 0.05:
                text += f"; {found[0].pairs} seeds are too few to tell it from chance: p cannot be below {least:.2g}."
            elif found and found[0].pairs > 1:
                text += f"; no difference from {methods[0].label} is larger than chance over {found[0].pairs} {found[0].over} explains."
            else:
                text += "; one seed cannot tell it from chance." if found else "."
        elif values:
            label, value = next(iter(values.items()))
            text += f" Its pass@{k} is {value:.3f}."
    return text


def _first(method: Method, metric: str) -> float:
    values = [v[0] for r in method.runs if (v := r.series(metric)[1])]
    return math.fsum(values) / len(values) if values else math.nan


def results(methods: Sequence[Method], look: Mapping[str, Look], ks: Sequence[int], found: Sequence[compare.Paired]) -> str:
    """The table of final values."""
    header = ["method", "seeds", "steps", "entropy", "reward", "length"]
    for k in ks:
        header += [f"pass@{k}", f"minus {methods[0].label}"] if len(methods) > 1 else [f"pass@{k}"]
    rows = []
    for method in methods:
        entropy, reward, length = (compare.at_end(method, m) for m in ("entropy/mean", "reward/mean", "length/mean"))
        row = [page.named(method.label, look[method.label]), str(len(method.runs)), str(max(r.last for r in method.runs))]
        many = len(method.runs) > 1
        cells = [page.number(p.value, d, *((p.low, p.high) if many else ())) for p, d in ((entropy, 3), (reward, 3), (length, 1))]
        row += [f"{page.number(_first(method, 'entropy/mean'))} → {cells[0]}", *cells[1:]]
        curve = compare.pass_curve(method)
        for k in ks:
            point = curve[0].get(k) if curve else None
            row.append(page.number(point.value, 3, point.low, point.high) if point else "–")
            if len(methods) > 1:
                d = next((d for d in found if d.label == method.label and d.metric == f"eval/pass@{k}"), None)
                p = f'<span class="low">p {d.p:.2g}</span>' if d and d.pairs > 1 else ""
                row.append(page.number(d.value, 3, d.low, d.high, sign=True) + p if d else "")
        rows.append(row)
    return page.table(header, rows)


def _reading(methods: Sequence[Method], top: int | None) -> str:
    seeds = max(len(m.runs) for m in methods)
    text = f"Entropy (nats per token): first step → end. At the end: the mean of the last {compare.LAST} steps"
    text += ", below it the range over seeds. " if seeds > 1 else ". "
    if top:
        text += "pass@k: from the runs' evaluations (rlent eval), intervals over problems."
        return text + " p: Wilcoxon's signed ranks over problems, Holm-corrected." if len(methods) > 1 else text
    text += f"pass@k: from the evaluations made while training, with {'the range over seeds' if seeds > 1 else 'intervals over problems'}; "
    text += "they are small: for numbers to report run `rlent eval --pass-at-k 64 run=...` on each run."
    return text + " p: exact sign flips over seeds, Holm-corrected." if len(methods) > 1 and seeds > 1 else text


def differences(methods: Sequence[Method], look: Mapping[str, Look]) -> str:
    """The recipes in a few lines each, against the first."""
    rows = []
    for method in methods[1:]:
        lines = method.differences
        shown = lines[:LINES] + ([f"and {len(lines) - LINES} more"] if len(lines) > LINES else [])
        origin = method.runs[0].fork
        if origin and origin["changed"]:
            shown = [f"from step {origin['step']} of {origin['name']} on", *shown]
        rows.append([page.named(method.label, look[method.label]), page.text_cell(shown or ["nothing but the seed"])])
    return page.table(["method", f"against {methods[0].label}"], rows)


def costs(methods: Sequence[Method], look: Mapping[str, Look]) -> str:
    """Tokens and seconds. A branch's past is its parent's, and not counted."""
    rows = []
    for method in methods:
        own = [[r for r in run.rows if not run.fork or r["step"] > run.fork["step"]] for run in method.runs]
        tokens = [math.fsum(r.get("tokens/step") or 0 for r in rows_) for rows_ in own]
        seconds = [math.fsum(r.get("seconds/step") or 0 for r in rows_) for rows_ in own]
        steps = [len(rows_) for rows_ in own]
        n = len(own)
        mean_seconds = math.fsum(seconds) / n
        rows.append(
            [
                page.named(method.label, look[method.label]),
                f"{math.fsum(tokens) / n:,.0f}",
                f"{mean_seconds / 60:,.1f}" if mean_seconds else "–",
                f"{math.fsum(seconds) / max(1, sum(steps)):.2f}" if mean_seconds else "–",
                f"{math.fsum(tokens) / math.fsum(seconds):,.0f}" if mean_seconds else "–",
                str(method.runs[0].about.get("versions", {}).get("torch", "–")),
            ]
        )
    return page.table(["method", "sampled tokens a run", "minutes a run", "seconds a step", "tokens a second", "torch"], rows)


def _alarms(methods: Sequence[Method]) -> list[str]:
    """When each alarm of each run began."""
    lines = []
    for method in methods:
        for run in method.runs:
            began = []
            for name in dict.fromkeys(k for r in run.rows for k in r if k.startswith("alarm/")):
                on = [r["step"] for r, before in zip(run.rows, [{}, *run.rows], strict=False) if r.get(name) and not before.get(name)]
                began += [f"{name.removeprefix('alarm/')} from step {on[0]}"] if on else []
            if began:
                lines.append(f"{method.label}, seed {run.seed}: {', '.join(began)}")
    return lines


def _made(collection: Collection) -> list[str]:
    command = " ".join(["rlent", *sys.argv[1:]])
    lines = [f"{date.today().isoformat()}, rlent {__version__}:", command, ""]
    lines += [f"{m.label}, seed {r.seed}: {r.path}  ({r.about.get('command', '')})" for m in collection.methods for r in m.runs]
    return [f"<pre>{page.escape(chr(10).join(lines))}</pre>"]


def plot(arguments: Sequence[str], out: str, *, smooth: int = figures.SMOOTH, as_json: bool = False) -> int:
    """Draw metrics of runs: RUN... METRIC... -o file.png|svg. The numbers go beside it as CSV.

    Raises:
        UsageError: no run, no metric, or another ending.
        DataError: a metric that no run has logged.
    """
    file = Path(out)
    if file.suffix not in (".png", ".svg"):
        raise UsageError(f"-o {out}: a name that ends in .png or .svg is expected")
    runs = [a for a in arguments if Path(a.removeprefix("run=")).exists()]
    metrics = [a for a in arguments if a not in runs]
    if not runs or not metrics:
        what = "run (a folder that is there)" if not runs else "metric (entropy/mean, reward/mean, ...)"
        raise UsageError(f"plot takes runs and metrics, found no {what} among: {' '.join(arguments) or 'nothing'}")
    collection = collect(runs)
    known = sorted({k for r in collection.runs for row in r.rows for k, v in row.items() if isinstance(v, int | float) and k != "step"})
    for metric in metrics:
        if metric not in known:
            raise DataError(
                f"no run here has logged '{metric}'{did_you_mean(metric, known)} (rlent explain lists metrics; runs were taken from existing paths)"
            )
    drawn = figures.metric_panels(collection.methods, metrics, looks([m.label for m in collection.methods]), smooth=smooth)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".png":
        drawn.figure.savefig(file, dpi=160, metadata={"Software": "rlent"})
    else:
        drawn.figure.savefig(file, metadata={"Date": None, "Creator": "rlent"})
    numbers = file.with_suffix(".csv")
    numbers.write_text(drawn.csv())
    print(json.dumps({"files": [str(file), str(numbers)]}) if as_json else f"{file}\n{numbers}")
    return 0
