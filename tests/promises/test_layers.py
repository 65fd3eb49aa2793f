"""The shape of the code: imports point down, importing does nothing, the checkpoint core stays small."""

import ast
import graphlib
import io
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "metta").rglob("*.py")
)
# What must answer before torch is imported: the arguments' side of each tool, and what it asks.
TORCH_FREE = [
    "metta.envs.make_env",
    "metta.errors",
    "metta.eval.eval_db",
    "metta.rl.saving.run_lock",
    "metta.rl.saving.saved_config",
    "metta.rl.tiny_checkpoint_manager",
    "metta.rl.train_config",
    "metta.tools.analyze",
    "metta.tools.cli.config",
    "metta.tools.main",
    "metta.tools.runs",
    "metta.tools.scores",
    "metta.tools.sim",
    "metta.tools.train",
]


def python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_imports_point_down() -> None:
    """Training and evaluation importing each other is how a policy store begins."""
    lint = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_module_has_a_layer() -> None:
    """A module that the contract does not name may import anything unseen."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = next(one for one in settings["tool"]["importlinter"]["contracts"] if one["id"] == "layers")
    layers = {name.strip() for layer in contract["layers"] for name in layer.replace("|", ":").split(":")}
    placed = [module for module in MODULES if any(f"{module}.".startswith(f"{layer}.") for layer in layers)]
    assert set(MODULES) - set(placed) == {"metta", "metta.rl"}


def imported(module: str) -> set[str]:
    """The modules of metta that a module imports: anywhere in it, functions and type checking included."""
    path = ROOT / Path(*module.split("."))
    source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        match node:
            case ast.Import(names=aliases):
                names.update(alias.name for alias in aliases)
            case ast.ImportFrom(module=str(place), names=aliases, level=0):
                names.update(f"{place}.{alias.name}" for alias in aliases)
                names.add(place)
    return names & set(MODULES)


def test_no_module_imports_itself_in_the_end() -> None:
    """Two modules that need each other are one module in two files; an import within a function only hides it."""
    graph = {module: imported(module) for module in MODULES}
    assert "metta.envs.gymnasium_env" in graph["metta.envs.make_env"]  # imports within functions are seen
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def code_lines(source: str) -> int:
    """Lines that are neither blank, nor comment, nor docstring."""
    lines: set[int] = set()
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef() if ast.get_docstring(node):
                docstring = node.body[0]
                lines.difference_update(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return len(lines)


def test_code_lines_are_counted_as_they_should_be() -> None:
    source = '"""Doc,\n\nlong."""\n\nimport os  # why\n\n# comment\ndef f(a,\n      b):\n    """Doc."""\n'
    source += '    return """x\n\ny"""\n'
    assert code_lines(source) == 1 + 2 + 3


def test_the_checkpoint_core_is_at_most_50_lines() -> None:
    assert code_lines((ROOT / "metta/rl/tiny_checkpoint_manager.py").read_text()) <= 50


def test_training_waits_for_no_compiler(tmp_path: Path) -> None:
    """1.8 s of each start for torch's compiler, which its optimizers load to be left out of it."""
    code = f"""
import sys, metta
keys = dict(train_dir={str(tmp_path)!r}, env="CartPole-v1", num_envs=2, horizon=16, update_epochs=1)
keys |= dict(display="none", device="cpu")
for lstm in (False, True):  # the twin network's step, and torch's own
    for steps in (64, 96):  # begun, and resumed
        metta.train(metta.TrainConfig(run=f"r{{lstm}}", lstm=lstm, total_timesteps=steps, **keys))
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""
    assert python(code) == "[]"


def test_importing_does_nothing() -> None:
    """PufferLib's import made Ctrl-C exit 0 without a save; others seed, print, set up logging or filter warnings."""
    code = f"""
import importlib, locale, logging, os, random, signal, sys, threading, warnings
import numpy, torch, gymnasium, mettagrid, rich, tensorboard  # what others do on import is not ours
import torch.utils.tensorboard

def state():
    return {{
        "signals": {{number: signal.getsignal(number) for number in signal.valid_signals()}},
        "warnings": list(warnings.filters),
        "logging": (list(logging.root.handlers), logging.root.level, logging.root.disabled),
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook),
        "python": random.getstate(),
        "numpy": str(numpy.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
        "threads": (torch.get_num_threads(), threading.active_count()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "dtype": torch.get_default_dtype(),
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "locale": locale.setlocale(locale.LC_ALL),
    }}

before = state()
for name in {MODULES!r}:
    importlib.import_module(name)
    after = state()
    for key in before:
        if before[key] != after[key]:
            print(name, "changes", key)
"""
    assert python(code) == ""


@pytest.mark.parametrize("module", TORCH_FREE)
def test_torch_is_not_imported_for_the_arguments(module: str) -> None:
    """It takes two seconds, and a bad argument is answered in half of one."""
    assert python(f"import sys, {module}; print('torch' in sys.modules)") == "False"
