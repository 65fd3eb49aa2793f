"""The arena: ore becomes batteries, and batteries become hearts."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from metta.envs.mettagrid.game import WINDOW, Game, Look, machine, place

CARGO = 10  # ore and batteries together that an agent carries


@dataclass(frozen=True)
class Arena(Game):
    """Agents carry ore from mines to generators, and the batteries made of it to altars, which turn them into hearts.

    The first ten ore and the first ten batteries pay a little, every heart pays in full.
    """

    num_agents: int = 24
    mines: int = 10
    generators: int = 8
    altars: int = 8
    walls: int = 20
    ore_reward: float = 0.05
    battery_reward: float = 0.1
    heart_reward: float = 1.0

    limits: ClassVar[dict[str, tuple[int, int]]] = Game.limits | {"mines": (0, 10_000), "walls": (0, 10_000)}
    looks: ClassVar[dict[str, Look]] = Game.looks | {
        "mine": Look((170, 110, 60), "🗻", "mine"),
        "generator": Look((90, 140, 230), "⚡", "generator"),
        "altar": Look((120, 60, 90), "💟", "altar"),
        # On the terminal what an agent carries is the colour behind it.
        "agent.ore": Look((90, 190, 110), "\x1b[43m🤖\x1b[0m", "carries ore"),
        "agent.battery": Look((90, 190, 110), "\x1b[42m🤖\x1b[0m", "carries a battery"),
    }

    def furnish(self, grid: np.ndarray, rng: np.random.Generator) -> None:
        counts = {"mine": self.mines, "generator": self.generators, "altar": self.altars, "wall": self.walls}
        place(grid, grid == "empty", counts, rng)

    def rules(self) -> dict[str, Any]:
        from mettagrid.config.game_value import InventoryValue, StatValue
        from mettagrid.config.handler_config import Handler, SwapMutation
        from mettagrid.config.mettagrid_config import AgentConfig, InventoryConfig, ResourceLimitsConfig
        from mettagrid.config.reward_config import reward

        def first_ten(item: str, weight: float) -> Any:
            return reward(StatValue(name=f"{item}.gained"), weight=weight, max=10 * weight)

        limits = {"cargo": ResourceLimitsConfig(base=CARGO, resources=["ore", "battery"])}
        rewards = {"ore": first_ten("ore", self.ore_reward), "battery": first_ten("battery", self.battery_reward)}
        rewards["heart"] = reward(InventoryValue(item="heart"), weight=self.heart_reward)
        return {
            "resource_names": ["ore", "battery", "heart"],
            "objects": {
                "mine": machine("mine", {}, {"ore": 1}),
                "generator": machine("generator", {"ore": 1}, {"battery": 1}),
                "altar": machine("altar", {"battery": 1}, {"heart": 1}),
            },
            "agent": AgentConfig(
                inventory=InventoryConfig(limits=limits),
                rewards=rewards,
                on_use_handler=Handler(mutations=[SwapMutation()]),  # agents that meet pass each other
            ),
        }

    def most_held(self) -> dict[str, int]:
        return {"ore": CARGO, "battery": CARGO, "heart": self.max_steps // 3}  # a heart takes three actions

    def most_objects(self) -> int:
        return self.mines + self.generators + self.altars + self.walls + 2 * WINDOW  # the last: two outer walls

    def look_of(self, kind: str, held: list[str]) -> str:
        carried = next((item for item in ("battery", "ore") if item in held), None)
        return f"agent.{carried}" if kind == "agent" and carried else kind
