"""Whether an environment has all that the built-in ones have."""

import sys
from pathlib import Path
from typing import Any

from metta.eval.eval_db import EvalDB
from metta.rl.one_run import Trainer
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import TrainConfig
from metta.tools.main import main
from tests.helpers.commands import run_in
from tests.helpers.exact import differences, run_epochs

SMALL = {"num_envs": 2, "num_shards": 2, "horizon": 20, "minibatch_size": 20, "update_epochs": 1, "hidden_size": 8}


def check_door(folder: Path, env: Any, settings: dict[str, Any] | None = None, film: bool = True, **keys: Any) -> str:
    """Train two epochs, with and without workers, resume in the middle of an episode, evaluate, replay, analyse.

    `folder` is the current one, in which `env` is found. film: the environment draws pictures. Returns its label.
    """
    train_dir = folder / "train_dir"
    given = {"env": env, "env_settings": settings or {}, "train_dir": str(train_dir), **SMALL, **keys}
    states = []
    for workers in (0, 2):
        config = TrainConfig(run="straight", num_workers=workers, device="cpu", total_timesteps=10**6, **given)
        trainer = Trainer(config)
        logged = run_epochs(trainer, 2)
        states.append((trainer.agent, without_config(trainer.state_dict()), logged))
        agent_steps, label = trainer.agent_steps, trainer.spec.env.label
        trainer.close()
    assert differences(states[0], states[1]) == []

    manager = TinyCheckpointManager("halves", train_dir)
    config = TrainConfig(run="halves", num_workers=0, device="cpu", total_timesteps=10**6, **given)
    trainer = Trainer(config)
    run_epochs(trainer, 1)
    state = trainer.state_dict()
    assert any(len(actions) for shard in state["shards"] for actions in shard["episodes"]["actions"])  # unfinished
    manager.save_checkpoint(trainer.agent, 1, state)
    trainer.close()
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    code = (
        "import sys; from metta.rl.trainer import *; from metta.rl.tiny_checkpoint_manager import *;"
        "manager = TinyCheckpointManager('halves', sys.argv[1]);"
        "trainer = load_trainer(manager, TrainConfig(run='halves', train_dir=sys.argv[1]), frozenset());"
        "trainer.run_epoch(); manager.save_checkpoint(trainer.agent, 2, trainer.state_dict()); trainer.close()"
    )
    _, said = run_in(elsewhere, [sys.executable, "-c", code, str(train_dir)])
    assert said == ""
    epoch, agent, state = manager.load_latest()  # type: ignore[misc]
    assert (epoch, state["agent_steps"]) == (2, agent_steps)
    assert differences((agent, without_config(state)), states[0][:2]) == []

    assert main(["sim", "run=halves", "episodes=3", f"train_dir={train_dir}"]) == 0
    assert [*EvalDB(train_dir / "eval.db").get_scores("halves", 2)] == [label]
    assert main(["replay", "run=halves", f"train_dir={train_dir}"]) == (0 if film else 2)
    assert main(["play", "run=halves", f"train_dir={train_dir}"]) == 0
    assert main(["analyze", "runs=halves", f"train_dir={train_dir}"]) == 0
    assert label in (train_dir / "report.html").read_text()
    return label


def without_config(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key not in ("config", "environment")}
