"""What the documents show works as it stands: every command runs, small; every number is that of the data it comes from."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from documents import PAGES, ROOT, Block, anchors, blocks, links, prose, rows
from eval.guesser import make_guesser
from reader import SMALL, perform, run, walk

from rlent.cli.app import app
from rlent.recipe.catalog import cards
from rlent.seats import SEATS
from rlent.streams import STREAMS

README = ROOT / "README.md"
WORDS = 1000

# ---- every command ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files that the documents take for granted: data, responses, and a model."""
    folder = tmp_path_factory.mktemp("reader")
    problems = [
        {"prompt": f"What is {a} times {a + 1}?", "answer": str(a * (a + 1)), "solution": rf"It is \boxed{{{a * (a + 1)}}}."}
        for a in range(2, 42)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in problems)
    (folder / "problems.jsonl").write_text(lines)
    (folder / "math500.jsonl").write_text("".join(json.dumps({**row, "unique_id": str(i)}) + "\n" for i, row in enumerate(problems)))
    with gzip.open(folder / "dapo.jsonl.gz", "wt") as file:
        file.write(lines)
    graded = [{"response": row["solution"], "gold": row["answer"]} for row in problems]
    (folder / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in graded))
    make_guesser(folder / "path" / "to" / "model", {"6": 0.5, "12": 0.5})
    with contextlib.chdir(folder):
        yield folder


@pytest.fixture(scope="module")
def first(place: Path) -> list[str]:
    """The README, followed once; its runs are what the other pages go on from."""
    return walk(README)


@pytest.mark.slow
def test_what_the_readme_shows_works_in_its_order(first: list[str]) -> None:
    assert first == [], "\n".join(first)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if p != README], ids=lambda p: p.stem)
def test_what_a_page_shows_works_after_the_readme(page: Path, first: list[str]) -> None:
    wrong = walk(page)
    assert wrong == [], "\n".join(wrong)


@pytest.mark.slow
def test_a_checkpoint_is_exported_as_the_run_exports_its_own(place: Path) -> None:
    """The last checkpoint of a run, by the program of the page on runs, beside the run's own model folder."""
    from safetensors.torch import load_file

    (program,) = [b.text for b in blocks(ROOT / "docs" / "runs.md") if b.file == "export.py"]
    assert run("train", "recipe=clipcov", *SMALL, "run.dir=outputs/last")[0] == 0
    program = program.replace("outputs/mine", "outputs/last").replace("step_000100", "step_000002").replace('"exported"', '"last"')
    exec(compile(program, "export.py", "exec"), {})
    mine, theirs = load_file("last/model.safetensors"), load_file("outputs/last/model/model.safetensors")
    assert mine.keys() == theirs.keys() and all(mine[name].equal(theirs[name]) for name in mine)


def test_a_command_that_no_test_runs_is_found() -> None:
    block = Block("bash", "curl example.org\n", None)
    assert "no test runs" in perform(block, block.commands[0])
    assert "no test knows" in perform(Block("bash", "", "hours"), ["curl", "example.org"])
    assert "No such option" in perform(Block("bash", "", "hours"), ["rlent", "arena", "--nothing"])
    assert "no 'cliip_cov'" in perform(
        Block("bash", "", "a GPU"), ["rlent", "train", "recipe=clipcov", "shape.cliip_cov.fraction=1", "scale=gpu"]
    )
    assert perform(Block("bash", "", "hours"), ["python", "scripts/proof.py", "folder", "--nothing"]) == "--nothing"
    assert "nothing" in perform(Block("bash", "", None), ["make", "nothing"])


def test_marks_and_continued_lines_are_read(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- needs a GPU -->\n```bash\nrlent a \\\n    b   # why\n\n# nothing\n```\ntext\n```bash\nrlent c\n```\n")
    assert [(b.needs, b.commands) for b in blocks(page)] == [("a GPU", [["rlent", "a", "b"]]), (None, [["rlent", "c"]])]
    page.write_text("<!-- needs luck -->\n```bash\nrlent a\n```\n")
    with pytest.raises(ValueError, match="'needs luck' is none of"):
        blocks(page)


# ---- the README ---------------------------------------------------------------------------------------------------------------


def test_the_readme_is_read_in_one_sitting() -> None:
    assert len(prose(README).split()) <= WORDS


def test_the_first_screen_says_how_to_start_and_what_the_scope_is() -> None:
    beginning = README.read_text().split("\n## ")[0]
    for words in ("entropy", "make demo", "make test", "Single-turn, text, verifiable rewards".lower(), "GRPO", "Clip-Cov"):
        assert words in beginning


def test_the_readme_needs_no_picture_that_a_package_index_does_not_show() -> None:
    """An index renders the README alone: a relative picture is broken there, an embedded one is removed. The chart is text."""
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]*)\)|<img", README.read_text())
    assert pictures == []
    (drawn,) = [b for b in blocks(README) if b.language == "text"]
    assert "█" in drawn.text


