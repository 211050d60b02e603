"""`rlent replay`: the command, its table and its JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from rlent.analysis.compare import Comparison, replay
from rlent.analysis.source import Reading, read_source
from rlent.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table


def parse(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The recipes' names of `recipe=a,b,c`, and the other overrides."""
    names = [n for a in arguments if a.startswith("recipe=") for n in a.removeprefix("recipe=").strip("[]").split(",") if n]
    return list(dict.fromkeys(names)), [a for a in arguments if not a.startswith("recipe=")]


def main(
    place: str,
    arguments: Sequence[str],
    reading: Reading,
    *,
    out: str | None = None,
    as_json: bool = False,
    config_dirs: Sequence[str] = (),
) -> int:
    """Replay, print, and with `out` write the JSON. Returns 1 if no method but the reference could be replayed."""
    names, overrides = parse(arguments)
    if not names:
        raise UsageError("which methods? recipe=clipcov,klcov names them (rlent ls lists them)")
    if out is not None and Path(out).exists():
        raise UsageError(f"--out: {out} exists, and nothing is overwritten")
    source, policy = read_source(place, reading, overrides)
    with _progress(quiet=as_json) as say:
        found = replay(source, names, overrides, config_dirs=config_dirs, policy=policy, say=say)
    document = found.to_dict()
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(json.dumps(document, indent=1) + "\n")
    if as_json:
        print(json.dumps(document, indent=1))
    else:
        _print(found, with_model=policy is not None)
    return 0 if any(not p.reason for p in found.played[1:]) or len(found.played) == 1 else 1


def _progress(*, quiet: bool) -> AbstractContextManager[Callable[[str], None]]:
    """A context that gives a function to say what is being done: a spinner on a terminal, nothing elsewhere."""
    from contextlib import contextmanager

    from rich.console import Console

    @contextmanager
    def shown() -> Iterator[Callable[[str], None]]:
        console = Console(stderr=True)
        if quiet or not console.is_terminal:
            yield lambda text: None
            return
        with console.status("") as status:
            yield lambda text: status.update(f"replaying {text}")

    return shown()


def _print(found: Comparison, *, with_model: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.width = max(console.width, 100 if console.is_terminal else 140)
    about = found.about
    console.print(f"{found.source.label}: {about['rows']} responses, {about['tokens']} tokens, step {about['step']}", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ["method", "loss", "selected", "clipped", "reweighted", "differs", "|g| logp", "cos"]
    columns += ["|g| param", "cos"] if with_model else []
    for name in (*columns, "d1", "d2"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for row in found.rows:
        if "reason" in row:
            table.add_row(row["method"], *["-"] * (len(columns) + 1))
            continue
        cells = [_number(row["loss"], "+.4f"), *(_number(row[k], ".1%") for k in ("selected", "clipped", "reweighted", "differs"))]
        cells += [_number(row["logp_norm"], ".3g"), _number(row["logp_cosine"], ".3f")]
        if with_model:
            cells += [_number(row["parameter_norm"], ".3g"), _number(row["parameter_cosine"], ".3f")]
        table.add_row(row["method"], *cells, _number(row["d1"], "+.2e"), _number(row["d2"], "+.2e"))
    console.print(table)
    if "measured" in about:
        console.print(f"the run's own step changed the mean entropy of these tokens by {about['measured']:+.5f} nats", highlight=False)
    for row in found.rows:
        for line in [row["reason"]] if "reason" in row else row["notes"]:
            console.print(
                f"{row['method']}: {line}", style="yellow" if "reason" in row else None, markup=False, highlight=False, soft_wrap=True
            )
    if len(found.overlap) > 1:
        console.print()
        console.print(_overlaps(found))
    console.print(f"\n{_LEGEND}", style="dim", highlight=False)


_LEGEND = """\
selected    tokens that the method's own nodes name, or whose gradient they change      |g|  norm of the objective's gradient
clipped     tokens with an advantage whose loss has no gradient                         cos  its cosine to plain GRPO's
reweighted  tokens of another weight than GRPO's, or out of the loss                    d1, d2  predicted change of mean entropy,
differs     tokens that are pushed otherwise than by GRPO                               nats per unit step (rlent explain ledger/d1)"""


def _overlaps(found: Comparison) -> Table:
    from rich.table import Table

    table = Table(title="tokens in common, of those that either acted on", title_justify="left", title_style="", box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in found.overlap:
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in found.overlap.items():
        table.add_row(name, *(_number(v, ".0%") for v in row.values()))
    return table


def _number(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)
