"""Runs for the tests of play and replay: untrained agents of one epoch, 100, evaluated on a few short episodes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from metta.agent.policy_agent import PolicyAgent
from metta.envs.env_spec import EnvName
from metta.envs.make_env import spec_of
from metta.eval.policy_evaluator import PolicyEvaluator
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager

ROOT = Path(__file__).parents[2]
ARENA = {"max_steps": 30, "num_agents": 4, "mines": 60, "generators": 60, "altars": 60}  # crowded: all find something
ARENA_LABEL = "arena[altars=60,generators=60,max_steps=30,mines=60,num_agents=4]"


def make_runs(folder: Path) -> Path:
    """`folder/train_dir` with the runs maze (arena) and cart (CartPole), seeds 0 to 2 recorded."""
    torch.manual_seed(0)
    with PolicyEvaluator(folder / "train_dir") as evaluator:
        for run, env, settings in (("maze", "arena", ARENA), ("cart", "CartPole-v1", {"max_episode_steps": 40})):
            save_new_agent(folder / "train_dir", run, 100, env, settings)
            evaluator.evaluate(run, 100, episodes=3)
    return folder


def save_new_agent(
    train_dir: Path, run: str, epoch: int, env: str, settings: dict[str, Any], lstm: bool = False
) -> None:
    """A checkpoint of an untrained agent."""
    state = {"config": {"env": env, "env_settings": settings}, "epoch": epoch, "agent_steps": 0}
    TinyCheckpointManager(run, train_dir).save_checkpoint(
        PolicyAgent(spec_of(EnvName(env, settings)), lstm=lstm), epoch, state
    )


def launch(
    folder: Path, tool: str, *argv: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """./tools/TOOL.py in a folder, with no terminal and, unless asked for, no screen."""
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *argv],
        cwd=folder,
        env=clean_environment() | (environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def clean_environment() -> dict[str, str]:
    """Ours without a screen, and without what would change how a terminal is drawn on."""
    drop = ("DISPLAY", "WAYLAND_DISPLAY", "COLUMNS", "LINES", "COLORTERM", "SDL_VIDEODRIVER")
    return {key: value for key, value in os.environ.items() if key not in drop} | {"OMP_NUM_THREADS": "1"}
