"""The ids that are registered with Gymnasium, by their packages or by the user: `CartPole-v1`, `package:Mine-v0`."""

import difflib
import importlib
import importlib.util
import re
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec as GymnasiumSpec
from gymnasium.envs.registration import load_env_creator

from metta.envs.env_spec import WRAPPERS, EnvName
from metta.envs.made import Made
from metta.envs.mettagrid.games import GAMES
from metta.envs.settings import arguments_of, checked_settings
from metta.errors import UserError, one_line
from metta.user_code import failing, import_place, resolved_place, said_where

# Ids that exist only once a package has been imported: (prefix of the id, module, metta's extra).
PACKAGES = (
    ("ALE/", "ale_py", "atari"),
    ("MinAtar/", "minatar", "minatar"),
    ("MiniGrid-", "minigrid", "minigrid"),
)
EXTRA = re.compile(r"gymnasium\[(box2d|mujoco)\]")  # in Gymnasium's words, which lead past metta's own
# What packages say of a setting or of what is missing; other errors are told by their type and line.
TOLD = (gymnasium.error.Error, ImportError, TypeError, ValueError, AssertionError)
NEAR = 0.7  # of 1, how alike a name must be to be suggested: Taxi-v4 for Taxi-v3, but not Ant-v3


def check(env: EnvName) -> EnvName:
    """Return the canonical name. UserError unless the id exists and takes these settings.

    Settings are arguments of the environment's own, and three of ours: `max_episode_steps` replaces the registered
    limit; `wrappers` are functions of the user's; `preprocessing=False` leaves out what ALE/ (84x84 grey, frame skip 4,
    stack of 4) and MiniGrid- (image only) get.
    """
    spec, env = find_spec(env.name), EnvName(resolved_place(env.name), env.settings)
    return checked_settings(env, *parameters_of(env.short_name, spec)) if env.settings else env


def make(env: EnvName, render_mode: str | None) -> Made:
    """Make the environment without Gymnasium's checking wrappers (a tenth of CartPole's time), and tell its step limit.

    UserError if it cannot be made.
    """
    spec, settings = find_spec(env.name), dict(env.settings)
    max_steps = settings.pop("max_episode_steps", spec.max_episode_steps)
    preprocessing = settings.pop("preprocessing", True)
    settings.pop(WRAPPERS, None)
    atari = preprocessing and spec.id.startswith("ALE/")
    if atari:
        settings["frameskip"] = 1  # the preprocessing skips them itself
    if render_mode is not None:
        known, takes_any = parameters_of(env.short_name, spec)
        if takes_any or "render_mode" in known:
            settings["render_mode"] = render_mode
    with failing(f"env={env.short_name} cannot be made", tell=said):
        made = gymnasium.make(spec, max_episode_steps=-1, disable_env_checker=True, **settings)
        if isinstance(made, gymnasium.wrappers.OrderEnforcing):
            made = made.env
        if atari:
            made = gymnasium.wrappers.AtariPreprocessing(made)
            made = gymnasium.wrappers.FrameStackObservation(made, 4)
        elif preprocessing and spec.id.startswith("MiniGrid-"):
            from minigrid.wrappers import ImgObsWrapper

            made = ImgObsWrapper(made)
    return Made(made, max_steps)


def package_of(env_id: str) -> tuple[str, str] | None:
    """Name the module whose import registers the id, and the extra that has it; None if the id does not tell."""
    return next(((module, extra) for prefix, module, extra in PACKAGES if env_id.startswith(prefix)), None)


def installs(extra: str) -> str:
    return f"pip install 'metta[{extra}]'"


def find_spec(name: str) -> GymnasiumSpec:
    """Find the registered spec of an id, importing its package if known. UserError with the nearest names."""
    module, _, env_id = name.rpartition(":")
    package = package_of(env_id)
    if module:
        with failing(f"env={name}", tell=said):
            import_place(module)
    elif package is not None and env_id not in gymnasium.registry:
        if importlib.util.find_spec(package[0]) is None:
            raise UserError(f"env={name} needs the package {package[0]}, which is missing: {installs(package[1])}")
        if package[0] == "minatar":
            importlib.import_module("minatar.gym").register_envs()
        else:
            importlib.import_module(package[0])
    if env_id in gymnasium.registry:
        return gymnasium.registry[env_id]
    names = sorted({*gymnasium.registry, *GAMES})
    by_case = {known.lower(): known for known in names}
    near = [by_case[key] for key in difflib.get_close_matches(env_id.lower(), by_case, 3, NEAR)]
    instead = f"nearest: {', '.join(near)}" if near else f"there are {', '.join(GAMES)} and the ids that Gymnasium has"
    raise UserError(f"env={name} is not an environment; {instead}")


def parameters_of(name: str, spec: GymnasiumSpec) -> tuple[dict[str, Any], bool]:
    """List the environment's known settings with their defaults; tell whether it takes any other."""
    assert spec.entry_point is not None
    with failing(f"env={name} cannot be made", tell=said):
        creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        defaults, takes_any = arguments_of(creator)
    defaults |= {**spec.kwargs, "max_episode_steps": spec.max_episode_steps}
    if spec.id.startswith(("ALE/", "MiniGrid-")):
        defaults["preprocessing"] = True
    return defaults, takes_any


def said(error: BaseException) -> str:
    """Format what went wrong as an environment was imported or made."""
    if isinstance(error, gymnasium.error.DependencyNotInstalled) and (extra := EXTRA.search(str(error))):
        return f"it needs a package that is missing: {installs(extra[1])}"
    return (one_line(str(error)) if isinstance(error, TOLD) else "") or said_where(error)
