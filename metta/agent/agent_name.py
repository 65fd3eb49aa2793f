"""What `agent=` names: a class in a module or in a file. Neither is imported here, and torch is not."""

import importlib.util
from pathlib import Path

from metta.errors import UserError


def split_agent_name(agent: str) -> tuple[str, str]:
    """Read `package.module:MyAgent` or `path/to/file.py:MyAgent`; UserError where it is neither."""
    place, colon, class_name = agent.rpartition(":")
    if not (colon and place and class_name.isidentifier()):
        raise UserError(f"agent={agent}: expected path/to/file.py:MyAgent or package.module:MyAgent")
    return place, class_name


def check_agent_name(agent: str) -> None:
    """UserError unless there is such a file or module; whether the class is in it is seen once torch is there."""
    place, _ = split_agent_name(agent)
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise UserError(f"agent={agent}: no file {place}")
    elif not place.replace(".", "").isidentifier() or not _exists(place.partition(".")[0]):
        raise UserError(f"agent={agent}: no module {place}")


def resolved_agent_name(agent: str | None) -> str | None:
    """The name with a file's whole path, so that it means the same in any folder."""
    if agent is None:
        return None
    place, class_name = split_agent_name(agent)
    return f"{Path(place).resolve()}:{class_name}" if place.endswith(".py") else agent


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # __main__, where that is no module
        return False
