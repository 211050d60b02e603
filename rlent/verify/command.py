"""`rlent verify`: vectors of the authors' own functions, run through the composed recipes.

A vector file names a method; the method's card says in its `golden:` block which recipe to compose and which option each
of the file's options is. The objective, advantage, reward, filter or metric of that recipe is the one the loop uses. Grammar of
a block:

    method:
      with: [loss=ppo_clip, loss.dual=null]     overrides of the recipe
      option_of_file: seat.node.option          its value is given to this option
      option_of_file: {option: [path, path]}    its value is given to several
      option_of_file: {option: path, values: {theirs: ours}}
      option_of_file: {values: {theirs: [overrides]}}
      option_of_file: {option: path, shift: number}   its value plus the number
      option_of_file: {stream: name}            its value is a stream (with `option`: an option as well)
      option_of_file: {argument: name}          with `method`: its value is given at each call
      inputs: {name_in_file: stream}            where the usual names do not fit; a list feeds several streams
      outputs: {name_in_file: stream}           further results to compare
      rename: {loss: name_in_file}              where a file states a second loss or gradient
      inputs: {name_in_file: {stream: name, values: {theirs: ours}}}   the same, translated value by value
      inputs: {name_in_file: {option: path}}    its value is given to an option
      node: regularize.kl                       one function instead of the whole objective
      node: decode.edt                          a decode function: on `logits`, after the recipe's controllers have read their streams;
                                                `tempered` is logits / temperature. If it drives the engine: on one request, with the
                                                model that the file's logit tables make
      node: reward.rent                         one reward: `outputs` names `reward`, `token_reward`, `adv`, what the function returns
                                                (`value`), or a number of the step (`metric:vote/ratio`)
      node: control.aent                        a controller: called for each element of its inputs, from step `first_step` (1) on
      call: package.module.function             a function of the method; options and inputs become its arguments by name,
                                                `each: input` calls it once for each element of that input; `gradients:
                                                {name_in_file: {of: result, by: input}}`, perhaps `abs_sum: true` or a `column`
      method: name                              with `node` or a class under `call`: this method is called for each element of the
                                                inputs (numbers, or mappings of arguments); `each` among `outputs` is the list of
                                                answers, and `state: {name_in_file: attribute}` what the object holds at the end
      one_group: true                           all rows of the file answer one prompt
      equal: exact | casefold                   makes the stream `same`: answers are equal when their texts are, or when the ordered
                                                pair (earlier, later) is in the file's `extra_pairs`; no answer equals none
      skip: [name_in_file, ...]                 inputs this block does not need
      as: loss                                  the kind of vector this is to be checked as
      at_start: true                            `old_logp` and `old_entropy` are made from the file's logits and labels
      ignore: {option_of_file: reason}

A block may be a list of blocks; each checks its share of the outputs, and an option is known if one of them knows it. Names in `outputs`
may be dotted (`trl.reward`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rlent.errors import RlentError, UsageError, did_you_mean
from rlent.math.entropy import entropy_from_logits
from rlent.metrics import step_metrics
from rlent.recipe.compose import Recipe, build, groups, load
from rlent.recipe.knobs import Knobs
from rlent.recipe.mount import Node, locate, mount, signature
from rlent.system.paths import recipes_dir
from rlent.train.calls import View
from rlent.train.credit import add_advantage, add_reward, at_the_end
from rlent.train.objective import Objective
from rlent.types import Batch, Request, Rollouts
from rlent.verify.peers import golden_metric

RTOL, ATOL = 1e-6, 1e-8
METRICS = frozenset({"pass_at_k", "maj_at_k", "avg_at_k", "best_at_n_bootstrap", "binomial_interval"})
NAMES = {
    "log_prob": "logp",
    "old_log_prob": "old_logp",
    "ref_log_prob": "ref_logp",
    "advantages": "adv",
    "rewards": "reward",
}
AGGREGATES = {
    "token-mean": "token_mean",
    "seq-mean-token-mean": "seq_mean",
    "seq-mean-token-sum": "seq_sum",
    "seq-mean-token-sum-norm": "constant",
}
COMMON: dict[str, Any] = {
    "agg_mode": "objective.aggregate",
    "loss_agg": "objective.aggregate",
    "agg_norm": "objective.length",
    "log_ratio_clamp": "loss.clamp",
    "temperature": {"stream": "temperature"},
}
"""Options of the files that mean the same everywhere, where a block does not say otherwise."""

_BLOCK_KEYS = frozenset(
    "with first_step inputs outputs rename node call each method state gradients one_group equal skip as at_start ignore".split()
)
_WHOLE_NUMBERS = frozenset({"group", "bundle", "sample", "step", "trajectory", "turn", "first", "last"})
_ROW_STREAMS = frozenset({"reward", "group", "length", "correct"})


@dataclass
class Check:
    """One vector's result: the largest error, how many comparisons there were, and what failed."""

    file: str
    method: str
    reference: str
    error: float = 0.0
    compared: int = 0
    failures: list[str] = field(default_factory=list)

    def compare(self, name: str, found: Any, expected: Any, rtol: float = RTOL, atol: float = ATOL) -> None:
        """Compare numbers, element by element; a mismatch is a failure with its place."""
        self.compared += 1
        a, b = np.asarray(_plain(found), dtype=float), np.asarray(_plain(expected), dtype=float)
        if a.shape != b.shape:
            self.failures.append(f"{name}: shape {a.shape}, expected {b.shape}")
            return
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        gap = np.where(same, 0.0, np.abs(a - b))
        gap = np.where(np.isnan(gap), np.inf, gap)
        self.error = max(self.error, float(gap.max(initial=0.0)))
        bad = gap > atol + rtol * np.abs(b)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            where = f" at {list(at)}" if at else ""
            self.failures.append(f"{name}{where}: {a[at]:.10g}, expected {b[at]:.10g} ({int(bad.sum())} of {a.size} differ)")


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    return value


