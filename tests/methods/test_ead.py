import pytest
import torch

from rlent.math.entropy import entropy_from_logits
from rlent.methods.ead import switch_models
from rlent.verify.released.ead import schedule


def test_the_large_model_writes_while_the_mean_of_the_last_entropies_is_high():
    # window 2: means 2, 1.5, 0.5, 0: large after the first two, small after the others
    found = schedule([2.0, 1.0, 0.0, 0.0], window=2, tau=1.0, stay=1)
    assert found["mean"] == pytest.approx([2.0, 1.5, 0.5, 0.0])
    assert found["model"] == ["large", "large", "small", "small"]


def test_a_model_stays_for_a_while_but_the_first_is_free_to_go():
    # 2 turns to large at once; it writes token 1 and may turn back after three tokens
    assert schedule([2.0, 0.0, 0.0, 0.0, 0.0], window=1, tau=1.0, stay=3)["model"] == ["large", "large", "large", "small", "small"]


def test_the_rule_follows_the_schedule_of_the_entropies_it_sees():
    g = torch.Generator().manual_seed(2)
    small, large = (torch.randn(12, 3, 6, generator=g, dtype=torch.float64) * s for s in (2.0, 3.0))
    memory, writers, bits = None, [], []
    for t in range(12):
        found = switch_models(small[t], large[t], memory, window=3, tau=1.6, stay=2)
        memory = found["memory"]
        writers.append(found["large"].tolist())
        bits.append(found["bits"].tolist())
        assert torch.equal(found["logits"], torch.where(found["large"][:, None] > 0, large[t], small[t]))
        torch.testing.assert_close(found["bits"], entropy_from_logits(found["logits"]) / torch.tensor(2.0, dtype=torch.float64).log())
    for row in range(3):
        says = schedule([b[row] for b in bits], window=3, tau=1.6, stay=2)["model"]
        assert ["small", *says[:-1]] == ["large" if w[row] else "small" for w in writers]
    assert {w for step in writers for w in step} == {0.0, 1.0}
