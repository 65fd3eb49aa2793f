"""`metta play`: checks the arguments without torch, then shows an agent acting."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metta.errors import UserError, one_line
from metta.tools.cli.arguments import parse
from metta.tools.cli.config import PlayConfig
from metta.tools.cli.table import cut
from metta.tools.cli.targets import Target, chosen_env, chosen_epochs, file_target, given_env

if TYPE_CHECKING:
    from metta.eval.policy_evaluator import LoadedAgent
    from metta.sim.players import Player
    from metta.sim.single_env import SingleEnv
    from metta.tools.cli.play_views import View
    from metta.tools.cli.terminal import Terminal

SPEEDS = (1, 2, 5, 10, 20, 30, 50, 100, 200, 500)  # steps per second
REDRAW_S = 1 / 30  # the screen is drawn no more often than that
KEYS = "space pause  s step  +/- speed  {}n next  r again  q quit"


def main(argv: Sequence[str]) -> int:
    config, _ = parse(PlayConfig, argv, "metta play")
    return play(config, played_agent(config))


def played_agent(config: PlayConfig) -> Target | None:
    """Find the agent to watch; None: a random one. UserError, before torch is imported, for what is wrong."""
    if config.run is not None and config.agent is not None:
        raise UserError(f"give run={config.run} or agent={config.agent}, not both")
    if config.run is None and config.agent is None and not config.random:
        raise UserError("missing run=: a run in train_dir, or agent= or random=true")
    env = given_env(config)
    if config.agent is not None:
        return file_target(config, Path(config.agent))
    if config.run is not None:
        return Target(config.run, chosen_epochs(config, config.run))
    if env is None:
        raise UserError("missing env=: what a random agent is to play, as in env=arena")
    return None


def play(config: PlayConfig, target: Target | None) -> int:
    """Play and return the exit status; imports torch."""
    from metta.sim.players import make_player
    from metta.sim.simulation import MOST_STEPS, no_end
    from metta.tools.cli.play_views import open_view
    from metta.tools.cli.terminal import Terminal, interactive

    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    loaded = None if target is None else load(config, target)
    env = given_env(config) if loaded is None else chosen_env(config, loaded.own_env)
    assert env is not None
    agent = None if config.random or loaded is None else loaded.agent.eval()
    single, view = open_view(env, config.seed, interactive())
    try:
        player = make_player(agent, single.env.spec, 1, config.sampled)
        session = Session(one_line(f"{name_of(config, target)} env={env.label}"), single, player, config.seed)
        if view is not None and interactive():
            with Terminal() as terminal:
                session.watch(terminal, view)
        else:
            while not single.over:
                if single.steps == MOST_STEPS:
                    raise no_end(env, config.seed)
                session.step()
        print(session.summary())
    finally:
        single.env.close()
    return 0


def load(config: PlayConfig, target: Target) -> LoadedAgent:
    from metta.eval.policy_evaluator import PolicyEvaluator

    evaluator = PolicyEvaluator(config.train_dir)
    if target.file is not None:
        return evaluator.load_file(target.file, config.trust)
    return evaluator.load(str(target.run), target.epochs[0])


def name_of(config: PlayConfig, target: Target | None) -> str:
    if config.random or target is None:
        return "random"
    name = f"agent={target.file}" if target.file is not None else f"run={target.run} epoch={target.epochs[0]}"
    return f"{name} sampled=true" if config.sampled else name


class Session:
    """Plays one episode after the other, from `seed` on, watched or not."""

    def __init__(self, name: str, single: SingleEnv, player: Player, seed: int):
        from metta.sim.replay.films import frames_per_second

        self.name, self.single, self.player = name, single, player
        fps = frames_per_second(single.env)
        self.speed = min(range(len(SPEEDS)), key=lambda index: abs(SPEEDS[index] - fps))
        self.paused = False
        self.begin(seed)

    def begin(self, seed: int) -> None:
        self.seed = seed
        self.single.reset(seed)
        self.player.begin(0, seed)

    def step(self) -> None:
        if not self.single.over:
            self.single.step(self.player.act(self.single.observations, self.single.starts))

    def watch(self, terminal: Terminal, view: View) -> None:
        """Draw, step on time and obey the keys, until the user quits."""
        next_step, drawn = time.monotonic(), 0.0
        while True:
            now = time.monotonic()
            resting = self.paused or self.single.over
            if resting or now - drawn >= REDRAW_S:
                terminal.show(self.screen(view, *terminal.size()))
                drawn = now
            key = terminal.key(0.5 if resting else max(0.0, next_step - time.monotonic()))
            if key in ("q", "Q", "escape"):
                return
            if key is not None:
                self.press(key, view)
                drawn = 0.0
            elif not resting:
                self.step()
                next_step = max(next_step + 1 / SPEEDS[self.speed], now)
            if resting:
                next_step = time.monotonic()

    def press(self, key: str, view: View) -> None:
        if key == " ":
            self.paused = not self.paused
        elif key in ("s", ".", "right"):
            self.paused = True
            self.step()
        elif key in ("+", "=", "up"):
            self.speed = min(self.speed + 1, len(SPEEDS) - 1)
        elif key in ("-", "_", "down"):
            self.speed = max(self.speed - 1, 0)
        elif key == "tab":
            view.next_agent()
        elif key in ("n", "r"):
            self.begin(self.seed + (key == "n"))

    def screen(self, view: View, columns: int, rows: int) -> list[str]:
        """Compose `rows` lines: one of facts, the environment, one of keys."""
        body = view.lines(self.single, columns, max(1, rows - 2))
        body += [""] * (rows - 2 - len(body))
        speed = SPEEDS[self.speed]
        state = "the end" if self.single.over else f"paused {speed}/s" if self.paused else f"{speed} steps/s"
        foot = cut(f" {state:<12} {KEYS.format(view.keys)}", columns)
        head = cut(f"{self.so_far()} · {self.name} seed={self.seed}", columns)
        return [f"\x1b[1m{head}", *body, f"\x1b[7m{foot:<{columns}}"]

    def so_far(self) -> str:
        what = "return" if self.single.num_agents == 1 else f"mean return of {self.single.num_agents} agents"
        return f"step {self.single.steps}, {what} {self.single.returns.mean():.2f}"

    def summary(self) -> str:
        end = "" if self.single.over else ", not played to its end"
        return f"{self.name} seed={self.seed}: {self.so_far()}{end}"
