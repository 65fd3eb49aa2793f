"""The tools as a user runs them: what they print, and the files and rows they leave."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from metta.eval.eval_db import EvalDB
from metta.eval.policy_evaluator import LoadedAgent, PolicyEvaluator
from metta.rl.saving import saved_config
from metta.rl.saving.run_lock import RunLock
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager, save_checkpoint
from metta.tools import runs
from metta.tools.main import main
from tests.helpers.commands import ENVIRONMENT, ROOT, metta_in, run_in
from tests.helpers.report_data import log

TINY = ("num_envs=2", "horizon=8", "minibatch_size=16", "update_epochs=1")
COMMAND = (sys.executable, "-m", "metta.tools.main")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with run a, three epochs of CartPole-v1, in its train_dir."""
    folder = tmp_path_factory.mktemp("tools")
    train = ("train", "run=a", "env=CartPole-v1", "total_timesteps=48", "checkpoint_interval=2", *TINY)
    out, err = metta_in(folder, *train)
    assert out == "" and "run=a complete: epoch 3, 48 agent steps" in err
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy to work in."""
    shutil.copytree(trained / "train_dir", tmp_path / "train_dir")
    return tmp_path


def rows(table: str) -> list[list[str]]:
    """The cells of a plain table: columns are at least two spaces apart."""
    return [re.split(r" {2,}", line.strip()) for line in table.splitlines()]


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "train_dir/a/checkpoints").iterdir())


def test_train_leaves_two_files_for_each_checkpoint(trained: Path) -> None:
    assert checkpoints(trained) == sorted(f"{kind}_epoch_{n}.pt" for kind in ("agent", "trainer") for n in (0, 2, 3))


def test_a_complete_run_says_so_and_can_be_extended(folder: Path) -> None:
    before = checkpoints(folder)
    assert "run=a is complete: epoch 3, 48 agent steps" in metta_in(folder, "train", "run=a")[1]
    assert checkpoints(folder) == before
    metta_in(folder, "train", "run=a", "total_timesteps=64", "env=CartPole-v1", *TINY)
    assert "agent_epoch_4.pt" in checkpoints(folder)


def test_sim_prints_what_it_stores(folder: Path) -> None:
    out, err = metta_in(folder, "sim", "run=a", "episodes=5", "random=true")
    headings, agent, random, verdict = rows(out)
    assert headings == ["agent", "epoch", "env", "mean reward", "95% interval", "IQM", "episodes"]
    (env, score), *others = EvalDB(folder / "train_dir/eval.db").get_scores("a", epoch=3).items()
    interval = f"[{score.low:.2f}, {score.high:.2f}]"
    assert agent == ["a", "3", env, f"{score.mean:.2f}", interval, f"{score.iqm:.2f}", "5"]
    assert not others and env == "CartPole-v1"
    assert random[:3] == ["random", "-", "CartPole-v1"] and random[-1] == "5"
    assert re.fullmatch(r"The 95% interval of a (lies|does not lie) above the random agent's\.", verdict[0])
    assert "run=a epoch=3: 5 episodes of CartPole-v1" in err


def test_sim_all_then_best(folder: Path) -> None:
    every = rows(metta_in(folder, "sim", "run=a", "epoch=all", "episodes=3")[0])[1:]
    assert [row[1] for row in every] == ["0", "2", "3"]
    db = EvalDB(folder / "train_dir/eval.db")
    assert sorted(db.get_scores("a")) == [0, 2, 3]
    some = rows(metta_in(folder, "sim", "run=a", "epoch=1..2", "episodes=3")[0])[1:]
    assert [row[1] for row in some] == ["2"]
    best = db.best_epoch("a")
    assert rows(metta_in(folder, "sim", "run=a", "epoch=best", "episodes=3")[0])[1][1] == str(best)


def test_sim_goes_on_where_one_of_several_fails(folder: Path) -> None:
    """One environment that raises, or has another observation, cost the table and all that came after it."""
    (folder / "suite.py").write_text(
        "import gymnasium\n"
        "class Broken(gymnasium.Wrapper):\n"
        "    def step(self, action): raise ValueError('broken')\n"
        "def broken(): return Broken(gymnasium.make('CartPole-v1'))\n"
        "SUITE = {'broken': broken, 'other': 'Pendulum-v1', 'good': 'CartPole-v1'}\n"
    )
    out, err = metta_in(folder, "sim", "run=a", "env=suite.py:SUITE", "episodes=2", "random=true", status=1)
    assert [row[:3] for row in rows(out)[1:3]] == [
        [who, at, "suite.py:SUITE/good"] for who, at in (("a", "3"), ("random", "-"))
    ]
    said = [line for line in err.splitlines() if line.startswith("metta sim: ")]
    assert len(said) == 2 and "ValueError: broken" in said[0] and "cannot act in suite.py:SUITE/other" in said[1]
    out, err = metta_in(folder, "sim", "run=a", "epoch=2..3", "env=suite.py:broken", "episodes=2", status=1)
    assert len(rows(out)) == 1 and err.count("ValueError: broken") == 2
    out, err = metta_in(folder, "sim", "run=a", "env=suite.py:broken", "episodes=2", status=1)
    assert out == "" and err.count("ValueError: broken") == 1
    assert metta_in(folder, "sim", "run=a", "env=suite.py:SUITE/other", "episodes=2", status=2)[0] == ""


def test_train_keeps_the_best_evaluated_checkpoint(folder: Path) -> None:
    """keep_last= that deletes the one checkpoint which everybody would want back."""
    with PolicyEvaluator(folder / "train_dir") as evaluator:
        evaluator.evaluate("a", 2, episodes=2)
    metta_in(folder, "train", "run=a", "total_timesteps=80", "checkpoint_interval=1", "keep_last=1")
    assert checkpoints(folder) == sorted(f"{kind}_epoch_{n}.pt" for kind in ("agent", "trainer") for n in (2, 5))


def test_sim_of_several_runs(folder: Path) -> None:
    """A shell loop over seeds, each start of which takes the seconds that torch takes."""
    for run in ("b", "b-2"):
        shutil.copytree(folder / "train_dir/a", folder / "train_dir" / run)
    out, _ = metta_in(folder, "sim", "run=b*,a,b", "episodes=2", "epoch=2..3", "random=true")
    assert [row[:3] for row in rows(out)[1:]] == [
        *([run, epoch, "CartPole-v1"] for run in ("b", "b-2", "a") for epoch in "23"),
        ["random", "-", "CartPole-v1"],
    ]
    assert EvalDB(folder / "train_dir/eval.db").runs() == ["a", "b", "b-2"]


def test_sim_says_that_training_got_another_return(folder: Path) -> None:
    """0.00 for an agent that earned 0.81 in training, because its likeliest actions go in circles, without a word."""
    for curves in (folder / "train_dir/a").glob("events.*"):
        curves.unlink()
    log(folder / "train_dir/a", {48: {"charts/episodic_return": 400.0}})
    _, err = metta_in(folder, "sim", "run=a", "episodes=2")
    assert re.fullmatch(
        r"metta sim: run=a epoch=3: \d+\.\d\d lies far below the training return, 400\.00: training draws its"
        r" actions, this took the likeliest; sampled=true draws them",
        err.splitlines()[-1],
    )
    out, err = metta_in(folder, "sim", "run=a", "episodes=2", "sampled=true")
    assert rows(out)[1][:3] == ["a", "3", "CartPole-v1 sampled"] and "far below" not in err
    out, _ = metta_in(folder, "runs")
    assert "CartPole-v1" in out and "sampled" not in out
    out, _ = metta_in(folder, "play", "run=a", "sampled=true")
    assert "run=a epoch=3 sampled=true env=CartPole-v1 seed=0: step" in out
    metta_in(folder, "replay", "run=a", "sampled=true")
    assert (folder / "train_dir/a/replays/epoch_3_CartPole-v1%20sampled_seed_0.gif").exists()
    metta_in(folder, "analyze", "runs=a", "format=csv", "out=numbers")
    scores = (folder / "numbers/scores.csv").read_text()
    assert ",CartPole-v1," in scores and ",CartPole-v1 sampled," in scores


def test_a_run_that_may_not_be_read_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents one folder of somebody else's from hiding every run of a shared train_dir: Errno 13, and no more."""
    for name in ("b", "locked"):
        shutil.copytree(folder / "train_dir/a", folder / f"train_dir/{name}")
    metta_in(folder, "sim", "run=a,b", "episodes=2")
    real = TinyCheckpointManager.list_epochs

    def list_epochs(manager: TinyCheckpointManager) -> list[int]:
        if "b/" in str(manager.folder):
            raise PermissionError(13, "Permission denied", str(manager.folder))
        return real(manager)

    monkeypatch.setattr(TinyCheckpointManager, "list_epochs", list_epochs)
    (folder / "train_dir/locked/trainer.lock").unlink(missing_ok=True)  # which is no file to read then
    monkeypatch.setattr(runs, "is_locked", lambda lock: lock.parent.name == "locked" and lock.read_bytes())
    out, err = metta_in(folder, "runs")
    assert [row[0] for row in rows(out)[1:]] == ["a"]
    assert [line.partition(": ")[2].partition(":")[0] for line in err.splitlines()] == [
        "run=b is left out",
        "run=locked is left out",
    ]
    (*_, table) = metta_in(folder, "sim", "run=[ab]", "episodes=2")[0].splitlines()
    assert table.split()[0] == "a"
    metta_in(folder, "analyze", "runs=[ab]")
    assert "no run b in ./train_dir: have a, locked" in metta_in(folder, "analyze", "runs=b", status=2)[1]