def test_the_chart_of_the_readme_is_the_demos(scripts: ModuleType) -> None:
    import readme_chart

    text = README.read_text()
    made = readme_chart.chart(readme_chart.read())
    assert scripts.inserted(text, made, readme_chart.BEGIN, readme_chart.END) == text, "run `make table`"


def test_the_chart_draws_means_and_bars_of_its_rows(scripts: ModuleType) -> None:
    import readme_chart

    entropy = [
        {"name": m, "metric": "entropy", "x": str(i), "value": str(v)} for m, v in (("grpo", 0.4), ("clipcov", 0.8)) for i in range(1, 61)
    ]
    solved = [{"name": m, "metric": "pass_at_k", "x": k, "value": v} for m in ("grpo", "clipcov") for k, v in (("1", "0.25"), ("4", "0.5"))]
    lines = readme_chart.chart([*entropy, *solved]).splitlines()
    width = readme_chart.WIDTH
    step, pass_at_4 = next(x for x in lines if "step 50" in x), next(x for x in lines if "pass@4" in x)
    assert step.split() == ["step", "50", "0.40", "█" * (width // 2), "0.80", "█" * width]
    assert pass_at_4.split() == ["pass@4", "0.50", "█" * width, "0.50", "█" * width]


def files(page: Path, folder: Path) -> None:
    """Write the files that a page shows."""
    for block in blocks(page):
        if block.file is not None:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.text)


@pytest.mark.slow
def test_the_method_and_the_reward_of_the_documents_do_what_they_say(tmp_path: Path) -> None:
    files(README, tmp_path)
    files(ROOT / "docs" / "extending.md", tmp_path)
    out = tmp_path / "out"
    code, output = run("train", "--config-dir", str(tmp_path / "my"), "recipe=mine", "+reward=partial", *SMALL, f"run.dir={out}")
    assert code == 0, output
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in found] == [1, 2]
    for row in found:
        assert row["reward/mean"] == pytest.approx(row["reward/correct"] + row["reward/partial"])
        assert 0.6 < row["weight/zero"] < 0.9  # four fifths of the tokens are left out, but for ties
    assert any(row["reward/partial"] > 0 for row in found)


def test_the_reward_of_the_documents_pays_for_the_numbers_and_not_for_repeating(tmp_path: Path) -> None:
    (shown,) = [b.text for b in blocks(ROOT / "docs" / "extending.md") if b.file == "my/partial.py"]
    assert len(shown.split("def ")[1].splitlines()) <= 10
    names: dict[str, Any] = {}
    exec(compile(shown, "partial.py", "exec"), names)
    written = ["(3*5)+(2*7)", "3+5", "7*2*3*5", "3,5,2,7", "29 from 3,5,2,7"]
    count = len(written)
    found = names["uses_the_numbers"](
        ["3,5,2,7:29?"] * count, written, ["29 from 3,5,2,7"] * count, [{"numbers": [3, 5, 2, 7]}] * count, bonus=0.2
    )
    assert found.tolist() == pytest.approx([0.2, 0.0, 0.2, 0.0, 0.0])


# ---- the pages ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"https?://", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_document_that_is_named_in_the_repository_is_there() -> None:
    named = re.compile(r"docs/[\w.-]+\.(?:md|png|json|csv)")
    for folder in ("rlent", "recipes", "scripts", "tests"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".yaml", ".sbatch", ".sh") and "fixtures" not in file.parts:
                for name in named.findall(file.read_text(encoding="utf-8")):
                    assert (ROOT / name).exists(), f"{file.relative_to(ROOT)} names {name}"


def test_the_readme_leads_to_every_page() -> None:
    linked = {link for link in links(README) if link.startswith("docs/")}
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} - {"docs/arena.md"}  # methods.md leads to the arena's table
    assert pages <= linked


def test_the_commands_page_lists_every_command_once() -> None:
    shown = [re.match(r"`rlent (\w+)", cells[0])[1] for cells in rows(ROOT / "docs" / "commands.md", "command")]  # type: ignore[index]
    group = typer.main.get_command(app)
    known = [name for name, verb in group.commands.items() if not verb.hidden]  # type: ignore[attr-defined]
    assert sorted(shown) == sorted(known)


def test_the_extending_page_has_the_stages_and_streams_of_the_code() -> None:
    page = ROOT / "docs" / "extending.md"
    stages = rows(page, "stage")
    assert [cells[0].strip("`") for cells in stages] == list(SEATS)
    assert [cells[1].startswith("many") for cells in stages] == [seat.many for seat in SEATS.values()]
    for name, shape, meaning in rows(page, "stream"):
        stream = STREAMS[name.strip("`")]
        assert (shape.strip("`"), meaning) == (stream.shape, stream.meaning)


