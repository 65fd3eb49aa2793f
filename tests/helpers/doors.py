"""What every kind of environment does: train, resume exactly, be evaluated and played again. As a script it resumes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from metta.envs.make_env import make_env
from metta.eval.policy_evaluator import PolicyEvaluator
from metta.rl.one_run import Trainer, load_trainer
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import TrainConfig
from metta.run_folder import RunFolder
from metta.sim.recording import load_recording, recording_path
from metta.sim.single_env import SingleEnv, difference, replay_steps
from tests.helpers.exact import differences, run_epochs

ROOT = Path(__file__).parents[2]
EPOCHS = 2  # before the checkpoint, and after it


def door_config(run: str, env: str, train_dir: Path, num_workers: int = 0, **values: Any) -> TrainConfig:
    small = {"num_envs": 3, "horizon": 25, "update_epochs": 2, "hidden_size": 16, "seed": 5, "total_timesteps": 10**6}
    always = {"env": env, "train_dir": str(train_dir), "num_workers": num_workers, "device": "cpu", "display": "none"}
    return TrainConfig(run=run, **{**small, **always, **values})


def state_of(trainer: Trainer) -> tuple[Any, dict[str, Any]]:
    state = trainer.state_dict()
    del state["config"]
    return trainer.agent, state


def train_half_way(run: str, env: str, train_dir: Path, **values: Any) -> tuple[Any, dict[str, Any]]:
    """Save after EPOCHS, which came out alike with 0 and 2 workers, and go on; returns agent and state at the end."""
    with_help = Trainer(door_config(run, env, train_dir, 2, **values))
    alone = Trainer(door_config(run, env, train_dir, **values))
    try:
        assert differences(run_epochs(with_help, EPOCHS), run_epochs(alone, EPOCHS)) == []
        assert differences(state_of(with_help), state_of(alone)) == []
        episodes = [shard["episodes"] for shard in alone.state_dict()["shards"]]
        assert any(len(actions) > 0 for shard in episodes for actions in shard["actions"]), "in no episode's middle"
        TinyCheckpointManager(run, train_dir).save_checkpoint(alone.agent, EPOCHS, alone.state_dict())
        run_epochs(alone, EPOCHS)
        return state_of(alone)
    finally:
        with_help.close()
        alone.close()


def resume_in_a_fresh_process(train_dir: Path, runs: list[str]) -> None:
    """Train runs EPOCHS further, all in one process that knows nothing but their folders, and save them."""
    command = [sys.executable, "-m", "tests.helpers.doors", str(train_dir), *runs]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0 and "not exact" not in done.stderr, done.stderr


def resume(train_dir: Path, run: str) -> None:
    manager = TinyCheckpointManager(run, train_dir)
    trainer = load_trainer(manager, TrainConfig(run=run, train_dir=str(train_dir)), frozenset())
    assert trainer is not None
    run_epochs(trainer, EPOCHS)
    manager.save_checkpoint(trainer.agent, trainer.epoch, trainer.state_dict())
    trainer.close()


def assert_same_end(run: str, train_dir: Path, straight: tuple[Any, dict[str, Any]]) -> None:
    """Compare what the fresh process saved with what the uninterrupted one had."""
    epoch, agent, state = TinyCheckpointManager(run, train_dir).load_latest() or (0, None, {})
    del state["config"]
    assert epoch == 2 * EPOCHS and differences(straight, (agent, state)) == []


def evaluate_and_replay(run: str, train_dir: Path) -> None:
    """Evaluate twice, alike, beside a random agent, and make the recorded episodes again."""
    with PolicyEvaluator(train_dir, num_workers=0) as evaluator:
        loaded = evaluator.load(run, EPOCHS)
        scores = [evaluator.score(loaded, episodes=3, seed=7) for _ in range(2)]
        assert scores[0] == scores[1]
        name = loaded.own_env()
        evaluator.evaluate_random(name, episodes=2)
    path = recording_path(RunFolder(train_dir, run), EPOCHS, name.label)
    for seed in (7, 8, 9):
        single, recording = SingleEnv(make_env(name)), load_recording(path, seed)
        for _ in replay_steps(single, recording):
            pass
        assert difference(single, recording) is None
        single.env.close()


if __name__ == "__main__":
    for name in sys.argv[2:]:
        resume(Path(sys.argv[1]), name)
