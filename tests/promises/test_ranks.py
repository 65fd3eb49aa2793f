"""The bits depend on the number of shards alone: not on processes, ranks or machines, nor on their deaths."""

import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from tests.helpers.ranks import TRAIN, bits, ended, start, torchrun, two_agents

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
    rng, steps = random.Random(0), "total_timesteps=100000"
    arguments = [*CASES["cartpole"].split(), *SMALL.split(), "num_shards=2", f"train_dir={tmp_path}", "run=killed"]
    for _ in range(20):
        process = torchrun(2, [*arguments, steps])
        victim = ranks_of(process, 2)[rng.randrange(2)]
        time.sleep(rng.uniform(0, 15))
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
