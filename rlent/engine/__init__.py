"""Rollout engines: requests in, responses out. `base` is what every engine offers, `native` is the engine that is always there."""
