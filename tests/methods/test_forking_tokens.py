import pytest
import torch

from rlent.methods.forking_tokens import keep_forks, negative_fork_entropy
from rlent.methods.ppo_clip import clipped_surrogate

VECTORS = ("eighty_twenty",)
H = torch.tensor([[0.1, 0.9, 0.2, 9.0], [0.8, 0.3, 0.7, 0.4]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()


def kept(share, *, rounding="ceil", among="minibatch", denominator="selected", entropy=H, mask=MASK):
    found = keep_forks(entropy, mask, share=share, rounding=rounding, among=among, denominator=denominator)
    return found["selected"].nonzero().tolist()


def test_agrees_with_the_reference(vector, agree):
    c, logp, mask = vector.config, vector.leaf("logp"), vector["mask"]
    found = keep_forks(vector["entropy"], mask, share=c["top_ratio"], rounding="ceil", among="minibatch", denominator="selected")
    agree(found["selected"].double(), vector.out("selected"))
    loss = clipped_surrogate(logp, vector["old_logp"], vector["adv"], low=c["clip_low"], high=c["clip_high"], dual=c["clip_c"], clamp=20.0)
    total = (loss * found["mask"]).sum()
    total = total / (found["mask"].sum() if c["agg_mode"] == "token-mean" else len(mask))
    agree(total, vector.outputs["loss"])
    agree(torch.autograd.grad(total, logp)[0], vector.out("grad_log_prob"))


def test_the_most_uncertain_response_tokens_are_kept():
    assert kept(3 / 7) == [[0, 1], [1, 0], [1, 2]]  # 0.9, 0.8, 0.7; not the 9 in the padding


def test_rounding_up_and_down():
    assert len(kept(0.3)) == 3 and len(kept(0.3, rounding="floor")) == 2  # 2.1 tokens
    assert len(kept(2 / 7)) == 2  # a whole number is not rounded up


def test_at_least_one_token_is_kept():
    assert kept(0.0) == kept(0.01, rounding="floor") == [[0, 1]]


def test_of_each_response():
    assert kept(0.5, among="response") == [[0, 1], [0, 2], [1, 0], [1, 2]]  # ceil(1.5) and 2


def test_a_quantile_keeps_what_is_not_below_it():
    # 0.1, 0.2, 0.3, 0.4, 0.7, 0.8, 0.9: the 0.5-quantile is 0.4, the 0.75-quantile 0.75
    assert kept(0.5, rounding="quantile") == [[0, 1], [1, 0], [1, 2], [1, 3]]
    assert kept(0.25, rounding="quantile") == [[0, 1], [1, 0]]
    assert len(kept(1.0, rounding="quantile")) == 7


@pytest.mark.parametrize("among", ["minibatch", "response"])
@pytest.mark.parametrize("rounding", ["ceil", "floor", "quantile"])
def test_nothing_is_kept_where_there_is_nothing(among, rounding):
    assert kept(0.5, rounding=rounding, among=among, mask=torch.zeros_like(MASK)) == []


def test_the_denominator_is_the_kept_tokens_or_all():
    options = {"share": 0.2, "rounding": "ceil", "among": "minibatch"}
    assert set(keep_forks(H, MASK, **options, denominator="selected")) == {"mask", "selected"}
    found = keep_forks(H, MASK, **options, denominator="all")
    assert "mask" not in found
    assert torch.equal(found["weight"], found["selected"].double())


def test_order_of_rows_does_not_matter():
    entropy = torch.rand(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask, order = torch.arange(5) < torch.tensor([5, 3, 0, 2, 4, 1])[:, None], [3, 0, 5, 1, 4, 2]
    for among in ("minibatch", "response"):
        options = {"share": 0.3, "rounding": "ceil", "among": among, "denominator": "selected"}
        assert torch.equal(keep_forks(entropy, mask, **options)["mask"][order], keep_forks(entropy[order], mask[order], **options)["mask"])


def test_the_bonus_is_of_selected_tokens():
    chosen = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0]]).bool()
    for denominator, mask in (("selected", chosen), ("all", MASK)):
        found = negative_fork_entropy(H, chosen, MASK, denominator=denominator)
        assert found["value"].sum().item() == pytest.approx(-1.7)
        assert torch.equal(found["mask"], mask)
