"""Lets Stable-Baselines3 train on metta's MettaGrid environments: every agent is one environment to it.

The network is the customary one for such observations: tokens scattered into a dense grid, then dense layers.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from metta.envs.env_spec import EnvName, TokenSpec
from metta.envs.make_env import spec_of
from metta.envs.mettagrid.games import GAMES
from metta.envs.vec_env import DealtSeeds, EpisodeSeeds
from metta.envs.vec_env import VecEnv as MettaEnvs

# Chosen in short runs of both games: with SB3's default learning rate of 3e-4 neither is learned in as many steps.
PPO_SETTINGS: dict[str, Any] = {"n_envs": 8, "n_steps": 64, "n_epochs": 4, "ent_coef": 0.01}
SETTINGS: dict[str, dict[str, Any]] = {
    "arena": PPO_SETTINGS | {"batch_size": 1024, "linear": {"learning_rate": 1.5e-3}},
    "navigation": PPO_SETTINGS | {"batch_size": 512, "linear": {"learning_rate": 1.5e-3}},
}
EVAL_ENVS = 20
GLOBAL_LOCATION = 0xFE
HIDDEN_SIZE = 128
NEVER_SHOWN = ("goal", "vibe", "lp:", "protocol_")  # prefixes of features that neither game has: no channel for them


class MettaVecEnv(VecEnv):
    """metta's `VecEnv` as SB3's: its rows, one for each agent of each environment, are SB3's environments."""

    def __init__(self, name: EnvName, num_envs: int, seed: int):
        self.envs = MettaEnvs(spec_of(name), num_envs, EpisodeSeeds(seed))
        spec = self.envs.spec
        assert spec.tokens is not None and spec.num_actions is not None
        self.tokens: TokenSpec = spec.tokens
        observation_space = spaces.Box(0, 255, spec.observation_shape, np.uint8)
        super().__init__(self.envs.batch_size, observation_space, spaces.Discrete(spec.num_actions))

    def reset(self) -> np.ndarray:
        return self.envs.reset().copy()

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        episodes = self.envs.step(self.actions)
        dones = np.zeros(self.num_envs, bool)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for episode in episodes:
            first_row = episode.env_index * self.envs.num_agents
            for row, episode_return in enumerate(episode.returns, first_row):
                dones[row] = True
                infos[row] = {
                    "terminal_observation": self.envs.final_observations[row].copy(),
                    "TimeLimit.truncated": not self.envs.terminated[row],
                    "episode": {"r": float(episode_return), "l": episode.length},
                }
        return self.envs.observations.copy(), self.envs.rewards.copy(), dones, infos

    def close(self) -> None:
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.num_envs  # SB3 asks for the render mode only

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


class DenseTokenExtractor(BaseFeaturesExtractor):
    """Tokens `[B, tokens, 3]` of (location, feature, value) -> features `[B, HIDDEN_SIZE]`.

    Each feature is a channel over the window's cells and one more cell for the global tokens. It holds value /
    normalization, but for two kinds of feature that PPO would hardly see so: each tag (kind of object) and each last
    action has a channel of its own, which holds 1, and an inventory, whose normalization is 256 while it seldom holds
    more than ten, enters as log2(1 + value) / 4.
    """

    def __init__(self, observation_space: spaces.Box, tokens: TokenSpec):
        super().__init__(observation_space, features_dim=HIDDEN_SIZE)
        height, width = tokens.window
        self.num_cells = height * width + 1
        one_hot = {"tag": len(tokens.tags), "last_action": len(tokens.action_names)}
        cells = torch.zeros(256, dtype=torch.int64)
        for row in range(height):
            for column in range(width):
                cells[row << 4 | column] = row * width + column
        cells[GLOBAL_LOCATION] = height * width
        # Where the scale stays 0, as it does for padding (feature id 255), a token adds nothing wherever it lands.
        channels = torch.zeros(256, 256, dtype=torch.int64)  # [feature, value]
        scaled = torch.zeros(256, 256)
        self.num_channels = 0
        for feature, name, normalization in tokens.features:
            if name.startswith(NEVER_SHOWN):
                continue
            channels[feature] = self.num_channels
            if name in one_hot:
                channels[feature, : one_hot[name]] += torch.arange(one_hot[name])
                scaled[feature] = 1.0
            elif name.startswith("inv:"):
                scaled[feature] = torch.log2(1 + torch.arange(256)) / 4
            else:
                scaled[feature] = torch.arange(256) / normalization
            self.num_channels += one_hot.get(name, 1)
        self.cells: torch.Tensor
        self.places: torch.Tensor
        self.scaled: torch.Tensor
        self.register_buffer("cells", cells)
        self.register_buffer("places", channels.flatten() * self.num_cells)
        self.register_buffer("scaled", scaled.flatten())
        self.layers = nn.Sequential(
            nn.Linear(self.num_channels * self.num_cells, HIDDEN_SIZE),
            nn.ReLU(),
            nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE),
            nn.ReLU(),
        )

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """observations `[B, tokens, 3]`: bytes, which SB3 hands over as floats."""
        return self.layers(self.to_grid(observations))

    def to_grid(self, observations: torch.Tensor) -> torch.Tensor:
        """`[B, tokens, 3]` -> `[B, channels * cells]`. Columns that are padding in every row are left out."""
        used = int((observations[..., 1] != 255).sum(1).max()) if len(observations) else 0
        location, feature, value = observations[:, :used].long().unbind(-1)
        kind = feature * 256 + value
        grid = torch.zeros(len(observations), self.num_channels * self.num_cells)
        return grid.scatter_add_(1, self.places[kind] + self.cells[location], self.scaled[kind])


def env_settings(name: EnvName) -> dict[str, Any]:
    """The game's settings as they are today, so that a result says which game it was got on."""
    return asdict(GAMES[name.name](**name.settings))


def policy_settings(envs: VecEnv) -> dict[str, Any]:
    """The network, as keyword arguments of SB3's policy."""
    assert isinstance(envs, MettaVecEnv)
    return {
        "features_extractor_class": DenseTokenExtractor,
        "features_extractor_kwargs": {"tokens": envs.tokens},
        "net_arch": [],
    }


def play(name: EnvName, model: Any | None, episodes: int, seed: int, deterministic: bool) -> list[float]:
    """The mean return over its agents of each episode; a model of None acts at random."""
    num_envs = min(EVAL_ENVS, episodes)
    envs = MettaEnvs(spec_of(name), num_envs, DealtSeeds(()))
    assert envs.spec.num_actions is not None
    generator = np.random.default_rng(seed)
    returns: dict[int, float] = {}
    for first in range(seed, seed + episodes, num_envs):
        observations = envs.reset(DealtSeeds(range(first, min(first + num_envs, seed + episodes))))
        while envs.active.any():
            if model is None:
                actions = generator.integers(envs.spec.num_actions, size=envs.batch_size)
            else:
                actions, _ = model.predict(observations, deterministic=deterministic)
            for episode in envs.step(actions):
                returns[episode.seed] = float(episode.returns.mean())
    envs.close()
    return [returns[seed + index] for index in range(episodes)]
