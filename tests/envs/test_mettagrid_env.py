"""The MettaGrid games: the bytes of MettaGrid's own simulation, honest ends of episodes, rules that nobody farms."""

import pickle
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from metta.envs.env_spec import EnvName
from metta.envs.make_env import check_env, make_env
from metta.envs.mettagrid.env import FLOOR_COLOR, MettaGridEnv
from metta.envs.mettagrid.game import WINDOW, Game, Look, machine, place, with_map
from metta.envs.mettagrid.games import GAMES
from metta.envs.mettagrid.navigation import Navigation

DIRECTIONS = {1: (-1, 0), 2: (1, 0), 3: (0, -1), 4: (0, 1)}  # rows and columns that an action moves


class Stand:
    """A game with its arrays bound, as VecEnv does it."""

    def __init__(self, name: str, render_mode: str | None = None, **settings: Any):
        env = make_env(EnvName(name, settings), render_mode)
        assert isinstance(env, MettaGridEnv)
        self.env, self.agents = env, env.spec.num_agents
        self.observations = np.zeros((self.agents, *env.spec.observation_shape), np.uint8)
        self.rewards = np.zeros(self.agents, np.float32)
        self.terminated, self.truncated = np.zeros(self.agents, bool), np.zeros(self.agents, bool)
        env.bind(self.observations, self.rewards, self.terminated, self.truncated)

    def bytes(self) -> bytes:
        arrays = (self.observations, self.rewards, self.terminated, self.truncated)
        return b"".join(array.tobytes() for array in arrays)

    def play(self, seed: int, steps: int) -> np.ndarray:
        """Random actions; returns `[num_agents]`."""
        self.env.reset(seed)
        rng, returns = np.random.default_rng(seed), np.zeros(self.agents)
        for _ in range(steps):
            self.env.step(rng.integers(0, 5, self.agents))
            returns += self.rewards
        return returns

    def things(self, kind: str) -> list[dict[str, Any]]:
        return [thing for thing in self.env._core.grid_objects().values() if thing["type_name"] == kind]


@pytest.mark.parametrize("name", GAMES)
def test_episodes_are_metta_grids_own(name: str) -> None:
    """A shortcut around Simulation that changes the game: a configuration converted once, buffers bound again."""
    from mettagrid.simulator.simulator import Simulator

    game, played = Stand(name), GAMES[name]()
    for seed in (3, 4):
        game.env.reset(seed)
        simulation = Simulator().new_simulation(with_map(played.config(), played.draw_map(seed)), seed)
        core, rng = simulation._c_sim, np.random.default_rng(seed)
        assert game.observations.tobytes() == core.observations().tobytes()
        for _ in range(60):
            actions = rng.integers(0, 5, game.agents)
            game.env.step(actions)
            core.actions()[:] = actions
            simulation.step()
            assert game.observations.tobytes() == core.observations().tobytes()
            assert game.rewards.tobytes() == core.rewards().tobytes()


@pytest.mark.parametrize("name", GAMES)
def test_every_episode_has_a_map_of_its_own(name: str) -> None:
    """One map for all episodes, which an agent learns by heart; or one that differs when the seed does not."""
    game = GAMES[name]()
    maps = [game.draw_map(seed) for seed in range(20)]
    assert len({pickle.dumps(grid.tolist()) for grid in maps}) == 20
    assert np.array_equal(game.draw_map(7), maps[7])


@pytest.mark.parametrize("name", GAMES)
def test_time_is_up_for_all_agents_at_once(name: str) -> None:
    """A time limit reported as a death; an end that was wiped out by the next episode's reset, or that stays set."""
    game = Stand(name, max_steps=8)
    game.play(1, 7)
    assert not game.terminated.any() and not game.truncated.any()
    game.env.step(np.zeros(game.agents, int))
    game.rewards[0] = 0.5
    for _ in range(2):
        assert game.truncated.all() and not game.terminated.any() and game.rewards[0] == 0.5
        game.env.reset(2)
    game.env.step(np.zeros(game.agents, int))
    assert not game.truncated.any() and not game.rewards.any()


def test_arena_is_paid_as_it_says() -> None:
    """A reward for dropping ore and taking it up again; metrics of the wrong agents."""
    rewards = {"ore_reward": 0.25, "battery_reward": 0.5, "heart_reward": 2.0}
    game = Stand("arena", None, num_agents=8, width=9, height=9, walls=0, max_steps=400, **rewards)
    returns = game.play(0, 400)
    stats = game.env._core.get_episode_stats()["agent"]
    gained = {item: np.array([s.get(f"{item}.gained", 0) for s in stats]) for item in ("ore", "battery", "heart")}
    assert min(gained[item].sum() for item in gained) > 0 and gained["ore"].max() > 10
    paid = 0.25 * gained["ore"].clip(max=10) + 0.5 * gained["battery"].clip(max=10) + 2 * gained["heart"]
    assert np.allclose(returns, paid)
    metrics = game.env.metrics()
    assert [metrics[f"{item}.gained"] for item in gained] == [gained[item].mean() for item in gained]
    assert {type(value) for value in metrics.values()} == {float}
    assert set(metrics) > {"cell.unique_visited", "action.move.failed"}


