"""One definition for each metric: what it is, in which unit, and how to read it.

A name in angle brackets stands for a family: `cov/top_<share>` covers `cov/top_0.002`. Every name that a run logs is
here. "Tokens" are response tokens; "trained" ones are those of rows that get a loss. Shares are 0 to 1. Demonstrations, which the data
brings and no policy has drawn, are in `demo/*`, `loss/<name>`, `effect/<node>` and `update/*`, and in nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from rlent.errors import UsageError, did_you_mean


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's definition. `reading` says what high, low or drifting values mean."""

    name: str
    unit: str
    meaning: str
    reading: str


_TABLE = [
    Metric("step", "count", "the step, from 1", "one row of the record per step"),
    # ---- entropy ----
    Metric(
        "entropy/mean",
        "nats",
        "exact full-vocabulary entropy when the step began, mean over all tokens; long responses weigh more",
        "sinking to near 0: collapse, exploration is spent; rising without end: the policy is dissolving into noise",
    ),
    Metric(
        "entropy/seq_mean",
        "nats",
        "the same entropy, mean over the tokens of each response, then over responses (the entropy mechanism paper's definition)",
        "compare this one with published curves; above entropy/mean when short responses are the uncertain ones",
    ),
    Metric(
        "entropy/q<percent>",
        "nats",
        "the <percent>th percentile of token entropy",
        "q10 and q50 are near 0 in a trained model; a falling q90 or q99 means that the forking tokens go, too",
    ),
    Metric(
        "entropy/share_high",
        "share",
        "share of tokens with entropy above ln 2, more uncertain than a fair coin",
        "how many forks a response has; to 0 in a collapse",
    ),
    Metric(
        "entropy/top20_share",
        "share",
        "share of the summed entropy that lies on the 20 % of tokens with the highest entropy (at least one token)",
        "near 1: entropy sits on few forking tokens; near 0.2: it is spread evenly; absent when all entropy is 0",
    ),
    Metric(
        "entropy/adv_pos",
        "nats",
        "mean entropy of trained tokens with a positive advantage",
        "below entropy/adv_neg: good responses are the certain ones, and reinforcing them spends entropy",
    ),
    Metric("entropy/adv_neg", "nats", "mean entropy of trained tokens with a negative advantage", "read beside entropy/adv_pos"),
    Metric("entropy/correct", "nats", "mean entropy over the tokens of correct responses", "usually below entropy/wrong"),
    Metric(
        "entropy/wrong",
        "nats",
        "mean entropy over the tokens of wrong responses",
        "falling with entropy/correct: the model gets certain of its mistakes",
    ),
    Metric(
        "entropy/first",
        "nats",
        "mean entropy in the first third of each response (token t, from 0, of L with 3 t < L)",
        "where plans are chosen: the first third usually falls first",
    ),
    Metric("entropy/mid", "nats", "mean entropy in the middle third of each response", "read beside entropy/first"),
    Metric(
        "entropy/last", "nats", "mean entropy in the last third of each response (3 t >= 2 L)", "high: the model does not know how to end"
    ),
    Metric(
        "entropy/update",
        "nats",
        "mean entropy of trained tokens as the updates saw it, over all minibatches of the step",
        "below entropy/mean: the step itself spends entropy while it goes through its minibatches",
    ),
    Metric(
        "entropy/after",
        "nats",
        "token mean of the entropy on the ledger's rows after the updates",
        "minus the value before: ledger/measured",
    ),
    Metric(
        "entropy_t1/mean",
        "nats",
        "entropy/mean at temperature 1, where sampling uses another temperature",
        "comparable between sampling temperatures",
    ),
    Metric(
        "entropy_t1/seq_mean", "nats", "entropy/seq_mean at temperature 1", "the published definition when sampling is not at temperature 1"
    ),
    Metric(
        "entropy/sampler",
        "nats",
        "mean entropy of the distributions the engine sampled from, as the engine reports it",
        "exact in the native engine; from the top candidates in vLLM, and then too small",
    ),
    Metric(
        "nll/mean",
        "nats",
        "mean -log p of the sampled tokens when the step began, over all tokens: the sampled estimate of the entropy",
        "near entropy/mean while tokens come from the policy itself; a gap means that something else samples",
    ),
    # ---- covariance ----
    Metric(
        "cov/mean",
        "nats",
        "mean over trained tokens of (old_logp - its mean) (adv - its mean): the covariance of log-probability and advantage",
        "above 0: updates spend entropy, the more the larger; near 0 with high entropy: nothing is learnt; below 0: entropy rises",
    ),
    Metric(
        "cov/top_<share>",
        "nats",
        "mean of the same products over the top <share> of trained tokens (the largest ones, at least one token)",
        "hundreds of times cov/mean is usual: the few tokens that Clip-Cov and KL-Cov act on",
    ),
    Metric(
        "cov/corr",
        "correlation",
        "correlation of log-probability and advantage over trained tokens",
        "cov/mean without its scale; comparable between models; absent when either is constant",
    ),
    Metric(
        "cov/response",
        "nats",
        "covariance of l and exp(l) A inside each prompt's group, mean over prompts; l is a response's mean log-probability, A its mean "
        "advantage (theorem 1 with whole responses as actions)",
        "the curve of the entropy mechanism paper's figure 8: positive, falling with the entropy",
    ),
    Metric(
        "cov/acc_low",
        "nats",
        "mean of cov/mean's products over trained tokens of prompts with accuracy below 1/3",
        "hard prompts: usually the smallest of the three",
    ),
    Metric("cov/acc_mid", "nats", "the same over prompts with accuracy from 1/3 to 2/3", "read beside cov/acc_low and cov/acc_high"),
    Metric(
        "cov/acc_high",
        "nats",
        "the same over prompts with accuracy above 2/3",
        "easy prompts: usually the largest, entropy is spent on them",
    ),
    # ---- advantage, reward, groups ----
    Metric("adv/mean", "advantage", "mean advantage over trained tokens", "away from 0 when long and short responses differ in reward"),
    Metric("adv/std", "advantage", "standard deviation (population) of the advantage over trained tokens", "near 0: little to learn from"),
    Metric("adv/max", "advantage", "largest absolute advantage over trained tokens", "sets the largest step a token can take"),
    Metric(
        "adv/zero",
        "share",
        "share of trained tokens with advantage exactly 0",
        "high: most groups are all right or all wrong, and the batch is wasted",
    ),
    Metric(
        "reward/mean",
        "reward",
        "mean total reward over responses",
        "what is maximised; compare with correct/mean when there are several rewards",
    ),
    Metric("reward/std", "reward", "standard deviation (population) of the total reward over responses", "0: nothing to learn"),
    Metric(
        "reward/<name>",
        "reward",
        "mean over responses of the reward <name>, before its coefficient; token rewards are summed over the response",
        "rising while correct/mean stands still: that reward is being gamed",
    ),
    Metric(
        "reward/agreement",
        "share",
        "share of responses whose total reward equals the grader's verdict (0 or 1); logged with rewards that compare answers",
        "for rewards without labels: how good the reward is. It must be read beside correct/mean",
    ),
    Metric(
        "vote/ratio",
        "share",
        "mean over prompts of the share of responses with the most frequent answer; logged with rewards that compare answers",
        "at 1 nothing is left to vote on",
    ),
    Metric(
        "vote/correct",
        "share",
        "share of prompts whose most frequent answer (the first of equals) is right: accuracy of the majority",
        "where correct/mean ends when the majority is the label",
    ),
    Metric("correct/mean", "share", "share of responses the grader accepts: pass@1 on the step's prompts", "training accuracy"),
    Metric(
        "correct/any",
        "share",
        "share of prompts with at least one correct response among the step's: pass@G on the training prompts",
        "falling while correct/mean rises: diversity is being traded for accuracy",
    ),
    Metric(
        "group/zero", "share", "share of prompts whose responses all have the same reward", "these give no gradient under a group baseline"
    ),
    Metric("group/all_correct", "share", "share of prompts with only correct responses", "high: the data is too easy"),
    Metric("group/none_correct", "share", "share of prompts without a correct response", "high: the data is too hard"),
    Metric("group/count", "count", "prompts in the step", "fixed by the sampler unless groups are dropped"),
    Metric(
        "group/accuracy_q<percent>",
        "share",
        "the <percent>th percentile, over prompts, of the share of correct responses",
        "q10 at 0 and q90 at 1: prompts are either solved or hopeless",
    ),
    # ---- length, end, grader ----
    Metric(
        "length/mean",
        "tokens",
        "mean response length, end-of-text included",
        "growing with accuracy: longer reasoning; growing alone: rambling",
    ),
    Metric("length/max", "tokens", "longest response", "at the budget: responses are cut"),
    Metric("length/correct", "tokens", "mean length of correct responses", "read beside length/wrong"),
    Metric("length/wrong", "tokens", "mean length of wrong responses", "much above length/correct: failures ramble into the limit"),
    Metric(
        "finish/cut",
        "share",
        "share of responses cut at the token budget",
        "above a few percent: raise sampler.max_tokens or look for loops",
    ),
    Metric("finish/empty", "share", "share of responses with no token but end-of-text", "above 0: the model has learnt to say nothing"),
    Metric(
        "grader/<status>",
        "share",
        "share of responses that the grader returned with status <status>",
        "no_answer: the format is not learnt; timeout, limit or crash: look at samples.jsonl; gold_unparsed: fix the data",
    ),
    # ---- sampler and trainer ----
    Metric(
        "mismatch/mean",
        "nats",
        "mean |old_logp - sampler_logp| over tokens (with trainer.old_logprobs=rollout, the first update's logp over its tokens)",
        "numerical noise: 1e-6 in fp32, 1e-2 in bf16; larger: stale weights or another temperature",
    ),
    Metric("mismatch/max", "nats", "largest |old_logp - sampler_logp|", "above 1: some tokens were sampled from another distribution"),
    Metric(
        "mismatch/k1", "nats", "mean of sampler_logp - old_logp: estimate of KL(sampler || trainer), unbiased, of either sign", "near 0"
    ),
    Metric(
        "mismatch/k3",
        "nats",
        "mean of exp(d) - 1 - d with d = old_logp - sampler_logp: estimate of KL(sampler || trainer), never negative",
        "above 1e-2: correct it with an importance weight, or find the cause",
    ),
    Metric("mismatch/ratio_min", "ratio", "smallest exp(old_logp - sampler_logp)", "near 0: the trainer finds a sampled token impossible"),
    Metric("mismatch/ratio_max", "ratio", "largest exp(old_logp - sampler_logp)", "what a truncated importance weight would cut"),
    Metric(
        "noise/logp_max",
        "nats",
        "largest |difference| between a token's log-probability in the first update and in the old-logprob pass, or with trainer.old_logprobs=rollout in the engine",
        "0 in fp32 with the same parts; larger than a method's tolerance: terms like sign(logp - old_logp) act on noise",
    ),
    Metric("sampler/kept", "share", "share of drawn prompts that the sampler kept", "low: much generation is thrown away"),
    Metric("sampler/rounds", "count", "rounds of generation the step needed", "at sampler.rounds the run stops with an error"),
    Metric(
        "sampler/nll",
        "nats",
        "mean -log p of all sampled tokens, those of discarded prompts included, as the engine reports it",
        "entropy on all prompts, estimated",
    ),
    Metric(
        "sampler/<model>_reward",
        "reward",
        "mean reward of a frozen model's responses to the step's prompts, where the sampler asks one",
        "reward/mean above it: the policy has left the model behind",
    ),
    Metric(
        "sampler/replayed",
        "count",
        "responses of earlier steps that are trained on again, where the sampler replays",
        "0: the buffer is not full",
    ),
    Metric("sampler/stored", "count", "responses in the sampler's buffer after the step", "rising to the buffer's size: a replay is near"),
    Metric(
        "sampler/heat",
        "temperature",
        "temperature of the second rollout, where the sampler makes one",
        "switching often: entropy is at the target; never: it is far from it",
    ),
    # ---- demonstrations ----
    Metric("demo/count", "count", "demonstrations in the step, each a row in the group of its prompt", "0: nothing is imitated"),
    Metric("demo/missing", "count", "prompts of the step without a demonstration", "see sampler.field and sampler.missing"),
    Metric(
        "demo/long", "count", "demonstrations left out because they have more than sampler.max_tokens tokens", "raise sampler.max_tokens"
    ),
    Metric(
        "demo/refused",
        "count",
        "demonstrations that the grader does not accept; left out unless sampler.refused=keep",
        "above a few: the grader reads other answers than the data's authors meant, or the template asks for another form",
    ),
    Metric(
        "demo/nll",
        "nats",
        "mean -log p of the demonstrations' tokens under the policy when the step began",
        "falling: the policy comes to write like them; far above nll/mean: they are from another world",
    ),
    Metric(
        "demo/entropy", "nats", "mean exact entropy of the policy at the demonstrations' tokens when the step began", "read beside demo/nll"
    ),
    Metric("demo/reward", "reward", "mean total reward of the demonstrations", "below the reward of a correct answer: see demo/refused"),
    Metric("demo/adv", "advantage", "mean advantage over the demonstrations' tokens", "to 0 as the policy gets right what they show"),
    Metric("demo/length", "tokens", "mean length of the demonstrations, end-of-text included", "read beside length/mean"),
    Metric(
        "demo/pull",
        "share",
        "share of sum |pull| over all trained tokens that lies on demonstrations, over all updates",
        "near 1: this is supervised training; near 0: the demonstrations hardly count",
    ),
    Metric("sampler/correct", "share", "share of correct responses, those of discarded prompts included", "accuracy on all prompts"),
    # ---- selections ----
    Metric(
        "select/<node>/share",
        "share",
        "share of trained tokens that <node> selected",
        "the option asked for it; at a floor of one token it is larger",
    ),
    Metric(
        "select/<node>/pos",
        "share",
        "share of positive advantages among the tokens that <node> selected",
        "below 0.5: it softens the push-down of unlikely tokens in bad responses more than the push-up of likely ones",
    ),
    Metric(
        "select/<node>/prob",
        "probability",
        "mean probability, when the step began, of the tokens that <node> selected",
        "low: it acts on rare tokens",
    ),
    Metric(
        "select/<node>/entropy", "nats", "mean entropy, when the step began, of the tokens that <node> selected", "high: it acts on forks"
    ),
    # ---- updates ----
    Metric("ratio/mean", "ratio", "mean exp(logp - old_logp) over trained tokens of all updates", "1 on policy"),
    Metric("ratio/min", "ratio", "smallest exp(logp - old_logp)", "far below 1: some token was pushed down hard within the step"),
    Metric("ratio/max", "ratio", "largest exp(logp - old_logp)", "far above 1: unclipped losses (KL-Cov) can run away here"),
    Metric(
        "kl/k1",
        "nats",
        "mean of old_logp - logp over trained tokens of all updates: estimate of KL(old || new), of either sign",
        "how far updates move",
    ),
    Metric(
        "kl/k3",
        "nats",
        "mean of r - 1 - log r with r = exp(logp - old_logp): estimate of KL(old || new), never negative",
        "how far updates move; above 0.05: too many minibatches or too large a learning rate",
    ),
    Metric(
        "clip/share",
        "share",
        "share of trained tokens with an advantage whose loss has no gradient (pull = 0 and adv != 0), over all updates",
        "0 in the first minibatch; above 0.3: most of the batch no longer teaches",
    ),
    Metric(
        "clip/high", "share", "the part of clip/share with positive advantage", "tokens that already rose enough; clip-higher lowers it"
    ),
    Metric("clip/low", "share", "the part of clip/share with negative advantage", "tokens that already fell enough"),
    Metric(
        "gate/open",
        "share",
        "share of trained tokens whose gate lets the gradient through",
        "far below 1: a gating method silences much of the batch",
    ),
    Metric(
        "weight/mean",
        "weight",
        "mean weight of trained tokens after all shapes, over all updates",
        "away from 1 the effective learning rate changes",
    ),
    Metric("weight/zero", "share", "share of trained tokens with weight 0, over all updates", "tokens that shapes silence"),
    Metric(
        "weight/step",
        "weight",
        "mean weight of trained tokens after the shapes that act once a step",
        "away from 1 the effective learning rate changes",
    ),
    Metric(
        "pull/abs",
        "per token",
        "mean |pull| of trained tokens over all updates; pull is -d(objective)/d(logp), weights, gates and regularizers applied, "
        "on the scale of a token mean",
        "the size of the push on log-probabilities; to 0 when nothing is left to learn",
    ),
    Metric(
        "pull/pos", "share", "share of sum |pull| that raises log-probabilities", "far above 0.5 sharpens the policy, far below flattens it"
    ),
    Metric(
        "pull/silenced",
        "share",
        "share of trained tokens that the loss alone would push and the objective does not",
        "what shapes took out of the update",
    ),
    Metric(
        "loss/token_mean",
        "loss",
        "mean policy loss per trained token before weights and gates, over all updates",
        "not a measure of progress in RL",
    ),
    Metric(
        "loss/policy",
        "loss",
        "the policy's term of the objective (weighted and aggregated as the recipe says), mean over updates",
        "not a measure of progress in RL",
    ),
    Metric(
        "loss/<name>",
        "loss",
        "the term <name> of the objective before its coefficient, mean over updates",
        "for an entropy bonus: minus an entropy",
    ),
    Metric("update/grad_norm", "norm", "global gradient norm before clipping, mean over updates", "spikes come before a collapse"),
    Metric("update/grad_norm_max", "norm", "largest gradient norm of the step's updates", "far above the mean: one bad minibatch"),
    Metric(
        "update/grad_clipped",
        "share",
        "share of updates whose gradient was clipped",
        "always 1: the learning rate acts as a fixed step length",
    ),
    Metric("update/lr", "per update", "learning rate of the step's last update", "follows optim.schedule"),
    Metric("update/count", "count", "optimizer updates in the step", "trainer.minibatches times trainer.epochs"),
    Metric(
        "decode/<name>",
        "as noted",
        "mean over sampled tokens (or responses) of what a decode function said of them: <node>_<key>",
        "see the function's documentation; `<node>_temperature` is the temperature it drew at",
    ),
    Metric("knob/<name>", "option", "value of the option <name>, which a controller turns", "see the controller's documentation"),
    Metric("control/<name>", "control", "a controller's own number <name>", "see the controller's documentation"),
    Metric(
        "effect/<node>",
        "share",
        "share of trained tokens whose pull <node> changed",
        "0 for 20 steps: <node> does nothing in this recipe, and the run says so",
    ),
    # ---- ledger ----
    Metric(
        "ledger/d1",
        "nats per unit step",
        "mean over the ledger's tokens of -pull [p (log p + H) - sum_v p_v^2 (log p_v + H)]: theorem 1, summed over the step's updates",
        "negative: this update spends entropy; only sign and shape carry over to nats, see ledger/slope1",
    ),
    Metric(
        "ledger/d2",
        "nats per unit step",
        "mean over the ledger's tokens of -adv (log p + H): theorem 2",
        "as ledger/d1, for natural policy gradient",
    ),
    Metric(
        "ledger/measured",
        "nats",
        "change of mean entropy on the ledger's rows from before the updates to after",
        "negative: entropy was spent",
    ),
    Metric(
        "ledger/slope1",
        "step size",
        "slope through the origin of ledger/measured on ledger/d1 over the window, this step included",
        "the effective logit step; steady: theorem 1 explains the changes up to scale",
    ),
    Metric("ledger/slope2", "step size", "the same for ledger/d2", "as ledger/slope1"),
    Metric(
        "ledger/corr1",
        "correlation",
        "correlation of ledger/measured and ledger/d1 over the window",
        "above 0.5: theorem 1 explains which steps spend",
    ),
    Metric("ledger/corr2", "correlation", "correlation of ledger/measured and ledger/d2 over the window", "as ledger/corr1"),
    Metric(
        "ledger/sign1", "share", "share of steps in the window where ledger/d1 and ledger/measured have the same sign", "0.5 is guessing"
    ),
    Metric(
        "ledger/sign2", "share", "share of steps in the window where ledger/d2 and ledger/measured have the same sign", "0.5 is guessing"
    ),
    Metric(
        "ledger/predicted1",
        "nats",
        "ledger/d1 times the slope fitted on the earlier steps of the window",
        "against ledger/measured: a forecast, this step's change is not used; absent on the first step",
    ),
    Metric("ledger/predicted2", "nats", "ledger/d2 times the slope fitted on the earlier steps of the window", "as ledger/predicted1"),
    # ---- evaluation ----
    Metric(
        "eval/pass@<k>",
        "share",
        "chance that <k> responses drawn from those sampled hold a correct one, unbiased, mean over problems",
        "pass@1 up and pass@64 down: diversity was traded for accuracy",
    ),
    Metric(
        "eval/pass@<k>_low",
        "share",
        "lower end of the 95 % interval of pass@<k> over problems",
        "overlapping intervals: no difference shown",
    ),
    Metric(
        "eval/pass@<k>_high",
        "share",
        "upper end of the 95 % interval of pass@<k> over problems",
        "overlapping intervals: no difference shown",
    ),
    Metric(
        "eval/avg", "share", "share of correct responses, mean over problems: avg@n, the same as pass@1", "accuracy on held-out problems"
    ),
    Metric(
        "eval/maj@<k>",
        "share",
        "chance that a majority vote of <k> responses is correct, mean over problems",
        "below eval/avg: the favourite answer is a wrong one",
    ),
    Metric(
        "eval/cut",
        "share",
        "share of the evaluation's responses cut at the token budget",
        "above a few percent: the score is a matter of eval.max_tokens",
    ),
    Metric(
        "eval/unanswered",
        "share",
        "share of the evaluation's responses without an answer",
        "the format is not learnt, or the prompt does not ask for it",
    ),
    Metric("eval/length", "tokens", "mean length of the evaluation's responses, end-of-text included", "read beside length/mean"),
    Metric(
        "eval/nll",
        "nats",
        "mean -log p of the evaluation's sampled tokens: estimate of the entropy at the evaluation's decoding settings",
        "falls with entropy/mean in a collapse",
    ),
    # one of the sets of a suite (eval.sets), and the suite's means
    Metric(
        "eval/decode/<name>",
        "as noted",
        "mean over the evaluation's responses of what a decode function said of them, or of its mean over their tokens",
        "as decode/<name>",
    ),
    Metric("eval/<set>/decode/<name>", "as noted", "what a decode function said of the responses to <set>", "as eval/decode/<name>"),
    Metric("eval/<set>/avg", "share", "avg@n on the problems of <set>, under the set's own protocol", "as eval/avg"),
    Metric("eval/<set>/pass@<k>", "share", "pass@<k> on the problems of <set>", "as eval/pass@<k>"),
    Metric("eval/<set>/pass@<k>_low", "share", "lower end of the 95 % interval of pass@<k> on <set>", "as eval/pass@<k>_low"),
    Metric("eval/<set>/pass@<k>_high", "share", "upper end of the 95 % interval of pass@<k> on <set>", "as eval/pass@<k>_high"),
    Metric("eval/<set>/maj@<k>", "share", "maj@<k> on the problems of <set>", "as eval/maj@<k>"),
    Metric("eval/<set>/cut", "share", "share of responses to <set> cut at the token budget", "as eval/cut"),
    Metric("eval/<set>/unanswered", "share", "share of responses to <set> without an answer", "as eval/unanswered"),
    Metric("eval/<set>/length", "tokens", "mean length of the responses to <set>", "as eval/length"),
    Metric("eval/<set>/nll", "nats", "mean -log p of the tokens sampled for <set>", "as eval/nll; 0 where decoding is greedy"),
    Metric(
        "eval/mean_of_sets",
        "share",
        "mean of avg@n over the sets of a suite, every set with the same weight",
        "compare runs on the same sets",
    ),
    Metric(
        "eval/mean_of_rows",
        "share",
        "mean over all responses of a suite: a set weighs as many responses as it has (the Entropy Mechanism's Avg.)",
        "sets with many samples of many problems decide it",
    ),
    # ---- the law R = -a exp(H) + b, of runs without intervention, from eight points on ----
    Metric(
        "law/a",
        "score",
        "a of eval/pass@1 = -a exp(entropy/mean) + b, least squares on the run's evaluations so far",
        "what a nat of entropy buys",
    ),
    Metric("law/b", "score", "b of the same fit", "read law/ceiling"),
    Metric(
        "law/r2", "share", "share of the variance of eval/pass@1 that the fit explains", "below 0.5: no law here, or too noisy evaluations"
    ),
    Metric(
        "law/ceiling",
        "score",
        "b - a: the law's eval/pass@1 once all entropy is spent",
        "a forecast of where the run ends without an intervention",
    ),
    Metric(
        "law/ceiling_low", "score", "lower end of the 95 % bootstrap interval of law/ceiling over points", "wide: evaluate on more problems"
    ),
    Metric(
        "law/ceiling_high",
        "score",
        "upper end of the 95 % bootstrap interval of law/ceiling over points",
        "wide: evaluate on more problems",
    ),
    # ---- alarms: 1 while one lasts, 0 else ----
    Metric(
        "alarm/forecast",
        "0 or 1",
        "an exponential through the last 50 steps of entropy/mean is below stop.collapse of its start within 100 steps",
        "1: at this rate entropy is used up soon; a forecast, not yet a collapse",
    ),
    Metric(
        "alarm/collapse",
        "0 or 1",
        "entropy/mean, over five steps, is below stop.collapse times that of the first five",
        "1: exploration is spent; stop.on=[collapse] ends the run here",
    ),
    Metric(
        "alarm/explosion",
        "0 or 1",
        "entropy/mean, over five steps, is above that of the first five by stop.explosion nats and above twice it",
        "1: the policy dissolves into noise; stop.on=[explosion] ends the run here",
    ),
    Metric("alarm/inert", "0 or 1", "a shape or regularizer has changed no token's gradient for 20 steps", "1: see effect/<node>"),
    Metric(
        "alarm/starving",
        "0 or 1",
        "the sampler's filter keeps less than 20 % of the prompts for 3 steps, or a node selects less than a tenth of its first steps' tokens for 20",
        "1: see sampler/kept and select/<node>/share",
    ),
    Metric(
        "alarm/mismatch",
        "0 or 1",
        "mismatch/mean or mismatch/k3 is several times that of the first steps, and above its floor, for 3 steps",
        "1: correct with an importance weight, or find the cause",
    ),
    Metric(
        "alarm/grader",
        "0 or 1",
        "the share of a grader/<status> other than ok has jumped, for 3 steps",
        "1: look at samples.jsonl before you trust the reward",
    ),
    # ---- cost ----
    Metric("seconds/step", "seconds", "wall time of the whole step", "the s/step column"),
    Metric(
        "seconds/<stage>",
        "seconds",
        "wall time of <stage>; of grade, what the step waits once sampling is done",
        "generation usually dominates",
    ),
    Metric("tokens/step", "tokens", "response tokens sampled in the step", "cost of a step"),
    Metric("tokens/total", "tokens", "response tokens sampled since the run began", "compare runs by this, not by steps"),
    Metric("tokens/per_second", "tokens per second", "tokens/step over seconds/step", "throughput"),
    Metric("memory/peak", "GiB", "most accelerator memory allocated during the step", "at the card's size: lower trainer.max_tokens_per_microbatch"),
]

