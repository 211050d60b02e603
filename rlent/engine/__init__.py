"""Rollout engines: requests in, responses out. `base` says what an engine is, `native` is the one that is always there."""
