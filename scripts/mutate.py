"""Seeded mutations of the package, each run against the tests of its file: what no test notices is printed as survived.

    python scripts/mutate.py                                  # 100 mutants of methods/, math/ and train/
    python scripts/mutate.py --count 20 --paths rlent/methods/clip_cov.py rlent/math
    python scripts/mutate.py --list                           # the mutants, without running any

Each mutant is one change of one expression in a scratch copy of the tree. It is killed if a test fails or the time limit is reached,
and it survives if every test of its file passes. Results go to the file of `--json` as they come; a second call with the same file
skips the mutants that are in it. The same seed gives the same mutants of the same tree, and a larger count begins with those of a smaller one.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATHS = ("rlent/methods", "rlent/math", "rlent/train")
MORE = {
    "rlent/train": (
        "tests/test_objective.py",
        "tests/test_metrics.py",
        "tests/test_actor.py",
        "tests/test_ledger.py",
        "tests/test_behaviour.py",
    ),
}
"""Tests of a folder's files beside those that name them."""
LEFT_OUT = re.compile(
    r"tests/(scripts|eval|report|track|engine|analysis|data)/|tests/test_(battery|behaviour|imports|catalog|arena|fit|cli|sweep|gpu|resume|launch)\.py"
)
"""Tests that take too long, or test other things."""
FALLBACK = ("tests/test_objective.py", "tests/test_metrics.py")
"""The tests of a file that no test names."""

COMPARE = {"Lt": "<=", "LtE": "<", "Gt": ">=", "GtE": ">", "Eq": "!=", "NotEq": "=="}
CALLS = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "amin": "amax", "amax": "amin", "any": "all", "all": "any"}
MASKS = re.compile(r"(mask|inside|weight|valid|real|trained)(\[[^]]*\]|\w*\(\))*$")
"""Operands that say which tokens count."""


@dataclass(frozen=True)
class Mutant:
    """One change: the characters from `start` to `end` of `file` become `text`."""

    file: str
    line: int
    operator: str
    start: int
    end: int
    text: str
    was: str

    @property
    def key(self) -> str:
        """Stable under changes elsewhere in the file."""
        return hashlib.sha256(f"{self.file}:{self.operator}:{self.line}:{self.was}:{self.text}".encode()).hexdigest()[:12]

    def diff(self, source: str) -> str:
        """The change as the changed lines of a unified diff."""
        changed = self.applied(source)
        lines = difflib.unified_diff(source.splitlines(), changed.splitlines(), self.file, self.file, n=0, lineterm="")
        return "\n".join(list(lines)[2:])

    def applied(self, source: str) -> str:
        return source[: self.start] + self.text + source[self.end :]


