"""The bits depend on the number of shards alone: not on processes, ranks or machines, nor on their deaths."""

import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from tests.helpers.ranks import ROOT, TRAIN, bits, ended, free_port, start, torchrun, two_agents

SMALL = "horizon=16 minibatch_size=64 update_epochs=2 hidden_size=8 num_envs=8 checkpoint_interval=2 display=plain"
CASES = {
    "cartpole": "env=CartPole-v1",
    "cartpole lstm": "env=CartPole-v1 lstm=true",
    "pendulum": "env=Pendulum-v1",
    "pendulum lstm": "env=Pendulum-v1 lstm=true",
    "arena": "env=arena env.num_agents=4 env.max_steps=24",
    "arena lstm": "env=arena env.num_agents=4 env.max_steps=24 lstm=true",
    "batch norm": "env=CartPole-v1 agent=tests.helpers.stateful_agents:BatchNormAgent",
}
WAYS: list[int | str] = ["alone", "workers", 1, 2, 4, "two agents"]


def train(way, tmp_path, case, shards, run, *more):
    """Train in one of WAYS; returns the bits."""
    arguments = [*CASES[case].split(), *SMALL.split(), f"num_shards={shards}", f"train_dir={tmp_path}", f"run={run}"]
    if case == "batch norm":  # which has no statistics of a shard with one environment
        arguments[arguments.index("num_envs=8")] = "num_envs=16"
    arguments += more or [f"total_timesteps={2048 if 'arena' in case else 512}"]
    if way in ("alone", "workers"):
        results = ended(start([*TRAIN, *arguments, f"num_workers={0 if way == 'alone' else 1}"]))
    elif way == "two agents":
        results = ended(*two_agents([*arguments, "num_workers=0"]))
    else:
        results = ended(torchrun(way, [*arguments, "num_workers=0"]))
    assert all(status == 0 for status, _ in results), results
    return bits(run, tmp_path)


def test_ranks_change_no_bit(tmp_path):
    """A sum whose order follows the ranks; statistics of the rollout that each rank has of its own part alone."""
    runs = {f"{way}".replace(" ", "-"): way for way in ("workers", 2)}
    assert len({train(way, tmp_path, "batch norm", 4, run) for run, way in runs.items()}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 2, 4, 8])
@pytest.mark.parametrize("case", CASES)
def test_no_way_to_share_the_shards_changes_a_bit(case, shards, tmp_path):
    """The same, of every kind of agent."""
    ranks: dict[int | str, int] = {"two agents": 4, 2: 2, 4: 4}
    ways = [way for way in WAYS if shards % ranks.get(way, 1) == 0]
    found = {way: train(way, tmp_path, case, shards, f"{way}".replace(" ", "-")) for way in ways}
    assert len(set(found.values())) == 1, found


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path):
    """State that lies in the ranks and not in the shards: from 4 ranks to a laptop and back."""
    for way, steps in ((4, 256), ("alone", 384), (2, 512)):
        moved = train(way, tmp_path, "cartpole lstm", 4, "moved", f"total_timesteps={steps}", "anneal_lr=false")
    assert moved == train("workers", tmp_path, "cartpole lstm", 4, "stayed", "total_timesteps=512", "anneal_lr=false")


