"""Two games made of MettaGrid: their settings, maps and rules. Nothing here imports mettagrid until a game is made."""

import dataclasses
import difflib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # importing mettagrid takes a second, which checking a setting must not cost
    from mettagrid.config.mettagrid_config import GameConfig, MettaGridConfig

WINDOW = 13  # cells on a side of the square that an agent sees, itself in the middle


@dataclass(frozen=True)
class ArenaSettings:
    """Agents carry ore from mines to generators, and the batteries made of it to altars, which turn them into hearts.

    The first ten ore and the first ten batteries pay a little, every heart pays in full.
    """

    num_agents: int = 24
    max_steps: int = 500
    width: int = 25
    height: int = 25
    mines: int = 10
    generators: int = 8
    altars: int = 8
    walls: int = 20
    ore_reward: float = 0.05
    battery_reward: float = 0.1
    heart_reward: float = 1.0


@dataclass(frozen=True)
class NavigationSettings:
    """Agents look for lit altars in a house of rooms. One that is touched pays, goes dark, and another lights up."""

    num_agents: int = 8
    max_steps: int = 500
    width: int = 41
    height: int = 41
    room_size: int = 20
    altars: int = 60
    lit_altars: int = 20
    heart_reward: float = 1.0


Settings = ArenaSettings | NavigationSettings
SETTINGS: dict[str, type[Settings]] = {"arena": ArenaSettings, "navigation": NavigationSettings}
LIMITS = {"width": (5, 1000), "height": (5, 1000), "room_size": (4, 1000), "mines": (0, 10_000), "walls": (0, 10_000)}


def parse_settings(name: str, settings: dict[str, Any]) -> Settings:
    """The settings of a game, defaults filled in. ValueError for one that does not exist, or has an unfit value."""
    kind = SETTINGS[name]
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    for key, value in settings.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"env.{key} is not a setting of {name}{hint}; it has {', '.join(fields)}")
        whole = fields[key] is int
        if type(value) is not int and (whole or type(value) is not float):
            raise ValueError(f"env.{key} of {name} must be {'a whole number' if whole else 'a number'}, not {value!r}")
        least, most = LIMITS.get(key, (1, 100_000) if whole else (-1000, 1000))
        if not least <= value <= most:
            raise ValueError(f"env.{key} of {name} must be {least} to {most}, not {value!r}")
    result = kind(**settings)
    try:
        draw_map(name, result, 0)
    except ValueError as error:
        raise ValueError(f"env={name}: {error}") from None
    return result


def draw_map(name: str, settings: Settings, seed: int) -> np.ndarray:
    """The map of an episode: names of objects `[height, width]`. ValueError if it is too small for them."""
    rng = np.random.default_rng(seed)
    grid = np.full((settings.height, settings.width), "empty", dtype=object)
    grid[[0, -1]] = grid[:, [0, -1]] = "wall"
    if isinstance(settings, ArenaSettings):
        counts = {"mine": settings.mines, "generator": settings.generators, "altar": settings.altars}
        place(grid, grid == "empty", {**counts, "wall": settings.walls}, rng)
    else:
        build_rooms(grid, settings.room_size, rng)
        wall = grid == "wall"
        near_wall = np.any([np.roll(wall, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)], axis=0)
        lit = min(settings.lit_altars, settings.altars)
        # A step away from every wall, altars cannot close a door.
        place(grid, ~near_wall, {"altar": lit, "altar.dark": settings.altars - lit}, rng)
    place(grid, grid == "empty", {"agent.agent": settings.num_agents}, rng)
    return grid


def place(grid: np.ndarray, free: np.ndarray, counts: dict[str, int], rng: np.random.Generator) -> None:
    """Put so many of each object on cells of the mask `free`, at random."""
    cells, names = np.flatnonzero(free), np.repeat(list(counts), list(counts.values()))
    if len(names) > len(cells):
        wanted = ", ".join(f"{count} {name.removeprefix('agent.')}" for name, count in counts.items())
        raise ValueError(f"a map of {grid.shape[1]}x{grid.shape[0]} has no room for {wanted}: {len(cells)} free cells")
    grid.flat[rng.choice(cells, len(names), replace=False)] = names.astype(object)


def build_rooms(grid: np.ndarray, size: int, rng: np.random.Generator) -> None:
    """Walls every `size` cells both ways, with a door two cells wide between each two neighbouring rooms."""
    height, width = grid.shape
    rows, columns = [*range(0, height - 3, size), height - 1], [*range(0, width - 3, size), width - 1]
    for lines, crossings, axes in ((rows, columns, grid), (columns, rows, grid.T)):
        for line in lines[1:-1]:
            axes[line] = "wall"
            for begin, end in pairwise(crossings):
                door = rng.integers(begin + 1, max(end - 2, begin + 1), endpoint=True)
                axes[line, door : min(door + 2, end)] = "empty"