def test_sim_in_another_environment(folder: Path) -> None:
    metta_in(folder, "sim", "run=a", "env=CartPole-v1", "env.max_episode_steps=4", "episodes=2")
    (score,) = EvalDB(folder / "train_dir/eval.db").get_scores("a", 3, "CartPole-v1[max_episode_steps=4]").values()
    assert score.mean == 4
    assert "cannot act in Pendulum-v1" in metta_in(folder, "sim", "run=a", "env=Pendulum-v1", status=2)[1]


def test_sim_of_a_run_s_own_file_is_that_checkpoint(folder: Path) -> None:
    metta_in(folder, "sim", "agent=train_dir/a/checkpoints/agent_epoch_2.pt", "episodes=2")
    assert list(EvalDB(folder / "train_dir/eval.db").get_scores("a")) == [2]


def test_sim_of_a_foreign_file_does_not_replace_a_run_s_own_scores(folder: Path) -> None:
    """`agent=FILE run=a`, the file's name being an epoch of a's, deleted a's rows and replays of that epoch."""
    metta_in(folder, "sim", "run=a", "epoch=2", "episodes=2")
    replays = {path: path.read_bytes() for path in (folder / "train_dir/a/replays").iterdir()}
    scores = EvalDB(folder / "train_dir/eval.db").get_scores("a")
    shutil.copy(folder / "train_dir/a/checkpoints/agent_epoch_3.pt", folder / "agent_epoch_2.pt")
    _, err = metta_in(folder, "sim", "agent=agent_epoch_2.pt", "run=a", "episodes=2", status=2)
    assert (
        err.count("\n") == 1
        and f"run=a epoch=2 is another agent, {folder}/train_dir/a/checkpoints/agent_epoch_2.pt" in err
    )
    assert replays == {path: path.read_bytes() for path in (folder / "train_dir/a/replays").iterdir()}
    assert scores == EvalDB(folder / "train_dir/eval.db").get_scores("a")
    for kind in ("agent", "trainer"):  # as keep_last= does
        (folder / f"train_dir/a/checkpoints/{kind}_epoch_2.pt").unlink()
    _, err = metta_in(folder, "sim", "agent=agent_epoch_2.pt", "run=a", "episodes=2", status=2)
    assert err.count("\n") == 1 and "run=a epoch=2 has another agent's scores: store those of agent_epoch_2.pt" in err
    assert replays == {path: path.read_bytes() for path in (folder / "train_dir/a/replays").iterdir()}
    assert scores == EvalDB(folder / "train_dir/eval.db").get_scores("a")
    metta_in(folder, "sim", "agent=agent_epoch_2.pt", "run=a", "epoch=3", "episodes=2")  # it is a's agent of epoch 3


