"""Any Gymnasium id with Box observations and Discrete or Box actions, as an environment of one agent."""

import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec as GymnasiumSpec
from gymnasium.envs.registration import load_env_creator

from metta.envs.env_spec import EnvName, EnvSpec
from metta.envs.mettagrid.games import GAMES
from metta.errors import UserError, one_line

# Ids that exist only once a package has been imported: (prefix of the id, module, what to install).
PACKAGES = (
    ("ALE/", "ale_py", "ale-py opencv-python-headless"),
    ("MinAtar/", "minatar", "minatar"),
    ("MiniGrid-", "minigrid", "minigrid"),
)
PLAIN = (bool, int, float, str)  # types of settings that can be compared

NEAR = 0.7  # of 1, how alike a name must be to be suggested: Taxi-v4 for Taxi-v3, but not Ant-v3


class GymnasiumEnv:
    """One Gymnasium environment. See `Env` for the methods.

    Settings are arguments of the environment's own, and two of ours: `max_episode_steps` replaces the registered limit;
    `preprocessing=False` leaves out what ALE/ (84x84 grey, frame skip 4, stack of 4) and MiniGrid- (image only) get.
    Continuous actions are clipped to the action space's bounds before the environment sees them. A step is terminated
    or truncated, never both: where an environment says both, terminated it is.
    """

    def __init__(self, env: EnvName, render_mode: str | None = None):
        registered, env = check_gymnasium(env)
        name = env.name
        self._env, self._max_steps = make_gymnasium(registered, env, render_mode)
        observation_space, action_space = self._env.observation_space, self._env.action_space
        kind, shape, dtype = describe_observations(name, observation_space)
        actions = describe_actions(name, action_space)
        self._shape = observation_space.shape
        self.spec = EnvSpec(env, 1, kind, shape, dtype, **actions)
        self._convert = action_converter(action_space)
        own_space = self._env.unwrapped.action_space
        if isinstance(own_space, spaces.Discrete):
            # The agent draws nothing else, and to check each action is a fifth of CartPole's step.
            vars(own_space)["contains"] = lambda action: True
        self._step = self._env.step
        # MinAtar keeps its sticky action from one episode to the next; an episode must depend on its seed alone.
        game = getattr(self._env.unwrapped, "game", None) if "MinAtar/" in name else None
        self._sticky_game = game if hasattr(game, "last_action") else None
        self._length = 0

    def bind(
        self, observations: np.ndarray, rewards: np.ndarray, terminated: np.ndarray, truncated: np.ndarray
    ) -> None:
        self._row = observations[0].reshape(self._shape)
        assert np.shares_memory(self._row, observations)
        self._rewards, self._terminated, self._truncated = rewards, terminated, truncated

    def reset(self, seed: int) -> None:
        if self._sticky_game is not None:
            self._sticky_game.last_action = 0
        self._row[...] = self._env.reset(seed=seed)[0]
        self._length = 0

    def step(self, actions: np.ndarray) -> None:
        observation, reward, terminated, truncated, _ = self._step(self._convert(actions))
        self._length += 1
        self._row[...] = observation
        self._rewards[0] = reward
        self._terminated[0] = terminated
        self._truncated[0] = not terminated and (truncated or self._length == self._max_steps)

    def metrics(self) -> dict[str, float]:
        return {}

    @property
    def metadata(self) -> dict[str, Any]:
        return self._env.metadata

    def render(self) -> Any:
        return self._env.render()

    def close(self) -> None:
        self._env.close()


def make_gymnasium(spec: GymnasiumSpec, name: EnvName, render_mode: str | None) -> tuple[gymnasium.Env, int | None]:
    """Make the environment without Gymnasium's checking wrappers (a tenth of CartPole's time), and tell its step limit.

    UserError if it cannot be made.
    """
    settings = dict(name.settings)
    max_steps = settings.pop("max_episode_steps", spec.max_episode_steps)
    preprocessing = settings.pop("preprocessing", True)
    atari = preprocessing and spec.id.startswith("ALE/")
    if atari:
        settings["frameskip"] = 1  # the preprocessing skips them itself
    if render_mode is not None:
        settings["render_mode"] = render_mode
    try:
        env = gymnasium.make(name.name, max_episode_steps=-1, disable_env_checker=True, **settings)
        if isinstance(env, gymnasium.wrappers.OrderEnforcing):
            env = env.env
        if atari:
            env = gymnasium.wrappers.AtariPreprocessing(env)
            env = gymnasium.wrappers.FrameStackObservation(env, 4)
        elif preprocessing and spec.id.startswith("MiniGrid-"):
            from minigrid.wrappers import ImgObsWrapper

            env = ImgObsWrapper(env)
    except (gymnasium.error.Error, ImportError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"env={name.name} cannot be made: {one_line(str(error))}") from error
    return env, max_steps


