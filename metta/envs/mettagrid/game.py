"""What a game made of MettaGrid is: a dataclass of its settings, whose methods draw its maps and say its rules.

Nothing here imports mettagrid until a configuration is made: it takes a second, which checking a setting must not cost.
"""

import dataclasses
import difflib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from metta.envs.env_spec import EnvName
from metta.errors import UserError

if TYPE_CHECKING:
    from mettagrid.config.mettagrid_config import GameConfig, GridObjectConfig, MettaGridConfig

WINDOW = 13  # cells on a side of the square that an agent sees, itself in the middle
USUAL_TOKENS = 224  # enough for all but unusually crowded games, so agents may be tried on settings not their own
GLOBAL_TOKENS = 3  # how much of the episode is over, the last action, the last reward


@dataclass(frozen=True)
class Look:
    """How a thing is shown: in pictures, as text, and on the terminal's map."""

    color: tuple[int, int, int]
    symbol: str  # two columns wide
    words: str


@dataclass(frozen=True)
class Game(ABC):
    """A subclass adds its settings as fields with defaults, and is listed in games.py; nothing else knows its name."""

    num_agents: int = 1
    max_steps: int = 500
    width: int = 25
    height: int = 25

    # Allowed values of a setting; of others those of its type.
    limits: ClassVar[dict[str, tuple[int, int]]] = {"width": (5, 1000), "height": (5, 1000)}
    varies: ClassVar[bool] = False  # whether an episode has a configuration of its own, and not only a map
    tokens_per_object: ClassVar[int] = 1  # at most: its tag, and one for each resource that it can hold
    # By a map cell's name (but "agent" for "agent.agent"), and by whatever else `look_of` returns.
    looks: ClassVar[dict[str, Look]] = {
        "wall": Look((90, 90, 100), "\x1b[90m██\x1b[0m", "wall"),
        "agent": Look((90, 190, 110), "🤖", "agent"),
    }

    @abstractmethod
    def furnish(self, grid: np.ndarray, rng: np.random.Generator) -> None:
        """Put everything but the agents on a map `[height, width]` that has its outer walls; UserError if no room."""

    @abstractmethod
    def rules(self) -> dict[str, Any]:
        """Return GameConfig's fields that make the game: resource_names, agent, objects (walls are added to them)."""

    @abstractmethod
    def most_held(self) -> dict[str, int]:
        """Bound from above what an agent can hold of each resource."""

    @abstractmethod
    def most_objects(self) -> int:
        """Bound from above the tokens of all that is in one window but agents, walls included."""

    def look_of(self, kind: str, held: list[str]) -> str:
        """Choose among `looks` for a thing of this kind that holds these resources."""
        return kind

    @classmethod
    def of(cls, env: EnvName) -> Self:
        """Make the game with these settings. UserError for an unknown setting or an unfit value."""
        fields = {field.name: field.type for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for key, value in env.settings.items():
            if key not in fields:
                near = difflib.get_close_matches(key, fields, 1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                raise UserError(f"env.{key} is not a setting of {env.name}{hint}; it has {', '.join(fields)}")
            whole = fields[key] is int
            if type(value) is not int and (whole or type(value) is not float):
                wanted = "a whole number" if whole else "a number"
                raise UserError(f"env.{key} of {env.name} must be {wanted}, not {value!r}")
            least, most = cls.limits.get(key, (1, 100_000) if whole else (-1000, 1000))
            if not least <= value <= most:
                raise UserError(f"env.{key} of {env.name} must be {least} to {most}, not {value!r}")
            values[key] = value if whole else float(value)
        game = cls(**values)
        try:
            game.draw_map(0)
        except UserError as error:
            raise UserError(f"env={env.name}: {error}") from None
        return game

    def settings(self) -> dict[str, Any]:
        """Return the settings that are not the defaults."""
        defaults, own = vars(type(self)()), vars(self)
        return {key: value for key, value in own.items() if value != defaults[key]}

    def draw_map(self, seed: int) -> np.ndarray:
        """Draw the map of an episode: names of objects `[height, width]`. UserError if it is too small for them."""
        rng = np.random.default_rng(seed)
        grid = np.full((self.height, self.width), "empty", dtype=object)
        grid[[0, -1]] = grid[:, [0, -1]] = "wall"
        self.furnish(grid, rng)
        place(grid, grid == "empty", {"agent.agent": self.num_agents}, rng)
        return grid

    def config(self) -> "GameConfig":
        """Make MettaGrid's configuration of the game, without a map."""
        from mettagrid.config import mettagrid_config as config

        rules = self.rules()
        rules["objects"]["wall"] = config.WallConfig()
        return config.GameConfig(
            num_agents=self.num_agents,
            max_steps=self.max_steps,
            episode_truncates=True,
            obs=config.ObsConfig(width=WINDOW, height=WINDOW, num_tokens=self.most_tokens()),
            actions=config.ActionsConfig(change_vibe=config.ChangeVibeActionConfig(enabled=False)),
            **rules,
        )

    def most_tokens(self) -> int:
        """Bound the tokens of an observation from above: MettaGrid stops with an error if one exceeds it."""
        agents = min(self.num_agents, WINDOW * WINDOW)
        # An agent is its tag, group, id and what it holds: a token for each resource, from 256 of it on a second one.
        each = 3 + sum(1 if most < 256 else 2 for most in self.most_held().values())
        objects = min(self.most_objects(), self.tokens_per_object * (WINDOW * WINDOW - agents))
        return max(USUAL_TOKENS, GLOBAL_TOKENS + each * agents + objects)


def with_map(game: "GameConfig", grid: np.ndarray) -> "MettaGridConfig":
    """Configure one episode, with the map that was drawn, for MettaGrid's own Simulation."""
    from mettagrid.config.mettagrid_config import MettaGridConfig
    from mettagrid.map_builder.ascii import AsciiMapBuilderConfig

    chars = {name: chr(ord("0") + number) for number, name in enumerate(sorted({*grid.flat}))}
    rows = [[chars[cell] for cell in row] for row in grid]
    legend = {char: name for name, char in chars.items()}
    builder = AsciiMapBuilderConfig(map_data=rows, char_to_map_name=legend)
    return MettaGridConfig(game=game.model_copy(deep=True, update={"map_builder": builder}))


def place(grid: np.ndarray, free: np.ndarray, counts: dict[str, int], rng: np.random.Generator) -> None:
    """Put `counts` of each object on random cells of the mask `free`. UserError if there is no room."""
    cells, names = np.flatnonzero(free), np.repeat(list(counts), list(counts.values()))
    if len(names) > len(cells):
        wanted = ", ".join(f"{count} {name.removeprefix('agent.')}" for name, count in counts.items())
        raise UserError(f"a map of {grid.shape[1]}x{grid.shape[0]} has no room for {wanted}: {len(cells)} free cells")
    grid.flat[rng.choice(cells, len(names), replace=False)] = names.astype(object)


def machine(name: str, takes: dict[str, int], gives: dict[str, int]) -> "GridObjectConfig":
    """Make an object that exchanges resources with an agent that uses it and has what it takes."""
    from mettagrid.config.handler_config import Handler, actorHas, updateActor
    from mettagrid.config.mettagrid_config import GridObjectConfig

    filters = [actorHas(takes)] if takes else []
    deltas = {resource: -amount for resource, amount in takes.items()} | gives
    return GridObjectConfig(name=name, on_use_handler=Handler(filters=filters, mutations=[updateActor(deltas)]))
