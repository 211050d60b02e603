"""The loop: the algorithm on one screen. It works with stages and moments, and no method's name."""

from __future__ import annotations

from rlent.train.records import Step
from rlent.train.run import Run
from rlent.train.trainer import Trainer
from rlent.types import Batch


def train(run: Run) -> None:
    """Train until the last step, the time limit or a stop signal; `run` can be resumed from its last checkpoint."""
    for step in run.steps():  # resumable; a stop signal ends it between steps
        scored = run.sample(step)  # draw, generate, grade, keep
        batch = learn(run.trainer, step, scored)
        run.publish(step)  # the engine follows the policy
        metrics = run.measure(step, batch)
        run.trainer.turn(step, {"metrics": metrics}, at="end")
        run.every(step, metrics, scored, batch)  # pass@k; metrics.jsonl, W&B, console; checkpoint


def learn(trainer: Trainer, step: Step, scored: Batch) -> Batch:
    """One step's policy update from graded responses. Returns the step's rows with everything that was computed of them."""
    batch = trainer.look_back(step, scored)  # old log-probs, reference models, probes: no gradient, only what is planned
    batch = trainer.advantage(trainer.reward(step, batch))
    trainer.turn(step, batch, at="step")  # controllers that read streams of the step
    batch = trainer.shape(step, batch)  # token weighting
    for minibatch in trainer.split(batch):
        minibatch = trainer.now(step, minibatch)  # only if planned
        trainer.turn(step, minibatch.batch, at="minibatch")
        minibatch, scale = trainer.prepare(step, minibatch)  # weighting, denominators, whole-minibatch gradients, over all ranks
        for part in trainer.parts(step, minibatch):  # micro-batches
            trainer.accumulate(step, part, scale, minibatch.index)  # forward, objective, backward
        trainer.update(step)  # the optimizer
    return batch
