"""The page of a kept step: what it says, and that a browser shows it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from runs import train

from rlent.analysis.inspection import choose
from rlent.cli import commands
from rlent.errors import UsageError
from rlent.runs import kept as frozen

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect") / "run"
    more = [
        "trainer.steps=2",
        "track.save_batches=2",
        "sampler.n=16",
        "sampler.max_tokens=16",
        "shape.clip_cov.fraction=0.1",
        "shape.clip_cov.low=0",
    ]
    return train(folder, "recipe=clipcov", *more)


@pytest.fixture(scope="module")
def page(kept: Path) -> Path:
    out = kept.parent / "page.html"
    recipe = ["regularize.kl_cov.fraction=0.05"]
    assert commands.inspect(str(kept), recipe, step=2, methods="klcov,siren", out=str(out)) == 0
    return out


def data_of(page: Path) -> dict[str, Any]:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)[1])


def test_the_page_holds_the_step_s_numbers(kept: Path, page: Path) -> None:
    data, batch = data_of(page), frozen.load(kept / "batches" / "step_000002.safetensors")
    assert len(data["rows"]) == 32 and data["title"] == "clipcov, step 2"
    for row in data["rows"]:
        (i,) = [i for i in range(len(batch)) if int(batch["group"][i]) == row["group"] and int(batch["sample"][i]) == row["sample"]]
        n = int(batch["length"][i])
        assert "".join(row["tokens"]).removesuffix("<eos>") == batch["response"][i] and row["ids"] == batch["tokens"][i, :n].tolist()
        assert row["values"]["entropy"] == pytest.approx(batch["old_entropy"][i, :n].tolist(), rel=1e-3, abs=1e-9)
        assert row["values"]["change"] == pytest.approx((batch["after_entropy"] - batch["old_entropy"])[i, :n].tolist(), rel=1e-3, abs=1e-9)
        assert row["values"]["weight"] == batch["update0:weight"][i, :n].tolist()  # the run's own: 0 where Clip-Cov dropped the token
        assert [bool(m & 1) for m in row["marks"]["run (clipcov)"]] == [w == 0 for w in row["values"]["weight"]]


def test_methods_are_marked_and_a_missing_stream_is_said(page: Path) -> None:
    data = data_of(page)
    methods = {m["name"]: m for m in data["methods"]}
    assert set(methods) == {"run (clipcov)", "klcov", "siren"} and "nucleus_entropy" in methods["siren"]["reason"]
    assert methods["klcov"]["selected"] > 0.02 and any(m & 1 for row in data["rows"] for m in row["marks"]["klcov"])
    assert [c["name"] for c in data["colours"]] == ["entropy", "probability", "covariance", "advantage", "weight", "pull", "change"]
    assert all(c["meaning"] and c["high"] > c.get("low", c.get("middle")) for c in data["colours"])


def test_nothing_comes_from_outside_and_text_cannot_break_out(page: Path, kept: Path, tmp_path: Path) -> None:
    text = page.read_text()
    assert not re.search(r"(?:src|href)\s*=|url\(|@import|https?://|fetch\(|XMLHttp", text)
    batch = frozen.load(kept / "batches" / "step_000002.safetensors")
    batch["prompt"][0] = "</script><script>document.title='broken'</script>\u2028"
    frozen.save(batch, tmp_path / "run" / "batches" / "step_000002.safetensors")
    for name in ("recipe.yaml", "run.json"):
        shutil.copy(kept / name, tmp_path / "run" / name)
    assert commands.inspect(str(tmp_path / "run"), [], rows=1000) == 0
    made = (tmp_path / "run" / "inspect" / "step_000002.html").read_text()
    block = made.split('id="data">')[1].split("</script>")[0]
    assert "document.title='broken'" in block and not set("<>&\u2028") & set(block)  # nothing in it can end the block, or a line of script


def test_prompts_that_taught_something_come_first(kept: Path) -> None:
    batch = frozen.load(kept / "batches" / "step_000002.safetensors")
    order = [int(g) for g in batch["group"][choose(batch, 10_000)]]
    mixed = {
        g for g in set(order) if len({r for r, h in zip(batch["reward"].tolist(), batch["group"].tolist(), strict=True) if h == g}) > 1
    }
    assert len(order) == len(batch) and mixed and len(mixed) < 4
    firsts = list(dict.fromkeys(order))
    assert set(firsts[: len(mixed)]) == mixed


def test_nothing_is_overwritten(page: Path, kept: Path) -> None:
    with pytest.raises(UsageError, match="nothing is overwritten"):
        commands.inspect(str(kept), [], out=str(page))
    for name in ("step_000002.html", "step_000002-2.html"):
        assert commands.inspect(str(kept), [], rows=1) == 0
        assert (kept / "inspect" / name).is_file()


PROBE = """
<script>
const errors = [];
addEventListener("error", e => errors.push(e.message));
addEventListener("load", () => {
  const seen = () => [...document.querySelectorAll(".t")].map(e => getComputedStyle(e).backgroundColor + e.className);
  const found = {tokens: document.querySelectorAll(".t").length, views: {}};
  for (const b of document.querySelectorAll("#colours button, #acts button:not(:disabled)")) { b.click(); found.views[b.dataset.name] = [b.getAttribute("aria-pressed"), document.getElementById("legend").textContent, seen()]; }
  const span = document.querySelector(".t");
  span.dispatchEvent(new MouseEvent("mousemove", {bubbles: true, clientX: 50, clientY: 50}));
  found.tip = document.getElementById("tip").hidden ? "" : document.getElementById("tip").textContent;
  [...document.querySelectorAll("#shown button")].find(b => b.dataset.name === "correct").click();
  found.shown = [...document.querySelectorAll(".response")].filter(a => a.getClientRects().length).map(a => a.dataset.correct);
  found.wide = document.documentElement.scrollWidth <= innerWidth;
  found.errors = errors;
  const out = document.createElement("pre"); out.id = "probe"; out.textContent = JSON.stringify(found); document.body.append(out);
});
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here; apt-get install chromium (or google-chrome) brings this test back")
def test_a_browser_shows_the_tokens_and_switches_their_colours(page: Path, tmp_path: Path) -> None:
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace('<script type="application/json"', f'{PROBE}<script type="application/json"', 1))
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([str(BROWSER), *flags, "--dump-dom", probed.as_uri()], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)[1]))
    data = data_of(page)
    assert found["errors"] == [] and found["tokens"] == sum(len(r["tokens"]) for r in data["rows"]) and found["wide"]
    views = found["views"]
    assert set(views) == {*(c["name"] for c in data["colours"]), "run (clipcov)", "klcov"}
    assert all(pressed == "true" and legend for pressed, legend, _ in views.values())
    assert len({json.dumps(view[2]) for view in views.values()}) == len(views)  # every view colours the tokens otherwise
    assert "nats" in views["entropy"][1] and "entropy" in found["tip"] and "klcov" in found["tip"]
    marked = [i for i, m in enumerate(m for r in data["rows"] for m in r["marks"]["klcov"]) if m & 1]
    assert marked == [i for i, look in enumerate(views["klcov"][2]) if re.search(r"\bsel\b", look)]
    assert found["shown"] and set(found["shown"]) == {"true"}
