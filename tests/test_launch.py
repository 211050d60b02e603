"""Several ranks from one command: stopped, killed and resumed, they give what one rank gives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs import SMALL, command, environment, lines, rows, started, train, wait_for

from rlent.cli import commands
from rlent.errors import RankLost, RecipeError, UsageError
from rlent.ranks import launch
from rlent.recipe import compose as recipe
from rlent.runs import checkpoint
from rlent.runs.folder import RunFolder

LONG = [*SMALL, "recipe=clipcov", "model.dtype=float64", "trainer.steps=8", "checkpoint.every=1"]


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True).stdout
    return [int(pid) for pid in found.split()]


@pytest.mark.slow
def test_ranks_that_were_stopped_and_then_killed_end_as_one_rank_ends(run_dir: Path, tmp_path: Path) -> None:
    one = train(tmp_path / "one", *LONG, small=[])
    job = started("train", *LONG, "scale.ranks=2", f"run.dir={run_dir}")
    wait_for(lambda: lines(run_dir) >= 2, job)
    job.send_signal(signal.SIGINT)
    assert job.wait(120) == 130, job.stdout.read()
    stopped = lines(run_dir)
    assert 2 <= stopped < 8

    job = started("train", "--resume", str(run_dir))
    wait_for(lambda: lines(run_dir) > stopped, job)
    victim = ranks_of(job)[1]
    os.kill(victim, signal.SIGKILL)
    assert job.wait(120) == 128 + signal.SIGKILL
    assert "rank 1 ended with SIGKILL; stopping the others" in job.stdout.read()

    done = subprocess.run(command("train", "--resume", str(run_dir)), env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for ours, theirs in zip(rows(one), rows(run_dir), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(theirs[k] == pytest.approx(v, rel=1e-8, abs=1e-10) for k, v in ours.items())


LOST, KILLED = f"exit {RankLost.exit_code}", "kill -KILL $$"


@pytest.mark.parametrize(
    ("first", "second", "code", "said"),
    [
        (LOST, KILLED, 137, "rank 1 ended with SIGKILL; stopping the others"),
        ("exit 1", KILLED, 137, "rank 1 ended with SIGKILL"),
        (LOST, "sleep 0.3; exit 2", 2, "rank 1 ended with exit code 2; stopping the others"),
        ("sleep 0.3; exit 1", LOST, 1, "rank 0 ended with exit code 1"),
        (LOST, LOST, 1, ""),
        (LOST, "exec sleep 60", 1, "rank 1 does not answer; killing it"),
        ("exec sleep 60", "exit 2", 2, "rank 1 ended with exit code 2; stopping the others"),
        ("exit 130", "sleep 0.3; exit 130", 130, ""),
        ("true", "true", 0, ""),
    ],
)
def test_the_rank_that_failed_is_blamed_and_not_the_one_that_lost_it(
    first: str, second: str, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "GRACE", 1.0)
    processes = [subprocess.Popen(["bash", "-c", does]) for does in (first, second)]
    for process, does in zip(processes, (first, second), strict=True):
        if "sleep" not in does:  # ended, and not yet looked at
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert launch._wait(processes) == code
    err = capsys.readouterr().err
    assert err.startswith(said) and err.count("\n") == bool(said), err


@pytest.mark.slow
@pytest.mark.parametrize("split", [False, True], ids=["whole", "sharded"])
def test_a_rank_that_hangs_ends_the_run_with_the_reason_and_a_checkpoint(split: bool, run_dir: Path) -> None:
    options = [f"scale.shard={str(split).lower()}", "scale.ranks=2", "scale.timeout=4", "trainer.steps=500"]
    job = started("train", *SMALL, "recipe=clipcov", "checkpoint.every=1", *options, f"run.dir={run_dir}")
    wait_for(lambda: lines(run_dir) >= 2, job)
    os.kill(ranks_of(job)[1], signal.SIGSTOP)
    try:
        assert job.wait(60) == 1
    finally:
        job.kill()
    said = job.stdout.read()
    assert "another rank has ended, or did not answer within scale.timeout = 4 s" in said and "Traceback" not in said, said
    assert "rank 1 does not answer; killing it" in said and "rank 0 ended" not in said, said
    status = RunFolder(run_dir).read_status()
    assert status["state"] == "failed" and "another rank" in status["reason"]
    last = checkpoint.steps(run_dir / "checkpoints")[-1]
    assert last >= 1
    assert commands.train([f"trainer.steps={last + 1}", "scale.ranks=1"], resume=str(run_dir)) == 0


@pytest.mark.slow
def test_ranks_that_do_not_all_come_are_not_waited_for_beyond_the_timeout(run_dir: Path) -> None:
    lonely = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(27500 + os.getpid() % 1000)}
    arguments = command("train", *SMALL, "scale.timeout=3", f"run.dir={run_dir}")
    done = subprocess.run(arguments, env=environment() | lonely, capture_output=True, text=True, timeout=120)
    assert (
        done.returncode == RankLost.exit_code
        and "the 2 ranks did not all meet at 127.0.0.1" in done.stderr
        and "Traceback" not in done.stderr
    )
    assert not run_dir.exists()


SRUN = """#!/bin/bash
# Slurm's srun, as far as the script needs it: two tasks on two nodes
for rank in 0 1; do SLURM_PROCID=$rank SLURM_LOCALID=0 SLURM_NTASKS=2 SLURM_NNODES=2 "${@:2}" & done
wait -n && wait -n
"""


@pytest.mark.slow
def test_the_slurm_script_starts_a_run_and_continues_it(run_dir: Path, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    mine = f'#!/bin/bash\nexec {sys.executable} -m rlent "$@"\n'
    for name, text in {"srun": SRUN, "scontrol": "#!/bin/bash\necho 127.0.0.1\necho other\n", "rlent": mine}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "two", "PATH": f"{tools}:{os.environ['PATH']}"}
    script = ["bash", str(Path(__file__).parent.parent / "scripts" / "slurm.sbatch"), str(run_dir)]
    options = [*SMALL, "recipe=grpo", "scale=cpu", "scale.shard=true", "scale.replicas=machines", "trainer.steps=2"]
    done = subprocess.run([*script, *options], env=environment() | job, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    again = subprocess.run(script, env=environment() | job, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and lines(run_dir) == 2, again.stderr
    assert subprocess.run(script[:2], env=environment() | job, capture_output=True, timeout=60).returncode == 2


@pytest.mark.slow
def test_ranks_with_different_recipes_are_refused_by_all(run_dir: Path) -> None:
    script = "import os, sys; from rlent import cli; sys.argv += ['seed=' + os.environ['RANK']]; cli.main()"
    arguments = ["train", *LONG, f"run.dir={run_dir}"]
    shell = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--no-python",
        sys.executable,
        "-c",
        script,
    ]
    done = subprocess.run([*shell, *arguments], env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode != 0 and done.stderr.count("rank 1 has another recipe than rank 0") >= 2, done.stderr
    assert not run_dir.exists()


def test_a_number_of_ranks_other_than_the_launchers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch.wanted({"ranks": 4}) == 4 and launch.wanted({"ranks": 1}) is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launch.wanted({"ranks": 2}) is None and launch.wanted({"ranks": 1}) is None
    with pytest.raises(UsageError, match=r"scale.ranks is 4, and the launcher started 2"):
        launch.wanted({"ranks": 4})


def test_a_number_of_ranks_that_must_be_divided_and_cannot_is_a_problem_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["scale=gpus8", "scale.replicas=3", "engine=vllm", "engine.tensor_parallel=5"]
    with pytest.raises(RecipeError) as found:
        recipe.load(options)
    said = [f"{key} does not divide the 8 ranks (a divisor of 8 is accepted)" for key in ("engine.tensor_parallel: 5", "scale.replicas: 3")]
    assert found.value.problems == said
    monkeypatch.setenv("WORLD_SIZE", "15")  # torchrun's word counts
    recipe.load(options)
    with pytest.raises(RecipeError, match="scale.replicas: 2 does not divide the 15 ranks"):
        recipe.load(["scale=multinode", "scale.replicas=2"])


def test_replicas_by_machine_are_as_many_as_the_launcher_has_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = recipe.load(["scale=multinode"])["scale"]
    assert launch.copies(scale) == 1
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert launch.copies(scale) == 2 and launch.copies({**scale, "replicas": 4}) == 4


ENDS = """
import atexit, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from rlent.ranks.launch import end_with

