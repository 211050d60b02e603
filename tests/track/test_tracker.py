"""The tracker's files and its W&B run, read back from disk; W&B is never in the way."""

import errno
import io
import json
import math
import os
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import yaml
from wandb.proto.wandb_internal_pb2 import Record

from rlent.errors import RlentError, RunExists, UsageError
from rlent.track import Tracker, read_rows, upload
from rlent.track.wandb_run import Wandb, logged_in, reachable

ROOT = Path(__file__).parents[2]
CONFIG = {"seed": 3, "loss": {"high": 0.28}, "shape": {"clip_cov": {"fraction": 0.002}}}


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(home))
    return home


class Kept:
    """A W&B run as it lies on disk. A .wandb file is a LevelDB log (blocks of 32 KiB) of protobuf records behind seven bytes."""

    def __init__(self, folder):
        (file,) = folder.glob("*.wandb")
        self.config, self.history, self.summary, self.exit_code, self.kinds = {}, [], {}, None, set()
        for record in self.records(file.read_bytes()):
            kind = record.WhichOneof("record_type")
            self.kinds.add(kind)
            if kind == "run":
                self.id, self.project, self.group = record.run.run_id, record.run.project, record.run.run_group
                self.tags, self.git, self.host = list(record.run.tags), record.run.git.remote_url, record.run.host
                self.config |= {i.key: json.loads(i.value_json) for i in record.run.config.update if i.key != "_wandb"}
            elif kind == "history":
                self.history.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item})
            elif kind == "summary":
                self.summary |= {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.summary.update}
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

    @staticmethod
    def records(data):
        assert data[:4] == b":W&B"
        at, pending = 7, b""
        while at + 7 <= len(data):
            left = 32768 - at % 32768
            if left < 7:
                at += left
                continue
            _, length, kind = struct.unpack("<IHB", data[at : at + 7])
            piece = data[at + 7 : at + 7 + length]
            pending = piece if kind in (1, 2) else pending + piece  # 1 whole, 2 first, 3 middle, 4 last
            at += 7 + length
            if kind in (1, 4):
                record = Record()
                record.ParseFromString(pending)
                yield record

    def column(self, name):
        return {row["_step"]: row[name] for row in self.history if name in row}


def wandb_runs(run_dir):
    """The finished runs in a folder, oldest first. W&B's own process writes the last records a moment after `finish` returns."""
    for _ in range(200):
        found = [Kept(p.parent) for p in sorted((run_dir / "wandb").glob("*run-*/*.wandb"))]
        if found and all(k.exit_code is not None for k in found):
            break
        time.sleep(0.05)
    return found


def tracker(run_dir, **options):
    return Tracker(run_dir, **{"console": "plain", "stream": io.StringIO(), "run_id": "abcd1234", **options})


def samples(step):
    return [
        {"prompt": f"p{i}", "response": f"r{step}", "answer": None, "correct": i == 0, "reward": 0.5, "entropy": 0.1 * i, "length": 3}
        for i in range(4)
    ]


def train(run, steps):
    for step in steps:
        metrics = {"entropy/mean": 1 / step, "loss/policy": float("nan") if step == 2 else 0.1, "tokens/step": 30.0}
        run.step(step, metrics, samples(step), seconds={"sample": 0.5, "update": 0.25}, total=9)


