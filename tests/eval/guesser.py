"""A model that reads any text and answers with one of a few boxed answers, with chosen chances: enough to test all but mathematics.

One layer, a token a byte, and a token for each answer. A constant in the embeddings acts as the output layer's bias.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

END = "<end>"


def make_guesser(folder: Path, chances: Mapping[str, float], *, stop: float = 0.5, seed: int = 0) -> Path:
    """Write the model. Each token is an answer with its chance in `chances` (they are normalised), or the end with chance `stop`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(END, special=True)])
    core.add_tokens([AddedToken(f"\\boxed{{{answer}}}", normalized=False) for answer in chances])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END, pad_token=END)
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=8192, tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).float().eval()
    total = sum(chances.values())
    logp = torch.full((len(tokenizer),), -30.0)
    logp[tokenizer.eos_token_id] = math.log(stop)
    for answer, chance in chances.items():
        logp[tokenizer.convert_tokens_to_ids(f"\\boxed{{{answer}}}")] = math.log((1 - stop) * chance / total)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.02 if weight.ndim > 1 else 1)
        model.get_input_embeddings().weight[:, 0] = 1.0  # one number far larger than the others: after the norm it is sqrt(16) everywhere
        model.lm_head.weight[:, 0] = logp / 4
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