def test_sim_of_a_file_from_elsewhere_is_stored_only_under_a_given_run(folder: Path) -> None:
    shutil.copy(folder / "train_dir/a/checkpoints/agent_epoch_2.pt", folder / "theirs.pt")
    out, _ = metta_in(folder, "sim", "agent=theirs.pt", "episodes=2")
    assert rows(out)[1][:3] == ["theirs.pt", "-", "CartPole-v1"]
    assert not (folder / "train_dir/eval.db").exists()
    metta_in(folder, "sim", "agent=theirs.pt", "episodes=2", "run=b", "epoch=9")
    assert list(EvalDB(folder / "train_dir/eval.db").get_scores("b")) == [9]
    assert "missing epoch=" in metta_in(folder, "sim", "agent=theirs.pt", "run=b", status=2)[1]


def test_sim_escapes_the_name_of_a_file(folder: Path) -> None:
    """Prevents control characters in a downloaded file's name from reaching the terminal."""
    shutil.copy(folder / "train_dir/a/checkpoints/agent_epoch_3.pt", folder / "x\x1b[2J.pt")
    out, err = metta_in(folder, "sim", "agent=x\x1b[2J.pt", "episodes=1")
    assert err == "agent=x\\x1b[2J.pt: 1 episodes of CartPole-v1\n" and "\x1b" not in out


