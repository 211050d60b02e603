"""The benchmark of a GPU: the same code on the CPU with tiny shapes, and its count of FLOPs."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

_spec = importlib.util.spec_from_file_location("bench_gpu", Path(__file__).parents[2] / "scripts" / "bench_gpu.py")
script = importlib.util.module_from_spec(_spec)
sys.modules["bench_gpu"] = script
_spec.loader.exec_module(script)

SMALL = ["--device", "cpu", "--tiny", "--repeats", "1"]


def test_both_sides_take_the_same_step_from_the_same_weights():
    given = script.parse(SMALL)
    config, part = script.shape(given), script.rows(given)
    ended = []
    for make in (script.ours, script.plain):
        torch.manual_seed(0)
        policy, once = make(config, given)
        once(part)
        ended.append({name: p.detach().clone() for name, p in policy.model.named_parameters()})
    for name in ended[0]:
        torch.testing.assert_close(ended[0][name], ended[1][name], rtol=1e-4, atol=2e-7)


def test_flops_are_those_of_the_products_by_hand():
    given = script.parse([*SMALL, "--rows", "2", "--tokens", "16"])
    config, part = script.shape(given), script.rows(given)  # a prompt of 2; responses of 3 and 9
    assert part.lengths.tolist() == [3, 9] and len(part["prompt_ids"][0]) == 2
    layer = 64 * (64 + 64 + 32 + 32) + 3 * 64 * 160  # q, o; k, v with half the heads; MLP
    lengths = (2 + 3 - 1, 2 + 9 - 1)
    want = 6 * 2 * layer * sum(lengths) + 12 * 2 * 64 * (4 * 5 / 2 + 10 * 11 / 2) + 6 * 512 * 64 * (3 + 9)
    assert script.model_flops(config, part, shared=False) == want
    assert script.model_flops(config, part, shared=True) == want - 6 * 2 * layer * 2 - 12 * 2 * 64 * 3


@pytest.mark.slow
def test_it_runs_without_a_gpu_and_its_two_heads_agree(capsys):
    script.main([*SMALL, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["head"]["largest_difference"] < 1e-4
    assert found["update"]["sides"]["rlent"]["packs"] and not found["update"]["sides"]["plain"]["packs"]
    assert found["step"]["update"] > 0


def test_without_a_device_it_says_what_runs(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        script.parse([])
    assert "--device cpu --tiny runs the same code" in capsys.readouterr().err
