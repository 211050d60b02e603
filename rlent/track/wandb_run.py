"""Weights & Biases: offline unless the user is logged in or asks, and never in the way of the run.

A resumed run begins a new W&B run folder under the same id, into which the kept rows are replayed, so that the newest folder is always the
whole run. No code, git state, host data or console output is sent.
"""

from __future__ import annotations

import json
import math
import netrc
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from rlent.errors import RlentError, UsageError

if TYPE_CHECKING:
    from rlent.types import Config, Json, JsonObject

Mode = Literal["auto", "online", "offline", "disabled"]

SAMPLES, CURVE = "samples", "eval/pass_at_k"
_PUBLIC_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")  # one service under two names; a key of one serves both
_TAG_LENGTH = 64
_REACH_SECONDS = 5.0
_INIT_SECONDS = 30.0
_FINISH_SECONDS = 60.0
_SETTLE_SECONDS = 5.0


def logged_in(base_url: str) -> bool:
    """Whether W&B would find a key for its server: in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    named = os.environ.get("NETRC")
    files = [Path(named).expanduser()] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]
    hosts = {urlsplit(base_url).netloc, *(() if os.environ.get("WANDB_BASE_URL") else _PUBLIC_HOSTS)}
    for file in files:
        try:
            entries = netrc.netrc(file).hosts
        except (OSError, netrc.NetrcParseError):
            continue
        if any(entries[host][2] for host in hosts & set(entries)):
            return True
    return False


def reachable(url: str, seconds: float = _REACH_SECONDS) -> bool:
    """Whether anything answers at a URL within some seconds (proxies of the environment are used)."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=seconds).close()  # the user's own W&B server
        except urllib.error.HTTPError:
            pass  # an answer, even if it is a refusal
        except Exception:
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)  # name lookups have no timeout of their own
    return answered.is_set()


class Wandb:
    """One W&B run. Trouble with W&B is said once and ends the tracking there, never the training.

    `mode` auto: WANDB_MODE of the environment if set, else online when logged in, else offline.
    """

    def __init__(
        self,
        *,
        mode: Mode = "auto",
        project: str = "rlent",
        entity: str | None = None,
        group: str | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.mode, self.project, self.entity, self.group, self.say = mode, project, entity, group, say
        self.run: Any = None
        self._wandb: Any = None
        self._staged = ""

    def start(
        self,
        run_dir: str | Path,
        config: Config,
        run_id: str,
        *,
        name: str | None = None,
        tags: Sequence[str] = (),
        replay: Iterable[JsonObject] = (),
        samples: Iterable[JsonObject] = (),
    ) -> None:
        """Begin a W&B run in `run_dir`/wandb, and log the rows of `replay` (with the `samples` of their steps) into it first."""
        if self.mode == "disabled":
            return
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb
        except Exception as error:
            self.say(f"W&B: not available ({_brief(error)}); metrics.jsonl has everything")
            return
        self._wandb, self._staged = wandb, str(Path(run_dir, "wandb", "staged").absolute())
        try:
            mode = self._resolve()
            if mode == "disabled":
                return
            begin = {
                "dir": str(run_dir),
                "id": run_id,
                "project": self.project,
                "entity": self.entity,
                "group": self.group,
                "name": name,
                "tags": list(dict.fromkeys(t[:_TAG_LENGTH] for t in tags if t)),
                "config": json.loads(json.dumps(dict(config), default=str)),
                "reinit": "create_new",
            }
            self._begin(begin, mode)
            self._replay(replay, samples)
        except Exception as error:
            self._give_up("could not be started", error)

    def log(self, step: int, metrics: Mapping[str, float], samples: Sequence[JsonObject] = ()) -> None:
        """Log a step's numbers, as far as they are finite, and a table of its sampled responses."""
        if self.run is None:
            return
        try:
            values: JsonObject = {k: v for k, v in metrics.items() if k != "step" and _there(v)}
            if samples:
                values[SAMPLES] = self._table(samples)
            if curve := pass_curve(metrics):
                values |= self._curve(curve, step)
            with _staging(self._staged):
                self.run.log(values, step=step)
        except Exception as error:
            self._give_up(f"stopped taking numbers at step {step}", error)

    def alert(self, name: str, text: str) -> None:
        """A W&B alert: a mail or a message, as the user has set it up there."""
        if self.run is None:
            return
        try:
            self.run.alert(title=name, text=text, level=self._wandb.AlertLevel.WARN)
        except Exception as error:
            self._give_up("refused an alert", error)

    def summary(self, values: Mapping[str, Json]) -> None:
        """Set values of the run's summary."""
        if self.run is None:
            return
        try:
            self.run.summary.update({k: v for k, v in values.items() if _there(v)})
        except Exception as error:
            self._give_up("refused the summary", error)

    def finish(self, status: str = "finished") -> None:
        """End the W&B run; a status other than finished or stopped marks it as failed. Waits for uploads a minute at most."""
        if self.run is None:
            return
        self.summary({"status": status})
        run, self.run = self.run, None
        if run is None:
            return
        try:
            file = Path(run.dir).parent / f"run-{run.id}.wandb"
            before = _size(file)
            run.finish(exit_code=0 if status in ("finished", "stopped") else 1)
            _settle(file, before)
        except Exception as error:
            self._give_up("could not be finished", error)

    def _resolve(self) -> str:
        """online, offline or disabled; says why it is not what was asked for."""
        asked = self.mode
        if asked == "auto" and os.environ.get("WANDB_MODE") in ("online", "offline", "disabled"):
            asked = os.environ["WANDB_MODE"]  # type: ignore[assignment]
        if asked in ("offline", "disabled"):
            return asked
        url = os.environ.get("WANDB_BASE_URL") or str(self._wandb.setup().settings.base_url)
        if not logged_in(url):
            if asked == "online":
                self.say(f"W&B: not logged in to {url} (wandb login); the run is kept offline, rlent upload sends it later")
            return "offline"
        if not reachable(url):
            self.say(f"W&B: {url} does not answer; the run is kept offline, rlent upload sends it later")
            return "offline"
        return "online"

    def _begin(self, begin: JsonObject, mode: str) -> None:
        wandb = self._wandb
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            save_code=False,
            disable_job_creation=True,
            init_timeout=_INIT_SECONDS,
            finish_timeout=_FINISH_SECONDS,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            x_transaction_log_flush_interval=5.0,
            host="",
            summary_warnings=0,
        )
        try:
            self.run = wandb.init(**begin, mode=mode, settings=settings)
        except Exception as error:
            if mode == "offline":
                raise
            self.say(f"W&B: cannot begin online ({_brief(error)}); the run is kept offline, rlent upload sends it later")
            wandb.teardown()  # or the id stays in use
            self.run = wandb.init(**begin, mode="offline", settings=settings)
            return
        if mode == "online":
            self.say(f"W&B: {self.run.url}")

    def _replay(self, rows: Iterable[JsonObject], samples: Iterable[JsonObject]) -> None:
        by_step: dict[int, list[Mapping[str, Json]]] = {}
        for sample in samples:
            by_step.setdefault(int(sample["step"]), []).append(sample)
        for row in rows:
            step = int(row["step"])
            self.log(step, row, by_step.get(step, ()))

    def _table(self, samples: Sequence[JsonObject]) -> Any:
        columns = list(dict.fromkeys(k for s in samples for k in s if k != "step"))
        return self._wandb.Table(columns=columns, data=[[_cell(s.get(c)) for c in columns] for s in samples], allow_mixed_types=True)

    def _curve(self, curve: Sequence[tuple[int, float, float | None, float | None]], step: int) -> JsonObject:
        """pass@k against k as a chart of its own, with its interval in the table."""
        table = self._wandb.Table(columns=["k", "pass@k", "low", "high"], data=[list(row) for row in curve])
        return {CURVE: self._wandb.plot.line(table, "k", "pass@k", title=f"pass@k at step {step}")}

    def _give_up(self, what: str, error: Exception) -> None:
        self.run = None
        self.say(f"W&B: {what} ({_brief(error)}); metrics.jsonl goes on")