def test_the_limits_page_names_the_recipes_that_were_checked_against_nothing() -> None:
    (line,) = [x for x in (ROOT / "docs" / "limits.md").read_text().splitlines() if "checked against nothing" in x]
    named = set(re.findall(r"`([a-z]+)`", line))
    assert named == {card.name for card in cards()[0] if card.proof == "none"}


def test_contributing_lists_the_rooms_of_the_package() -> None:
    import test_imports

    shown = [set(re.findall(r"`([a-z]+)(?:/|\.py)`", cells[0])) for cells in rows(ROOT / "CONTRIBUTING.md", "folder")]
    floors = [set(floor.split()) for floor in test_imports.FLOORS]
    assert set().union(*shown) == set().union(*floors) - {"__main__"}
    floor_of = {room: i for i, floor in enumerate(floors) for room in floor}
    order = [max(floor_of[room] for room in rooms) for rooms in shown]
    assert order == sorted(order), "a folder stands above one that imports it"


def test_the_seeds_of_the_results_page_are_those_of_its_data() -> None:
    page = ROOT / "docs" / "results.md"
    found = {row["recipe"]: row for row in json.loads((ROOT / "docs" / "seeds.json").read_text())}

    def difference(point: dict[str, float]) -> str:
        return f"{point['value']:+.3f} ({point['low']:+.3f} to {point['high']:+.3f})"

    for name, entropy, *cells in rows(page, "recipe"):
        row = found[name.strip("`")]
        assert entropy == f"{row['entropy_start']:.3f} -> {row['entropy_end']:.3f}"
        for k, value, against in (("pass@1", *cells[:2]), ("pass@64", *cells[2:])):
            assert value == f"{row[k]['value']:.3f}"
            assert against == (difference(row[f"{k}_difference"]) if f"{k}_difference" in row else "")


def test_the_law_of_the_results_page_is_that_of_its_data() -> None:
    runs = json.loads((ROOT / "docs" / "law.json").read_text())["runs"]
    for size, r2, rmse, ceiling in rows(ROOT / "docs" / "results.md", "parameters"):
        mine = [run for run in runs if f"{run['parameters'] / 1e6:.2f} M" == size]
        assert len(mine) == 3
        assert r2 == ", ".join(f"{run['law']['r2']:.2f}" for run in mine)
        assert rmse == ", ".join(f"{run['forecast']['rmse']:.3f}" for run in mine)
        assert ceiling == ", ".join(f"{run['law']['ceiling']:.3f}" for run in mine)


# ---- the table of methods -----------------------------------------------------------------------------------------------------


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/methods_table.py; the other scripts can be imported, too."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import methods_table

    return methods_table


def test_the_methods_table_is_the_one_the_cards_make(scripts: ModuleType) -> None:
    text = (ROOT / "docs" / "methods.md").read_text()
    assert scripts.inserted(text, scripts.table(cards()[0], scripts.results())) == text, "run `make table`"


def test_the_table_has_the_arenas_numbers_where_a_method_was_run(scripts: ModuleType) -> None:
    point = {"value": 0.5, "low": 0.4, "high": 0.625}
    row = {"recipe": "clipcov", "seeds": [0, 1], "entropy_kept": 0.61, "pass@1": point, "pass@8": point, "cost": 1.072, "note": ""}
    document = {"settings": {"steps": 9, "problems": 5, "n": 16, "k": 8}, "rows": [row]}
    lines = scripts.table(cards()[0], document).splitlines()
    by_recipe = {line.split(" ")[1].strip("`"): line for line in lines if line.startswith("| `")}
    assert lines[0].endswith("| checked against | entropy kept | pass@1 | pass@8 | time |")
    assert by_recipe["clipcov"].endswith("| 61% | 0.50 (0.40 .. 0.62) | 0.50 (0.40 .. 0.62) | 1.07 |")
    assert by_recipe["klcov"].endswith("|  |  |  |  |")
    assert "9 steps of the embedded task, 2 seeds;" in lines[-1] and "with equal numbers" not in lines[-1]


def test_the_table_names_recipes_that_are_one_computation(scripts: ModuleType) -> None:
    rows = [{"recipe": name, "by_seed": {"reward": [0.1, value]}} for name, value in (("a", 0.2), ("b", 0.3), ("c", 0.2))]
    assert scripts.equal(rows) == [["a", "c"]]


def test_the_table_goes_between_the_markers_and_nowhere_else(scripts: ModuleType) -> None:
    begin, end = scripts.BEGIN, scripts.END
    assert scripts.inserted(f"before {begin} old {end} after", "new") == f"before {begin}\n\nnew\n\n{end} after"
    with pytest.raises(ValueError, match="needs the lines"):
        scripts.inserted("no markers", "new")
