"""Who chooses which action in an evaluation."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

from metta.agent.policy_agent import PolicyAgent
from metta.envs.env_spec import EnvName
from metta.envs.make_env import spec_of
from metta.errors import EnvError
from metta.sim import simulation
from metta.sim.players import make_player

STEPS = 50


@pytest.mark.parametrize("num_agents", [1, 3])
def test_only_copies_that_play_together_draw_their_actions(num_agents: int) -> None:
    """Copies of one policy that see the same and choose alike: they meet head on and block each other for good. Or an
    agent that plays alone and is not at its best."""
    spec = replace(spec_of(EnvName("CartPole-v1")), num_agents=num_agents)
    torch.manual_seed(0)
    player = make_player(PolicyAgent(spec), spec, 2)
    for env_index in range(2):
        player.begin(env_index, seed=env_index)
    observations, starts = np.ones((2 * num_agents, 4), np.float32), np.zeros(2 * num_agents, bool)
    chosen = np.stack([player.act(observations, starts) for _ in range(STEPS)])
    for row in range(1, 2 * num_agents):
        assert (chosen[:, row] == chosen[:, 0]).all() == (num_agents == 1), row


class Endless(gymnasium.Env):
    """An episode of an odd seed never ends."""

    observation_space, action_space = gymnasium.spaces.Box(0, 1, (1,)), gymnasium.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.ends = seed % 2 == 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, self.ends, False, {}


def test_an_episode_without_end_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation that says nothing and takes for ever."""
    monkeypatch.setattr(simulation, "MOST_STEPS", 20)
    playing = simulation.Simulation(spec_of(EnvName(f"{__name__}:Endless")), 2, "cpu")
    player = playing.player(None, sampled=False)
    assert [episode.length for episode in playing.play(player, range(4, 5))] == [1]
    with pytest.raises(EnvError, match=r"Endless: no end of seed 7 after 20 steps; a limit, as env.max_epis"):
        playing.play(player, range(6, 8))
    playing.envs.close()
