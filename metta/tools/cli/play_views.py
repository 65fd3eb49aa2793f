"""How `metta play` shows an environment: a map, a picture or a text in the terminal, or the environment's window."""

import functools
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from metta.envs.env_spec import EnvName
from metta.envs.make_env import make_env
from metta.envs.mettagrid.env import MettaGridEnv
from metta.errors import EnvError, UserError, one_line, say
from metta.sim.single_env import SingleEnv

PANEL = 28  # columns beside the map, where the terminal has at least
PANEL_FROM = 72
FLOOR = "\x1b[90m· \x1b[0m"


class View:
    keys = ""  # what it has beyond the common ones, for the line of keys

    def lines(self, single: SingleEnv, columns: int, rows: int) -> list[str]:
        """Draw the environment as it is now, in at most so many rows and columns."""
        raise NotImplementedError

    def next_agent(self) -> None:
        """Look at the next agent, where there are several."""


class MapView(View):
    """MettaGrid's map by MettaGrid's own unicode renderer, and beside it the agents."""

    keys = "tab agent  "

    def __init__(self, env: MettaGridEnv):
        from mettagrid.renderer.miniscope.buffer import MapBuffer

        self._env = env
        # MettaGrid's renderer has its own idea of whatever is called "agent": a thing is called what it looks like.
        symbols = {look.symbol: look.symbol for look in env.game.looks.values()}
        self._new_buffer = functools.partial(MapBuffer, {"empty": FLOOR, **symbols})
        self._walls: dict[int, dict[str, Any]] = {}
        self._agent: int | None = None  # the one that is looked at
        self._held: set[int] = set()  # resources that an agent has held: a column of the panel for each

    def next_agent(self) -> None:
        last = self._env.spec.num_agents - 1
        self._agent = 0 if self._agent is None else None if self._agent == last else self._agent + 1

    def lines(self, single: SingleEnv, columns: int, rows: int) -> list[str]:
        if single.steps == 0 or not self._walls:
            self._height, self._width = self._env.game.height, self._env.game.width
            self._buffer = self._new_buffer(self._height, self._width)
            walls = [thing for thing in self._env.objects() if thing["type_name"] == "wall"]
            self._walls = {wall["id"]: self._shown(wall) for wall in walls}
        things = self._env.objects(ignore=["wall"])
        agents = sorted((thing for thing in things if "agent_id" in thing), key=lambda thing: thing["agent_id"])
        panel = columns >= PANEL_FROM
        width = min(self._width, max(1, (columns - (PANEL if panel else 0)) // 2))
        height = min(self._height, rows)
        if (height, width) != (self._height, self._width):
            middle = agents[self._agent or 0]
            self._buffer.set_viewport(middle["r"], middle["c"], height, width)
        else:
            self._buffer.set_viewport()
        self._buffer.set_highlighted_agent(self._agent)
        shown = {thing["id"]: self._shown(thing) for thing in things}
        grid = self._buffer.render({**self._walls, **shown}).split("\n")
        if not panel:
            return grid
        words = self._panel(single, agents, rows)
        grid += [""] * (min(len(words), rows) - len(grid))
        words += [""] * (len(grid) - len(words))
        return [f"{line}\x1b[{2 * width + 3}G{word}" for line, word in zip(grid, words[: len(grid)], strict=True)]

    def _shown(self, thing: dict[str, Any]) -> dict[str, Any]:
        return {**thing, "type_name": self._env.game.looks[self._env.look_of(thing)].symbol}

    def _panel(self, single: SingleEnv, agents: list[dict[str, Any]], rows: int) -> list[str]:
        """Words beside the map: the agent looked at or the best ones, and what the symbols mean."""
        self._held.update(resource for agent in agents for resource in agent["inventory"])
        held = sorted(self._held)
        words = ["agent  reward" + "".join(f"{self._env.resources[resource][:4]:>5}" for resource in held)]
        best = np.argsort(-single.returns, kind="stable")[: max(3, rows - 9)].tolist()
        best = best if self._agent is None else [self._agent]
        for index in best:
            amounts = "".join(f"{agents[index]['inventory'].get(resource, 0):>5}" for resource in held)
            words.append(f"{index:>5} {single.returns[index]:>7.2f}{amounts}"[:PANEL])
        if self._agent is not None:
            words.append("⭐ is that agent")
        words.append("")
        return words + [f"{look.symbol} {look.words}" for name, look in self._env.game.looks.items() if name != "wall"]


class PictureView(View):
    """The environment's picture in half blocks: two pixels, one above the other, for each character."""

    def __init__(self) -> None:
        self._true_color = os.environ.get("COLORTERM", "") in ("truecolor", "24bit")

    def lines(self, single: SingleEnv, columns: int, rows: int) -> list[str]:
        picture = fitted(single.picture(), columns, 2 * rows)
        if picture.shape[0] % 2:
            picture = np.concatenate((picture, picture[-1:]))
        return [self._line(upper, lower) for upper, lower in zip(picture[::2], picture[1::2], strict=True)]

    def _line(self, upper: np.ndarray, lower: np.ndarray) -> str:
        pieces, before = [], None
        for pair in zip(map(tuple, upper.tolist()), map(tuple, lower.tolist()), strict=True):
            if pair != before:
                pieces.append(f"\x1b[38;{self._color(pair[0])};48;{self._color(pair[1])}m")
                before = pair
            pieces.append("▀")
        return "".join(pieces)

    def _color(self, rgb: Sequence[int]) -> str:
        """As terminals take it: all 16 million colours, or the 6x6x6 of 256 that all know."""
        if self._true_color:
            return "2;" + ";".join(map(str, rgb))
        red, green, blue = (round(value / 51) for value in rgb)
        return f"5;{16 + 36 * red + 6 * green + blue}"


def fitted(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture `[h, w, 3]` in its proportions at the size that fits."""
    from PIL import Image

    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize(size, method))


class TextView(View):
    """What an environment writes of itself (render_mode "ansi")."""

    def lines(self, single: SingleEnv, columns: int, rows: int) -> list[str]:
        text = single.drawn()
        text = text.getvalue() if isinstance(text, io.StringIO) else str(text)
        return [line if "\x1b" in line else line[:columns] for line in text.split("\n")][:rows]


class WindowView(View):
    """The environment draws in its own window, at each step and at its own speed."""

    def lines(self, single: SingleEnv, columns: int, rows: int) -> list[str]:
        return ["The environment is in its own window."]


def open_view(name: EnvName, seed: int, terminal: bool) -> tuple[SingleEnv, View | None]:
    """The environment and how it is shown; None where there is neither a screen nor, by `terminal`, a terminal.

    UserError where it cannot be made or shown. The first way that works is taken: window, picture, text.
    """
    env = make_env(name)
    if isinstance(env, MettaGridEnv):
        return SingleEnv(env), MapView(env) if terminal else None
    modes = env.metadata.get("render_modes") or []
    if has_screen() and ("human" in modes or "rgb_array" in modes):
        window = opened_window(name, seed)
        if window is not None:
            env.close()
            return window, WindowView()
    if not terminal:
        return SingleEnv(env), None
    env.close()
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    for mode, view in (("rgb_array", PictureView), ("ansi", TextView)):
        if mode in modes:
            return SingleEnv(make_env(name, mode)), view()
    raise UserError(f"env={name.short_name} cannot be shown here: it has render_mode {' and '.join(modes) or 'none'}")


def has_screen() -> bool:
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def opened_window(name: EnvName, seed: int) -> SingleEnv | None:
    """The environment with its window open; None, and a line on stderr, where the screen or a package is missing."""
    env = make_env(name, "human")
    single = SingleEnv(env)
    try:
        single.reset(seed)
        return single
    except EnvError as error:
        say(f"metta play: no window: {one_line(error)}")
        env.close()
        return None
