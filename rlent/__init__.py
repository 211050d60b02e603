"""rlent: experiments on the entropy of language models under RL with verifiable rewards.

As a library it has the methods as functions (`method`), measurements of the reader's own tensors, pass@k with intervals and the
grader; see docs/library.md. A name is imported when it is first used, and none needs transformers, Hydra or vLLM.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlent.errors import RlentError
    from rlent.grading.math import equal, grade, grade_batch
    from rlent.library.method import Function, Method, method, method_names
    from rlent.math.covariance import TopShare, token_covariance, top_covariance
    from rlent.math.entropy import entropy_from_logits, logp_and_entropy
    from rlent.math.group import group_advantage
    from rlent.math.intervals import Estimate, estimate_pass_at_k
    from rlent.math.masked import masked_mean
    from rlent.math.passk import pass_at_k
    from rlent.types import Verdict

__version__ = "0.1.0"

_HOME = {
    "Estimate": "math.intervals",
    "Function": "library.method",
    "Method": "library.method",
    "RlentError": "errors",
    "TopShare": "math.covariance",
    "Verdict": "types",
    "entropy_from_logits": "math.entropy",
    "equal": "grading.math",
    "estimate_pass_at_k": "math.intervals",
    "grade": "grading.math",
    "grade_batch": "grading.math",
    "group_advantage": "math.group",
    "logp_and_entropy": "math.entropy",
    "masked_mean": "math.masked",
    "method": "library.method",
    "method_names": "library.method",
    "pass_at_k": "math.passk",
    "token_covariance": "math.covariance",
    "top_covariance": "math.covariance",
}

__all__ = [
    "Estimate",
    "Function",
    "Method",
    "RlentError",
    "TopShare",
    "Verdict",
    "__version__",
    "entropy_from_logits",
    "equal",
    "estimate_pass_at_k",
    "grade",
    "grade_batch",
    "group_advantage",
    "logp_and_entropy",
    "masked_mean",
    "method",
    "method_names",
    "pass_at_k",
    "token_covariance",
    "top_covariance",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rlent' has no attribute '{name}' (public names: {', '.join(_HOME)})")
    from importlib import import_module

    return getattr(import_module(f"rlent.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