def arena_game(settings: ArenaSettings) -> dict[str, Any]:
    """The fields of GameConfig that make the arena."""
    from mettagrid.config.game_value import InventoryValue, StatValue
    from mettagrid.config.handler_config import Handler, SwapMutation, actorHas, updateActor
    from mettagrid.config.mettagrid_config import AgentConfig, GridObjectConfig, InventoryConfig, ResourceLimitsConfig
    from mettagrid.config.reward_config import reward

    def machine(name: str, takes: str | None, gives: str) -> GridObjectConfig:
        filters = [actorHas({takes: 1})] if takes else []
        deltas = {takes: -1, gives: 1} if takes else {gives: 1}
        return GridObjectConfig(name=name, on_use_handler=Handler(filters=filters, mutations=[updateActor(deltas)]))

    def first_ten(item: str, weight: float) -> Any:
        return reward(StatValue(name=f"{item}.gained"), weight=weight, max=10 * weight)

    limits = {"cargo": ResourceLimitsConfig(base=10, resources=["ore", "battery"])}
    rewards = {"ore": first_ten("ore", settings.ore_reward), "battery": first_ten("battery", settings.battery_reward)}
    rewards["heart"] = reward(InventoryValue(item="heart"), weight=settings.heart_reward)
    return {
        "resource_names": ["ore", "battery", "heart"],
        "objects": {
            "mine": machine("mine", None, "ore"),
            "generator": machine("generator", "ore", "battery"),
            "altar": machine("altar", "battery", "heart"),
        },
        "agent": AgentConfig(
            inventory=InventoryConfig(limits=limits),
            rewards=rewards,
            on_use_handler=Handler(mutations=[SwapMutation()]),  # agents that meet pass each other
        ),
    }


def navigation_game(settings: NavigationSettings) -> dict[str, Any]:
    """The fields of GameConfig that make navigation."""
    from mettagrid.config.game_value import InventoryValue
    from mettagrid.config.handler_config import Handler, isNot, query, queryDelta, targetHas, updateActor, updateTarget
    from mettagrid.config.mettagrid_config import AgentConfig, GridObjectConfig, InventoryConfig
    from mettagrid.config.reward_config import reward
    from mettagrid.config.tag import typeTag

    dark = query(typeTag("altar"), [isNot(targetHas({"flame": 1}))])
    dark.order_by, dark.max_items = "random", 1
    touch = Handler(
        filters=[targetHas({"flame": 1})],
        mutations=[queryDelta(dark, {"flame": 1}), updateTarget({"flame": -1}), updateActor({"heart": 1})],
    )
    lit = InventoryConfig(initial={"flame": 1})
    return {
        "resource_names": ["flame", "heart"],
        "objects": {
            "altar": GridObjectConfig(name="altar", inventory=lit, on_use_handler=touch),
            "altar.dark": GridObjectConfig(name="altar", map_name="altar.dark", on_use_handler=touch),
        },
        "agent": AgentConfig(rewards={"heart": reward(InventoryValue(item="heart"), weight=settings.heart_reward)}),
    }


def game_config(settings: Settings) -> "GameConfig":
    """MettaGrid's configuration of a game, but for its map."""
    from mettagrid.config import mettagrid_config as config

    game = arena_game(settings) if isinstance(settings, ArenaSettings) else navigation_game(settings)
    game["objects"]["wall"] = config.WallConfig()
    return config.GameConfig(
        num_agents=settings.num_agents,
        max_steps=settings.max_steps,
        episode_truncates=True,
        obs=config.ObsConfig(width=WINDOW, height=WINDOW, num_tokens=most_tokens(settings)),
        actions=config.ActionsConfig(change_vibe=config.ChangeVibeActionConfig(enabled=False)),
        **game,
    )


def most_tokens(settings: Settings) -> int:
    """A number of tokens that no observation exceeds: MettaGrid stops with an error where one does.

    The same for all but unusually crowded games, so that an agent may be tried on other settings than its own.
    """
    agents = min(settings.num_agents, WINDOW * WINDOW)
    if isinstance(settings, ArenaSettings):
        objects = settings.mines + settings.generators + settings.altars + settings.walls + 2 * WINDOW  # and the border
        agent_tokens = 6
    else:
        walls = 2 * WINDOW * (1 + (WINDOW - 1) // settings.room_size)
        objects = settings.altars + settings.lit_altars + walls  # a lit altar takes two tokens
        agent_tokens = 5
    # An agent is its tag, group, id and one for each resource; three tokens are global.
    return max(224, 3 + agent_tokens * agents + min(objects, 2 * (WINDOW * WINDOW - agents)))


def episode_config(name: str, settings: dict[str, Any], seed: int) -> "MettaGridConfig":
    """One episode for MettaGrid's own Simulation, map included: the same game as `reset(seed)`."""
    from mettagrid.config.mettagrid_config import MettaGridConfig
    from mettagrid.map_builder.ascii import AsciiMapBuilderConfig

    parsed = parse_settings(name, settings)
    game = game_config(parsed)
    chars = {"empty": ".", "wall": "#", "agent.agent": "@"}
    chars |= {"mine": "m", "generator": "g", "altar": "a", "altar.dark": "d"}
    rows = [[chars[cell] for cell in row] for row in draw_map(name, parsed, seed)]
    legend = {char: name for name, char in chars.items()}
    game.map_builder = AsciiMapBuilderConfig(map_data=rows, char_to_map_name=legend)
    return MettaGridConfig(game=game)