class Left:
    def __del__(self):
        print("taken apart")

left = Left()
atexit.register(print, "at exit")

def work():
    ThreadPoolExecutor(1).submit(print, "pooled")
    threading.Thread(target=lambda: (time.sleep(0.2), print("waited for"))).start()
    sys.exit("a reason")

end_with(work)
"""


def test_a_process_that_is_not_taken_apart_loses_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", ENDS], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr == "a reason\n"
    assert done.stdout.split("\n") == ["pooled", "waited for", "at exit", ""]


RANKS = """
import os, socket, sys
import torch.distributed
from rlent.ranks.launch import end_with
from rlent.ranks.world import World

def rank():  # the last thing a rank does is a collective
    sys.exit(3 if World.join().all_gather([1]) == [[1], [1]] else 4)

codes = []
for pair in range(12):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(s.getsockname()[1])}
    for number in range(2):
        os.environ["RANK"] = str(number)
        if os.fork() == 0:
            end_with(rank)
    codes += [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)]
print(set(codes))
"""


@pytest.mark.slow
def test_a_rank_whose_last_act_was_a_collective_ends_with_its_own_exit_code() -> None:
    done = subprocess.run([sys.executable, "-c", RANKS], env=environment(), capture_output=True, text=True, timeout=120)
    assert done.stdout == "{3}\n", done.stdout + done.stderr
