import torch

from rlent.methods.outcome import outcome


def test_a_verdict_becomes_a_number():
    assert outcome(torch.tensor([True, False]), right=1.0, wrong=-0.5).tolist() == [1.0, -0.5]
