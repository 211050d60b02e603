"""Pure mathematics on tensors: no state, no randomness, no devices, no knowledge of a run.

`masked` statistics over response tokens and the deterministic choice of tokens; `covariance` of log-probability and
advantage, and the entropy change it predicts; `ratio` of two policies and divergence estimates; `group` statistics
over the responses of one prompt.
"""
