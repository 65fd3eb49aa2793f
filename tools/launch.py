"""Runs a tool of this checkout, with its .venv if there is one, from any folder and without installing."""

import os
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent


def launch(tool: str) -> NoReturn:
    python = ROOT / ".venv" / "bin" / "python"
    if python.exists() and Path(sys.prefix) != ROOT / ".venv":
        os.execv(python, [str(python), *sys.argv])
    sys.path[0] = str(ROOT)  # in the place of this folder
    try:
        from metta.tools.main import main
    except ModuleNotFoundError as error:
        sys.exit(f"metta {tool}: {error}: run `make .venv` in {ROOT} first")
    sys.exit(main([tool, *sys.argv[1:]]))