def test_an_offline_run_holds_config_tags_rows_summary_and_samples(tmp_path, nobody_is_logged_in):
    run = tracker(tmp_path, group="seeds", tags=["more"], project="proj", samples_every=2, samples=3)
    run.start(CONFIG, tags=["clipcov", "x" * 70])
    train(run, range(1, 5))
    run.summary({"law/a": 2.5})
    run.finish("finished")
    (kept,) = wandb_runs(tmp_path)
    assert (kept.id, kept.project, kept.group, kept.config) == ("abcd1234", "proj", "seeds", CONFIG)
    assert sorted(kept.tags) == sorted(["clipcov", "more", "x" * 64])
    assert kept.column("entropy/mean") == {1: 1.0, 2: 0.5, 3: 1 / 3, 4: 0.25}
    assert kept.column("seconds/step") == {s: 0.75 for s in range(1, 5)}
    assert set(kept.column("loss/policy")) == {1, 3, 4}  # step 2 was not finite
    assert kept.summary["law/a"] == 2.5 and kept.summary["status"] == "finished" and kept.summary["entropy/mean"] == 0.25
    assert kept.exit_code == 0
    assert kept.column("samples/nrows") == {1: 3, 2: 3, 4: 3}
    tables = [json.loads(p.read_text()) for p in (tmp_path / "wandb").glob("*run-*/files/media/table/*.json")]
    assert ["p0", "r4", None, True, 0.5, 0.0, 3] in [row for t in tables for row in t["data"]]
    # nothing about the machine, the code or the terminal; nothing outside the run folder
    assert kept.git == "" and kept.host == "" and not kept.kinds & {"output_raw", "output", "stats"}
    (files,) = (tmp_path / "wandb").glob("*run-*/files")
    assert {p.relative_to(files).parts[0] for p in files.rglob("*")} == {"media"}
    assert not list(nobody_is_logged_in.rglob("staging"))


def test_a_resumed_run_is_cut_back_and_replayed_into_a_new_wandb_folder_of_the_same_id(tmp_path):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    run = tracker(straight, mode="disabled", samples_every=2)
    run.start(CONFIG)
    train(run, range(1, 7))
    run.finish()
    first = tracker(stopped, samples_every=2)
    first.start(CONFIG)
    train(first, range(1, 6))
    first.finish("stopped")
    again = tracker(stopped, samples_every=2)
    again.start(CONFIG, resume_step=3)
    train(again, range(4, 7))
    again.finish()
    for name in ("metrics.jsonl", "samples.jsonl", "timings.jsonl"):
        assert (stopped / name).read_bytes() == (straight / name).read_bytes()
    before, after = wandb_runs(stopped)
    assert before.id == after.id == "abcd1234"
    assert list(before.column("entropy/mean")) == [1, 2, 3, 4, 5]
    assert after.column("entropy/mean") == {s: 1 / s for s in range(1, 7)}
    assert after.column("seconds/step") == {s: 0.75 for s in range(1, 7)}
    assert list(after.column("samples/nrows")) == [1, 2, 4, 6]


def test_the_record_has_nothing_of_the_clock(tmp_path):
    run = tracker(tmp_path, mode="disabled")
    run.start(CONFIG)
    run.step(1, {"entropy/mean": 0.5, "tokens/step": 30.0}, seconds={"sample": 2.0, "update": 4.0})
    run.finish()
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1, "entropy/mean": 0.5, "tokens/step": 30.0}]
    assert read_rows(tmp_path / "timings.jsonl") == [
        {"step": 1, "seconds/sample": 2.0, "seconds/update": 4.0, "seconds/step": 6.0, "tokens/per_second": 5.0}
    ]
    assert not (tmp_path / "wandb").exists()


def test_samples_are_kept_on_the_first_step_and_then_every_so_often(tmp_path):
    run = tracker(tmp_path, mode="disabled", samples_every=3, samples=2)
    run.start(CONFIG)
    train(run, range(1, 8))
    rows = read_rows(tmp_path / "samples.jsonl")
    assert [(r["step"], r["prompt"]) for r in rows] == [(s, p) for s in (1, 3, 6) for p in ("p0", "p1")]
    assert [s for s in range(1, 8) if run.samples_due(s)] == [1, 3, 6]
    assert not tracker(tmp_path, samples_every=0).samples_due(1)


def test_a_new_run_does_not_touch_a_record_that_is_there(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(RunExists, match="resume that run"):
        tracker(tmp_path, mode="disabled").start(CONFIG)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_a_rank_that_does_not_lead_keeps_nothing(tmp_path, capsys):
    run = Tracker(tmp_path, enabled=False)
    run.start(CONFIG)
    train(run, [1])
    run.say("hello")
    run.summary({"a": 1})
    run.finish()
    assert os.listdir(tmp_path) == [] and capsys.readouterr() == ("", "")


def test_a_full_disk_stops_the_run_with_the_file_named(tmp_path, monkeypatch):
    run = tracker(tmp_path, mode="disabled")
    run.start(CONFIG)
    run.step(1, {"a": 1})

    def full(handle, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("rlent.track.record.os.write", full)
    with pytest.raises(RlentError, match=r"step 2 could not be written to .*metrics\.jsonl .*No space left"):
        run.step(2, {"a": 1})
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1, "a": 1}]


