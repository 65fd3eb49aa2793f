"""Runs CleanRL's PPO scripts as they are, evaluated where they write the last scalar of an iteration.

CleanRL is no package: its scripts are run from a clone at a fixed commit (time_to_reward.py says how to make it).
"""

from __future__ import annotations

import runpy
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.summary import WORK

if TYPE_CHECKING:
    from benchmarks.reach_target import Act, Watch

CLONE = WORK / "cleanrl"
COMMIT = "fe8d8a03c41a7ef5b523e2e354bd01c363e786bb"
SCRIPTS = {"CartPole-v1": "ppo.py", "LunarLander-v3": "ppo.py", "Hopper-v5": "ppo_continuous_action.py"}
LAST_SCALAR = "charts/SPS"


class Reached(Exception):
    """Ends a script."""


def train(clone: Path, env: str, seed: int, steps: int, watch: Watch) -> None:
    """Train with the script's own settings until the target is reached, or for so many steps."""
    use_gymnasium_0_29()
    evaluate_with(watch)
    script = str(clone / "cleanrl" / SCRIPTS[env])
    sys.argv = [script, f"--env-id={env}", f"--seed={seed}", f"--total-timesteps={steps}"]
    with suppress(Reached):
        runpy.run_path(script, run_name="__main__")


def evaluate_with(watch: Watch) -> None:
    """Have the scripts' SummaryWriter look at the agent in the variables of whoever calls it."""
    from torch.utils import tensorboard

    class Writer(tensorboard.SummaryWriter):
        def add_scalar(self, *args: Any, **named: Any) -> None:
            super().add_scalar(*args, **named)
            tag, _, step = args
            if tag == LAST_SCALAR:
                variables = sys._getframe(1).f_globals
                watch.began(time.time() - variables["start_time"])
                if watch.reached(step, policy(variables["agent"], variables["envs"])):
                    raise Reached

    vars(tensorboard)["SummaryWriter"] = Writer


def use_gymnasium_0_29() -> None:
    """Give the scripts the Gymnasium that they were written for, which has none of today's environments.

    There an environment whose episode ends was reset in the same step, and a wrapper took no observation space.
    """
    from gymnasium import vector, wrappers

    class SameStepVectorEnv(vector.SyncVectorEnv):
        def __init__(self, env_fns: Any):
            super().__init__(env_fns, autoreset_mode=vector.AutoresetMode.SAME_STEP)

        def step(self, actions: Any) -> Any:
            *transition, infos = super().step(actions)
            infos.pop("final_info", None)  # of another form today; the scripts only print it
            return *transition, infos

    class TransformObservation(wrappers.TransformObservation):
        def __init__(self, env: Any, func: Any):
            super().__init__(env, func, None)

    vars(vector)["SyncVectorEnv"] = SameStepVectorEnv
    vars(wrappers)["TransformObservation"] = TransformObservation


def policy(agent: Any, envs: Any) -> Act:
    """Make the likeliest actions of ppo.py's agent, or of ppo_continuous_action.py's behind its wrappers."""
    import numpy as np
    import torch

    def as_seen(observations: np.ndarray) -> np.ndarray:
        if hasattr(agent, "actor"):
            return observations
        statistics = envs.envs[0].get_wrapper_attr("obs_rms")
        return ((observations - statistics.mean) / np.sqrt(statistics.var + 1e-8)).clip(-10, 10)

    @torch.no_grad()
    def act(observations: np.ndarray) -> np.ndarray:
        rows = torch.as_tensor(as_seen(observations), dtype=torch.float32)
        return (agent.actor(rows).argmax(1) if hasattr(agent, "actor") else agent.actor_mean(rows)).numpy()

    return act
