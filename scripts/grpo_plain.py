"""GRPO in one file, with nothing abstracted: documentation, and the second implementation `rlent train` is tested against.

    python scripts/grpo_plain.py --steps 20

It does what `rlent train recipe=grpo` does with the embedded model and task, step for step and draw for draw: the same
prompts, the same responses, the same losses and gradients (to rounding). Only the task (problems, checker) and the hash
behind every draw are imported; the algorithm is all here, written for reading: no cache, no cutting into parts, no options.

One step:
    1. draw P prompts, sample G responses to each                          sample
    2. reward 1 for a correct response, else 0                             grade
    3. advantage = (reward - group mean) / (group deviation + 1e-6)        advantage
    4. log-probabilities of the policy that sampled                        log_probs
    5. M updates, each on whole groups: PPO's clipped ratio, token mean    main
"""

from __future__ import annotations

import argparse
import json

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlent.data.countdown import CountdownData
from rlent.data.problems import draw
from rlent.grading.countdown import CountdownGrader
from rlent.math import noise
from rlent.sampling.draw import problem_key
from rlent.system.paths import tiny_path

P, G, M = 16, 16, 4  # prompts a step, responses to each, updates a step
MAX_TOKENS = 16
CLIP_LOW, CLIP_HIGH, DUAL_CLIP = 0.2, 0.2, 3.0


@torch.no_grad()
def sample(model, prompt_ids, key, end):
    """G responses to one prompt: token t of sample s is where the cumulated probabilities pass a number drawn for it."""
    rows = torch.tensor(prompt_ids).repeat(G, 1)
    responses, alive = [[] for _ in range(G)], [True] * G
    for t in range(MAX_TOKENS):
        probs = model(rows).logits[:, -1].softmax(-1)
        u = noise.uniform(*key, torch.arange(G), t)
        passed = probs.double().cumsum(-1) > u[:, None] * probs.double().sum(-1, keepdim=True)
        token = passed.int().argmax(-1)
        for s in range(G):
            if alive[s]:
                responses[s].append(int(token[s]))
                alive[s] = int(token[s]) != end
        if not any(alive):
            break
        rows = torch.cat([rows, token[:, None]], 1)
    return responses


def log_probs(model, rows):
    """Log-probability of each response token, and the exact entropy where it was drawn [N, T]; padded with 0.

    Padding is on the right, where a causal model's real tokens cannot see it, so no attention mask is needed.
    """
    longest = max(len(p) + len(r) for p, r in rows)
    ids = torch.tensor([p + r + [0] * (longest - len(p) - len(r)) for p, r in rows])
    width = max(len(r) for _, r in rows)
    logits = model(ids).logits
    logp, entropy = torch.zeros(len(rows), width, dtype=logits.dtype), torch.zeros(len(rows), width, dtype=logits.dtype)
    for i, (p, r) in enumerate(rows):
        scores = logits[i, len(p) - 1 : len(p) - 1 + len(r)].log_softmax(-1)
        logp[i, : len(r)] = scores.gather(1, torch.tensor(r)[:, None])[:, 0]
        entropy[i, : len(r)] = -(scores.exp() * scores).sum(-1)
    mask = torch.arange(width) < torch.tensor([len(r) for _, r in rows])[:, None]
    return logp, entropy, mask


def main(steps=20, seed=0, lr=1e-4, dtype=torch.float32, max_norm=1.0, report=print):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(tiny_path(), dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_path())
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    problems, grader, cursor, history = CountdownData(numbers=[3, 3, 4], train_size=10_000).train, CountdownGrader(), 0, []

    for step in range(1, steps + 1):
        # 1. draw prompts and sample responses
        drawn, cursor = draw(problems, P, seed, cursor)
        rows, text = [], []
        for problem in drawn:
            prompt = tokenizer(problem.prompt, add_special_tokens=False).input_ids
            for response in sample(model, prompt, (seed, step, 0, problem_key(problem)), tokenizer.eos_token_id):
                rows.append((prompt, response))
                text.append(tokenizer.decode(response, skip_special_tokens=True))

        # 2. and 3. reward and advantage
        verdicts = grader(text, [problem for problem in drawn for _ in range(G)])
        reward = torch.tensor([float(v.correct) for v in verdicts], dtype=dtype).view(P, G)
        advantage = ((reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-6)).flatten()

        # 4. the policy that sampled
        with torch.no_grad():
            old_logp, entropy, mask = log_probs(model, rows)

        # 5. updates on whole groups, in an order drawn for the step
        order, losses, norms = noise.permutation(P, seed, step, "minibatches", 0), [], []
        for m in range(M):
            picked = [g * G + s for g in sorted(order[P * m // M : P * (m + 1) // M]) for s in range(G)]
            logp, _, here = log_probs(model, [rows[i] for i in picked])
            old = old_logp[picked][:, : logp.shape[1]]
            adv = advantage[picked][:, None].to(logp.dtype)
            if m == 0:
                old = logp.detach()  # nothing has been updated yet: take rounding out of the ratio
            ratio = (logp - old).clamp(-20, 20).exp()
            loss = torch.maximum(-adv * ratio, -adv * ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH))
            loss = torch.where(adv < 0, torch.minimum(loss, -adv * DUAL_CLIP), loss)
            loss = (loss * here).sum() / here.sum()
            loss.backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(float(loss.detach()))

        history.append(
            {
                "step": step,
                "reward/mean": float(reward.double().mean()),
                "entropy/mean": float(entropy[mask].double().mean()),
                "length/mean": float(mask.sum(1).double().mean()),
                "loss/policy": sum(losses) / M,
                "update/grad_norm": sum(norms) / M,
            }
        )
        report(json.dumps(history[-1]))
    return model, history


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
