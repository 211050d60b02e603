import math

import pytest
import torch

from rlent.math.entropy import entropy_from_logits
from rlent.methods.em_inf import minimise, to_target

VECTORS = ("em_inf",)
STEPS = {"steps": 5, "lr": 0.1, "kl": 1e-3, "threshold": 0.3, "log_eps": 1e-12, "temperature": 0.1, "faithful": "paper"}
BISECT = {"ratio": 0.2, "threshold": 1e-6, "low": 0.01, "high": 1.0, "tolerance": 0.1, "iterations": 100, "log_eps": 1e-9}


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_autograd(logits, steps, lr, kl, threshold, log_eps, joint):
    """The authors' loop, written again with torch's own Adam; `joint`: the rows together, else one by one."""
    out = []
    for rows in [logits] if joint else logits.split(1):
        z = rows.clone().requires_grad_(True)
        start = rows.softmax(1)
        adam = torch.optim.Adam([z], lr=lr)
        for _ in range(steps):
            p = z.softmax(1)
            entropy = -(p * (p + log_eps).log()).sum()
            if entropy < threshold:
                break
            divergence = (start * (start.log() - z.log_softmax(1))).sum(1).mean()
            adam.zero_grad()
            (entropy + kl * divergence).backward()
            adam.step()
        out.append(z.detach())
    return torch.cat(out)


@pytest.mark.parametrize("faithful", ["paper", "released"])
def test_the_written_gradient_is_that_of_the_authors_loss(faithful):
    logits = random(4, 9) * 2
    options = {**STEPS, "steps": 12, "lr": 0.3, "kl": 0.05, "faithful": faithful}
    want = by_autograd(logits, 12, 0.3, 0.05, 0.3, 1e-12, faithful == "released")
    torch.testing.assert_close(minimise(logits, **options)["logits"], want, rtol=1e-9, atol=1e-9)


def test_agrees_with_the_reference(vector, agree):
    c = vector.config
    found = minimise(
        vector["logits"],
        steps=c["n_grad_steps"],
        lr=c["learning_rate"],
        kl=c["kl_weight"],
        threshold=c["threshold"],
        log_eps=c["log_eps"],
        temperature=0.1,
        faithful="released",
    )
    agree(found["logits"], vector.out("logits"))
    agree(found["entropy_after"], vector.out("entropy_after"))


def test_a_row_alone_is_what_it_is_among_others_unless_the_release_couples_them():
    logits = random(3, 6)
    alone = torch.cat([minimise(row, **STEPS)["logits"] for row in logits.split(1)])
    assert torch.equal(minimise(logits, **STEPS)["logits"], alone)
    coupled = {**STEPS, "faithful": "released", "threshold": 1.5 * 3}  # the rows together are above it, each alone below
    assert not torch.equal(minimise(logits, **coupled)["logits"], torch.cat([minimise(r, **coupled)["logits"] for r in logits.split(1)]))


def test_entropy_falls_and_the_most_likely_token_stays():
    logits = random(8, 12)
    found = minimise(logits, **STEPS)
    assert (found["entropy_after"] < found["entropy_before"]).all()
    assert torch.equal(found["logits"].argmax(1), logits.argmax(1))
    certain = torch.tensor([[9.0, 0.0, 0.0]], dtype=torch.float64)
    assert torch.equal(minimise(certain, **STEPS)["logits"], certain)


def test_it_runs_where_autograd_is_off():
    logits = random(2, 5)
    with torch.inference_mode():
        found = minimise(logits, **STEPS)["logits"]
    assert torch.equal(found, minimise(logits, **STEPS)["logits"]) and not torch.equal(found, logits)


def test_the_first_midpoint_that_is_near_enough_is_taken():
    # four equal tokens: H = ln 4 at every temperature, never near 0.2 ln 4; midpoints fall: 0.505, 0.2575, ... to the lowest
    flat = torch.zeros(1, 4, dtype=torch.float64)
    assert to_target(flat, **{**BISECT, "iterations": 2})["temperature"].tolist() == [0.2575]
    # ratio 1: the target is H itself; H(0.505) of these is too low, so the lower end moves up: 0.505, 0.7525, ...
    two = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    found = to_target(two, **{**BISECT, "ratio": 1.0, "tolerance": 1e-9})
    assert found["temperature"].item() == pytest.approx(1.0, abs=1e-6)


def test_the_target_is_met_for_each_row_by_itself():
    logits = random(16, 10) * 2
    found = to_target(logits, **{**BISECT, "ratio": 0.5, "tolerance": 1e-4})
    reached = entropy_from_logits(logits / found["temperature"][:, None])
    torch.testing.assert_close(reached, 0.5 * entropy_from_logits(logits), atol=2e-4, rtol=0)
    alone = torch.cat([to_target(r, **{**BISECT, "ratio": 0.5, "tolerance": 1e-4})["temperature"] for r in logits.split(1)])
    assert torch.equal(found["temperature"], alone)


def test_a_row_without_entropy_is_drawn_at_one():
    sure = torch.tensor([[90.0, 0.0]], dtype=torch.float64)
    assert to_target(sure, **{**BISECT, "threshold": 1e-3})["temperature"].tolist() == [1.0]
    assert math.isclose(to_target(sure, **BISECT)["target"].item(), 1e-6, rel_tol=1e-6)
