"""`metta train`: checks the arguments without torch, then trains."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metta.agent.agent_name import check_agent_name
from metta.envs.make_env import check_env
from metta.errors import UserError
from metta.rl.saved_config import newest_config
from metta.rl.train_config import TrainConfig, changed_keys, restart_config, resume_config
from metta.run_folder import TrainDir
from metta.tools.cli.arguments import parse
from metta.tools.cli.table import score_text
from metta.tools.cli.targets import open_run

if TYPE_CHECKING:
    from metta.eval.eval_db import EvalDB


def main(argv: Sequence[str]) -> int:
    config, given = parse(TrainConfig, argv, "metta train")
    check(config, given)
    return train(config, given)


def check(config: TrainConfig, given: frozenset[str]) -> None:
    """UserError for whatever can be known to be wrong before torch is imported and a file is made."""
    manager = open_run(config.run, config.train_dir)
    if not manager.exists():
        check_new(config)
        return
    newest = newest_config(manager)  # the trainer says which file is damaged, and falls back to the same one
    if newest is None:
        return
    saved = newest["config"]
    if newest["epoch"] == 0 and changed_keys(saved, config, given):
        check_new(restart_config(saved, config, given))
    else:
        resume_config(saved, config, given)


def check_new(config: TrainConfig) -> None:
    """Whether a run can begin so."""
    if config.env is None:
        raise UserError(f"missing env=: run {config.run} is new, so say what to train on, as in env=arena")
    check_env(config.env_name)
    if config.agent is not None:
        check_agent_name(config.agent)


def train(config: TrainConfig, given: frozenset[str]) -> int:
    """Returns the exit status. From here on torch is imported."""
    from metta.eval.eval_db import EvalDB
    from metta.rl import trainer

    scores = EvalDB(TrainDir(config.train_dir).eval_db)
    return trainer.train(
        config,
        given,
        keep_epochs=lambda: best_epochs(scores, config.run),
        last_evaluation=lambda: last_evaluation(scores, config.run),
    )


def best_epochs(scores: "EvalDB", run: str) -> list[int]:
    """What retention spares: the best evaluated checkpoint."""
    best = scores.best_epoch(run)
    return [] if best is None else [best]


def last_evaluation(scores: "EvalDB", run: str) -> str:
    """For the display: "epoch 100: arena 3.20 [3.10, 3.30]"."""
    latest = scores.latest_score(run)
    if latest is None:
        return "none"
    epoch, by_env = latest
    return f"epoch {epoch}: " + ", ".join(f"{env} {score_text(score)}" for env, score in by_env.items())
