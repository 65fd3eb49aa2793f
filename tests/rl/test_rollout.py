"""A rollout against the same episodes played anew, one row and one step at a time, by code that shares none of its own.

Two runs of the same code are alike whatever it computes; these numbers come from the environment, the agent's forward,
torch.distributions and definitions.
"""

import copy
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch

from metta.envs.vec_env import EpisodeSeeds
from metta.rl.one_run import Trainer
from metta.rl.train_config import TrainConfig
from tests.helpers.internals import rollout_of
from tests.helpers.plain_distributions import distribution
from tests.helpers.small_envs import Lengths, env_id

ENVS, STEPS, GAMMA, LAMBDA = 4, 16, 0.9, 0.7


def a_trainer(lstm, continuous, num_shards):
    return Trainer(
        TrainConfig(
            run="r",
            env=env_id(Lengths),
            env_settings={"continuous": continuous},
            seed=3,
            device="cpu",
            lstm=lstm,
            num_envs=ENVS,
            num_shards=num_shards,
            num_workers=0,
            horizon=STEPS,
            minibatch_size=2 * STEPS,
            update_epochs=1,
            gamma=GAMMA,
            gae_lambda=LAMBDA,
            hidden_size=8,
            learning_rate=0.05,
        )
    )


class Row:
    """One environment of the run, played again."""

    def __init__(self, index, agent, continuous):
        self.index, self.env, self.continuous = index, Lengths(continuous), continuous
        self.episode, self.discounted = -1, 0.0
        self.begin(agent)

    def begin(self, agent):
        self.episode += 1
        self.observation = self.env.reset(seed=EpisodeSeeds(3)(self.index, self.episode))[0]
        self.state, self.start = agent.initial_state(1), True

    def play(self, agent, actions):
        """Everything that the rollout should say of this row; `actions` are those that it chose."""
        steps: dict[str, list[Any]] = defaultdict(list)
        before = self.state
        for action in actions:
            params, value, self.state = agent(torch.from_numpy(self.observation)[None], self.state)
            steps["observations"].append(self.observation)
            steps["starts"].append(self.start)
            steps["values"].append(value.item())
            steps["params"].append(params[0].numpy())
            steps["log_probs"].append(distribution(params[0], self.continuous).log_prob(action).item())
            chosen = action.numpy().clip(-1, 1) if self.continuous else action.item()
            self.observation, reward, terminated, truncated, _ = self.env.step(chosen)
            self.discounted = GAMMA * self.discounted + float(reward)
            steps["rewards"].append(reward)
            steps["discounted"].append(self.discounted)
            steps["terminated"].append(terminated)
            timed_out = truncated and not terminated
            steps["truncated"].append(timed_out)
            final = agent(torch.from_numpy(self.observation)[None], self.state)[1].item() if timed_out else 0.0
            steps["bootstrap_values"].append(final)
            self.start = False
            if terminated or truncated:
                self.discounted = 0.0
                self.begin(agent)
        last = agent(torch.from_numpy(self.observation)[None], self.state)[1].item()
        return {name: np.array(column) for name, column in steps.items()} | {"state": before, "last_values": last}


def advantages_by_definition(row, rewards):
    """The sum of the discounted one-step errors up to the episode's end (Schulman et al. 2016, equation 16)."""
    ends = row["terminated"] | row["truncated"]
    following = np.append(row["values"][1:], row["last_values"])
    following[ends] = 0  # dead
    following[row["truncated"]] = row["bootstrap_values"][row["truncated"]]
    errors = rewards + GAMMA * following - row["values"]
    advantages = []
    for t in range(STEPS):
        rest = ends[t:].tolist()
        length = rest.index(True) + 1 if any(rest) else STEPS - t
        advantages.append(sum((GAMMA * LAMBDA) ** n * errors[t + n] for n in range(length)))
    return np.array(advantages)


@pytest.mark.parametrize("num_shards", [1, 2])
@pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "box"])
@pytest.mark.parametrize("lstm", [False, True], ids=["feedforward", "lstm"])
def test_a_rollout_played_anew_is_the_same(lstm, continuous, num_shards):
    """A bootstrap from the next episode's first observation, or none; a last value forgotten; a recurrent state that an
    episode inherits, or loses between two rollouts; a lambda, a reward scale or a row that is another's."""
    trainer = a_trainer(lstm, continuous, num_shards)
    rows = [Row(index, trainer.agent, continuous) for index in range(ENVS)]
    discounted, noises = [], []
    for _ in range(3):
        agent = copy.deepcopy(trainer.agent)
        trainer.run_epoch()
        got = rollout_of(trainer)
        with torch.no_grad():
            played = [row.play(agent, got.actions[:, row.index]) for row in rows]
        discounted += [row["discounted"] for row in played]
        scale = np.sqrt(np.var(discounted) + 1e-8)
        for index, row in enumerate(played):
            row["advantages"] = advantages_by_definition(row, (row["rewards"] / scale).clip(-10, 10))
            row["returns"] = row["advantages"] + row["values"]
            for name in ("observations", "starts", "terminated", "truncated"):
                assert (getattr(got, name)[:, index].numpy() == row[name]).all(), name
            for name in ("values", "log_probs", "rewards", "bootstrap_values", "advantages", "returns"):
                assert getattr(got, name)[:, index].numpy() == pytest.approx(row[name], abs=2e-5), name
            assert got.last_values[index].item() == pytest.approx(row["last_values"], abs=2e-5)
            for mine, theirs in zip(row["state"], got.state, strict=True):
                assert torch.allclose(mine[0], theirs[index] * ~got.starts[0, index], atol=1e-6)
        assert got.terminated.any() and got.truncated.any() and not (got.terminated | got.truncated)[-1].all()
        params = np.stack([row["params"] for row in played], 1)
        if continuous:
            noises += [((got.actions.numpy() - params[..., :2]) / np.exp(params[..., 2:]))[..., i] for i in (0, 1)]
    trainer.close()
    if continuous:
        assert_independent(np.concatenate(noises, 1))


def assert_independent(noise):
    """Shards that draw the same noise, or an epoch that draws the one before's: exploration that repeats itself.

    noise: what actions were away from the mean, in standard deviations; a column of steps for each row, action and
    epoch.
    """
    columns = noise.shape[1]
    for i in range(columns):
        for j in range(i):
            assert not np.allclose(noise[:, i], noise[:, j], atol=1e-3), (i, j)
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert noise.std() == pytest.approx(1, abs=5 / np.sqrt(2 * noise.size))