def test_an_altar_that_was_touched_goes_dark() -> None:
    """Navigation won by standing beside one altar for ever."""
    game = Stand("navigation", num_agents=1, altars=40, lit_altars=20, width=21, height=21)

    def lit() -> set[tuple[int, int]]:
        return {(altar["r"], altar["c"]) for altar in game.things("altar") if altar["inventory"]}

    game.env.reset(0)
    rng, before, touched = np.random.default_rng(0), lit(), 0
    for _ in range(400):
        action = int(rng.integers(1, 5))
        (agent,) = game.things("agent")
        place = (agent["r"] + DIRECTIONS[action][0], agent["c"] + DIRECTIONS[action][1])
        game.env.step(np.array([action]))
        after = lit()
        assert len(game.things("altar")) == 40 and len(after) == 20
        assert game.rewards[0] == (place in before)
        assert before - after == ({place} & before) and len(after - before) == len({place} & before)
        touched += place in before
        before = after
    assert touched > 5


def test_every_place_can_be_reached() -> None:
    """Agents locked into a room, and altars nobody can touch."""
    cases: list[dict[str, Any]] = [{}, {"room_size": 10}, {"width": 33, "height": 50, "room_size": 7, "altars": 30}]
    for settings in cases:
        for seed in range(10):
            grid = Navigation(**settings).draw_map(seed)
            free = np.isin(grid, ["empty", "agent.agent"])
            reached = np.zeros_like(free)
            reached[tuple(np.argwhere(grid == "agent.agent")[0])] = True
            while True:
                grown = reached.copy()
                for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
                    grown |= np.roll(reached, shift, axis) & free
                if (grown == reached).all():
                    break
                reached = grown
            assert (reached == free).all()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("arena", {}),
        ("navigation", {}),
        ("arena", {"width": 13, "height": 13, "num_agents": 80, "walls": 10}),
        ("navigation", {"num_agents": 60, "altars": 80, "lit_altars": 80, "room_size": 10}),
        ("arena", {"num_agents": 300, "width": 40, "height": 40}),
    ],
)
def test_no_observation_outgrows_its_tokens(name: str, settings: dict[str, Any]) -> None:
    """MettaGrid ends training with an error hours later, when a crowd gives some agent one token too many."""
    game = Stand(name, **settings, max_steps=100)
    most = 0
    for seed in range(2):
        game.env.reset(seed)
        rng = np.random.default_rng(seed)
        for _ in range(100):
            game.env.step(rng.integers(0, 5, game.agents))
            most = max(most, int((game.observations[:, :, 1] != 255).sum(1).max()))
        assert game.env._core.get_episode_stats()["game"]["tokens_dropped"] == 0
    assert 20 < most < game.env.spec.observation_shape[0]


@dataclass(frozen=True)
class Harvest(Game):
    """A game of three resources, of which every touch gives hundreds."""

    num_agents: int = 60
    width: int = 13
    height: int = 13
    trees: int = 40

    limits: ClassVar[dict[str, tuple[int, int]]] = Game.limits | {"trees": (0, 100)}
    looks: ClassVar[dict[str, Look]] = Game.looks | {"tree": Look((0, 99, 0), "🌳", "tree")}

    def furnish(self, grid: np.ndarray, rng: np.random.Generator) -> None:
        place(grid, grid == "empty", {"tree": self.trees}, rng)

    def rules(self) -> dict[str, Any]:
        from mettagrid.config.mettagrid_config import AgentConfig

        gives = dict.fromkeys(("apple", "leaf", "twig"), 300)
        return {"resource_names": list(gives), "objects": {"tree": machine("tree", {}, gives)}, "agent": AgentConfig()}

    def most_held(self) -> dict[str, int]:
        return dict.fromkeys(("apple", "leaf", "twig"), 300 * self.max_steps)

    def most_objects(self) -> int:
        return self.trees + 4 * WINDOW


