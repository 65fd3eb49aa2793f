"""The public face of metta: every name in `__all__`, found when it is first used. All else is internal."""

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from metta.errors import CheckpointError, MettaError

if TYPE_CHECKING:
    from metta.agent.policy_agent import PolicyAgent
    from metta.eval.eval_db import EvalDB
    from metta.eval.policy_evaluator import PolicyEvaluator
    from metta.rl.one_run import Trainer
    from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager, load_latest_agent, run_exists, save_checkpoint
    from metta.rl.train_config import TrainConfig
    from metta.tools.train import train

__all__ = [
    "CheckpointError",
    "EvalDB",
    "MettaError",
    "PolicyAgent",
    "PolicyEvaluator",
    "TinyCheckpointManager",
    "TrainConfig",
    "Trainer",
    "load_latest_agent",
    "run_exists",
    "save_checkpoint",
    "train",
]

_CHECKPOINTS = "metta.rl.tiny_checkpoint_manager"
_MODULES = {  # importing these at once would take the seconds that torch takes
    "EvalDB": "metta.eval.eval_db",
    "PolicyAgent": "metta.agent.policy_agent",
    "PolicyEvaluator": "metta.eval.policy_evaluator",
    "TinyCheckpointManager": _CHECKPOINTS,
    "TrainConfig": "metta.rl.train_config",
    "Trainer": "metta.rl.one_run",
    "load_latest_agent": _CHECKPOINTS,
    "run_exists": _CHECKPOINTS,
    "save_checkpoint": _CHECKPOINTS,
    "train": "metta.tools.train",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        near = get_close_matches(name, _MODULES, n=1)
        raise AttributeError(f"metta has no {name}" + (f": did you mean {near[0]}?" if near else ""), name=name)
    found = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