def package_of(env_id: str) -> tuple[str, str] | None:
    """Name the module whose import registers the id, and what to install for it; None if the id does not tell."""
    return next(((module, install) for prefix, module, install in PACKAGES if env_id.startswith(prefix)), None)


def find_gymnasium_spec(name: str) -> GymnasiumSpec:
    """Find the registered spec of an id, importing its package if known. UserError with the nearest names."""
    module, _, env_id = name.rpartition(":")
    package = package_of(env_id)
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(f"env={name}: {error}") from error
    elif package is not None and env_id not in gymnasium.registry:
        if importlib.util.find_spec(package[0]) is None:
            raise UserError(f"env={name} needs the package {package[0]}, which is missing: pip install {package[1]}")
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


def check_gymnasium(env: EnvName) -> tuple[GymnasiumSpec, EnvName]:
    """Return the registered spec and the canonical name.

    UserError unless the id exists and takes these settings, by the names and the defaults of its arguments.
    """
    name, spec = env.name, find_gymnasium_spec(env.name)
    if not env.settings:
        return spec, env
    defaults, takes_any = parameters_of(name, spec)
    settings = {}
    for key, value in env.settings.items():
        if key not in defaults and (not takes_any or key == "render_mode"):
            raise UserError(f"env.{key} is not a setting of {name}; it has {', '.join(sorted(defaults))}")
        default = defaults.get(key)
        if key == "max_episode_steps":
            wanted = "" if type(value) is int and value >= 1 else "a whole number from 1 on"
        else:
            wanted = misfit(value, default)
        if wanted:
            raise UserError(f"env.{key} of {name} must be {wanted}, not {value!r}")
        value = converted(value, default)
        if not (type(value) in PLAIN and type(value) is type(default) and value == default):
            settings[key] = value
    return spec, EnvName(name, settings)


def parameters_of(name: str, spec: GymnasiumSpec) -> tuple[dict[str, Any], bool]:
    """List the environment's known settings with their defaults; tell whether it takes any other."""
    assert spec.entry_point is not None
    try:
        creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        parameters = dict(inspect.signature(creator).parameters)
    except (ImportError, gymnasium.error.Error) as error:
        raise UserError(f"env={name} cannot be made: {one_line(str(error))}") from error
    defaults = {key: p.default for key, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    defaults.pop("render_mode", None)
    defaults |= {**spec.kwargs, "max_episode_steps": spec.max_episode_steps}
    if any(spec.id.startswith(prefix) for prefix in ("ALE/", "MiniGrid-")):
        defaults["preprocessing"] = True
    return defaults, any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def misfit(value: Any, default: Any) -> str:
    """Say what a setting's value must be, judged by its default; "" if it fits or the default does not tell."""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        return "" if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    if isinstance(default, str):
        return "" if isinstance(value, str) else "text"
    return ""


def converted(value: Any, default: Any) -> Any:
    """Convert a number to its default's type: 1 and 1.0 are one setting."""
    if {type(value), type(default)} == {int, float}:
        with suppress(OverflowError, ValueError):  # infinity, NaN, and whole numbers beyond all floats
            if (number := type(default)(value)) == value:
                return number
    return value


def describe_observations(name: str, space: spaces.Space) -> tuple[str, tuple[int, ...], str]:
    """Return EnvSpec's kind, shape and dtype: 3-D arrays and 2-D bytes are images, the rest flat vectors."""
    if not isinstance(space, spaces.Box) or len(space.shape) > 3 or 0 in space.shape:
        raise UserError(f"env={name} has observations that no agent reads: {space}; wanted a Box of 0 to 3 dimensions")
    dtype = space.dtype.name if space.dtype.name in ("bool", "uint8") else "float32"
    if len(space.shape) == 3:
        return "image", space.shape, dtype
    if len(space.shape) == 2 and dtype == "uint8":
        return "image", (1, *space.shape), dtype
    return "vector", (int(np.prod(space.shape)),), dtype


def describe_actions(name: str, space: spaces.Space) -> dict[str, Any]:
    """Return EnvSpec's fields about actions."""
    if isinstance(space, spaces.Discrete):
        return {"num_actions": int(space.n)}
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating) and 0 not in space.shape:
        low, high = (tuple(float(x) for x in bound.flat) for bound in (space.low, space.high))
        return {"num_actions": None, "action_low": low, "action_high": high, "action_shape": space.shape or (1,)}
    raise UserError(f"env={name} has actions that no agent produces: {space}; wanted Discrete or a Box of floats")


def action_converter(space: spaces.Space) -> Callable[[np.ndarray], Any]:
    """Make the function from a row of actions `[1, *action_shape]` to what the environment's step takes."""
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return lambda actions: actions.item() + start
    assert isinstance(space, spaces.Box)
    low, high, shape, dtype = space.low, space.high, space.shape, space.dtype

    def convert(actions: np.ndarray) -> np.ndarray:
        action = actions.reshape(shape).astype(dtype)
        np.maximum(action, low, out=action)
        return np.minimum(action, high, out=action)

    return convert