class Sites(ast.NodeVisitor):
    """Every place of a module where an operator applies."""

    def __init__(self, file: str, source: str) -> None:
        self.file, self.source, self.found = file, source, list[Mutant]()
        self.offsets = [0]
        for line in source.splitlines(keepends=True):
            self.offsets.append(self.offsets[-1] + len(line))

    # ---- places in the text -------------------------------------------------------------------------------------

    def at(self, line: int, column: int) -> int:
        """The position of a line and a column in bytes, as `ast` counts, in characters of the text."""
        start = self.offsets[line - 1]
        text = self.source[start : self.offsets[line]]
        return start + len(text.encode()[:column].decode())

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.at(node.lineno, node.col_offset), self.at(node.end_lineno, node.end_col_offset)

    def text(self, node: ast.expr) -> str:
        start, end = self.span(node)
        return self.source[start:end]

    def put(self, operator: str, node: ast.expr | ast.stmt, text: str, span: tuple[int, int] | None = None) -> None:
        start, end = span or self.span(node)
        self.found.append(Mutant(self.file, node.lineno, operator, start, end, text, self.source[start:end]))

    # ---- what is left alone -------------------------------------------------------------------------------------

    def visit_Raise(self, node: ast.Raise) -> None:
        """Messages are tested by their own tests."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Texts."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    # ---- operators ----------------------------------------------------------------------------------------------

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        returns = [n for n in ast.walk(node) if isinstance(n, ast.Return) and n.value is not None]
        tensors = [a for a in node.args.args if a.annotation is not None and "Tensor" in ast.unparse(a.annotation)]
        same = [a.arg for a in tensors if node.returns is not None and ast.unparse(a.annotation or node) == ast.unparse(node.returns)]
        if body and same and node.returns is not None and not (len(body) == 1 and ast.unparse(body[0]) == f"return {same[0]}"):
            start = self.span(body[0])[0]
            self.put("return the input", body[0], f"return {same[0]}\n{' ' * body[0].col_offset}", (start, start))
        if node.returns is not None and "Float" in ast.unparse(node.returns) and "dict" not in ast.unparse(node.returns):
            for found in returns:
                if isinstance(found.value, (ast.BinOp, ast.Call, ast.Name)):
                    self.put("flip a sign", found.value, f"-({self.text(found.value)})")
        for statement in body:
            self.visit(statement)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
            self.put("flip a sign", node, f"+{self.text(node.operand)}")
        if isinstance(node.op, (ast.Not, ast.Invert)):
            self.put("drop a not", node, self.text(node.operand))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        between = (self.span(node.left)[1], self.span(node.right)[0])
        middle = self.source[slice(*between)]
        swaps: dict[type[ast.operator], tuple[str, str]] = {
            ast.Add: ("+", "-"),
            ast.Sub: ("-", "+"),
            ast.Mult: ("*", "/"),
            ast.Div: ("/", "*"),
            ast.BitAnd: ("&", "|"),
            ast.BitOr: ("|", "&"),
        }
        strings = any(
            isinstance(n, (ast.Constant, ast.JoinedStr)) and isinstance(getattr(n, "value", ""), str) for n in (node.left, node.right)
        )
        if type(node.op) in swaps and not strings:
            old, new = swaps[type(node.op)]
            if middle.count(old) == 1:
                self.put(f"{old} by {new}", node, middle.replace(old, new), between)
        if isinstance(node.op, (ast.Mult, ast.BitAnd)):
            for dropped, kept in ((node.right, node.left), (node.left, node.right)):
                if isinstance(dropped, (ast.Name, ast.Attribute, ast.Subscript, ast.Call)) and MASKS.search(self.text(dropped)):
                    self.put("drop a mask", node, self.text(kept))
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1 and type(node.ops[0]).__name__ in COMPARE:
            between = (self.span(node.left)[1], self.span(node.comparators[0])[0])
            new = COMPARE[type(node.ops[0]).__name__]
            self.put("move a bound", node, f" {new} ", between)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        between = (self.span(node.values[0])[1], self.span(node.values[1])[0])
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        middle = self.source[slice(*between)]
        if middle.count(old) == 1:
            self.put(f"{old} by {new}", node, middle.replace(old, new), between)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
        if name in CALLS:
            end = self.span(node.func)[1]
            self.put("min by max", node.func, CALLS[name], (end - len(name), end))
        if name == "clamp":
            for keyword in node.keywords:
                if keyword.arg in ("min", "max"):
                    start = self.at(keyword.lineno, keyword.col_offset)
                    self.put("min by max", node, CALLS[keyword.arg], (start, start + 3))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.put("true by false", node, str(not node.value))
        elif isinstance(node.value, int):
            self.put("off by one", node, str(node.value + 1))


def sites(root: Path, paths: Sequence[str]) -> list[Mutant]:
    """Every mutant of the files, in the order of the text."""
    files = sorted({f for p in paths for f in ([root / p] if (root / p).is_file() else (root / p).rglob("*.py"))})
    found: list[Mutant] = []
    for file in files:
        source = file.read_text(encoding="utf-8")
        visitor = Sites(str(file.relative_to(root)), source)
        visitor.visit(ast.parse(source))
        found += [m for m in visitor.found if _compiles(m.applied(source))]
    return found


def chosen(found: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """`count` mutants: operators take turns, so that rare ones are seen; the order depends on the seed alone."""
    drawn = random.Random(seed)
    by: dict[str, list[Mutant]] = {}
    for mutant in found:
        by.setdefault(mutant.operator, []).append(mutant)
    for members in by.values():
        drawn.shuffle(members)
    out: list[Mutant] = []
    while len(out) < count and any(by.values()):
        out += [members.pop() for members in by.values() if members]
    return out[:count]


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


# ---- the tests of a file ---------------------------------------------------------------------------------------------


def tests_of(root: Path, file: str) -> list[str]:
    """Arguments of pytest for a file of the package: the tests that import it, then the behaviour of the recipes that name it."""
    module = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    parent, _, stem = module.rpartition(".")
    named = re.compile(rf"{re.escape(module)}\b|from {re.escape(parent)} import [^\n]*\b{stem}\b")
    mirrored = root / "tests" / Path(file).parent.relative_to("rlent") / f"test_{stem}.py"
    loose = root / "tests" / f"test_{stem}.py"
    found = [str(p.relative_to(root)) for p in (mirrored, loose) if p.is_file()]
    for test in sorted((root / "tests").rglob("test_*.py")):
        name = str(test.relative_to(root))
        if name not in found and not LEFT_OUT.match(name) and named.search(test.read_text(encoding="utf-8")):
            found.append(name)
    recipes = recipes_of(root, module)
    behaviour = root / "tests" / "test_behaviour.py"
    if recipes and behaviour.is_file():
        found += [f"tests/test_behaviour.py::test_a_recipe_does_what_its_card_claims[{name}]" for name in recipes[:6]]
    if module.startswith("rlent.math."):  # and those of the methods that are made of it
        users = [f for f in sorted((root / "rlent" / "methods").glob("*.py")) if named.search(f.read_text(encoding="utf-8"))]
        mirrors = [f"tests/methods/test_{f.stem}.py" for f in users]
        found += [t for t in mirrors if (root / t).is_file() and t not in found][:12]
    found += [t for folder, more in MORE.items() if file.startswith(folder) for t in more if (root / t).exists() and t not in found]
    return found or [t for t in FALLBACK if (root / t).is_file()]


def recipes_of(root: Path, module: str) -> list[str]:
    """The recipes whose card puts an option file of this module in a seat."""
    options = {
        (file.parent.name, file.stem)
        for file in sorted((root / "recipes").glob("*/*.yaml"))
        if re.search(rf"^_target_: {re.escape(module)}\.", file.read_text(encoding="utf-8"), re.M)
    }
    out = []
    for card in sorted((root / "recipes" / "recipe").glob("*.yaml")):
        picks = re.findall(r"^  - override /(\w+): \[?([\w, ]+)", card.read_text(encoding="utf-8"), re.M)
        if any((seat, name.strip()) in options for seat, names in picks for name in names.split(",")):
            out.append(card.stem)
    return out


# ---- running ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What became of a mutant: `killed`, `survived`, or `untested` where the tests fail without it, too."""

    key: str
    state: str
    operator: str
    place: str
    diff: str
    command: str
    seconds: float
    detail: str


