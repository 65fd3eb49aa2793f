"""The games there are, by the name that `env=` takes. A new one is a file beside this one, and a line here."""

from metta.envs.mettagrid.arena import Arena
from metta.envs.mettagrid.game import Game
from metta.envs.mettagrid.navigation import Navigation

GAMES: dict[str, type[Game]] = {"arena": Arena, "navigation": Navigation}
