"""`metta sim`: checks the arguments without torch, then plays episodes with checkpoints and stores their scores."""

from __future__ import annotations

import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metta.envs.make_env import check_env
from metta.errors import CheckpointError, UserError
from metta.eval.eval_db import EvalDB
from metta.rl.tiny_checkpoint_manager import AGENT_FILE, TinyCheckpointManager
from metta.run_folder import TrainDir
from metta.tools.cli.arguments import parse
from metta.tools.cli.config import SimConfig
from metta.tools.cli.epochs import epoch_text
from metta.tools.cli.table import interval_text, print_table, score_text
from metta.tools.cli.targets import existing_epochs, existing_run, given_env, open_run

if TYPE_CHECKING:
    from metta.eval.eval_db import Score
    from metta.eval.policy_evaluator import LoadedAgent, PolicyEvaluator

WATCH_S = 1.0  # from one look for new checkpoints to the next


@dataclass(frozen=True)
class Targets:
    """What to evaluate: `epochs` of a run; or the file of agent=, its scores stored under run and epoch if given."""

    run: str | None
    epochs: list[int]
    file: Path | None = None


def main(argv: Sequence[str]) -> int:
    config, _ = parse(SimConfig, argv, "metta sim")
    return evaluate(config, find_targets(config))


def find_targets(config: SimConfig) -> Targets:
    """UserError or EvalDBError for whatever can be known to be wrong before torch is imported."""
    given_env(config.env, config.env_settings)
    scores = EvalDB(TrainDir(config.train_dir).eval_db)
    if config.agent is not None:
        return targets_of_file(config, Path(config.agent))
    if config.run is None:
        raise UserError("missing run=: a run in train_dir, or an agent file with agent=")
    if config.watch:
        return Targets(config.run, watched_epochs(config, config.run))
    manager = existing_run(config.run, config.train_dir)
    return Targets(config.run, chosen_epochs(config, manager, scores))


def targets_of_file(config: SimConfig, path: Path) -> Targets:
    """A checkpoint of a run in train_dir has its run and epoch. Its file is trusted no more than one from elsewhere."""
    if not path.is_file():
        raise UserError(f"agent={path}: no such file")
    if not config.trust and not zipfile.is_zipfile(path):
        raise UserError(f"agent={path}: not an agent file, or not a whole one")
    given = config.epoch if isinstance(config.epoch, int) else None
    if config.watch or (given is None and config.epoch != "latest"):
        what = "watch=" if config.watch else f"epoch={epoch_text(config.epoch)}"
        raise UserError(f"agent={path}: one file has no {what}")
    name = AGENT_FILE.fullmatch(path.name)
    run = run_of(path, config.train_dir)
    if name and run is not None:
        for key, value, own in (("run", config.run, run), ("epoch", given, int(name[1]))):
            if value is not None and value != own:
                raise UserError(f"{key}={value}: agent={path} is {key}={own}")
        return Targets(run, [int(name[1])], path)
    if config.run is None:
        return Targets(None, [], path)
    open_run(config.run, config.train_dir)
    epoch = int(name[1]) if given is None and name else given
    if epoch is None:
        raise UserError(f"missing epoch=: under which epoch of run={config.run} to store the scores of agent={path}")
    return Targets(config.run, [epoch], path)


def run_of(path: Path, train_dir: str) -> str | None:
    """The run among whose checkpoints a file lies; None for one from elsewhere."""
    runs = TrainDir(Path(train_dir).resolve()).runs()
    return next((run.name for run in runs if run.checkpoints == path.resolve().parent), None)


def chosen_epochs(config: SimConfig, manager: TinyCheckpointManager, scores: EvalDB) -> list[int]:
    match config.epoch:
        case "all":
            return manager.list_epochs()
        case "latest":
            return manager.list_epochs()[-1:]
        case int() | range():
            return existing_epochs(manager, config.epoch)
    env = given_env(config.env, config.env_settings)
    best = scores.best_epoch(str(config.run), None if env is None else env.label)
    if best is None:
        where = "" if env is None else f" in {env.label}"
        raise UserError(f"epoch=best: run {config.run} has no scores{where} yet; epoch=all evaluates every checkpoint")
    return existing_epochs(manager, best)


