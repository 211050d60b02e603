"""The loop: the algorithm on one screen. It knows seats and moments, and no method's name."""

from __future__ import annotations

from rlent.train.run import Run


def train(run: Run) -> None:
    """Train until the last step, the time limit or a stop signal; `run` can be resumed from its last checkpoint."""
    for step in run.steps():  # resumable; a stop signal ends it between steps
        scored = run.sample(step)  # draw, generate, grade, keep
        batch = run.look_back(scored)  # old_*, ref_*, probes: no gradient, only what is planned
        batch = run.advantage(run.reward(batch))
        run.turn(batch, at="step")  # controllers that read step streams
        batch = run.shape(batch, at="step")
        for minibatch in run.split(batch):
            minibatch = run.now(minibatch)  # only if planned
            run.turn(minibatch.batch, at="minibatch")
            minibatch, scale = run.prepare(minibatch)  # shapes, denominators and whole-minibatch gradients, over all ranks
            for part in run.parts(minibatch):
                run.accumulate(part, scale, minibatch.index)  # forward, objective, backward
            run.meter.update(run.actor.step())
        run.publish(step)  # the engine follows the policy
        metrics = run.measure(batch)
        run.turn({"metrics": metrics}, at="end")
        run.every(step, metrics, scored)  # pass@k; metrics.jsonl, W&B, console; checkpoint