def pass_curve(metrics: Mapping[str, float]) -> list[tuple[int, float, float | None, float | None]]:
    """(k, pass@k, low, high) of a step's evaluation, by k; empty if there was none, or only one k."""
    found = sorted(
        (int(k.removeprefix("eval/pass@")), v) for k, v in metrics.items() if k.startswith("eval/pass@") and k[10:].isdigit() and _there(v)
    )
    return [(k, v, metrics.get(f"eval/pass@{k}_low"), metrics.get(f"eval/pass@{k}_high")) for k, v in found] if len(found) > 1 else []


def upload(run_dir: str | Path) -> str:
    """Send a run's W&B folder to the server with W&B's own `sync`; returns where it went.

    The newest folder holds the whole run, resumed or not, and replaces what was sent before under the same id.

    Raises:
        UsageError: not a run folder, the run has no W&B folder, or the user is not logged in.
        RlentError: W&B could not send it.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise UsageError(f"'{run_dir}' is not a folder; a run prints its folder when it starts")
    folders = [p.parent for p in (run_dir / "wandb").glob("*run-*/run-*.wandb")]
    if not folders:
        raise UsageError(
            f"'{run_dir}' has no W&B run (it was tracked with track.mode=disabled, or W&B is not installed); metrics.jsonl has its numbers"
        )
    newest = max(folders, key=lambda p: (p.name.removeprefix("offline-"), p.name.startswith("offline-")))  # names hold the time
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    url = os.environ.get("WANDB_BASE_URL") or str(wandb.setup().settings.base_url)
    if not logged_in(url):
        raise UsageError(f"not logged in to {url}; run `wandb login` (or set WANDB_API_KEY), then upload again")
    if not reachable(url):
        raise RlentError(f"{url} does not answer; check the network, then upload again")
    command = [sys.executable, "-m", "wandb", "sync", "--yes", "--include-online", "--include-synced", str(newest)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).strip()
    if done.returncode != 0 or "ERROR" in said:
        raise RlentError(f"W&B could not send {newest}:\n{said}")
    return said


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _settle(file: Path, before: int) -> None:
    """Wait until W&B's own process has written the end of a run: a moment after `finish`, and lost if this process exits sooner."""
    give_up = time.monotonic() + _SETTLE_SECONDS
    last = before
    while time.monotonic() < give_up:
        size = _size(file)
        if size > before and size == last:
            return
        last = size
        time.sleep(0.05)


@contextmanager
def _staging(folder: str) -> Iterator[None]:
    """Keep the files of tables in the run folder, where `upload` finds them, unless the user has named a place."""
    if os.environ.get("WANDB_DATA_DIR"):
        yield
        return
    os.environ["WANDB_DATA_DIR"] = folder
    try:
        yield
    finally:
        os.environ.pop("WANDB_DATA_DIR", None)


def _there(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _brief(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