def watched_epochs(config: SimConfig, run: str) -> list[int]:
    """Those to begin with, of a run whose first checkpoint may be yet to come."""
    manager = open_run(run, config.train_dir)
    if not manager.folder.is_dir():
        existing_run(run, config.train_dir)
    if config.epoch not in ("latest", "all"):
        raise UserError(f"epoch={epoch_text(config.epoch)}: watch=true takes epoch=latest or epoch=all")
    epochs = manager.list_epochs()
    return epochs if config.epoch == "all" else epochs[-1:]


# From here on torch is imported.


def evaluate(config: SimConfig, targets: Targets) -> int:
    """Play the episodes of every target, store the scores, print the table.

    Returns the exit status; 1: one of several checkpoints could not be read.
    """
    from metta.eval.policy_evaluator import PolicyEvaluator
    from metta.machine import pick_device

    with PolicyEvaluator(config.train_dir, str(pick_device(config.device)), config.num_envs) as evaluator:
        session = Session(config, targets, evaluator)
        session.play()
    session.print()
    return 1 if session.unread else 0


class Session:
    """One call of `metta sim`: the scores so far, in the order they were played."""

    def __init__(self, config: SimConfig, targets: Targets, evaluator: PolicyEvaluator):
        self.config, self.targets, self.evaluator = config, targets, evaluator
        self.env = given_env(config.env, config.env_settings)
        self.scores: list[tuple[str, str, Score]] = []  # agent, epoch, score
        self.unread: list[int] = []  # epochs whose checkpoint could not be read

    def play(self) -> None:
        """Everything that was asked for."""
        if self.targets.file is not None:
            self.play_file(self.targets.file)
        elif self.config.watch:
            self.watch()
        else:
            self.play_epochs(self.targets.epochs)
        if self.config.random and self.scores:
            self.play_random()

    def play_epochs(self, epochs: Sequence[int]) -> None:
        """Among several checkpoints one that cannot be read is named and passed over; alone it is an error."""
        for epoch in epochs:
            try:
                self.play_epoch(epoch)
            except CheckpointError as error:
                if len(epochs) == 1 and not self.config.watch:
                    raise
                print(f"metta sim: {error}", file=sys.stderr)
                self.unread.append(epoch)

    def play_epoch(self, epoch: int) -> None:
        run = str(self.targets.run)
        self.play_agent(self.evaluator.load(run, epoch), f"run={run} epoch={epoch}", run)

    def play_file(self, file: Path) -> None:
        epoch = self.targets.epochs[0] if self.targets.epochs else 0
        loaded = self.evaluator.load_file(file, self.config.trust, self.targets.run, epoch)
        self.play_agent(loaded, f"agent={file}", file.name)

    def play_agent(self, loaded: LoadedAgent, who: str, name: str) -> None:
        if self.env is None:
            self.env = check_env(loaded.own_env().with_(self.config.env_settings))
        self.announce(who)
        score = self.evaluator.score(loaded, **self.episodes())
        self.scores.append((name, "-" if loaded.run is None else str(loaded.epoch), score))

    def play_random(self) -> None:
        self.announce("a random agent")
        self.scores.append(("random", "-", self.evaluator.evaluate_random(**self.episodes())))

    def watch(self) -> None:
        """Play each new checkpoint as it comes, one line for each, until Ctrl-C."""
        manager = TinyCheckpointManager(str(self.targets.run), self.config.train_dir)
        waiting, seen = self.targets.epochs, set(manager.list_epochs())
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
        return self.env.label

    def episodes(self) -> dict[str, Any]:
        return {"env": self.env, "episodes": self.config.episodes, "seed": self.config.seed}

    def announce(self, who: str) -> None:
        print(f"{who}: {self.config.episodes} episodes of {self.label()}", file=sys.stderr, flush=True)

    def print(self) -> None:
        headings = ("agent", "epoch", "env", "mean reward", "95% interval", "IQM", "episodes")
        rows = [
            (name, epoch, self.label(), f"{s.mean:.2f}", interval_text(s), f"{s.iqm:.2f}", str(s.episodes))
            for name, epoch, s in self.scores
        ]
        print_table(headings, rows, left=3)
        if self.config.random and len(self.scores) == 2:
            (name, _, agent), (_, _, random) = self.scores
            above = "lies clear above" if agent.low > random.high else "does not lie clear above"
            print(f"The interval of {name} {above} the random agent's.")
