"""A MettaGrid episode as one HTML page that needs nothing else: data, style and player in the file.

The data are what changed: 500 steps of 24 agents are some 100 KB.
"""

import string
from collections import defaultdict
from pathlib import Path
from typing import IO, Any

from metta.envs.make_env import make_env
from metta.envs.mettagrid.env import MettaGridEnv
from metta.html_page import html_page
from metta.sim.recording import Source
from metta.sim.single_env import SingleEnv, difference, replay_steps

# One character for each way to move, and for each action. Neither '"' nor '\\', which JSON would write as two.
CODE = string.digits + string.ascii_letters + "!#$%&()*+,-./:;=?@[]^_{|}~" + "".join(map(chr, range(0xC0, 0x250)))
SCRIPTS = ("episode.js", "drawing.js", "map.js", "player.js")  # in one scope, each using what is before it
SIGNIFICANT = 6  # digits of a reward in the page: float32 has no more


class EpisodeLog:
    """Collects what the page shows of an episode that the environment has just begun, and after each step."""

    def __init__(self, env: MettaGridEnv):
        self.env = env
        self.walls: list[int] = []
        self.things: list[dict[str, Any]] = []  # all but walls: type, cell, agent (index or absent)
        self.index: dict[int, int] = {}  # from MettaGrid's id to the place in `things`
        self.cells: list[int] = []  # where each thing was last; cell = row * width + column
        self.inventories: list[dict[int, int]] = []
        self.ways: dict[int, int] = {0: 0}  # distance in cells -> code
        self.moves: dict[int, list[int]] = defaultdict(list)  # thing -> codes of its moves at steps 1, 2, ...
        self.items: dict[int, list[int]] = defaultdict(list)  # thing -> step, resource, amount, step, ...
        self.rewards: list[list[float]] = [[] for _ in range(env.spec.num_agents)]  # step, reward, step, ...
        self.actions: list[list[int]] = [[] for _ in range(env.spec.num_agents)]
        self.height, self.width = env.game.height, env.game.width
        for thing in sorted(env.objects(), key=lambda thing: (thing["r"], thing["c"])):
            cell = thing["r"] * self.width + thing["c"]
            if thing["type_name"] == "wall":
                self.walls.append(cell)
                continue
            self.index[thing["id"]] = len(self.things)
            entry = {"type": thing["type_name"], "cell": cell}
            self.things.append(entry | ({"agent": thing["agent_id"]} if "agent_id" in thing else {}))
            self.cells.append(cell)
            self.inventories.append({})
            self._note_items(0, self.index[thing["id"]], thing["inventory"])

    def step(self, step: int, actions: Any, rewards: Any) -> None:
        """Log a step; actions and rewards `[num_agents]`."""
        for thing in self.env.objects(ignore=["wall"]):
            index = self.index[thing["id"]]
            cell = thing["r"] * self.width + thing["c"]
            if cell != self.cells[index] or index in self.moves or "agent_id" in thing:
                moves, way = self.moves[index], cell - self.cells[index]
                moves += [0] * (step - 1 - len(moves)) + [self.ways.setdefault(way, len(self.ways))]
                self.cells[index] = cell
            self._note_items(step, index, thing["inventory"])
        for agent, reward in enumerate(rewards.tolist()):
            self.actions[agent].append(int(actions[agent]))
            if reward:
                self.rewards[agent] += [step, float(f"{reward:.{SIGNIFICANT}g}")]

    def _note_items(self, step: int, index: int, inventory: dict[int, int]) -> None:
        before = self.inventories[index]
        for resource in sorted(before.keys() | inventory.keys()):
            if before.get(resource, 0) != inventory.get(resource, 0):
                self.items[index] += [step, resource, inventory.get(resource, 0)]
        self.inventories[index] = dict(inventory)

    def data(self) -> dict[str, Any]:
        tokens = self.env.spec.tokens
        assert tokens is not None and len(self.ways) <= len(CODE) and len(tokens.action_names) <= len(CODE)
        return {
            "width": self.width,
            "height": self.height,
            "window": tokens.window,
            "resources": list(self.env.resources),
            "colors": {name: "#{:02x}{:02x}{:02x}".format(*look.color) for name, look in self.env.game.looks.items()},
            "action_names": tokens.action_names,
            "code": CODE,
            "ways": list(self.ways),
            "walls": self.walls,
            "things": self.things,
            "moves": {index: encode(moves) for index, moves in self.moves.items()},
            "items": {index: steps_apart(items, 3) for index, items in self.items.items()},
            "rewards": [steps_apart(rewards, 2) for rewards in self.rewards],
            "actions": [encode(actions) for actions in self.actions],
        }


def encode(codes: list[int]) -> str:
    return "".join(CODE[code] for code in codes)


def steps_apart(events: list[Any], size: int) -> list[Any]:
    """Encode the steps of events (`size` numbers each, the step first) as differences from the event before."""
    result, last = list(events), 0
    for at in range(0, len(events), size):
        result[at], last = events[at] - last, events[at]
    return result


def write_page(source: Source, file: IO[bytes]) -> str | None:
    """Replay the recording and write the page. Returns its `difference`, which the page shows too."""
    env = make_env(source.env)
    assert isinstance(env, MettaGridEnv)
    single, recording = SingleEnv(env), source.recording
    steps = replay_steps(single, recording)
    next(steps)
    log = EpisodeLog(env)
    for step in steps:
        log.step(step, recording.actions[step - 1], single.rewards)
    differing = difference(single, recording)
    about = {"run": source.run, "epoch": source.epoch, "env": env.spec.env.label, "seed": recording.seed}
    data = {**about, "steps": single.steps, "difference": differing, **log.data()}
    file.write(html_page(Path(__file__).parent, SCRIPTS, "metta replay", data).encode())
    return differing
