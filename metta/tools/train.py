"""`metta train`: checks the arguments without torch, then trains."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from metta.envs.by_value import unpack
from metta.envs.make_env import check_env
from metta.errors import MettaError, UserError, one_line, say
from metta.eval.eval_db import EvalDB, open_scores
from metta.keys import shown
from metta.rl.defaults import help_table
from metta.rl.saving.ancestors import check_ancestor
from metta.rl.saving.saved_config import newest_config
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import TrainConfig, going_on
from metta.run_folder import absolute
from metta.tools.cli.arguments import parse
from metta.tools.cli.table import score_text
from metta.tools.cli.targets import open_run
from metta.user_code import GIVEN, check_place

if TYPE_CHECKING:
    from metta.rl.learning.user_functions import OnEpoch

T = TypeVar("T")


def main(argv: Sequence[str]) -> int:
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return train_alone(argv)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # what cannot be reached is one line of ours
    from metta.rl.learning.together import train_together

    return train_together(lambda: train_alone(argv))


def train_alone(argv: Sequence[str]) -> int:
    """Check the arguments and train, in this process and those that it starts or leads."""
    config, given = parse(TrainConfig, argv, "metta train", help_table)
    bring_newest(config)
    check(config, given)
    return train_scored(config, given)


def train(config: TrainConfig, on_epoch: OnEpoch | None = None) -> int:
    """Train config.run to its total_timesteps, from its newest checkpoint where it has one, as `metta train` does.

    on_epoch: called with the trainer and the epoch's scalars, to which it may add; True ends training. Takes the place
    of config.on_epoch. A MettaError says in one line what is wrong.
    Returns the exit status: 0 complete, 128 + its number after a signal, 1 when a checkpoint could not be saved.
    """
    if not isinstance(config, TrainConfig):
        raise UserError(f"train takes a metta.TrainConfig, not a {type(config).__name__}")
    if not isinstance(on_epoch, str | None) and not callable(on_epoch):
        raise UserError(f"on_epoch={shown(on_epoch)}: not a function, nor the place of one")
    bring_newest(config)
    return train_scored(config, on_epoch=on_epoch)


def bring_newest(config: TrainConfig) -> None:
    """Bring a run that is not here from its mirror."""
    if config.mirror is not None and not open_run(config.run, config.train_dir).exists():
        from metta.rl.saving.mirror import Mirror

        Mirror(config.mirror, config.run, config.train_dir).bring_newest()


def check(config: TrainConfig, given: frozenset[str]) -> None:
    """Raise UserError for every mistake that shows before torch is imported or a file is made."""
    manager = open_run(config.run, config.train_dir)
    if config.eval_db is not None:
        open_scores(config.train_dir, config.eval_db)
    if not manager.exists():
        check_new(config, given)
        return
    newest = newest_config(manager)  # the trainer says which file is damaged, and falls back to the same one
    if newest is None:
        return
    unpack(newest["environment"])
    config, changed = going_on(newest["config"], newest["epoch"], config, given)
    if changed is None:
        check_code(config)
    else:
        check_new(config, given)


def check_new(config: TrainConfig, given: frozenset[str]) -> None:
    """Raise UserError unless a new run can start with these settings."""
    config = check_ancestor(config, given)
    check_code(config)
    if config.env is None and config.init is not None:
        return  # the agent's own
    if config.env is None:
        raise UserError(f"missing env=: run {config.run} is new, so say what to train on, as in env=arena")
    check_env(config.env_name)
    if isinstance(config.agent, str):
        check_place("agent", config.agent, "MyAgent")


def check_code(config: TrainConfig) -> None:
    """Raise UserError where a function of the user's own is not there."""
    for name, place in (("on_epoch", config.on_epoch), ("loss", config.loss), ("optimizer", config.optimizer)):
        if isinstance(place, str) and place not in GIVEN:
            check_place(name, place, "f")


def train_scored(config: TrainConfig, given: frozenset[str] | None = None, on_epoch: OnEpoch | None = None) -> int:
    """Train with an eye on the run's scores; imports torch, which takes seconds."""
    if config.display in ("auto", "rich") and sys.stderr is not None and sys.stderr.isatty():
        say(f"run={config.run}: starting")
    from metta.rl import trainer

    eval_db = None if config.eval_db is None else absolute(config.eval_db)
    config = replace(config, train_dir=absolute(config.train_dir), eval_db=eval_db)
    scores = RunScores(config)
    scores.set_aside()
    return trainer.train(config, on_epoch, given, scores.spared, scores.latest)


class RunScores:
    """Answers what training asks of the scores. A fault of theirs is reported once and never stops training."""

    def __init__(self, config: TrainConfig):
        self._run, self._where = config.run, (config.train_dir, config.eval_db)
        self._db: EvalDB | None = None
        self._manager = TinyCheckpointManager(config.run, config.train_dir)
        self._said = False

    def set_aside(self) -> None:
        """Leave a new run no scores of an earlier one of its name: best, latest and retention would count them."""
        if not self._manager.exists():
            self._ask(self._rename, None)

    def _rename(self, db: EvalDB) -> None:
        earlier = next(name for n in itertools.count(1) if (name := f"earlier-{n}.{self._run}") not in db.runs())
        if count := db.rename_run(self._run, earlier):
            said = f"{count} scores of an earlier run={self._run}, which has no checkpoints, are now those of"
            say(f"metta train: {said} {earlier}")

    def spared(self) -> list[int]:
        """List the epochs that retention must keep: the best evaluated one; all of them if eval.db cannot be read."""
        return self._ask(self._best, self._manager.list_epochs())

    def latest(self) -> str:
        """Format the last evaluation for the display: "epoch 100: arena 3.20 [3.10, 3.30]"."""
        return self._ask(self._latest, "-")

    def _best(self, db: EvalDB) -> list[int]:
        best = db.best_epoch(self._run)
        return [] if best is None else [best]

    def _latest(self, db: EvalDB) -> str:
        latest = db.latest_score(self._run)
        if latest is None:
            return "none"
        epoch, by_env = latest
        return f"epoch {epoch}: " + ", ".join(f"{env} {score_text(score)}" for env, score in by_env.items())

    def _ask(self, question: Callable[[EvalDB], T], otherwise: T) -> T:
        try:
            self._db = self._db or open_scores(*self._where)
            return question(self._db)
        except (MettaError, OSError, ValueError) as error:
            if not self._said:
                self._said = True
                effect = "scores are not shown and no checkpoint is deleted"
                say(f"metta train: {effect}, and training goes on: {one_line(error)}")
            return otherwise
