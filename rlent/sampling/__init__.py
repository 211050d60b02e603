"""The sampler seat: drawing prompts, generating, grading, keeping."""
