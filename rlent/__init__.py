"""rlent: experiments on the entropy of language models under RL with verifiable rewards."""

__version__ = "0.1.0"
