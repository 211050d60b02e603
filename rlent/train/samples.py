"""What is written down of a step beside its metrics: sampled responses, and where entropy changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rlent.ranks.world import World
from rlent.types import Batch, Json, JsonObject


def samples(scored: Batch, batch: Batch, count: int, world: World) -> list[JsonObject]:
    """The first responses this rank sampled, with their rewards, which the rank that trained on them has."""
    entropy = scored.get("sampler_entropy")
    known = dict(zip(batch.row.tolist(), batch["reward"].tolist(), strict=True)) if "reward" in batch else {}
    reward = {row: value for share in world.gather(known) or [] for row, value in share.items()}
    rows = []
    sampled = [i for i, source in enumerate(scored["source"]) if source != "demo"]
    for i in sampled[:count]:
        length = int(scored["length"][i])
        rows.append(
            {
                "prompt": scored["prompt"][i],
                "response": scored["response"][i],
                "answer": scored["answer"][i],
                "correct": bool(scored["correct"][i]),
                "reward": reward.get(int(scored.row[i])),
                "length": length,
                "entropy": float(entropy[i, :length].mean()) if entropy is not None and length else None,
            }
        )
    return rows


def account_lines(account: JsonObject | None, pieces: Callable[[Sequence[int]], list[str]]) -> JsonObject | None:
    """The account of where entropy changed in a step, to six digits, with the texts of its tokens."""
    if account is None:
        return None
    texts = {k: pieces([int(k)])[0] for k in account["by"]["token"] if k.isdigit()}
    return {**_rounded(account), "texts": texts}


def _rounded(value: Json) -> Json:
    """Floats to six significant digits, inside lists and mappings too."""
    if isinstance(value, Mapping):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
