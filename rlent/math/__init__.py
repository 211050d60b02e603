"""Pure mathematics, of tensors and of counts: no state, no devices, nothing of a run.

`masked` statistics over response tokens and the deterministic choice of tokens; `entropy` of a softmax; `covariance` of
log-probability and advantage, and the entropy change it predicts; `ratio` of two policies and divergence estimates; `group`
statistics over the responses to one prompt; `attribution` of a change to parts of the tokens; `law`, the fit of score against
entropy; `noise`, random numbers that are a function of their counters. `drawing` names what methods
that draw responses work on. Of counts and verdicts: `passk`, `vote`, `intervals`, and
`verl`, another trainer's validation numbers.
"""
