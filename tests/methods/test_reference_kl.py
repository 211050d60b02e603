import torch

from rlent.methods.reference_kl import reference_divergence

VECTORS = ("kl_penalty",)


def test_agrees_with_the_reference(vector, agree):
    logp = vector.leaf("logp")
    kl = reference_divergence(logp, vector["ref_logp"], estimator=vector.config["kl_type"])
    agree(kl, vector.out("kl"))
    (grad,) = torch.autograd.grad(kl.sum(), logp)
    agree(grad, vector.out("grad_log_prob_of_sum"))


def test_descending_it_moves_the_policy_towards_the_reference():
    for estimator in ("k2", "k3", "abs"):
        logp = torch.tensor([[-1.0, -3.0]], requires_grad=True)
        reference_divergence(logp, torch.tensor([[-2.0, -2.0]]), estimator=estimator).sum().backward()
        assert logp.grad[0, 0] > 0 > logp.grad[0, 1]