def test_a_third_game_is_a_class_and_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A game that has to be named in nine places; an amount from 256 on, which takes a second token, not counted."""
    monkeypatch.setitem(GAMES, "harvest", Harvest)
    with pytest.raises(
        ValueError, match=r"^env.tree is not a setting of harvest \(did you mean trees\?\); it has num_ag"
    ):
        check_env(EnvName("harvest", {"tree": 3}))
    stand = Stand("harvest", max_steps=60)
    stand.play(0, 60)
    assert stand.env._core.get_episode_stats()["game"]["tokens_dropped"] == 0
    most = int((stand.observations[:, :, 1] != 255).sum(1).max())
    assert 3 + 6 * 60 + 92 < most < stand.env.spec.observation_shape[0] == 3 + 9 * 60 + 92
    assert set(stand.env.metrics()) >= {"apple.gained", "leaf.gained", "twig.gained"}
    stand.env.reset(0)
    assert len(stand.things("tree")) == 40


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        (
            "arena",
            {"agents": 4},
            "env.agents is not a setting of arena (did you mean num_agents?); it has num_ag",
        ),
        ("arena", {"lit_altars": 4}, "env.lit_altars is not a setting of arena (did you mean altars?); it has num_"),
        ("arena", {"xyz": 4}, "env.xyz is not a setting of arena; it has num_agents, max_steps, width, height, mines"),
        ("navigation", {"max_steps": "many"}, "env.max_steps of navigation must be a whole number, not 'many'"),
        ("navigation", {"max_steps": 10.5}, "env.max_steps of navigation must be a whole number, not 10.5"),
        ("navigation", {"max_steps": True}, "env.max_steps of navigation must be a whole number, not True"),
        ("arena", {"heart_reward": "big"}, "env.heart_reward of arena must be a number, not 'big'"),
        ("arena", {"num_agents": 0}, "env.num_agents of arena must be 1 to 100000, not 0"),
        ("arena", {"heart_reward": float("nan")}, "env.heart_reward of arena must be -1000 to 1000, not nan"),
        ("arena", {"num_agents": 600}, "env=arena: a map of 25x25 has no room for 600 agent: 4"),
        ("navigation", {"altars": 5000}, "env=navigation: a map of 41x41 has no room for 20 altar, 49"),
        ("navigation", {"width": 3}, "env.width of navigation must be 5 to 1000, not 3"),
    ],
)
def test_bad_settings_are_named(name: str, settings: dict[str, Any], text: str) -> None:
    """A setting that is dropped without a word, halves the number of objects, or fails inside MettaGrid."""
    for check in (check_env, make_env):
        with pytest.raises(ValueError) as caught:
            check(EnvName(name, settings))
        assert str(caught.value).startswith(text) and "\n" not in str(caught.value)


def test_spec_is_plain_and_says_how_to_read_tokens() -> None:
    """An agent file that cannot be loaded without mettagrid, or reads the tokens by another table."""
    game = Stand("arena", num_agents=4)
    spec = game.env.spec
    assert b"mettagrid" not in pickle.dumps(spec).replace(b"mettagrid_env", b"")
    assert spec.num_agents == 4 and spec.env == EnvName("arena", {"num_agents": 4})
    assert (
        spec.tokens == make_env(EnvName("arena")).spec.tokens
        and spec.observation_shape == make_env(EnvName("arena")).spec.observation_shape
    )
    assert spec.tokens is not None and spec.tokens.window == (13, 13)
    assert spec.tokens.action_names == ("noop", "move_north", "move_south", "move_west", "move_east")
    names = {feature: name for feature, name, _ in spec.tokens.features}
    game.play(0, 5)
    seen = game.observations[game.observations[:, :, 1] != 255]
    assert set(seen[:, 1]) <= set(names)
    tags = seen[[names[feature] == "tag" for feature in seen[:, 1]]]
    assert {spec.tokens.tags[value] for value in tags[:, 2]} >= {"type:agent", "type:wall"}
    middle = tags[tags[:, 0] == 6 * 16 + 6]  # each agent sees itself in the middle of its window
    assert [spec.tokens.tags[value] for value in middle[:, 2]] == ["type:agent"] * 4


@pytest.mark.parametrize("name", GAMES)
def test_pictures(name: str) -> None:
    """A picture with rows and columns exchanged."""
    game = Stand(name, "rgb_array", width=30, height=20, num_agents=2)
    game.env.reset(0)
    picture = game.env.render()
    assert isinstance(picture, np.ndarray) and picture.shape == (20 * 12, 30 * 12, 3) and picture.dtype == np.uint8
    cells = picture[::12, ::12].tolist()
    wall, empty = game.env.game.looks["wall"].color, [*FLOOR_COLOR]
    assert cells[0] == cells[-1] == [[*wall]] * 30 and empty in cells[1]
    for agent in game.things("agent"):
        assert cells[agent["r"]][agent["c"]] not in ([*wall], empty)
