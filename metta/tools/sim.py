"""`metta sim`: checks the arguments without torch, then plays episodes with checkpoints and stores their scores."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from metta.envs.env_spec import EnvName, categories
from metta.errors import CheckpointError, EnvError, UserError, one_line, say
from metta.eval.eval_db import open_scores, scored_env
from metta.eval.statistics import Score
from metta.processes.executors import open_executor
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.run_folder import expanded
from metta.tools.cli.arguments import parse
from metta.tools.cli.config import SimConfig
from metta.tools.cli.table import SCORE_HEADINGS, print_table, score_cells, score_text
from metta.tools.cli.targets import Target, chosen_env, find_targets, given_envs

if TYPE_CHECKING:
    from metta.eval.policy_evaluator import LoadedAgent, PolicyEvaluator

WATCH_S = 1.0  # from one look for new checkpoints to the next
FAR = 0.25  # of the larger of score and training return: a difference that is said


def main(argv: Sequence[str]) -> int:
    config, _ = parse(SimConfig, argv, "metta sim")
    open_scores(config.train_dir, config.eval_db).check_writable()  # where the scores will go: says now if they cannot
    return evaluate(config, find_targets(config))


# From here on torch is imported.


def evaluate(config: SimConfig, targets: Sequence[Target]) -> int:
    """Play the episodes of every checkpoint, store the scores, print the table.

    Returns the exit status; 1: one of several checkpoints could not be read, or one of several evaluations failed.
    """
    with open_executor(config.executor, expanded(config.train_dir) / ".tasks") or nullcontext() as executor:
        from metta.eval.policy_evaluator import PolicyEvaluator

        with PolicyEvaluator(
            config.train_dir, config.device, config.num_envs, None, config.eval_db, executor
        ) as evaluator:
            evaluation = Evaluation(replace(config, train_dir=evaluator.train_dir), targets, evaluator)
            evaluation.play()
    evaluation.print_scores()
    return 1 if evaluation.failed else 0


class Row(NamedTuple):
    """One evaluation, as the table has it."""

    agent: str
    epoch: str
    env: str
    score: Score


class Evaluation:
    """Plays what one call of `metta sim` asks for and collects the scores in that order."""

    def __init__(self, config: SimConfig, targets: Sequence[Target], evaluator: PolicyEvaluator):
        self.config, self.targets, self.evaluator = config, targets, evaluator
        self.several = config.watch or max(len(targets), len(targets[0].epochs), len(given_envs(config))) > 1
        self.envs: dict[EnvName, None] = {}  # that agents played, in that order
        self.playing: list[Callable[[], None]] = []  # what was begun, in that order
        self.rows: list[Row] = []
        self.hints: dict[str, str | None] = {}  # of each run, for the last of its checkpoints
        self.failed = False  # whether one of several did

    def play(self) -> None:
        """Play everything that was asked for."""
        if self.config.watch:
            self.watch()
        for target in self.targets:
            if target.file is not None:
                self.play_file(target, target.file)
            else:
                self.play_epochs(str(target.run), target.epochs)
        for finish in self.playing:
            with self.one_of_several():
                finish()
        if self.config.random:
            self.play_random()

    @contextmanager
    def one_of_several(self) -> Iterator[None]:
        """Say what goes wrong inside, and go on; raise it where there is nothing else to play.

        While watching, nobody may read what is said: only a checkpoint that cannot be read is passed over.
        """
        try:
            yield
        except (CheckpointError, EnvError, UserError) as error:
            if not self.several or (self.config.watch and not isinstance(error, CheckpointError)):
                raise
            say(f"metta sim: {one_line(error)}")
            self.failed = True

    def play_epochs(self, run: str, epochs: Sequence[int]) -> None:
        """Play these checkpoints. If the newest was asked for and has been deleted since, play the one after it."""
        for epoch in epochs:
            with self.one_of_several():
                try:
                    loaded = self.evaluator.load(run, epoch)
                except CheckpointError:
                    left = TinyCheckpointManager(run, self.config.train_dir).list_epochs()
                    if self.config.epoch != "latest" or not left or epoch in left:
                        raise
                    if not self.config.watch:  # which sees the newer one itself
                        self.play_epochs(run, left[-1:])
                    return
                self.play_agent(loaded, f"run={run} epoch={epoch}", run)

    def play_file(self, target: Target, file: Path) -> None:
        epoch = target.epochs[0] if target.epochs else 0
        loaded = self.evaluator.load_file(file, self.config.trust, target.run, epoch)
        self.play_agent(loaded, f"agent={file}", file.name)

    def play_agent(self, loaded: LoadedAgent, who: str, name: str) -> None:
        for env in given_envs(self.config) or [chosen_env(self.config, loaded.own_env)]:
            with self.one_of_several():
                self.play_in(env, loaded, who, name)

    def play_in(self, env: EnvName, loaded: LoadedAgent, who: str, name: str) -> None:
        config = self.config
        label = one_line(scored_env(env.label, config.sampled))
        self.announce(who, label)
        playing = self.evaluator.begin(loaded, env, config.episodes, config.seed, config.sampled)
        if config.executor == "local" or config.watch:
            self.finish(env, loaded, name, label, playing)
        else:
            self.playing.append(partial(self.finish, env, loaded, name, label, playing))

    def finish(self, env: EnvName, loaded: LoadedAgent, name: str, label: str, playing: Callable[[], Score]) -> None:
        score, own = playing(), loaded.agent.env
        self.envs[env] = None
        self.rows.append(Row(name, "-" if loaded.run is None else str(loaded.epoch), label, score))
        if loaded.run is not None and own.env == env and own.num_agents == 1 and not self.config.sampled:
            self.hints[loaded.run] = hint(self.config.train_dir, loaded, score)

    def play_random(self) -> None:
        for env in self.envs:
            label = one_line(env.label)
            self.announce("a random agent", label)
            with self.one_of_several():
                score = self.evaluator.evaluate_random(env, self.config.episodes, self.config.seed)
                self.rows.append(Row("random", "-", label, score))

    def watch(self) -> None:
        """Play each new checkpoint when it appears and print a line for it, until Ctrl-C."""
        waiting = {str(target.run): target.epochs for target in self.targets}
        managers = {run: TinyCheckpointManager(run, self.config.train_dir) for run in waiting}
        # What has come since the command began is new; so is a file that takes the place of another.
        last = {run: max(epochs, default=-1) for run, epochs in waiting.items()}
        seen = {run: {n: agent_file(m, n) for n in m.list_epochs() if n <= last[run]} for run, m in managers.items()}
        for manager in managers.values():
            if not manager.exists():
                say(f"metta sim: waiting for the first checkpoint in {manager.folder}")
        while True:
            for run, epochs in waiting.items():
                manager = managers[run]
                for epoch in epochs:
                    self.play_epochs(run, [epoch])
                    if epoch in manager.list_epochs() and agent_file(manager, epoch) != seen[run].get(epoch):
                        self.rows.clear()  # of a file that another has replaced meanwhile, whose turn will come
                        continue
                    if not self.rows:  # it could not be read, or was deleted meanwhile
                        print(f"run={run} epoch={epoch} -", flush=True)
                    for row in self.rows:
                        print(f"run={run} epoch={row.epoch} {row.env} {score_text(row.score)}", flush=True)
                    self.rows.clear()
            for run, manager in managers.items():
                now = {epoch: agent_file(manager, epoch) for epoch in manager.list_epochs()}
                waiting[run] = [epoch for epoch in now if epoch not in seen[run] or now[epoch] != seen[run][epoch]]
                seen[run] = now
            if not any(waiting.values()):
                time.sleep(WATCH_S)

    def announce(self, who: str, label: str) -> None:
        say(f"{one_line(who)}: {self.config.episodes} episodes of {label}")

    def print_scores(self) -> None:
        rows = [(*about, *score_cells(score)) for *about, score in self.rows]
        print_table(("agent", "epoch", "env", *SCORE_HEADINGS), rows + suite_means(self.rows), left=3)
        if self.config.random and len(self.rows) == 2:
            agent, random = self.rows
            which = "lies above" if agent.score.low > random.score.high else "does not lie above"
            print(f"The 95% interval of {one_line(agent.agent)} {which} the random agent's.")
        for said in filter(None, self.hints.values()):
            say(f"metta sim: {said}")


def agent_file(manager: TinyCheckpointManager, epoch: int) -> tuple[int, int, int] | None:
    """Inode, size and time of a checkpoint's agent file, by which a change shows; None of a link to nothing."""
    try:
        found = manager.file("agent", epoch).stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def suite_means(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Make the table's rows of each agent's means over the environments of a suite, and of each category in it."""
    scores: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in rows:
        for category in categories(row.env):
            scores[row.agent, row.epoch, category].append(row.score.mean)
    return [
        (agent, epoch, f"mean of {category}", f"{sum(means) / len(means):.2f}", "", "", "")
        for (agent, epoch, category), means in scores.items()
        if len(means) > 1
    ]


def hint(train_dir: str, loaded: LoadedAgent, score: Score) -> str | None:
    """Say where the score lies far below what training got at this epoch; None where it does not, or none is known."""
    from metta.eval.event_files import training_return

    trained = training_return(train_dir, str(loaded.run), loaded.epoch)
    far = FAR * max(abs(score.mean), abs(trained or 0.0))
    if trained is None or score.high >= trained or trained - score.mean <= far:
        return None
    return (
        f"run={loaded.run} epoch={loaded.epoch}: {score.mean:.2f} lies far below the training return, {trained:.2f}:"
        " training draws its actions, this took the likeliest; sampled=true draws them"
    )
