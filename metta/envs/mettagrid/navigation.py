"""Navigation: lit altars to be found in a house of rooms."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from metta.envs.mettagrid.game import WINDOW, Game, Look, place


@dataclass(frozen=True)
class Navigation(Game):
    """Agents look for lit altars in a house of rooms. One that is touched pays, goes dark, and another lights up."""

    num_agents: int = 8
    width: int = 41
    height: int = 41
    room_size: int = 20
    altars: int = 60
    lit_altars: int = 20
    heart_reward: float = 1.0

    limits: ClassVar[dict[str, tuple[int, int]]] = Game.limits | {"room_size": (4, 1000)}
    tokens_per_object: ClassVar[int] = 2
    looks: ClassVar[dict[str, Look]] = Game.looks | {
        "altar": Look((250, 200, 60), "💟", "altar"),
        "altar.dark": Look((120, 60, 90), "🌑", "dark altar"),
    }

    def furnish(self, grid: np.ndarray, rng: np.random.Generator) -> None:
        build_rooms(grid, self.room_size, rng)
        wall = grid == "wall"
        near_wall = np.any([np.roll(wall, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)], axis=0)
        lit = min(self.lit_altars, self.altars)
        # A step away from every wall, altars cannot close a door.
        place(grid, ~near_wall, {"altar": lit, "altar.dark": self.altars - lit}, rng)

    def rules(self) -> dict[str, Any]:
        from mettagrid.config import handler_config as config
        from mettagrid.config.game_value import InventoryValue
        from mettagrid.config.mettagrid_config import AgentConfig, GridObjectConfig, InventoryConfig
        from mettagrid.config.reward_config import reward
        from mettagrid.config.tag import typeTag

        dark = config.query(typeTag("altar"), [config.isNot(config.targetHas({"flame": 1}))])
        dark.order_by, dark.max_items = "random", 1
        goes_dark, lights = config.updateTarget({"flame": -1}), config.queryDelta(dark, {"flame": 1})
        touch = config.Handler(
            filters=[config.targetHas({"flame": 1})],
            mutations=[lights, goes_dark, config.updateActor({"heart": 1})],
        )
        lit = InventoryConfig(initial={"flame": 1})
        return {
            "resource_names": ["flame", "heart"],
            "objects": {
                "altar": GridObjectConfig(name="altar", inventory=lit, on_use_handler=touch),
                "altar.dark": GridObjectConfig(name="altar", map_name="altar.dark", on_use_handler=touch),
            },
            "agent": AgentConfig(rewards={"heart": reward(InventoryValue(item="heart"), weight=self.heart_reward)}),
        }

    def most_held(self) -> dict[str, int]:
        return {"heart": self.max_steps}

    def most_objects(self) -> int:
        walls = 2 * WINDOW * (1 + (WINDOW - 1) // self.room_size)
        return self.altars + self.lit_altars + walls  # a lit altar takes two tokens

    def look_of(self, kind: str, held: list[str]) -> str:
        return "altar.dark" if kind == "altar" and "flame" not in held else kind


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