METRICS: dict[str, Metric] = {m.name: m for m in _TABLE}

_FIELD = re.compile(r"<(\w+)>")
_NUMBER = {"share": r"0?\.\d+|[01]|\d+(?:\.\d+)?[eE]-?\d+", "percent": r"\d+", "k": r"\d+"}


def _pattern(name: str) -> re.Pattern[str]:
    """The names a family covers. Numbers are numbers; words have no slash and no angle bracket."""
    parts = _FIELD.split(name)
    body = "".join(re.escape(part) if i % 2 == 0 else f"(?P<{part}>{_NUMBER.get(part, r'[^/<>@ ]+')})" for i, part in enumerate(parts))
    return re.compile(f"^{body}$")


# The most specific family first: the one with the most letters outside the brackets.
_FAMILIES = sorted(((_pattern(name), m) for name, m in METRICS.items() if "<" in name), key=lambda f: -len(_FIELD.sub("", f[1].name)))


def explain(name: str) -> Metric | None:
    """The definition of a metric by its logged name, with the family's brackets filled in, or None for an unknown name."""
    if name in METRICS:
        return METRICS[name]
    for pattern, metric in _FAMILIES:
        if found := pattern.match(name):
            texts = [_FIELD.sub(lambda f: found.groupdict().get(f[1], f[0]), t) for t in (metric.meaning, metric.reading)]
            return replace(metric, name=name, meaning=texts[0], reading=texts[1])
    return None


def describe(name: str) -> str:
    """What `explain` finds, as text.

    Raises:
        UsageError: there is no such metric; the message names the closest one.
    """
    metric = explain(name)
    if metric is None:
        raise UsageError(f"there is no metric '{name}'{did_you_mean(name, METRICS)} (all of them: rlent explain)")
    return f"{metric.name}  [{metric.unit}]\n  {metric.meaning}\n  reading: {metric.reading}"


def all_metrics() -> list[Metric]:
    """Every definition, in the order of the page."""
    return list(METRICS.values())
