"""`metta sim`: checks the arguments without torch, then plays episodes with checkpoints and stores their scores."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metta.errors import CheckpointError, one_line
from metta.eval.eval_db import open_scores
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.tools.cli.arguments import parse
from metta.tools.cli.config import SimConfig
from metta.tools.cli.table import interval_text, print_table, score_text
from metta.tools.cli.targets import Target, chosen_env, find_target

if TYPE_CHECKING:
    from metta.envs.env_spec import EnvName
    from metta.eval.eval_db import Score
    from metta.eval.policy_evaluator import LoadedAgent, PolicyEvaluator

WATCH_S = 1.0  # from one look for new checkpoints to the next


def main(argv: Sequence[str]) -> int:
    config, _ = parse(SimConfig, argv, "metta sim")
    open_scores(config.train_dir, config.eval_db).check_writable()  # where the scores will go: says now if they cannot
    return evaluate(config, find_target(config, config.watch))


# From here on torch is imported.


def evaluate(config: SimConfig, target: Target) -> int:
    """Play the episodes of every checkpoint, store the scores, print the table.

    Returns the exit status; 1: one of several checkpoints could not be read.
    """
    from metta.eval.policy_evaluator import PolicyEvaluator
    from metta.machine import pick_device

    device = str(pick_device(config.device))
    with PolicyEvaluator(config.train_dir, device, config.num_envs, eval_db=config.eval_db) as evaluator:
        evaluation = Evaluation(config, target, evaluator)
        evaluation.play()
    evaluation.print_scores()
    return 1 if evaluation.unread else 0


class Evaluation:
    """Plays what one call of `metta sim` asks for and collects the scores in that order."""

    def __init__(self, config: SimConfig, target: Target, evaluator: PolicyEvaluator):
        self.config, self.target, self.evaluator = config, target, evaluator
        self.env: EnvName | None = None  # as long as no agent has been loaded
        self.scores: list[tuple[str, str, Score]] = []  # agent, epoch, score
        self.unread: list[int] = []  # epochs whose checkpoint could not be read

    def play(self) -> None:
        """Play everything that was asked for."""
        if self.target.file is not None:
            self.play_file(self.target.file)
        elif self.config.watch:
            self.watch()
        else:
            self.play_epochs(self.target.epochs)
        if self.config.random and self.scores:
            self.play_random()

    def play_epochs(self, epochs: Sequence[int]) -> None:
        """Play these checkpoints; skip and report one that cannot be read, unless it is the only one.

        If the newest was asked for and has been deleted because there is a newer one, play that one.
        """
        for epoch in epochs:
            try:
                self.play_epoch(epoch)
            except CheckpointError as error:
                left = TinyCheckpointManager(str(self.target.run), self.config.train_dir).list_epochs()
                if self.config.epoch == "latest" and left and epoch not in left:
                    if not self.config.watch:  # which sees the newer one itself
                        self.play_epochs(left[-1:])
                    return
                if len(epochs) == 1 and not self.config.watch:
                    raise
                print(f"metta sim: {one_line(error)}", file=sys.stderr)
                self.unread.append(epoch)

    def play_epoch(self, epoch: int) -> None:
        run = str(self.target.run)
        self.play_agent(self.evaluator.load(run, epoch), f"run={run} epoch={epoch}", run)

    def play_file(self, file: Path) -> None:
        epoch = self.target.epochs[0] if self.target.epochs else 0
        loaded = self.evaluator.load_file(file, self.config.trust, self.target.run, epoch)
        self.play_agent(loaded, f"agent={file}", file.name)

    def play_agent(self, loaded: LoadedAgent, who: str, name: str) -> None:
        if self.env is None:
            self.env = chosen_env(self.config, loaded.own_env)
        self.announce(who)
        score = self.evaluator.score(loaded, **self.episodes())
        self.scores.append((name, "-" if loaded.run is None else str(loaded.epoch), score))

    def play_random(self) -> None:
        self.announce("a random agent")
        self.scores.append(("random", "-", self.evaluator.evaluate_random(**self.episodes())))

    def watch(self) -> None:
        """Play each new checkpoint when it appears and print a line for it, until Ctrl-C."""
        manager = TinyCheckpointManager(str(self.target.run), self.config.train_dir)
        waiting, seen = self.target.epochs, set(manager.list_epochs())
        if not seen:
            print(f"metta sim: waiting for the first checkpoint in {manager.folder}", file=sys.stderr, flush=True)
        while True:
            for epoch in waiting:
                self.play_epochs([epoch])
                for run, at, score in self.scores:
                    print(f"run={run} epoch={at} {self.label()} {score_text(score)}", flush=True)
                self.scores.clear()
            waiting = [epoch for epoch in manager.list_epochs() if epoch not in seen]
            seen.update(waiting)
            if not waiting:
                time.sleep(WATCH_S)

    def label(self) -> str:
        assert self.env is not None
        return one_line(self.env.label)

    def episodes(self) -> dict[str, Any]:
        return {"env": self.env, "episodes": self.config.episodes, "seed": self.config.seed}

    def announce(self, who: str) -> None:
        print(f"{who}: {self.config.episodes} episodes of {self.label()}", file=sys.stderr, flush=True)

    def print_scores(self) -> None:
        headings = ("agent", "epoch", "env", "mean reward", "95% interval", "IQM", "episodes")
        rows = [
            (name, epoch, self.label(), f"{s.mean:.2f}", interval_text(s), f"{s.iqm:.2f}", str(s.episodes))
            for name, epoch, s in self.scores
        ]
        print_table(headings, rows, left=3)
        if self.config.random and len(self.scores) == 2:
            (name, _, agent), (_, _, random) = self.scores
            above = "lies clear above" if agent.low > random.high else "does not lie clear above"
            print(f"The interval of {one_line(name)} {above} the random agent's.")