class Broken:
    """A W&B run whose every call fails."""

    summary: dict = {}

    def log(self, *args, **kwargs):
        raise RuntimeError("service is gone")

    def finish(self, **kwargs):
        raise RuntimeError("service is gone")


def test_trouble_with_wandb_is_said_once_and_the_run_goes_on(tmp_path, capsys):
    run = tracker(tmp_path, mode="disabled")
    run.start(CONFIG)
    run.wandb.run = Broken()
    for step in (1, 2, 3):
        run.step(step, {"a": 1})
    run.finish()
    assert capsys.readouterr().err.count("service is gone") == 1
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 3


def test_wandb_that_cannot_start_is_said_and_the_run_goes_on(tmp_path, monkeypatch):
    import wandb

    def refuse(**kwargs):
        raise OSError("no service")

    monkeypatch.setattr(wandb, "init", refuse)
    said = []
    run = Wandb(mode="offline", say=said.append)
    run.start(tmp_path, CONFIG, "abcd")
    run.log(1, {"a": 1})
    run.finish()
    assert len(said) == 1 and "no service" in said[0] and "metrics.jsonl" in said[0]


def run_apart(tmp_path, mode, **environment):
    """A tracked step in a process of its own (W&B keeps its settings for a process); what it said."""
    code = f"""
        from rlent.track import Tracker
        run = Tracker({str(tmp_path)!r}, mode={mode!r}, run_id="abcd1234", console="off")
        run.start({{"seed": 1}})
        run.step(1, {{"entropy/mean": 0.5}})
        run.finish()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stderr


def test_a_server_that_does_not_answer_means_offline_with_a_message(tmp_path):
    said = run_apart(tmp_path, "auto", WANDB_API_KEY="k" * 40, WANDB_BASE_URL="http://127.0.0.1:9")
    assert "http://127.0.0.1:9 does not answer" in said and "rlent upload" in said
    (kept,) = wandb_runs(tmp_path)
    assert kept.column("entropy/mean") == {1: 0.5}
    assert [p.name.startswith("offline-run-") for p in (tmp_path / "wandb").glob("*run-*")] == [True]


def test_a_server_that_refuses_means_offline_with_a_message(tmp_path):
    """Something answers at the address, and it is not W&B: the run begins offline under the same id."""
    import http.server
    import threading

    class Refuse(http.server.BaseHTTPRequestHandler):
        def _refuse(self):
            self.send_response(401)
            self.end_headers()

        do_GET = do_POST = _refuse  # noqa: N815

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        said = run_apart(tmp_path, "online", WANDB_API_KEY="k" * 40, WANDB_BASE_URL=f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
    assert "cannot begin online" in said
    assert [k.column("entropy/mean") for k in wandb_runs(tmp_path) if k.history] == [{1: 0.5}]


def test_asking_for_online_without_a_login_is_said(tmp_path):
    said = []
    run = Wandb(mode="online", say=said.append)
    run.start(tmp_path, CONFIG, "abcd")
    run.log(1, {"a": 1.5})
    run.finish()
    assert len(said) == 1 and "not logged in" in said[0] and "wandb login" in said[0]
    (kept,) = wandb_runs(tmp_path)
    assert kept.column("a") == {1: 1.5}


def test_the_environment_decides_when_the_recipe_leaves_it_open(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Wandb(mode="auto").start(tmp_path, CONFIG, "abcd")
    assert not (tmp_path / "wandb").exists()
    run = Wandb(mode="offline")
    run.start(tmp_path, CONFIG, "abcd")
    run.finish("failed")
    assert [k.exit_code for k in wandb_runs(tmp_path)] == [1]


def test_a_login_is_a_key_in_the_environment_or_in_netrc(tmp_path, monkeypatch):
    url = "https://api.example.org"
    assert not logged_in(url)
    Path(os.environ["NETRC"]).write_text("machine api.example.org login user password 123\n")
    assert logged_in(url) and not logged_in("https://other.example.org")
    Path(os.environ["NETRC"]).write_text("machine api.wandb.ai login user password 123\n")
    assert logged_in(url)  # the public service, unless the environment names another server
    monkeypatch.setenv("WANDB_BASE_URL", url)
    assert not logged_in(url)
    Path(os.environ["NETRC"]).unlink()
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert logged_in(url)


def test_nothing_answers_at_a_closed_port():
    assert not reachable("http://127.0.0.1:9", seconds=2)


def test_upload_says_what_is_missing(tmp_path):
    with pytest.raises(UsageError, match="not a folder"):
        upload(tmp_path / "none")
    with pytest.raises(UsageError, match="has no W&B run"):
        upload(tmp_path)
    folder = tmp_path / "wandb" / "offline-run-20261123_223732-abcd1234"
    folder.mkdir(parents=True)
    (folder / "run-abcd1234.wandb").write_bytes(b"")
    with pytest.raises(UsageError, match="wandb login"):
        upload(tmp_path)


def test_upload_sends_the_newest_folder_with_wandbs_own_sync(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr("rlent.track.wandb_run.reachable", lambda url: True)
    for name in (
        "offline-run-20261123_100000-abcd1234",
        "run-20261124_100000-abcd1234",
        "offline-run-20261124_100000-abcd1234",
        "offline-run-20261101_100000-abcd1234",
    ):
        (tmp_path / "wandb" / name).mkdir(parents=True)
        (tmp_path / "wandb" / name / "run-abcd1234.wandb").write_bytes(b"")
    commands, code = [], 0

    def sync(command, **kwargs):
        commands.append(command)
        return subprocess.CompletedProcess(command, code, "wandb: sent", "")

    monkeypatch.setattr("rlent.track.wandb_run.subprocess.run", sync)
    assert upload(tmp_path) == "wandb: sent"
    assert commands[0][1:4] == ["-m", "wandb", "sync"] and commands[0][-1].endswith("offline-run-20261124_100000-abcd1234")
    code = 1
    with pytest.raises(RlentError, match="could not send"):
        upload(tmp_path)


def test_wandbs_sync_still_has_the_options_that_upload_uses():
    from wandb.cli.cli import sync

    assert {"--yes", "--include-online", "--include-synced"} <= {option for parameter in sync.params for option in parameter.opts}


@pytest.mark.parametrize("name", ["wandb", "jsonl", "none"])
def test_option_files_fit_the_tracker_and_explain_every_option(tmp_path, name):
    text = (ROOT / "recipes" / "track" / f"{name}.yaml").read_text()
    options = yaml.safe_load(text)
    assert set(options) == {
        *("mode", "project", "entity", "group", "tags", "samples_every", "samples", "console", "ledger", "save_batches"),
        *("tensorboard", "trackio"),
    }
    assert isinstance(options["ledger"]["rows"], int) and options["console"] in ("auto", "off")
    Tracker(tmp_path, **{k: v for k, v in options.items() if k not in ("ledger", "save_batches")})
    bare = [t for t in text.splitlines() if not t.startswith("#") and not t.startswith("ledger:") and "  # " not in t]
    assert bare == []


# --- charts, alerts, law; TensorBoard and trackio ----------------------------------------------------------------------


def evaluated(run, step):
    run.step(
        step,
        {"entropy/mean": 0.5, **{f"eval/pass@{k}{end}": v for k in (1, 4) for end, v in (("", k / 10), ("_low", 0.0), ("_high", 0.9))}},
    )


def test_an_evaluation_is_a_chart_of_pass_at_k_and_an_alarm_an_alert(tmp_path):
    run = tracker(tmp_path)
    run.start(CONFIG)
    evaluated(run, 1)
    run.alarm("collapse", "step 1: entropy has collapsed")
    run.finish()
    (kept,) = wandb_runs(tmp_path)
    (file,) = (tmp_path / "wandb").glob("*run-*/*.wandb")
    records = list(Kept.records(file.read_bytes()))
    (alert,) = [r.alert for r in records if r.WhichOneof("record_type") == "alert"]
    assert (alert.title, alert.text, alert.level) == ("collapse", "step 1: entropy has collapsed", "WARN")
    tables = [json.loads(p.read_text()) for p in (tmp_path / "wandb").glob("*run-*/files/media/table/**/*.json")]
    assert {"columns": ["k", "pass@k", "low", "high"], "data": [[1, 0.1, 0.0, 0.9], [4, 0.4, 0.0, 0.9]]} in [
        {k: t[k] for k in ("columns", "data")} for t in tables
    ]
    shown = [
        json.loads(i.value_json) for r in records if r.WhichOneof("record_type") == "config" for i in r.config.update if i.key == "_wandb"
    ]
    assert "pass@k at step 1" in json.dumps(shown + [kept.config]) or "eval/pass_at_k" in file.read_bytes().decode("latin1")


def test_tensorboard_has_the_rows_and_a_resumed_run_has_each_step_once(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed; pip install tensorboard brings this test back")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = tracker(tmp_path, mode="disabled", tensorboard=True)
    first.start(CONFIG)
    train(first, range(1, 6))
    first.alarm("inert", "step 5: idle")
    first.finish("stopped")
    again = tracker(tmp_path, mode="disabled", tensorboard=True)
    again.start(CONFIG, resume_step=3)
    train(again, range(4, 7))
    again.summary({"law/a": 2.5})
    again.finish()
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    scalars = found.Scalars("entropy/mean")
    assert [s.step for s in scalars] == [1, 2, 3, 4, 5, 6] and scalars[5].value == pytest.approx(1 / 6)
    assert [s.step for s in found.Scalars("loss/policy")] == [1, 3, 4, 5, 6] and found.Scalars("summary/law/a")[0].value == 2.5


def test_trackio_has_the_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    library = pytest.importorskip("trackio", reason="trackio is not installed; pip install trackio brings this test back")
    run = tracker(tmp_path / "run", mode="disabled", trackio=True, project="proj")
    run.start(CONFIG)
    train(run, range(1, 4))
    run.finish()
    (kept,) = library.Api().runs("proj")
    assert kept.name == "run-abcd1234"
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("proj", kept.name)
    assert [r["entropy/mean"] for r in rows] == [1.0, 0.5, 1 / 3]


@pytest.mark.parametrize("option", ["tensorboard", "trackio"])
def test_a_tracker_whose_library_is_missing_is_named_before_anything_starts(tmp_path, monkeypatch, option):
    monkeypatch.setitem(sys.modules, option, None)
    with pytest.raises(UsageError, match=rf"track.{option}=true needs the package {option}.*pip install {option}"):
        tracker(tmp_path, **{option: True})


def test_a_tracker_in_trouble_is_given_up_and_the_record_goes_on(tmp_path, capsys):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed; pip install tensorboard brings this test back")
    run = tracker(tmp_path, mode="disabled", tensorboard=True)
    run.start(CONFIG)
    run.others[0].writer = None
    train(run, range(1, 3))
    run.finish()
    assert capsys.readouterr().err.count("TensorBoard: given up") == 1 and len(read_rows(tmp_path / "metrics.jsonl")) == 2


def test_a_run_ends_with_the_coefficients_of_its_law_and_its_alarms_in_wandb(tmp_path, monkeypatch):
    """The law needs many evaluations: a run is given a past with them, and goes on for a step."""
    from runs import SMALL

    from rlent.cli import commands

    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "run"
    assert commands.train([*SMALL, f"run.dir={folder}", "trainer.steps=1"]) == 0
    (file,) = (folder / "checkpoints").glob("*/state.json")
    state = json.loads(file.read_text())
    entropy = [0.8 * 0.85**t for t in range(12)]
    state["law"] = {"entropy": entropy, "score": [0.6 - 0.2 * math.exp(h) for h in entropy], "waiting": None}
    state["alarms"]["above"], state["alarms"]["base"] = {"collapse": 2}, {"entropy/mean": [99.0] * 5}
    state["alarms"]["entropy"] = [1.0] * 5
    file.write_text(json.dumps(state))
    assert commands.train(["trainer.steps=2", "track.mode=offline"], resume=str(folder)) == 0
    (kept,) = wandb_runs(folder)
    assert kept.summary["law/a"] == pytest.approx(0.2) and kept.summary["law/ceiling"] == pytest.approx(0.4)
    assert kept.column("alarm/collapse") == {1: 0.0, 2: 1.0} and "alert" in kept.kinds