def test_sim_all_names_a_damaged_checkpoint_and_goes_on(folder: Path) -> None:
    path = folder / "train_dir/a/checkpoints/agent_epoch_2.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    out, err = metta_in(folder, "sim", "run=a", "epoch=all", "episodes=2", status=1)
    assert [row[1] for row in rows(out)[1:]] == ["0", "3"]
    assert f"metta sim: {folder}/train_dir/a/checkpoints/agent_epoch_2.pt" in err


def test_a_damaged_newest_checkpoint_is_named_and_training_goes_on_from_the_one_before(folder: Path) -> None:
    path = folder / "train_dir/a/checkpoints/agent_epoch_3.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    _, err = metta_in(folder, "train", "run=a")
    assert err.startswith(f"metta train: {path} ")
    assert "run=a goes on at 32 of 48 agent steps" in err and "run=a complete" in err


@pytest.mark.parametrize("command", ["sim", "runs"])
def test_the_newest_checkpoint_may_be_deleted_for_a_newer_one(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside a trainer with keep_last=1, which deletes what was just listed: an error, or a `-` for what is there."""
    monkeypatch.chdir(folder)
    manager = TinyCheckpointManager("a")
    for epoch in (0, 2):
        for kind in ("agent", "trainer"):
            manager.file(kind, epoch).unlink()
    done = list[None]()

    def overtake() -> None:
        if not done:
            done.append(None)
            for kind in ("agent", "trainer"):
                manager.file(kind, 3).rename(manager.file(kind, 4))

    def load(self: PolicyEvaluator, run: str, epoch: int) -> LoadedAgent:
        overtake()
        return load_agent(self, run, epoch)

    def read(trainer_file: Path, *needed: str) -> dict[str, Any]:
        overtake()
        return read_saved_config(trainer_file, *needed)

    load_agent, read_saved_config = PolicyEvaluator.load, saved_config.read_saved_config
    monkeypatch.setattr(PolicyEvaluator, "load", load)
    monkeypatch.setattr(saved_config, "read_saved_config", read)
    assert main([command, "run=a", "episodes=1"] if command == "sim" else [command]) == 0
    said = capsys.readouterr()
    assert done and "CartPole-v1" in said.out and "no checkpoint" not in said.err and "cannot be read" not in said.err
    assert re.search(r"^a +4 +CartPole" if command == "sim" else r"^a +CartPole-v1 +complete ", said.out, re.MULTILINE)


def start_watching(folder: Path, run: str) -> subprocess.Popen[str]:
    command = [*COMMAND, "sim", f"run={run}", "watch=true", "episodes=1"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True)


def test_sim_watch_waits_for_a_run_that_begins(tmp_path: Path) -> None:
    """Trainer and watcher started together: the watcher found no run yet, and ended."""
    watch = start_watching(tmp_path, "new")
    assert watch.stdout is not None and watch.stderr is not None
    try:
        assert watch.stderr.readline().startswith("metta sim: waiting for the first checkpoint in ")
        tiny = ["num_envs=1", "horizon=16", "minibatch_size=16", "hidden_size=4"]
        metta_in(tmp_path, "train", "run=new", "env=CartPole-v1", "total_timesteps=16", *tiny)
        assert [watch.stdout.readline().split()[1] for _ in range(2)] == ["epoch=0", "epoch=1"]
    finally:
        watch.send_signal(signal.SIGINT)
        watch.communicate()


def test_sim_watch_plays_each_new_checkpoint(folder: Path) -> None:
    """watch=true follows a run that another process trains, and Ctrl-C ends it; a file that is saved again is new."""
    watch = start_watching(folder, "a")
    assert watch.stdout is not None
    try:
        assert watch.stdout.readline().startswith("run=a epoch=3 CartPole-v1 ")
        metta_in(folder, "train", "run=a", "total_timesteps=80", "checkpoint_interval=1")
        assert [watch.stdout.readline().split()[1] for _ in range(2)] == ["epoch=4", "epoch=5"]
        agent_file = TinyCheckpointManager("a", folder / "train_dir").file("agent", 4)
        shutil.copy(agent_file, folder / "new.pt")
        (folder / "new.pt").replace(agent_file)
        assert watch.stdout.readline().startswith("run=a epoch=4 CartPole-v1 ")
    finally:
        watch.send_signal(signal.SIGINT)
        _, err = watch.communicate()
    assert watch.returncode == 128 + signal.SIGINT and "Traceback" not in err
    assert sorted(EvalDB(folder / "train_dir/eval.db").get_scores("a")) == [3, 4, 5]


def test_runs(folder: Path) -> None:
    assert metta_in(folder, "runs", "train_dir=empty", status=2)[1] == "metta runs: train_dir=empty is not a folder\n"
    (folder / "empty").mkdir()
    assert "no runs in empty yet" in metta_in(folder, "runs", "train_dir=empty")[0]
    metta_in(folder, "sim", "run=a", "epoch=2", "episodes=3")
    (folder / "train_dir/no run").mkdir()
    headings, row = rows(metta_in(folder, "runs")[0])
    assert headings == ["run", "env", "state", "epoch", "steps", "latest score", "at", "size"]
    score = EvalDB(folder / "train_dir/eval.db").get_scores("a", epoch=2)["CartPole-v1"]
    latest = f"{score.mean:.2f} [{score.low:.2f}, {score.high:.2f}]"
    assert row[:-1] == ["a", "CartPole-v1", "complete", "3", "48", latest, "2"]
    size = sum(path.stat().st_size for path in (folder / "train_dir/a").rglob("*") if path.is_file())
    assert row[-1] == f"{size / 1000:.1f} kB"


def test_runs_tells_a_run_in_training(folder: Path) -> None:
    """And does not take the lock to find out: two trainers would be the end of exact resume."""
    with RunLock(folder / "train_dir/a/trainer.lock"):
        assert rows(metta_in(folder, "runs")[0])[1][2] == "training"
        refusal = metta_in(folder, "train", "run=a", "total_timesteps=99", status=2)[1]
        assert refusal == f"metta train: {folder}/train_dir/a is being trained by process {os.getpid()}\n"
    assert rows(metta_in(folder, "runs")[0])[1][2] == "complete"


def test_runs_without_a_trainer_file_has_no_invented_steps(folder: Path) -> None:
    for path in (folder / "train_dir/a/checkpoints").glob("trainer_*"):
        path.unlink()
    out, err = metta_in(folder, "runs")
    assert rows(out)[1][:7] == ["a", "-", "-", "3", "-", "-", "-"]
    assert "trainer_epoch_3.pt" in err


def test_runs_has_epoch_and_steps_of_one_checkpoint(folder: Path) -> None:
    """Prevents a stray agent file, which no trainer file goes with, from being the epoch of a complete run."""
    agents = folder / "train_dir/a/checkpoints"
    shutil.copy(agents / "agent_epoch_3.pt", agents / "agent_epoch_9.pt")
    out, err = metta_in(folder, "runs")
    assert rows(out)[1][:5] == ["a", "CartPole-v1", "complete", "3", "48"] and "trainer_epoch_9" in err


def test_a_checkpoint_of_somebody_s_own_is_a_dash_and_a_line(folder: Path) -> None:
    """Prevents a trainer state that `metta train` did not write from being a traceback that hides all other runs."""
    train_dir = str(folder / "train_dir")
    for state in ({"config": {"env": 3}}, {"config": None, "epoch": 1, "agent_steps": 1}, {}):
        save_checkpoint(nn.Linear(1, 1), "own", 1, state, train_dir)
        out, err = metta_in(folder, "runs")
        assert [row[:4] for row in rows(out)[1:]] == [["a", "CartPole-v1", "complete", "3"], ["own", "-", "-", "1"]]
        assert err.count("\n") == 1 and "own/checkpoints/trainer_epoch_1.pt is not of `metta train`: it has no " in err
    manager = TinyCheckpointManager("a", train_dir)
    agent, config = manager.load_agent(3), manager.load_trainer_state(3)["config"]
    config["env_settings"] = {"wrappers": 5}
    save_checkpoint(agent, "own", 1, {"config": config, "epoch": 1, "agent_steps": 1}, train_dir)
    assert [row[:2] for row in rows(metta_in(folder, "runs")[0])[2:]] == [["own", "CartPole-v1[wrappers='5']"]]
    config["env_settings"] = {}
    save_checkpoint(agent, "own", 1, {"config": config, "epoch": 1, "agent_steps": 1}, train_dir)
    refusal = metta_in(folder, "train", "run=own", status=2)[1]
    assert refusal.count("\n") == 1 and "trainer_epoch_1.pt is not of `metta train`: it has no '" in refusal
    save_checkpoint(agent, "own", 1, {"config": {}}, train_dir)
    refusal = metta_in(folder, "train", "run=own", status=2)[1]
    assert refusal.count("\n") == 1 and "trainer_epoch_1.pt is not of `metta train`: it has no epoch" in refusal


def test_a_user_s_own_agent_that_fails_is_one_line(folder: Path) -> None:
    """A traceback through ours and torch's for a fault of theirs, whose line has to be found in it."""
    (folder / "mine.py").write_text(
        "from metta.agent.policy_agent import PolicyAgent\n"
        "class Mine(PolicyAgent):\n"
        "    def forward(self, *args):\n"
        "        raise ValueError('a fault of mine')\n"
    )
    train = [*COMMAND, "train", "run=b", "env=CartPole-v1", "agent=mine.py:Mine", *TINY]
    _, err = run_in(folder, train, status=1)
    assert err == f"metta train: agent={folder}/mine.py:Mine failed: ValueError: a fault of mine (mine.py:4)\n"
    _, err = metta_in(folder, "train", "run=c", "env=CartPole-v1", "agent=mine.py:Yours", *TINY, status=2)
    assert err.count("\n") == 1 and "agent=mine.py:Yours" in err and "Mine" in err
    assert not (folder / "train_dir/c").exists()


def test_an_environment_may_change_the_current_folder(tmp_path: Path) -> None:
    """Prevents scores and recordings in the folder that the user's code went to, where no command finds them."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "wanders.py").write_text(
        "import os\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        f"os.chdir({str(elsewhere)!r})\n"
        "class Wanders(CartPoleEnv):\n"
        "    def __init__(self, render_mode=None):\n"
        "        super().__init__(render_mode=render_mode)\n"
        f"        os.chdir({str(elsewhere)!r})\n"
    )
    train = ("train", "run=a", "env=wanders.py:Wanders", "total_timesteps=16", "evaluate=1", *TINY)
    metta_in(tmp_path, *train, "eval_db=beside.db")
    metta_in(tmp_path, "sim", "run=a", "episodes=2")
    metta_in(tmp_path, "replay", "run=a")
    metta_in(tmp_path, "replay", "run=a", "out=episode.gif")
    assert list(elsewhere.iterdir()) == []
    assert EvalDB(tmp_path / "beside.db").get_scores("a", 1) and EvalDB(tmp_path / "train_dir/eval.db").runs() == ["a"]
    assert (tmp_path / "episode.gif").exists() and len(list((tmp_path / "train_dir/a/replays").glob("*.gif"))) == 1


def test_a_wrong_setting_can_be_left_out(folder: Path) -> None:
    """Prevents a run that failed before it learned from keeping what the corrected command does not say any more."""
    (folder / "fails.py").write_text(
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Fails(CartPoleEnv):\n"
        "    def __init__(self, fails=False):\n"
        "        super().__init__()\n"
        "        self.fails = fails\n"
        "    def step(self, action):\n"
        "        assert not self.fails\n"
        "        return super().step(action)\n"
    )
    train = ("train", "run=b", "env=fails.py:Fails", "total_timesteps=48", *TINY)
    metta_in(folder, *train, "env.fails=true", status=1)
    assert metta_in(folder, *train)[1].count("complete: epoch 3") == 1
    assert TinyCheckpointManager("b", folder / "train_dir").load_trainer_state(3)["config"]["env_settings"] == {}


def test_an_environment_that_fails_is_one_line(folder: Path) -> None:
    (folder / "broken.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Broken(CartPoleEnv):\n"
        "    def step(self, action):\n"
        "        raise RuntimeError('out of order')\n"
        "gymnasium.register('Broken-v0', entry_point=Broken)\n"
    )
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ROOT}:{folder}"}
    for argv in (["train", "run=b", "env=broken:Broken-v0", *TINY], ["sim", "run=a", "env=broken:Broken-v0"]):
        result = subprocess.run(
            [*COMMAND, *argv], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 1 and "Traceback" not in result.stderr
        assert result.stderr.splitlines()[-1].startswith(f"metta {argv[0]}: ") and "out of order" in result.stderr
