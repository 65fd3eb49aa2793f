"""A MettaGridConfig of the user's own, with the methods of `Game` that stepping, showing and replaying need."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from metta.envs.mettagrid.game import Game, Look
from metta.errors import UserError

if TYPE_CHECKING:
    from mettagrid.config.mettagrid_config import GameConfig, MettaGridConfig

COLORS = ((170, 110, 60), (90, 140, 230), (120, 60, 90), (250, 200, 60), (200, 90, 90), (90, 180, 180), (160, 160, 160))


class ConfigGame:
    """Any maps, objects and rewards. Maps are drawn anew for each episode where the map builder's `seed` is None.

    of_seed: makes the configuration of an episode, where each has its own; `config` is any of them.
    """

    def __init__(self, name: str, config: "MettaGridConfig", of_seed: Callable[[int], Any] | None = None):
        self.name, self._config, self._of_seed = name, config, of_seed
        self.varies = of_seed is not None
        game = config.game
        for what, there in (("talk", game.talk.enabled), ("end_episode_on_game_stats", game.end_episode_on_game_stats)):
            if there:
                raise UserError(
                    f"env={name}: game.{what} is done by MettaGrid's own simulator, which metta goes without"
                )
        self.looks = {**Game.looks, **looks(game)}
        self.draw_map(0)

    def config(self) -> "GameConfig":
        """The configuration of the episode whose map was drawn last."""
        return self._config.game

    def draw_map(self, seed: int) -> np.ndarray:
        """Configure the episode and draw its map: names of objects `[height, width]`. UserError if there is no room."""
        if self._of_seed is not None:
            self._config = self._of_seed(seed)
        builder = self._config.game.map_builder
        if getattr(builder, "seed", 0) is None:
            builder = builder.model_copy(deep=True)
            builder.seed = seed  # type: ignore[attr-defined]
        require_room(self.name, builder)
        try:
            built = builder.create().build_for_num_agents(self._config.game.num_agents)
        except ValueError as error:
            raise UserError(f"env={self.name}: no map for the seed {seed}: {error}") from error
        grid = np.asarray(built.grid).astype(object)
        self.height, self.width = grid.shape
        return grid

    def look_of(self, kind: str, held: list[str]) -> str:
        return kind if kind in self.looks else "agent" if kind.startswith("agent") else "wall"

    def most_held(self) -> dict[str, int]:
        return dict.fromkeys(self._config.game.resource_names, 0)


def require_room(name: str, builder: Any) -> None:
    """UserError where MettaGrid's random map would look for room forever."""
    from mettagrid.map_builder.random_map import RandomMapBuilderConfig

    if not isinstance(builder, RandomMapBuilderConfig):
        return
    agents = builder.agents if isinstance(builder.agents, int) else sum(builder.agents.values())
    width, height = (side - 2 * builder.border_width for side in (builder.width, builder.height))
    if agents + len(builder.objects) > width * height > 0:
        raise UserError(
            f"env={name}: {agents} agents, and each kind of object once, do not fit into {width} x {height} cells"
        )


def looks(game: "GameConfig") -> dict[str, Look]:
    """Choose a colour and a symbol for each kind of object."""
    kinds = sorted({thing.name for thing in game.objects.values()} - {"wall", "agent"})
    chosen = {}
    for number, kind in enumerate(kinds):
        red, green, blue = COLORS[number % len(COLORS)]
        symbol = f"\x1b[38;2;{red};{green};{blue}m{kind[:2]:<2}\x1b[0m"
        chosen[kind] = Look((red, green, blue), symbol, kind)
    return chosen