def ranks_of(process, count):
    """The processes of all ranks, once they are there, by rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(pids := children.read_text().split()) < count:
        time.sleep(0.01)
    return [int(pid) for pid in pids]


@pytest.mark.slow
def test_a_rank_killed_again_and_again_leaves_the_same_bits(tmp_path):
    """A group that hangs, or goes on from states of different epochs."""
    rng, steps = random.Random(0), "total_timesteps=300000"
    arguments = [*CASES["cartpole"].split(), *SMALL.split(), "num_shards=2", f"train_dir={tmp_path}", "run=killed"]
    manager = TinyCheckpointManager("killed", tmp_path)
    for number in range(20):
        before, process = manager.list_epochs()[-1:], torchrun(2, [*arguments, steps])
        victim = ranks_of(process, 2)[rng.randrange(2)]
        if number % 2:  # while it trains, the others as it starts
            while manager.list_epochs()[-1:] == before:
                time.sleep(0.01)
        time.sleep(rng.uniform(0, 1 if number % 2 else 4))
        os.kill(victim, signal.SIGKILL)
        ((status, _),) = ended(process, timeout=60)
        assert status == 1
    ends = [train(way, tmp_path, "cartpole", 2, run, steps) for way, run in ((2, "killed"), ("workers", "alone"))]
    assert ends[0] == ends[1]


def test_a_rank_that_dies_is_named_and_ends_all(tmp_path):
    """Waiting for ever for a rank that is gone."""
    arguments = [*CASES["cartpole"].split(), *SMALL.split(), f"train_dir={tmp_path}", "run=a", "num_shards=2"]
    process = torchrun(2, [*arguments, "total_timesteps=1000000"])
    pids, agent_file = ranks_of(process, 2), tmp_path / "a/checkpoints/agent_epoch_2.pt"
    while not agent_file.exists():
        time.sleep(0.01)
    os.kill(pids[1], signal.SIGKILL)
    ((status, stderr),) = ended(process, timeout=60)
    assert status == 1 and re.search(r"^metta train: rank 1 has died; .*goes on from", stderr, re.MULTILINE), stderr


@pytest.mark.slow
def test_a_restart_by_torchrun_ends_with_the_same_bits(tmp_path):
    """Ranks that meet in what those before the restart have said, and wait for ever."""
    arguments = [*CASES["cartpole"].split(), *SMALL.split(), f"train_dir={tmp_path}", "num_shards=2", "run=a"]
    process = torchrun(2, [*arguments, "total_timesteps=10000"], "--max-restarts=1")
    pids, agent_file = ranks_of(process, 2), tmp_path / "a/checkpoints/agent_epoch_2.pt"
    while not agent_file.exists():
        time.sleep(0.01)
    os.kill(pids[0], signal.SIGKILL)
    ((status, stderr),) = ended(process)
    assert status == 0, stderr
    assert bits("a", tmp_path) == train("workers", tmp_path, "cartpole", 2, "alone", "total_timesteps=10000")


def page():
    """The commands of docs/scale.md that train, and the blocks of its scripts, with this machine in place of hosts."""
    section = (ROOT / "docs/scale.md").read_text().split("\n## ")[1]
    here = {"host0": "127.0.0.1", "$MASTER_ADDR": "127.0.0.1", "metta-0.metta": "127.0.0.1"}
    for host, this in here.items():
        section = section.replace(host, this)
    commands = re.findall(r"^\$ ((?:metta|torchrun) .*)$", section, re.MULTILINE)
    return commands, re.findall(r"""['"](torchrun [^'"]*)['"]""", section)


@pytest.mark.slow
def test_what_the_page_says_takes_one_run_from_a_laptop_to_a_cluster(tmp_path):
    """A command, a SLURM script or a Job of the page that takes other keys by now."""
    (laptop, launch, machines), scripts = page()
    for command in (laptop, launch):
        ((status, stderr),) = ended(start([*TRAIN[:2], *command.split()[1:], f"train_dir={tmp_path}"]))
        assert status == 0, stderr
    for command in (machines, *scripts):
        assert re.search(r"--node-rank=(0|\$SLURM_NODEID|\$JOB_COMPLETION_INDEX) ", command)
        nodes = []
        for node in (0, 1):
            own = re.sub(r"--node-rank=\S+", f"--node-rank={node}", command).replace(
                "29500", str(29500 + os.getpid() % 999)
            )
            nodes.append(start(["-m", "torch.distributed.run", *own.split()[1:], f"train_dir={tmp_path}"]))
        assert all(status == 0 for status, _ in ended(*nodes))
    loaded = TinyCheckpointManager("big", tmp_path).load_latest()
    assert loaded is not None and loaded[2]["agent_steps"] == 5 * 8192


@pytest.mark.slow
def test_bad_input_is_one_line(tmp_path):
    """A line for each rank, a traceback, ranks that stay; a connection that is tried for ever."""
    arguments = ["run=a", "env=CartPole-v1", f"train_dir={tmp_path}", "device=cpu"]
    alone = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": str(free_port())}
    for address, said in (("no.such.host.invalid", "cannot find"), ("127.0.0.1", "cannot reach")):
        ((status, stderr),) = ended(start([*TRAIN, *arguments], **alone, MASTER_ADDR=address))
        assert status == 2 and re.fullmatch(rf"metta train: {said} rank 0 at MASTER_ADDR={address} .*\n", stderr), (
            stderr
        )
    ((status, stderr),) = ended(torchrun(2, [*arguments, "num_shards=3"]))
    ours = [line for line in stderr.splitlines() if line.startswith("metta train")]
    assert status == 1 and ours == ["metta train: num_shards=3 cannot be dealt to 2 ranks: it must be a multiple of 2"]
    ((status, stderr),) = ended(start([*TRAIN[:2], "launch", "nproc=2", *arguments, "num_shards=3"]))
    assert (status, stderr.count("\n")) == (2, 1) and "must be a multiple" in stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_rank_with_another_metta_is_refused(tmp_path):
    """Replicas that drift apart without a word."""
    shutil.copytree(ROOT / "metta", tmp_path / "metta")
    other = tmp_path / "metta/errors.py"
    other.write_text(other.read_text() + "\n")
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    arguments = [*TRAIN, "run=a", "env=CartPole-v1", "num_shards=2", f"train_dir={tmp_path}/runs", "total_timesteps=9"]
    ranks = [start(arguments, **place, RANK="0"), start(arguments, **place, RANK="1", PYTHONPATH=str(tmp_path))]
    (first, second) = ended(*ranks)
    assert (first[0], second[0]) == (2, 2) and (first[1] + second[1]).count("\n") == 1, (first, second)
    assert re.match("metta train: rank 0 has metta .*, and rank 1 has metta .*: they must have the same", first[1])
