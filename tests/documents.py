"""Reading the documents: their code blocks, what each needs, and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NEEDS = ("a GPU", "hours", "a model", "an account")
"""What a comment before a block may say that the block needs: `<!-- needs a GPU -->`. Such a block is checked, and not run."""

_BLOCK = re.compile(r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^# ([\w./-]+\.(?:py|yaml))$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of code; `needs` is None where it must run as it stands."""

    language: str
    text: str
    needs: str | None

    @property
    def file(self) -> str | None:
        """The file that a block shows, where its first comments name one (`# my/forks.py`)."""
        named = _FILE.search(self.text) if self.language in ("python", "yaml") else None
        return named[1] if named else None

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, comments and line ends left out."""
        if self.language != "bash":
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order.

    Raises:
        ValueError: a mark that is none of `NEEDS`.
    """
    found = []
    for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        mark = match["mark"] or ""
        needs = mark.removeprefix("needs ") if mark.startswith("needs ") else None
        if needs is not None and needs not in NEEDS:
            raise ValueError(f"{page.name}: '{mark}' is none of: {', '.join(NEEDS)}")
        found.append(Block(match["language"], match["text"], needs))
    return found


def prose(page: Path) -> str:
    """A page without code blocks, comments, pictures and the targets of links."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    text = re.sub(r"<!--.*?-->|!\[[^\]]*\]\([^)]*\)", "", text, flags=re.DOTALL)
    return re.sub(r"\]\([^)]*\)", "]", text)


def links(page: Path) -> list[str]:
    """Where a page's links and pictures point; brackets inside `code` are none."""
    text = re.sub(r"`[^`\n]*`", "", _BLOCK.sub("", page.read_text(encoding="utf-8")))
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings make."""
    titles = re.findall(r"^#+ (.+)$", _BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def rows(page: Path, first: str) -> list[list[str]]:
    """The cells of the table whose header begins with `first`."""
    lines = page.read_text(encoding="utf-8").splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    found = []
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found
