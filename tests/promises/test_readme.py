"""What README.md tells a user to type works, and the list of files in docs/architecture.md is that of the files."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.learning import readme_table
from benchmarks.results import speed_table
from tests.helpers.commands import ROOT, run_in

README = (ROOT / "README.md").read_text()
# What takes long as it stands there: the same with fewer steps and episodes.
SHORTER = [(r"total_timesteps=[0-9_]+", "total_timesteps=4096"), (r"episodes=[0-9]+", "episodes=3")]


def blocks(language: str) -> list[str]:
    """The fenced blocks of that language; "" for those without one."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def commands() -> list[str]:
    """The lines after a "$ " prompt, without their comments."""
    lines = [line for block in blocks("") for line in block.splitlines() if line.startswith("$ ")]
    return [line.removeprefix("$ ").split("  #")[0].strip() for line in lines]


def shorter(text: str) -> str:
    for pattern, replacement in SHORTER:
        text = re.sub(pattern, replacement, text)
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs that README's commands speak of, small."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "mine.py").write_text(blocks("python")[0])
    arena = "env=arena env.num_agents=4 env.max_steps=30 num_envs=1 horizon=30 total_timesteps=12000"
    tool(folder, f"./tools/train.py run=demo {arena} checkpoint_interval=100 device=cpu hidden_size=8")
    for run in ("demo", "a", "b"):
        if run != "demo":
            shutil.copytree(folder / "train_dir/demo", folder / "train_dir" / run)
        tool(folder, f"./tools/sim.py run={run} epoch=100 episodes=4")
    return folder


def tool(folder: Path, command: str) -> str:
    """Run `./tools/NAME.py ...` from another folder."""
    script, *arguments = shlex.split(command)
    return run_in(folder, [sys.executable, str(ROOT / script), *arguments])[0]


def test_the_commands_work(folder):
    """A command in the README that no longer exists, or takes other keys."""
    assert {command.split()[0] for command in commands()} == {
        f"./tools/{name}.py" for name in ("train", "sim", "play", "replay", "analyze", "runs", "scores")
    }
    for command in commands():
        if "train.py" in command and "total_timesteps" not in command:
            command += " total_timesteps=4096"
        tool(folder, shorter(command))
    assert (folder / "train_dir/report.html").exists()


def test_the_python_works(folder):
    """An example that imports what is gone. The blocks share names, as a reader would type them one after another."""
    code = "\n".join(shorter(block) for block in blocks("python"))
    code = code.replace("(40)", "(2)").replace(", 40,", ", 2,").replace("epoch=40", "epoch=2")
    run_in(folder, [sys.executable, "-c", code])


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_users_are_shown_only_what_is_public(page: Path) -> None:
    """An example that imports from within, which then can never move."""
    shown = re.findall(r"^(?:from|import) metta\b.*", page.read_text(), re.MULTILINE)
    assert set(shown) <= {"import metta"}


def test_the_file_tree_names_every_file():
    """A map of the code with a missing street."""
    page = (ROOT / "docs/architecture.md").read_text()
    tree = page[page.index("## Every file") :]
    files = [
        path for path in (ROOT / "metta").rglob("*") if path.suffix in (".py", ".js") and path.name != "__init__.py"
    ]
    missing = [path.name for path in files if path.name not in tree and f"{path.stem}.*" not in tree]
    assert missing == []
    for name in re.findall(r"[a-z_]+\.(?:py|js)\b", tree):
        assert (
            list(ROOT.glob(f"tools/{name}"))
            or list(ROOT.glob(f"metta/**/{name}"))
            or (ROOT / "benchmarks" / name).exists()
        )


@pytest.mark.parametrize("table", [speed_table, readme_table])
def test_the_tables_are_what_was_measured(table):
    """A table that is typed: figures of another day than benchmarks/results.md and learning.md."""
    assert f"\n\n{table()}\n\n" in README
