"""Option files and cards: they list exactly what their functions take, and claim only what is there."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlent.metrics.definitions import explain
from rlent.recipe.mount import locate
from rlent.recipe.option_types import check_options, options_of, positional
from rlent.seats import RUNNER_KEYS, SEATS
from rlent.streams import DRIVER, RULE, STREAMS
from rlent.verify.compare import states

RECIPES = Path(__file__).parents[2] / "recipes"
GOLDEN = Path(__file__).parents[1] / "golden"
METHOD_SEATS = ("decode", "reward", "advantage", "shape", "loss", "regularize", "control", "probe")
FILES = [f for seat in METHOD_SEATS for f in sorted((RECIPES / seat).glob("*.yaml"))]
CARDS = sorted((RECIPES / "recipe").glob("*.yaml"))
TOY = re.compile(r"^\$\{toy:(.+),(.+)\}$")


def named(file: Path) -> str:
    return f"{file.parent.name}/{file.stem}"


def node(file: Path) -> dict[str, Any]:
    """The node of an option file; files of list seats hold one under its own name."""
    raw = yaml.safe_load(file.read_text())
    if not SEATS[file.parent.name].many:
        return raw
    assert list(raw) == [file.stem], "a file of a list seat nests its node under the file's name"
    return raw[file.stem]


def maker(spec: dict[str, Any]) -> Any:
    target = locate(spec["_target_"])
    return target.__init__ if isinstance(target, type) else target


def paper(value: Any) -> Any:
    """The value for a real model."""
    match = TOY.match(value) if isinstance(value, str) else None
    return yaml.safe_load(match[2]) if match else value


def value_of(path: str) -> Any:
    """`shape.clip_cov.fraction`, or `loss.clip_higher.low` for a seat that holds one thing: the value for a real model."""
    seat, name, option = path.split(".")
    return paper(node(RECIPES / seat / f"{name}.yaml")[option])


@pytest.mark.parametrize("file", FILES, ids=named)
def test_every_option_is_listed_and_no_other(file):
    spec = node(file)
    assert {k for k in spec if k not in RUNNER_KEYS} == set(options_of(maker(spec)))


@pytest.mark.parametrize("file", FILES, ids=named)
def test_values_are_accepted_for_the_tiny_and_the_real_model(file):
    spec = node(file)
    options = {
        k: v for k, v in spec.items() if k not in RUNNER_KEYS and not (isinstance(v, str) and v.startswith("${") and not TOY.match(v))
    }
    tiny = {k: yaml.safe_load(TOY.match(v)[1]) if isinstance(v, str) and TOY.match(v) else v for k, v in options.items()}
    for given in (tiny, {k: paper(v) for k, v in options.items()}):
        problems = check_options(named(file), maker(spec), given, spec["_target_"])
        assert [p for p in problems if "needs option" not in p] == []


@pytest.mark.parametrize("file", FILES, ids=named)
def test_every_option_has_a_remark(file):
    spec = node(file)
    lines = file.read_text().splitlines()
    assert lines[0].startswith("# ")
    for option in options_of(maker(spec)):
        (line,) = [text for text in lines if text.strip().startswith(f"{option}:")]
        assert "#" in line, f"{option} has no remark"


@pytest.mark.parametrize("file", FILES, ids=named)
def test_functions_read_known_streams(file):
    spec = node(file)
    target = locate(spec["_target_"])
    made = {
        "logits",
        "target",
        "hidden",
        "ref_logp",
        "rm_logp",
        "ref_reward",
        "aer_difficulty",
        "forking_selected",
        "hapo_score",
        "metrics",
        "inner",
        "unembed",
    }
    probes = {f.stem for f in FILES if f.parent.name == "probe"}
    made |= {f"{when}_{name}" for when in ("old", "now") for name in probes} | probes
    reads = positional(target.__call__ if isinstance(target, type) else target)
    if file.parent.name == "decode":
        reads = [spec.get("streams", {}).get(r, r) for r in reads]
        assert set(reads) <= set(DRIVER if "requests" in reads else {*RULE, *(r for r in reads if r.endswith("_logits"))})
        return
    own = (f.stem for f in FILES if f.parent.name in ("shape", "reward", "decode"))
    nodes = ("advantage", *(f"old_{name}" for name in probes), *own)
    made |= {s for s in reads if s.startswith(tuple(f"{name}_" for name in nodes))}
    assert set(reads) <= {*STREAMS, *made}
    assert not [s for s in reads if f"now_{s}" in reads]


@pytest.mark.parametrize("card", CARDS, ids=lambda f: f.stem)
def test_a_card_sets_no_option_inside_a_seat(card):
    raw = yaml.safe_load(card.read_text())
    assert not set(raw) & set(SEATS)
    for choice in raw.get("defaults", []):
        ((group, names),) = choice.items()
        for name in names if isinstance(names, list) else [names] if names else []:  # null: the seat stays empty
            assert (RECIPES / group.removeprefix("override /") / f"{name}.yaml").is_file(), f"{group}: {name}"


@pytest.mark.parametrize("card", [c for c in CARDS if c.stem != "grpo"], ids=lambda f: f.stem)
def test_a_card_opens_with_what_it_changes_and_what_to_expect(card):
    lines = card.read_text().splitlines()
    assert lines[0] == "# @package _global_"  # Hydra reads the first 512 characters only, and else misses it without a word
    head = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    assert "arXiv:" in head or re.search(r"\b20\d\d\b", head)  # a paper, or a publication by authors and year
    assert "Differs from grpo in" in head
    assert "You should see:" in head


@pytest.mark.parametrize("card", CARDS, ids=lambda f: f.stem)
def test_a_card_is_complete(card):
    about = yaml.safe_load(card.read_text())["card"]
    assert {"name", "paper", "authors_code", "state", "faithful", "effect", "watch", "inert", "golden"} <= set(about)


@pytest.mark.parametrize("card", CARDS, ids=lambda f: f.stem)
def test_a_card_names_metrics_that_exist(card):
    watch = yaml.safe_load(card.read_text())["card"]["watch"]
    assert [name for name in watch if explain(name) is None] == []


GOLDEN_BLOCKS = {
    method: (card.stem, block or {}) for card in CARDS for method, block in yaml.safe_load(card.read_text())["card"]["golden"].items()
}


@pytest.mark.parametrize("method", sorted(GOLDEN_BLOCKS))
def test_every_option_of_a_vector_is_mapped_or_ignored_for_a_reason(method):
    _, found = GOLDEN_BLOCKS[method]
    parts = found if isinstance(found, list) else [found]
    block = {k: v for part in parts for k, v in part.items()} | {"ignore": {k for part in parts for k in part.get("ignore", {})}}
    files = sorted(GOLDEN.glob(f"{method}_[0-9]*.json"))
    assert files, f"no vectors for {method}"
    for file in files:
        missing = set(json.loads(file.read_text())["config"]) - set(block) - set(block.get("ignore", {}))
        assert not missing, f"{file.name}: {sorted(missing)}"


@pytest.mark.parametrize("method", sorted(GOLDEN_BLOCKS))
def test_every_output_a_block_names_is_in_some_vector(method):
    _, found = GOLDEN_BLOCKS[method]
    parts = found if isinstance(found, list) else [found]
    outputs = [json.loads(file.read_text())["outputs"] for file in GOLDEN.glob(f"{method}_[0-9]*.json")]
    named = [name for part in parts for key in ("outputs", "state", "gradients") for name in part.get(key) or {}]
    assert [n for n in named if not any(states(o, n) for o in outputs)] == []


NUMBERS = {
    "advantage.grpo.epsilon": 1e-6,
    "advantage.grpo_batch_std.epsilon": 1e-4,
    "advantage.qae.quantile": 0.4,
    "advantage.reinforce_pp.gamma": 1.0,
    "loss.ppo_clip.low": 0.2,
    "loss.ppo_clip.high": 0.2,
    "loss.ppo_clip.dual": 3.0,
    "loss.clip_higher.low": 0.2,
    "loss.clip_higher.high": 0.28,
    "loss.clip_higher.dual": 10.0,
    "loss.ppo_wide.low": 1.0,
    "loss.ppo_wide.high": 1.0,
    "loss.ppo_wide.dual": None,
    "loss.ce_gppo.beta_low": 0.75,
    "loss.ce_gppo.beta_high": 1.0,
    "loss.ce_gppo.dual": 10.0,
    "loss.cispo.low": 10.0,
    "loss.cispo.high": 0.2,
    "loss.bapo.target": 1.0,
    "loss.bapo.low_start": 0.6,
    "loss.bapo.low_max": 0.8,
    "loss.bapo.low_step": 0.05,
    "loss.bapo.high_start": 1.2,
    "loss.bapo.high_max": 2.0,
    "loss.bapo.high_step": 0.05,
    "loss.gppo.beta_low": 1.0,
    "loss.gppo.beta_high": 1.0,
    "loss.gspo.low": 3e-4,
    "loss.gspo.high": 4e-4,
    "loss.gmpo.low": 0.4,
    "loss.gmpo.high": 0.4,
    "loss.sapo.tau_pos": 1.0,
    "loss.sapo.tau_neg": 1.05,
    "reward.overlong_soft.buffer": 4096,
    "reward.overlong_soft.penalty": 1.0,
    "shape.clip_cov.fraction": 2e-4,
    "shape.clip_cov.low": 1.0,
    "shape.clip_cov.high": 5.0,
    "shape.erc.low": 0.95,
    "shape.erc.high": 1.05,
    "shape.steer.least": 0.8,
    "shape.steer.most": 1.2,
    "shape.steer.floor": 0.02,
    "shape.forking.share": 0.2,
    "shape.hapo.pivot": 0.8,
    "loss.hapo.alpha": 1.0,
    "advantage.hapo.fallback": 5.0,
    "shape.lp_reg.rho_neg": 0.01,
    "loss.lp_reg.high": 9.0,
    "regularize.lp_reg.coef": 1.0,
    "probe.lp_proxy.threshold": 0.02,
    "shape.era.h_low": 0.45,
    "shape.era.h_high": 3.0,
    "shape.era.share": 0.2,
    "probe.era_sharp.factor": 2.0,
    "probe.era_sharp.top": 20,
    "shape.espo.alpha": 0.02,
    "shape.espo.share": 0.2,
    "shape.empg.zeta": 0.1,
    "advantage.copo.k": 5.0,
    "advantage.copo.b": 1.0,
    "advantage.aapo.low": -0.2,
    "advantage.aapo.high": 0.28,
    "probe.erank.stride": 40,
    "advantage.erank.gain": 2.0,
    "advantage.erank.kappa": 2.0,
    "advantage.erank.ema_alpha": 0.3,
    "advantage.riskpo.bundle_size": 5,
    "advantage.riskpo.quantile_down": 0.2,
    "advantage.riskpo.quantile_up": 0.8,
    "advantage.riskpo.rate": 0.1,
    "advantage.riskpo.w_mix": 1.5,
    "shape.aer.threshold": 0.5,
    "regularize.kl_cov.fraction": 2e-3,
    "regularize.kl_cov.coef": 1.0,
    "regularize.aent.coef": 2e-4,
    "probe.clamped_entropy.removed": 0.3,
    "control.aent.rate": 1e-3,
    "control.aent.low": 0.05,
    "control.aent.high": 0.23,
    "control.aent.least": 1e-5,
    "control.aent.most": 3e-3,
    "control.aent.warmup": 29,
    "regularize.siren.quantile": 0.8,
    "regularize.siren.coef": 0.005,
    "regularize.positive_nll.coef": 0.1,
    "probe.nucleus_entropy.top_p": 0.8,
    "probe.nucleus_entropy.top_k": 10000,
    "control.aer.share": 0.4,
    "control.aer.gain": 0.005,
    "control.aer.high": 0.05,
    "control.entropic.target": 0.1,
    "control.entropic.kp": 1.0,
    "control.entropic.ki": 0.01,
    "regularize.entropic.threshold": 0.95,
    "control.adaptive_entropy.target": 0.2,
    "control.adaptive_entropy.delta": 5e-3,
    "control.adaptive_kl.target": 0.1,
    "control.adaptive_kl.horizon": 10000,
    "regularize.epo.low": 0.8,
    "regularize.epo.high": 1.2,
    "regularize.epo.cost": 0.1,
    "regularize.epo.coef": 1e-3,
    "shape.epo.epochs": 150,
    "control.aepo.hot": 1.2,
    "control.aepo.cold": 0.8,
    "shape.aepo.most": 60,
    "shape.aepo.threshold": 0.05,
    "shape.dcpo.cap": 0.1,
    "reward.rent.entropy_base": 7.0,
    "reward.empo_freeform.copied": 0.8,
    "reward.empo_freeform.least": 0.2,
    "reward.pear.alpha": 1.0,
    "probe.tempered_entropy.heat": 0.5,
    "advantage.prime.beta": 0.05,
    "advantage.prime.process": 5.0,
    "loss.bupo.dual": 10.0,
    "control.bupo.steps": 30,
    "reward.ares.window": 4,
    "decode.ettrl_tree.forks": 2,
    "decode.ettrl_tree.branches": 2,
    "shape.srft.scale": 0.1,
    "regularize.demonstration_nll.coef": 0.5,
    "shape.spear.most": 1.0,
    "shape.spear.rise": 200.0,
    "shape.spear_clip.fraction": 0.02,
    "shape.spear_clip.low": 1.0,
    "shape.spear_clip.high": 40.0,
    "reward.ares.percentile": 95.0,
    "shape.ares_kl.interval": 100,
    "shape.ares_kl.target": 0.01,
}


@pytest.mark.parametrize(("path", "number"), NUMBERS.items(), ids=NUMBERS)
def test_numbers_for_a_real_model_are_the_authors(path, number):
    assert value_of(path) == number
