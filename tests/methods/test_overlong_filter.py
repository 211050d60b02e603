import torch
from runs import rows, train

from rlent.methods.overlong_filter import drop_cut, keep_finished


def test_cut_responses_leave_the_loss_and_its_denominator():
    mask = torch.tensor([[1, 1], [1, 0], [1, 1]]).bool()
    found = drop_cut(["stop", "stop", "length"], mask)["mask"]
    assert found.tolist() == [[True, True], [True, False], [False, False]]


def test_groups_are_kept_by_the_share_of_finished_responses():
    finish, group = ["stop", "length", "length", "length", "stop", "stop"], torch.tensor([7, 7, 2, 2, 9, 9])
    assert keep_finished(finish, group, share=0.5).tolist() == [False, True, True]  # groups 2, 7, 9
    assert keep_finished(finish, group, share=0.51).tolist() == [False, False, True]


def test_when_every_response_is_cut_the_loss_is_zero_and_nothing_moves(run_dir):
    train(run_dir, "recipe=overlongfilter", "sampler.max_tokens=1", "trainer.steps=2")
    for row in rows(run_dir):
        assert row["finish/cut"] == 1.0
        assert row["loss/policy"] == 0.0
        assert row["update/grad_norm"] == 0.0


def test_the_sampler_can_leave_such_prompts_out(run_dir):
    train(run_dir, "recipe=overlongfilter", "sampler=finished", "sampler.max_tokens=12", "trainer.steps=2")
    assert all(0 < row["sampler/kept"] <= 1 for row in rows(run_dir))
