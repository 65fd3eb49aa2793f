"""Runs a tool of this checkout, from any folder and without installing."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("cloudpickle", "gymnasium", "imageio", "mettagrid", "numpy", "PIL", "pygame", "rich", "tensorboard", "torch")


def launch(tool: str) -> NoReturn:
    """Run the tool with this interpreter, or with the checkout's .venv if this one lacks what metta needs."""
    missing = [module for module in NEEDED if find_spec(module) is None]
    if missing:
        python = ROOT / ".venv" / "bin" / "python"
        if not python.exists() or Path(sys.prefix) == ROOT / ".venv":
            lacks = f"{sys.executable} lacks {', '.join(missing)}"
            sys.exit(f"metta {tool}: {lacks}: run `make .venv` in {ROOT} first")
        os.execv(python, [str(python), *sys.argv])
    sys.path[0] = str(ROOT)  # in the place of this folder
    from metta.tools.main import main

    sys.exit(main([tool, *sys.argv[1:]]))
