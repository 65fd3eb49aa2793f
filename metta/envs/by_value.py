"""Environments that a script or a notebook defined, for a process that has not run it: a worker, or a later command."""

import base64
import copy
import pickle
from collections.abc import Collection
from typing import Any

from metta.envs import places
from metta.envs.env_spec import EnvName
from metta.envs.sources import Games, source_of
from metta.errors import UserError, one_line
from metta.user_code import GIVEN, load_place, search_current_folder

SCRIPT = "__main__:"


def pack(env: EnvName, *code: str | None) -> str | None:
    """Pickle, as text, what making the environment needs and no file and no package has; None if that is nothing.

    code: places of other functions, likewise.
    """
    import cloudpickle

    source, known = source_of(env)
    named = [env.name, *known.wrappers, *filter(None, code)]
    given = {place: load_place("env", place) for place in named if place.startswith(SCRIPT)}
    registered = [] if source is places or isinstance(source, Games) else specs_of(known.name)
    if not given and not registered:
        return None
    try:
        return base64.b85encode(cloudpickle.dumps((given, registered))).decode()
    except Exception as error:  # whatever the user's own holds
        raise UserError(f"env={env.label} cannot be saved with the run: {one_line(error)}; a file's can") from error


def unpack(packed: str | None, typed: Collection[Any] = ()) -> None:
    """Let this process find what `pack` found; of the places typed now, what it has by itself goes before that."""
    if packed is None:
        return
    search_current_folder()
    try:
        given, registered = pickle.loads(base64.b85decode(packed))
    except ImportError as error:
        raise UserError(f"the environment saved with the run needs what is not here: {one_line(error)}") from error
    GIVEN.update({place: value for place, value in given.items() if place not in typed or place not in GIVEN})
    for spec in registered:
        import gymnasium

        gymnasium.registry.setdefault(spec.id, spec)


def specs_of(name: str) -> list[Any]:
    """The registered spec of an id, unless importing Gymnasium or a package that its name tells of registers it."""
    from gymnasium.envs.registration import load_env_creator

    from metta.envs.gymnasium_ids import find_spec, package_of

    if ":" in name or package_of(name) is not None:
        return []
    spec = find_spec(name)
    place = spec.entry_point if isinstance(spec.entry_point, str) else ""
    if place.startswith("gymnasium."):
        return []
    if place.startswith(SCRIPT):
        spec = copy.copy(spec)
        spec.entry_point = load_env_creator(place)  # type: ignore[assignment]
    return [spec]