class Laboratory:
    """A scratch copy of the tree, in which one mutant at a time is alive."""

    def __init__(self, root: Path, limit: float) -> None:
        self.root, self.limit, self.sound = root, limit, dict[tuple[str, ...], float]()
        self.place = Path(tempfile.mkdtemp(prefix="mutate-"))
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True, check=True
        ).stdout
        for name in listed.splitlines():
            if (root / name).is_file():
                (self.place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / name, self.place / name)

    def close(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)

    def pytest(self, tests: Sequence[str], limit: float) -> tuple[str, str]:
        """`passed`, `failed` or `late`, and the line that says which test failed."""
        command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", *tests]
        environment = {**os.environ, "PYTHONPATH": str(self.place), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        try:
            done = subprocess.run(command, cwd=self.place, env=environment, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return "late", f"over {limit:g} s"
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return ("passed" if done.returncode == 0 else "failed"), (failed or [done.stdout.strip()[-200:]])[0][:200]

    def judge(self, mutant: Mutant) -> Result:
        tests = tests_of(self.place, mutant.file)
        file = self.place / mutant.file
        source = file.read_text(encoding="utf-8")
        began = time.monotonic()
        if tuple(tests) not in self.sound:
            passed = self.pytest(tests, 5 * self.limit)[0] == "passed"
            self.sound[tuple(tests)] = time.monotonic() - began if passed else math.inf
        if self.sound[tuple(tests)] == math.inf:
            state, detail = "untested", "the tests fail without the mutation, too"
        else:
            try:
                file.write_text(mutant.applied(source), encoding="utf-8")
                outcome, detail = self.pytest(tests, max(self.limit, 5 * self.sound[tuple(tests)]))
            finally:
                file.write_text(source, encoding="utf-8")
            state = "survived" if outcome == "passed" else "killed"
        place = f"{mutant.file}:{mutant.line}"
        command = f"pytest -q -x {' '.join(tests)}"
        return Result(mutant.key, state, mutant.operator, place, mutant.diff(source), command, round(time.monotonic() - began, 1), detail)


def results(file: Path | None) -> Iterator[Result]:
    """What an earlier call has found."""
    if file is not None and file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            yield Result(**json.loads(line))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100, help="how many mutants")
    parser.add_argument("--paths", nargs="+", default=list(PATHS), help="files and folders to mutate")
    parser.add_argument("--json", type=Path, default=None, help="a line for each mutant; a second call goes on where the first one stopped")
    parser.add_argument(
        "--limit", type=float, default=180, help="seconds for the tests of one mutant, or five times what they take without it"
    )
    parser.add_argument("--again", action="store_true", help="judge the survivors of --json again, with the tests as they are now")
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    given = parser.parse_args()
    mutants = chosen(sites(ROOT, given.paths), given.count, given.seed)
    if given.list:
        for mutant in mutants:
            print(f"{mutant.file}:{mutant.line}  {mutant.operator}\n{mutant.diff((ROOT / mutant.file).read_text(encoding='utf-8'))}")
        return 0
    known = {r.key: r for r in results(given.json) if r.state == "killed" or not given.again}
    laboratory = Laboratory(ROOT, given.limit)
    found: list[Result] = []
    try:
        for number, mutant in enumerate(mutants, 1):
            result = known.get(mutant.key)
            if result is None:
                result = laboratory.judge(mutant)
                if given.json is not None:
                    with given.json.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(result)) + "\n")
            found.append(result)
            print(
                f"{number:3}/{len(mutants)} {result.state:8} {result.seconds:6.1f} s  {result.place}  {result.operator}: {result.detail}",
                flush=True,
            )
            if result.state != "killed":
                print(f"{result.diff}\n{result.command}\n", flush=True)
    finally:
        laboratory.close()
    counts = {state: sum(r.state == state for r in found) for state in ("killed", "survived", "untested")}
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