@dataclass(frozen=True)
class Golden:
    """A card's blocks for one method of the vectors."""

    recipe: str
    parts: Sequence[Mapping[str, Any]]

    @property
    def known(self) -> set[str]:
        """Options of the file that some part maps or ignores."""
        return {k for part in self.parts for k in (*part, *(part.get("ignore") or {}))} - _BLOCK_KEYS


def blocks(config_dirs: Sequence[str] = ()) -> dict[str, Golden]:
    """Every method that some card can verify."""
    found: dict[str, Golden] = {}
    for name, file in groups(config_dirs).get("recipe", {}).items():
        card = (yaml.safe_load(file.read_text()) or {}).get("card") or {}
        for method, block in (card.get("golden") or {}).items():
            found[method] = Golden(name, block if isinstance(block, list) else [block or {}])
    return found


def check_file(file: Path, known: Mapping[str, Golden], config_dirs: Sequence[str] = ()) -> Check:
    """Run one vector file."""
    vector = json.loads(file.read_text())
    method = vector["method"]
    reference = vector.get("reference", "")
    check = Check(file.name, method, _reference(reference))
    try:
        if vector["kind"] == "metric" and method in METRICS:
            _check_metric(vector, check)
        elif method not in known:
            check.failures.append(f"no card verifies '{method}'{did_you_mean(method, known)}")
        else:
            for part in known[method].parts:
                Case(vector, known[method], part, config_dirs).run(check)
    except (RlentError, KeyError, ValueError, TypeError, RuntimeError, IndexError) as error:
        check.failures.append(f"{type(error).__name__}: {str(error).strip()}")
    if not check.compared and not check.failures:
        check.failures.append(f"the golden block compares none of the file's outputs ({', '.join(vector['outputs'])})")
    return check


def _check_metric(vector: Mapping[str, Any], check: Check) -> None:
    found = golden_metric(vector["method"], vector.get("config") or {}, vector["inputs"])
    tolerance = vector.get("tolerance", 1e-9)

    def walk(name: str, ours: Any, theirs: Any, limit: Any) -> None:
        if isinstance(theirs, Mapping):
            for key, value in theirs.items():
                if key not in ours:
                    check.failures.append(f"{name}{key}: not computed")
                    continue
                walk(f"{name}{key}/", ours[key], value, limit.get(key, 1e-9) if isinstance(limit, Mapping) else limit)
        else:
            rtol = float(limit) if not isinstance(limit, Mapping) else 1e-9
            check.compare(name.rstrip("/"), ours, theirs, rtol=rtol, atol=rtol)

    walk("", found, vector["outputs"], tolerance)


