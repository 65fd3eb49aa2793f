"""Who chooses which action in an evaluation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from metta.agent.policy_agent import PolicyAgent
from metta.envs.env_spec import EnvName
from metta.envs.make_env import spec_of
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
