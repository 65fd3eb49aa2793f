"""Environments of the user's own: a file, a module, a class, a function, a MettaGridConfig; what is wrong with one."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.whole_door import check_door

MINE = '''
import gymnasium, numpy as np
from gymnasium import spaces
import {helper}

class Pond(gymnasium.Env):
    """A frog jumps between lily pads, some of which have sunk by the seed."""
    metadata = {{"render_modes": ["rgb_array"], "render_fps": 5}}
    observation_space = spaces.Box(0, 1, (6,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, pads: int = 6, wet: float = 0.2, render_mode=None):
        self.pads, self.wet, self.render_mode = pads, wet, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.afloat = 0, self.np_random.random(6) > self.wet
        return self.look(), {{}}

    def look(self):
        return {helper}.shown(self.place, self.afloat)

    def step(self, action):
        self.place = (self.place + int(action)) % 6
        sunk = not self.afloat[self.place]
        return self.look(), float(action) - 2 * sunk, bool(sunk and action == 2), False, {{}}

    def render(self):
        return np.full((8, 8, 3), 40 * self.place, np.uint8)


def shallow(depth: int = 3):
    return gymnasium.wrappers.TimeLimit(Pond(wet=depth / 10, render_mode="rgb_array"), 15)


def twice(env):
    return gymnasium.wrappers.TransformReward(env, lambda reward: 2 * reward)


class Puddle:
    pass


def dry():
    raise ArithmeticError("no water")
'''
HELPER = """
import numpy as np

def shown(place, afloat):
    observation = afloat.astype(np.float32)
    observation[place] = 0.5
    return observation
"""
GRID = """
from mettagrid.config.handler_config import Handler, updateActor
from mettagrid.config.game_value import InventoryValue
from mettagrid.config.mettagrid_config import (
    ActionsConfig, AgentConfig, GameConfig, GridObjectConfig, MettaGridConfig, MoveActionConfig, NoopActionConfig, WallConfig,
)
from mettagrid.config.mettagrid_config import ChangeVibeActionConfig
from mettagrid.config.reward_config import reward
from mettagrid.map_builder.random_map import RandomMapBuilder

def orchard(apples: int = 9, vibes: bool = False):
    tree = GridObjectConfig(name="tree", on_use_handler=Handler(mutations=[updateActor({"apple": 1})]))
    return MettaGridConfig(game=GameConfig(
        num_agents=3, max_steps=30, episode_truncates=True, resource_names=["apple"],
        objects={"tree": tree, "wall": WallConfig()},
        agent=AgentConfig(rewards={"apple": reward(InventoryValue(item="apple"), weight=0.5)}),
        actions=ActionsConfig(move=MoveActionConfig(), noop=NoopActionConfig(), change_vibe=ChangeVibeActionConfig(enabled=vibes)),
        map_builder=RandomMapBuilder.Config(agents=3, width=9, height=8, border_width=1, objects={"tree": apples}),
    ))

def growing(seed):
    config = orchard(3 + seed % 7)
    config.game.map_builder.width = 9 + seed % 3
    return config

def crowd(seed):
    config = orchard()
    config.game.num_agents = config.game.map_builder.agents = 2 + seed % 2
    return config

small = orchard(2)
"""  # noqa: E501


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the user's files; the module beside them has a name of its own for each test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    helper = f"beside_{tmp_path.name}"
    (tmp_path / f"{helper}.py").write_text(HELPER)
    (tmp_path / "pond.py").write_text(MINE.format(helper=helper))
    (tmp_path / "grid.py").write_text(GRID)
    return tmp_path


@pytest.mark.parametrize(
    ("env", "settings", "label"),
    [
        ("pond.py:Pond", {"pads": 6.0, "max_episode_steps": 12}, "pond.py:Pond[max_episode_steps=12]"),
        ("pond:shallow", {"wrappers": "pond.py:twice"}, "pond.py:shallow[wrappers=pond.py:twice]"),
        ("grid.py:orchard", {"apples": 5, "vibes": True}, "grid.py:orchard[apples=5,vibes=True]"),
        ("grid.py:growing", {}, "grid.py:growing"),
    ],
)
def test_a_place_has_all_that_a_built_in_environment_has(
    folder: Path, env: str, settings: dict[str, Any], label: str
) -> None:
    """A stranger's file turned away, or let in to train only: other bits with workers, or no way back to it."""
    assert check_door(folder, env, settings) == label
