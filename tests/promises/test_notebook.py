"""docs/tour.ipynb runs from its first cell to its last, and shows what it says."""

import ast
import json
import sys
from pathlib import Path

from tests.helpers.commands import ROOT, run_in

NOTEBOOK = ROOT / "docs/tour.ipynb"
# As a notebook does it: one module for all cells, the value of a cell's last expression shown, no file behind a class.
RUN = """
import ast, json, sys
import matplotlib

matplotlib.use("Agg")
for number, source in enumerate(json.loads(sys.argv[1])):
    tree = ast.parse(source)
    last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, f"cell {number}", "exec"), globals())
    shown = None if last is None else eval(compile(last, f"cell {number}", "eval"), globals())
    if shown is not None:
        print(getattr(shown, "_repr_html_", lambda: repr(shown))())
print("curve", len(returns), "scores", len(scores), scores[-1].mean > random.mean)
"""


def cells() -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text())
    assert all(not cell.get("outputs") for cell in notebook["cells"]), "outputs of one machine: clear them"
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_runs(tmp_path: Path) -> None:
    """A tour that ends in a traceback at its third cell; an environment of a notebook that no other process finds."""
    out, _ = run_in(tmp_path, [sys.executable, "-c", RUN, json.dumps(cells())])
    assert "Score(mean=" in out and '<img src="data:image/gif;base64,R0lGOD' in out
    assert out.splitlines()[-1].startswith("curve ") and out.splitlines()[-1].endswith(" True")
    assert (tmp_path / "train_dir/corridor/checkpoints/agent_epoch_0.pt").exists()


def test_the_notebook_imports_only_what_is_public() -> None:
    """A notebook that imports from within, which then can never move."""
    names = set()
    for node in ast.walk(ast.parse("\n".join(cells()))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
    assert {name for name in names if name.split(".")[0] == "metta"} == {"metta"}
