"""Functions of the user's own in the loop: on_epoch=, loss= and optimizer=."""

import copy
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from inspect import unwrap
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metta.agent.policy_agent import PolicyAgent
from metta.errors import UserCodeError, UserError
from metta.rl.learning.ppo import Statistics
from metta.rl.train_config import RunConfig
from metta.user_code import code_name, file_in, load_function, said_where, users_code

OnEpoch = Callable[[Any, dict[str, float]], Any]  # of the trainer and the epoch's scalars; True ends training


class Adam(torch.optim.Adam):
    """torch's Adam without torch's compiler, which its methods load only to be left out of it: 1.8 s of each start.

    The same computation and the same state; `torch.compile` would not find its way around it.
    """

    add_param_group = unwrap(torch.optim.Adam.add_param_group)
    load_state_dict = unwrap(torch.optim.Adam.load_state_dict)
    state_dict = unwrap(torch.optim.Adam.state_dict)
    zero_grad = unwrap(torch.optim.Adam.zero_grad)
    step = torch.no_grad()(unwrap(torch.optim.Adam.step))


class EpochCallback:
    """Calls the function, if there is one. What it raises is kept for later, in `error`: first comes the save."""

    def __init__(self, code: str | OnEpoch | None):
        self._name = "" if code is None else f"on_epoch={code_name(code)}"
        self._function = None if code is None else load_function("on_epoch", code, "trainer", "scalars")
        self.stopped = False
        self.error: UserCodeError | None = None

    @property
    def ended(self) -> bool:
        return self.stopped or self.error is not None

    def __call__(self, trainer: Any, scalars: dict[str, float]) -> None:
        """Call it with the trainer and the epoch's scalars, to which it may add any numbers."""
        if self._function is None:
            return
        own = dict(scalars)
        try:
            answer = self._function(trainer, scalars)
            scalars.update({str(name): float(value) for name, value in scalars.items()})
            trainer.settle()
        except (Exception, SystemExit) as error:  # noqa: BLE001 (the user's own code)
            scalars.clear()
            scalars.update(own)
            self.error = UserCodeError(f"{self._name} raised {said_where(error, file_in(self._name))}")
            self.error.__cause__ = error
        else:
            self.stopped = isinstance(answer, bool | np.bool_) and bool(answer)


def with_functions(config: RunConfig) -> RunConfig:
    """The configuration with the loss itself where it has its place."""
    if config.loss is None:
        return config
    loaded, name = copy.copy(config), config.loss
    function = load_function("loss", name, "distribution", "params", "values", "batch", "config")
    needed = () if config.target_kl is None else ("approx_kl",)
    object.__setattr__(loaded, "loss", lambda *arguments: checked_loss(name, function(*arguments), needed))
    return loaded


def checked_loss(name: str, answer: Any, needed: Collection[str] = ()) -> tuple[Tensor, Statistics]:
    """What the user's loss returned, as ppo_loss returns it: it may leave out any of the statistics but the needed."""
    loss, shown = answer if isinstance(answer, tuple) else (answer, {})
    shown = shown._asdict() if hasattr(shown, "_asdict") else shown
    if not (isinstance(loss, Tensor) and loss.dim() == 0 and loss.requires_grad):
        raise UserError(f"loss={name}: returned {type(loss).__name__}; wanted a tensor [] that has a gradient")
    if not isinstance(shown, dict) or shown.keys() - set(Statistics._fields):
        have = ", ".join(map(str, shown)) if isinstance(shown, dict) else type(shown).__name__
        raise UserError(f"loss={name}: returned {have} to show; wanted a dict of {', '.join(Statistics._fields)}")
    if missing := [field for field in needed if field not in shown]:
        raise UserError(f"loss={name}: returned no {missing[0]} to show, by which target_kl= ends an update")
    unknown = {field: torch.nan for field in Statistics._fields}
    return loss, Statistics(*(torch.as_tensor(v, device=loss.device).float() for v in (unknown | shown).values()))


def make_optimizer(agent: PolicyAgent, config: RunConfig) -> torch.optim.Optimizer:
    """The optimiser of config.optimizer, or Adam."""
    if config.optimizer is None:
        return Adam(agent.parameters(), lr=config.learning_rate, eps=1e-5, fused=True)
    function = load_function("optimizer", config.optimizer, "parameters", "lr")
    made = function(list(agent.parameters()), config.learning_rate)
    if not isinstance(made, torch.optim.Optimizer):
        raise UserError(f"optimizer={config.optimizer}: returned {type(made).__name__}, not a torch.optim.Optimizer")
    return made


def named(config: RunConfig, *keys: str) -> AbstractContextManager[None]:
    """Say in one line what goes wrong with the user's code in these keys."""
    return users_code(*(f"{key}={place}" for key in keys if (place := getattr(config, key)) is not None))
