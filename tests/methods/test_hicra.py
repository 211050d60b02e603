import torch
from streams import padded, permuted, random_batch

from rlent.methods.hicra import amplified, strategic_grams

VECTORS = ("hicra",)
GRAMS = ["let me check", "Wait"]


def marked(pieces, grams=GRAMS, width=8):
    mask = torch.arange(width) < torch.tensor([[len(p)] for p in pieces])
    found = strategic_grams(pieces, mask, phrases=grams)["planning"]
    return [[i for i, on in enumerate(row) if on] for row in found.tolist()]


def test_agrees_with_the_third_party(vector, agree):
    found = amplified(vector.out("base_advantages"), vector["planning_mask"].bool(), alpha=vector.config["alpha"])["adv"]
    agree(found * vector["mask"], vector.out("advantages"))


def test_plans_of_right_responses_earn_more_and_those_of_wrong_ones_pay_less():
    adv = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])
    found = amplified(adv, torch.tensor([[True, False]] * 3), alpha=0.25)
    assert found["adv"].tolist() == [[1.25, 1.0], [-0.75, -1.0], [0.0, 0.0]]
    assert found["selected"][:, 0].all()


def test_a_phrase_is_found_across_tokens_in_any_case():
    assert marked([["So", " LET", " me", " ch", "eck", " it"]]) == [[1, 2, 3, 4]]
    assert marked([["let\n", " me check"]]) == [[0, 1]]


def test_only_whole_words_count():
    assert marked([["await", " wait", "ing"], ["Wait", ",", " wait"]]) == [[], [0, 2]]


def test_an_empty_response_and_an_empty_list_mark_nothing():
    assert marked([[], ["wait"]]) == [[], [0]]
    assert marked([["wait"]], grams=[]) == [[]]


def test_signs_in_a_phrase_are_taken_literally():
    assert marked([["1", "+", "2"], ["a", "b"]], grams=["+", "."]) == [[1], []]


def test_order_and_padding_do_not_matter():
    batch = random_batch(6)
    batch["grams_planning"] = (batch["live_entropy"] > 1) & batch["mask"]
    found = amplified(batch["adv"], batch["grams_planning"], alpha=0.2)["adv"]
    turned = permuted(batch, list(range(len(batch)))[::-1])
    assert torch.equal(amplified(turned["adv"], turned["grams_planning"], alpha=0.2)["adv"], found.flip(0))
    wide = padded(batch, 2)
    assert torch.equal(amplified(wide["adv"], wide["grams_planning"], alpha=0.2)["adv"][:, : batch.width], found)