class Case:
    """A vector mapped onto a composed recipe."""

    def __init__(self, vector: Mapping[str, Any], golden: Golden, block: Mapping[str, Any], config_dirs: Sequence[str]) -> None:
        self.vector, self.block = vector, block
        self.streams: dict[str, Any] = {}
        self.arguments: dict[str, Any] = {}
        self.aggregate: str | None = None
        self.norm: float | None = None
        self.verl_norm = False
        overrides = [f"recipe={golden.recipe}", *(self.block.get("with") or [])]
        unknown, switches = [], []
        for key, value in (vector.get("config") or {}).items():
            rule = self.block.get(key, ...)
            if rule is ... and key not in golden.known and "call" not in self.block:
                rule = COMMON.get(key, ...)
            if rule is ... or key in _BLOCK_KEYS:
                if key not in golden.known:
                    unknown.append(key)
                continue
            found = self._apply(key, rule, value)
            whole = isinstance(rule, Mapping) and "option" not in rule
            (switches if whole else overrides).extend(found)  # what switches a part off comes after the numbers of the part
        overrides += switches
        for key, rule in (self.block.get("inputs") or {}).items():
            if isinstance(rule, Mapping) and "option" in rule and key in vector["inputs"]:
                overrides.append(f"{rule['option']}={_text(vector['inputs'][key])}")
        if unknown:
            raise UsageError(f"the card does not say what {', '.join(unknown)} means (golden block of recipe {golden.recipe})")
        self.recipe: Recipe = load(overrides, config_dirs)
        self.inputs = self._inputs()

    def _apply(self, key: str, rule: Any, value: Any) -> list[str]:
        """The overrides an option of the file stands for."""
        if "call" in self.block:
            self.arguments[rule] = value
            return []
        if isinstance(rule, Mapping) and "stream" in rule:
            self.streams[rule["stream"]] = value
            if "option" not in rule:
                return []
        if isinstance(rule, Mapping) and "values" in rule:
            table = {_key(k): v for k, v in rule["values"].items()}
            if _key(value) in table:
                value = table[_key(value)]
                if isinstance(value, list):
                    return [str(v) for v in value]
            elif "option" not in rule or not isinstance(value, int | float) or isinstance(value, bool):
                raise UsageError(f"{key}={value!r} is not among the values the card translates ({', '.join(table)})")
        if isinstance(rule, Mapping) and "shift" in rule and value is not None:
            value = value + rule["shift"]
        if isinstance(rule, Mapping) and "argument" in rule:
            self.arguments[rule["argument"]] = value
            return []
        option = rule["option"] if isinstance(rule, Mapping) else rule
        if isinstance(option, list):
            return [f"{o}={_text(value)}" for o in option]
        if option == "objective.aggregate":
            self.verl_norm = value == "seq-mean-token-sum-norm"
            self.aggregate = AGGREGATES.get(value, value)
            return []
        if option == "objective.length":
            self.norm = value
            return []
        return [f"{option}={_text(value)}"]

    def _inputs(self) -> dict[str, Any]:
        renamed = {**NAMES, **(self.block.get("inputs") or {})}
        out: dict[str, Any] = {}
        for name, value in self.vector["inputs"].items():
            stream = renamed.get(name, name)
            if name in (self.block.get("skip") or ()) or (isinstance(stream, Mapping) and "option" in stream):
                continue
            if isinstance(stream, list):
                out.update(dict.fromkeys(stream, _tensor(value)))
                continue
            if isinstance(stream, Mapping):
                table = {_key(k): v for k, v in stream.get("values", {}).items()}
                if isinstance(value, str):
                    value = [value] * max(len(v) for v in self.vector["inputs"].values() if isinstance(v, list))
                value = [v if (k := _key(v if isinstance(v, str) or v is None else int(v))) not in table else table[k] for v in value]
                stream = stream["stream"]
            out[stream] = [[bool(x) for x in row] for row in value] if stream == "same" else _tensor(value)
            if stream in _WHOLE_NUMBERS and isinstance(out[stream], Tensor):
                out[stream] = out[stream].long()
        if "equal" in self.block:
            fold = str.casefold if self.block["equal"] == "casefold" else str
            out["same"] = _same([a and fold(a) for a in out["answer"]], out.pop("extra_pairs", None) or [])
        if self.block.get("at_start"):
            table = out["logits"].log_softmax(-1)
            out["old_logp"] = table.gather(-1, out["labels"].long()[..., None])[..., 0]
            out["old_entropy"] = entropy_from_logits(out["logits"])
        if "gold" in out and "correct" not in out:
            pairs = zip(out["answer"], out["gold"], strict=True)
            out["correct"] = torch.tensor([bool(a) and a == g for a, g in pairs])
        if "answer" in out:
            out["answer_id"] = torch.tensor(_numbered(out["answer"]))
        if self.block.get("one_group"):
            out["group"] = torch.zeros(_rows(out))
        return out

    # ---- kinds ---------------------------------------------------------------------------------------------------

    def run(self, check: Check) -> None:
        kind = self.block.get("as") or self.vector["kind"]
        if "method" in self.block:
            self._method(check)
        elif "node" in self.block:
            self._node(check)
        elif "call" in self.block:
            self._call(check)
        elif kind in ("policy_loss", "logits_loss", "loss"):
            for cut in (False, True):
                self._objective(check, cut)
        elif kind == "selection_property":
            self._selection(check)
        elif kind == "advantage":
            self._advantage(check)
        else:
            check.failures.append(f"no rule for vectors of kind '{kind}'")

    def batch(self, seed: int = 0) -> Batch:
        """The vector's streams as a batch; what it does not state is plain (all rows train, weight 1)."""
        mask = self.inputs["mask"].bool() if "mask" in self.inputs else None
        if mask is None:
            wide = [v for v in self.inputs.values() if isinstance(v, Tensor) and v.ndim == 2]
            mask = torch.ones(wide[0].shape if wide else (_rows(self.inputs), 1), dtype=torch.bool)
        rows = len(mask)
        zeros = torch.zeros(mask.shape, dtype=torch.float64)
        group = self.inputs.get("group")
        streams = {
            "adv": zeros,
            "train": torch.ones(rows, dtype=torch.bool),
            "problem_key": torch.arange(rows),
            "sample": torch.zeros(rows, dtype=torch.long) if group is None else _place_in_group(group),
            "step": 1,
            "steps": 1,
            "seed": seed,
            "temperature": 1.0,
            "max_tokens": mask.shape[1],
            "length": mask.sum(1),
            **self.inputs,
            **self.streams,
            "mask": mask,
            "group": torch.arange(rows) if group is None else group.long(),
        }
        for name in ("old_logp", "old_entropy"):
            streams.setdefault(name, zeros)
        streams["adv"] = streams["adv"] * mask
        return Batch({k: v for k, v in streams.items() if k not in ("logits", "labels")})

    def objective(self, batch: Batch) -> Objective:
        empty = bool(self.recipe["objective"]["empty_rows"])
        length = float(self.norm or self.recipe["objective"]["length"] or batch.width)
        if self.norm is None and self.aggregate == "constant":
            length = float(batch.width)
        if self.verl_norm and self.aggregate == "constant" and not self._own_constant():
            rows = len(batch) if empty else int(batch["mask"].any(1).sum())
            length /= max(rows, 1)  # verl divides by the constant alone, not by the rows
        how = self.aggregate or self.recipe["objective"]["aggregate"]
        return Objective(self.recipe.plan, aggregate=how, length=length, empty_rows=empty)

    def _own_constant(self) -> bool:
        rule = self.block.get("agg_mode")
        return isinstance(rule, Mapping) and "values" in rule

    def _live(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Live streams [N,T] with gradient, and the leaves whose gradients the file may state."""
        if "logits" not in self.inputs:
            leaves = {k: self.inputs[k].clone().requires_grad_(True) for k in ("logp", "entropy") if k in self.inputs}
            return dict(leaves), {{"logp": "grad_log_prob", "entropy": "grad_entropy"}[k]: v for k, v in leaves.items()}
        raw = self.inputs["logits"].clone().requires_grad_(True)
        logits = raw / float(batch["temperature"])
        target = self.inputs["labels"].long()
        live = {
            "logp": logits.log_softmax(-1).gather(-1, target[..., None])[..., 0],
            "entropy": entropy_from_logits(logits),
        }
        for probe in self.recipe.plan.nodes["probe"]:
            live[probe.name] = self._probed(probe, raw, batch)
        mask = batch["mask"]
        return {k: torch.where(mask, v, v.new_zeros(())) for k, v in live.items()}, {"grad_logits": raw}

    def _probed(self, probe: Node, raw: Tensor, batch: Batch) -> Tensor:
        """A probe's answer on the file's logits, at the temperature, by token [N,T]."""
        target = self.inputs["labels"].long()
        plain = {k: v for k, v in batch.streams.items() if not isinstance(v, Tensor)}
        flat: Tensor = probe({"logits": (raw / float(batch["temperature"])).flatten(0, 1), "target": target.flatten(), **plain})
        return flat.view(target.shape)

    def _renamed(self) -> dict[str, Any]:
        """The file's outputs, with those of the block's `rename` in the place of the usual ones."""
        outputs = dict(self.vector["outputs"])
        return outputs | {usual: outputs[theirs] for usual, theirs in (self.block.get("rename") or {}).items()}

    def _objective(self, check: Check, cut: bool) -> None:
        """The loop's own objective on one minibatch, whole or row by row."""
        batch = self._credited(self.batch())
        objective = self.objective(batch)
        live, leaves = self._live(batch)
        for name, value in live.items():
            batch[f"now_{name}"] = value.detach()
        batch = objective.shape(batch, "step")
        batch = objective.shape(batch, "minibatch", 0)
        batch, scale = objective.prepare(batch, 0)
        label = "cut into rows: " if cut else ""
        total = torch.zeros((), dtype=torch.float64)
        for rows in [[i] for i in range(len(batch))] if cut else [list(range(len(batch)))]:
            part = batch.select(rows)
            out = objective(part, {k: v[rows][:, : part.width] for k, v in live.items()}, scale, 0)
            total = total + out.loss
            if out.loss.requires_grad:
                out.loss.backward(retain_graph=True)
        for name, value in scale.terms.items():
            coefs = {n.name: n.coef for n in self.recipe.plan.nodes["regularize"]}
            total = total + coefs.get(name, 1.0) * value
        expected = self._renamed()
        check.compare(f"{label}loss", total, expected["loss"])
        for name, leaf in leaves.items():
            if name in expected:
                check.compare(f"{label}{name}", torch.zeros_like(leaf) if leaf.grad is None else leaf.grad, expected[name])
        for name, stream in (self.block.get("outputs") or {}).items():
            if name in expected and stream in batch:
                ours, theirs = batch[stream].double(), np.asarray(expected[name])
                if theirs.ndim > 1:
                    ours = (ours[:, None] if ours.ndim == 1 else ours) * batch["mask"]
                    theirs = theirs * batch["mask"].numpy()
                check.compare(f"{label}{name}", ours, theirs)

    def _selection(self, check: Check) -> None:
        """A random choice: membership and count, over several seeds."""
        expected = self.vector["outputs"]
        candidates = torch.tensor(expected["candidates"]).bool()
        stream = (self.block.get("outputs") or {})["selected"]
        seen = torch.zeros_like(candidates)
        for seed in range(8):
            batch = self.batch(seed)
            objective = self.objective(batch)
            live, _ = self._live(batch)
            for name, value in live.items():
                batch[f"now_{name}"] = value.detach()
            selected = objective.shape(objective.shape(batch, "step"), "minibatch", 0)[stream].bool()
            seen |= selected
            if bool((selected & ~candidates).any()):
                check.failures.append(f"seed {seed}: a token outside the candidates was chosen")
            check.compare(f"seed {seed}: chosen", int(selected.sum()), min(int(expected["quota"]), int(candidates.sum())))
        if int(candidates.sum()) > int(expected["quota"]) and int(seen.sum()) <= int(expected["quota"]):
            check.failures.append("the choice does not depend on the seed")

    def _credited(self, batch: Batch) -> Batch:
        """Reward and advantage by the recipe, where the file does not state the advantage."""
        if "adv" in self.inputs or not self.inputs.keys() & {"reward", "correct"}:
            return batch
        world = self.objective(batch).world
        if "reward" not in self.inputs:
            batch = add_reward(batch, self.recipe.plan.nodes["reward"], world)
        elif batch["reward"].ndim == 2:
            batch = batch.with_(token_reward=batch["reward"], reward=(batch["reward"] * batch["mask"]).sum(1))
        else:
            batch = batch.with_(token_reward=at_the_end(batch["reward"], batch["mask"]))
        return add_advantage(batch, self.recipe.plan.advantage, world)

    def _shaped(self, batch: Batch) -> Batch:
        """The recipe's credit after its shapes, those inside the update too."""
        batch = self._credited(batch)
        objective = self.objective(batch)
        live = {k: batch[k] for k in ("entropy", *self.recipe.plan.probes) if k in batch}
        live["logp"] = batch["logp"] if "logp" in batch else torch.zeros_like(batch["adv"])
        for name, value in live.items():
            batch[f"now_{name}"] = value
        stated = {n.name for n in self.recipe.plan.nodes["shape"] if any(k.startswith(f"{n.name}_") for k in self.inputs)}
        kept, self.recipe.plan.nodes["shape"] = (
            self.recipe.plan.nodes["shape"],
            [n for n in self.recipe.plan.nodes["shape"] if n.name not in stated],
        )
        batch = objective.shape(objective.shape(batch, "step"), "minibatch", 0)
        batch, scale = objective.prepare(batch, 0)
        out = objective(batch, live, scale, 0).record.tokens
        self.recipe.plan.nodes["shape"] = kept
        return batch.with_(adv=out["adv"] * out["weight"])

    def _advantage(self, check: Check) -> None:
        """The recipe's credit, and the same with the rows in another order."""
        expected = self.vector["outputs"]
        batch = self.batch()
        found = self._shaped(batch)
        order = torch.arange(len(batch)).flip(0)
        turned = {
            k: v[order] if isinstance(v, Tensor) and v.ndim else v[::-1] if isinstance(v, list) else v for k, v in batch.streams.items()
        }
        again = self._shaped(Batch(turned))
        for name, stream in {"advantages": "adv", **(self.block.get("outputs") or {})}.items():
            if name not in expected:
                continue
            want = torch.tensor(expected[name], dtype=torch.float64)
            for label, batch_, wanted in (("", found, want), ("rows turned round: ", again, want[order] if want.ndim else want)):
                value = batch_[stream]
                if wanted.ndim == 1 and isinstance(value, Tensor) and value.ndim == 2:  # one number per response: on its first token
                    some = batch_["mask"].any(1)
                    value, wanted = value[some, 0], wanted[some]
                check.compare(f"{label}{name}", value, wanted)

    def _call(self, check: Check) -> None:
        """A function of the method on the file's inputs."""
        fn, expected = locate(self.block["call"]), self.vector["outputs"]
        inputs = {k: v.long() if k in _WHOLE_NUMBERS and isinstance(v, Tensor) else v for k, v in self.inputs.items()}
        inputs |= {k: v.bool() for k, v in inputs.items() if k == "mask"}
        gradients = self.block.get("gradients") or {}
        for rule in gradients.values():
            inputs[rule["by"]] = inputs[rule["by"]].clone().requires_grad_(True)
        takes = signature(fn).parameters
        mask = inputs.get("mask") if "mask" in takes else inputs.pop("mask", None)  # it only places what is one number for each response
        if "sample" in takes and "group" in inputs:
            inputs.setdefault("sample", _place_in_group(inputs["group"]))
        each = self.block.get("each")
        if each:
            found = [fn(**{**inputs, each: x.item()}, **self.arguments) for x in inputs[each]]
            found = [f if isinstance(f, Mapping) else {"value": f} for f in found]
            answer: Any = {k: torch.tensor([f[k] for f in found], dtype=torch.float64) for k in found[0]}
        else:
            answer = fn(**inputs, **self.arguments)
        for name, key in (self.block.get("outputs") or {}).items():
            if _has(expected, name):
                value = answer[key]
                spread = name == "advantages" and isinstance(value, Tensor) and value.ndim == 1
                compare_tree(check, name, value[:, None] * mask if spread and mask is not None else value, _within(expected, name))
        for name, rule in gradients.items():
            if name in expected:
                (grad,) = torch.autograd.grad(answer[rule["of"]], inputs[rule["by"]], retain_graph=True)
                grad = grad[:, rule["column"]] if "column" in rule else grad
                check.compare(name, grad.abs().sum(-1) if rule.get("abs_sum") else grad, expected[name])

    def _method(self, check: Check) -> None:
        """A method of an object, called for each element of the inputs in turn."""
        if "call" in self.block:
            made = locate(self.block["call"])(**self.arguments)
        else:
            seat, _, name = self.block["node"].partition(".")
            made = next(n for n in self.recipe.plan.nodes[seat] if n.name == name).fn
        calls: list[dict[str, Any]] = []
        for name, value in self.inputs.items():
            items = value.tolist() if isinstance(value, Tensor) else value
            calls = calls or [{} for _ in items]
            for call, item in zip(calls, items, strict=True):
                call |= item if isinstance(item, Mapping) else {name: item}
        more = {} if "call" in self.block else self.arguments
        answers = [getattr(made, self.block["method"])(**call, **more) for call in calls]
        expected = self.vector["outputs"]
        for name, key in (self.block.get("outputs") or {}).items():
            if _has(expected, name):
                compare_tree(check, name, answers if key == "each" else [a[key] for a in answers], _within(expected, name))
        for name, attribute in (self.block.get("state") or {}).items():
            if name in expected:
                compare_tree(check, name, getattr(made, attribute), expected[name])

    def _node(self, check: Check) -> None:
        """One function of the composed recipe."""
        seat, _, name = self.block["node"].partition(".")
        if seat == "decode":
            self._decode(next(n for n in self.recipe.plan.nodes["decode"] if n.name == name), check)
            return
        batch = self.batch()
        expected = self.vector["outputs"]
        if seat == "sampler":
            keep: Node = build(self.recipe["sampler"][name])
            groups_, at = torch.unique(batch["group"], return_inverse=True)
            flags = torch.as_tensor(keep(batch.with_(group=at).streams)).bool()
            check.compare("kept_rows", flags[at].nonzero()[:, 0], expected["kept_rows"])
            return
        node = next((n for n in self.recipe.plan.nodes[seat] if n.name == name), None) or mount(seat, name, self.recipe[seat][name], [])
        if node is None:
            raise UsageError(f"{self.block['node']} is not in the composed recipe")
        if seat == "control":
            self._control(node, check)
            return
        if seat == "reward" and self.block.get("outputs"):
            self._reward(node, batch, check)
            return
        if seat == "probe":
            value = self._probed(node, self.inputs["logits"], batch)
            for key in self.block.get("outputs") or {}:
                check.compare(key, value, expected[key])
            return
        if seat == "reward":
            check.compare("rewards", batch["reward"] + node.coef * node(View(batch, node)), expected["rewards"])
            return
        leaf = batch["logp"].clone().requires_grad_(True)
        value = node(View(batch, node, {"logp": leaf}))
        value = value["value"] if isinstance(value, Mapping) else value
        for key, theirs in expected.items():
            if key.startswith("grad_"):
                (grad,) = torch.autograd.grad(value.sum(), leaf, retain_graph=True)
                check.compare(key, grad, theirs)
            else:
                check.compare(key, value, theirs)

    def _reward(self, node: Node, batch: Batch, check: Check) -> None:
        """One reward by itself, with the recipe's advantage and the metrics if the block names them."""
        expected, wanted = self.vector["outputs"], self.block["outputs"]
        world = self.objective(batch).world
        found = add_reward(batch, [node], world)
        if "adv" in wanted.values():
            found = add_advantage(found, self.recipe.plan.advantage, world)
        numbers = step_metrics(found) if any(v.startswith("metric:") for v in wanted.values()) else {}
        for key, stream in wanted.items():
            if not _has(expected, key):
                continue
            theirs = _within(expected, key)
            if stream.startswith("metric:"):
                check.compare(key, numbers[stream.removeprefix("metric:")], theirs)
                continue
            own = f"{node.name}_{stream}"
            ours = found[f"reward_{node.name}"] if stream == "value" else found[own if own in found else stream]
            if isinstance(ours, Tensor) and ours.ndim == 2 and not isinstance(theirs[0], list):
                ours = ours[:, 0]  # one number per response
            if not isinstance(theirs, list | Mapping):  # one for the whole group
                theirs = [theirs] * len(ours)
            compare_tree(check, key, ours, theirs)

    def _decode(self, node: Node, check: Check) -> None:
        """A decode function: on logits [n,V], or around a model that the file's tables make."""
        knobs = Knobs(self.recipe.plan.knobs())
        for control in self.recipe.plan.nodes["control"]:
            if set(control.reads) <= self.inputs.keys():
                knobs.apply(control, control({k: v.bool() if k == "mask" else v for k, v in self.inputs.items()}))
        if "requests" in node.reads:
            table = TableModel(self.inputs)
            length = int(self.streams["length"]) - 1
            request = Request([int(self.inputs["start_token"])], key=(0,), max_tokens=length)
            rollouts = node({"requests": [request], "generate": table.generate})
            found = {**{k: v[0] for k, v in rollouts.notes.items()}, **{k: v[0] for k, v in rollouts.counts.items()}}
            found["sequence"] = [*request.prompt, *rollouts.tokens[0]]
        else:
            logits = self.inputs["logits"]
            rows = logits if logits.ndim == 2 else logits[None]
            heat = float(self.streams.get("temperature", self.recipe["sampler"]["temperature"]))
            asked = torch.full((len(rows),), heat, dtype=rows.dtype)
            found = dict(node({"logits": rows, "temperature": asked, "position": torch.zeros(len(rows)).long(), "memory": None}))
            found["tempered"] = found.get("logits", rows) / found.get("temperature", asked)[:, None]
            found = {k: v if logits.ndim == 2 else v[0] for k, v in found.items()}
        expected = self.vector["outputs"]
        for name, key in (self.block.get("outputs") or {}).items():
            if _has(expected, name):
                compare_tree(check, name, found[key] if key in found else knobs.value(key), _within(expected, name))

    def _control(self, node: Node, check: Check) -> None:
        """A controller, called once for each element of its inputs, as a minibatch of one token."""
        first = int(self.block.get("first_step") or 1)
        given = {k: v for k, v in self.inputs.items() if isinstance(v, Tensor) and v.ndim == 1}
        answers = []
        for i in range(min(map(len, given.values()))):
            one = {k: v[i].view(1, 1) for k, v in given.items()}
            answers.append(float(node({**one, "mask": torch.ones(1, 1, dtype=torch.bool), "step": first + i})))
        for name in self.block.get("outputs") or {}:
            check.compare(name, answers, self.vector["outputs"][name])


def compare_tree(check: Check, name: str, ours: Any, theirs: Any) -> None:
    """Compare numbers, texts, and lists and mappings of them; of a mapping, what the file states."""
    if isinstance(theirs, Mapping):
        for key, value in theirs.items():
            compare_tree(check, f"{name}/{key}", ours[key], value)
    elif isinstance(theirs, list) and any(isinstance(x, list | Mapping | str) or x is None for x in theirs):
        ours = ours.tolist() if isinstance(ours, Tensor) else list(ours)
        if len(ours) != len(theirs):
            check.failures.append(f"{name}: {len(ours)} elements, expected {len(theirs)}")
        for i, (a, b) in enumerate(zip(ours, theirs, strict=False)):
            compare_tree(check, f"{name}[{i}]", a, b)
    elif isinstance(theirs, str) or theirs is None:
        check.compared += 1
        if ours != theirs:
            check.failures.append(f"{name}: {ours!r}, expected {theirs!r}")
    else:
        check.compare(name, ours, theirs)


def _has(tree: Mapping[str, Any], path: str) -> bool:
    """Whether a file states an output; a dotted path leads into a mapping."""
    head, _, rest = path.partition(".")
    return path in tree or (head in tree and isinstance(tree[head], Mapping) and _has(tree[head], rest))


def _within(tree: Mapping[str, Any], path: str) -> Any:
    head, _, rest = path.partition(".")
    return tree[path] if path in tree else _within(tree[head], rest)


def _same(answers: Sequence[str | None], pairs: Sequence[Sequence[str]]) -> list[list[bool]]:
    """The stream `same` of one group, in the order (earlier, later)."""
    listed = {(a, b) for a, b in pairs}

    def equal(i: int, j: int) -> bool:
        a, b = answers[min(i, j)], answers[max(i, j)]
        return i == j or bool(a and b and (a == b or (a, b) in listed))

    return [[equal(i, j) for j in range(len(answers))] for i in range(len(answers))]


def _rows(inputs: Mapping[str, Any]) -> int:
    """How many rows a file has: the length of its first stream."""
    return len(next(v for v in inputs.values() if isinstance(v, list) or (isinstance(v, Tensor) and v.ndim)))


class TableModel:
    """A model whose logits are a table by last token plus a table by position; its draw is the second most likely token."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        self.by_token, self.by_position = tables["transition_logits"], tables["position_logits"]

    def generate(self, requests: Sequence[Request], measure: Callable[[Tensor], Mapping[str, Tensor]] | None = None) -> Rollouts:
        """One token for each request that wants any."""
        texts = [[*r.prompt, *r.prefix] for r in requests]
        logits = torch.stack([self.by_token[ids[-1]] + self.by_position[len(ids) - 1] for ids in texts])
        chosen = logits.sort(dim=1, descending=True, stable=True).indices[:, 1].tolist()
        tokens = [[token] if r.max_tokens else [] for r, token in zip(requests, chosen, strict=True)]
        notes = {k: [[v] for v in values.tolist()] for k, values in (measure(logits) if measure else {}).items()}
        return Rollouts(tokens, [[0.0] * len(t) for t in tokens], ["length"] * len(tokens), notes=notes)


def _key(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _numbered(values: Any) -> list[int]:
    """Equal values get equal numbers, in the order in which they first come; None is -1."""
    seen: dict[Any, int] = {}
    return [-1 if v is None else seen.setdefault(v, len(seen)) for v in (values.tolist() if isinstance(values, Tensor) else values)]


def _place_in_group(group: Tensor) -> Tensor:
    """How many earlier rows of its group each row has [N]."""
    same = group[:, None] == group
    return torch.tril(same.long(), -1).sum(1)


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _tensor(value: Any) -> Any:
    if isinstance(value, list) and value and not isinstance(value[0], str | dict):
        try:
            return torch.tensor(value, dtype=torch.float64)
        except (TypeError, ValueError):
            return value
    return value


def default_vectors() -> Path:
    """The vectors of a checkout.

    Raises:
        UsageError: an installed package ships none.
    """
    folder = recipes_dir().parent / "tests" / "golden"
    if not folder.is_dir():
        raise UsageError("no vectors beside this installation; give a folder of them with --vectors DIR")
    return folder


def run(folder: Path, only: Sequence[str] = (), config_dirs: Sequence[str] = ()) -> list[Check]:
    """Run every vector file of a folder.

    Raises:
        UsageError: no such folder, no vectors, or a method of `only` without vectors.
    """
    if not folder.is_dir():
        raise UsageError(f"--vectors: '{folder}' is not a folder")
    files = sorted(folder.glob("*.json"))
    methods = {f: str(json.loads(f.read_text()).get("method", "")) for f in files}
    missing = sorted(set(only) - set(methods.values()))
    if missing:
        raise UsageError(f"--only: no vectors of {', '.join(missing)}{did_you_mean(missing[0], methods.values())} in {folder}")
    chosen = [f for f in files if not only or methods[f] in only]
    if not chosen:
        raise UsageError(f"no vector files (*.json) in {folder}")
    known = blocks(config_dirs)
    return [check_file(f, known, config_dirs) for f in chosen]


def main(vectors: Path | None, only: Sequence[str], config_dirs: Sequence[str], *, as_json: bool = False) -> int:
    """Print the table; 1 if anything failed."""
    checks = run(vectors or default_vectors(), only, config_dirs)
    failed = [c for c in checks if c.failures]
    if as_json:
        print(json.dumps([{**vars(c), "passed": not c.failures} for c in checks], indent=1))
        return 1 if failed else 0
    table = Table(box=None, pad_edge=False)
    for title in ("METHOD", "AUTHORS' CODE", "CASES", "LARGEST ERROR", "VERDICT"):
        table.add_column(title, justify="right" if title in ("CASES", "LARGEST ERROR") else "left", no_wrap=title != "AUTHORS' CODE")
    for method in sorted({c.method for c in checks}):
        mine = [c for c in checks if c.method == method]
        bad = sum(bool(c.failures) for c in mine)
        verdict = "pass" if not bad else f"FAIL ({bad} of {len(mine)})"
        table.add_row(method, _short(mine[0].reference), str(len(mine)), f"{max(c.error for c in mine):.1e}", verdict)
    console = Console()
    console.print(table)
    for c in failed:
        for failure in c.failures[:3]:
            console.print(f"{c.file}: {failure}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(checks) - len(failed)} of {len(checks)} vectors pass", highlight=False)
    return 1 if failed else 0


def _reference(stated: Any) -> str:
    """A file's reference as one text, what was run first; metrics state several, or formulas."""
    if isinstance(stated, str):
        return stated
    ran = stated.get("run") or ["formula"]
    return "; ".join([*ran, *(f"{name}: {text}" for name, text in stated.items() if isinstance(text, str))])


def _short(reference: str) -> str:
    """owner/repo@commit of a reference, shortened."""
    first = reference.split()[0].strip("[\"',;") if reference else ""
    return first[: first.index("@") + 8] if "@" in first else first[:40] or "formula"
