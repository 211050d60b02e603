import torch

from rlent.methods.entropy_bonus import negative_entropy
from rlent.methods.ppo_clip import clipped_surrogate

VECTORS = ("entropy_bonus",)


def test_agrees_with_the_reference(vector, agree, aggregate, objective):
    c, logits = vector.config, vector.leaf("logits")
    logps = (logits / c.get("temperature", 1.0)).log_softmax(-1)
    entropy = -(logps.exp() * logps).sum(-1)
    logp = logps.gather(-1, vector["labels"][..., None]).squeeze(-1)
    agree(entropy * vector["mask"], vector.out("entropy"))
    loss = clipped_surrogate(logp, vector["old_logp"], vector["adv"], low=c["clip_low"], high=c["clip_high"], dual=c["clip_c"], clamp=20.0)
    bonus = c["coef"] * aggregate(negative_entropy(entropy), vector["mask"], c["agg_mode"])
    objective(vector, loss, logits, extra=bonus)


def test_minimising_it_raises_entropy():
    entropy = torch.tensor([[0.5, 2.0]], requires_grad=True)
    negative_entropy(entropy).sum().backward()
    assert entropy.grad.tolist() == [[-1.0, -1.0]]
