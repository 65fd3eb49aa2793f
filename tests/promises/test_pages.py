"""Every command and every block of Python in the pages of docs/ works, from top to bottom in an empty folder."""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT, run_in
from tests.helpers.stand_ins import TRACKIO, WANDB

PAGES = sorted((ROOT / "docs").glob("*.md"))
# What takes long as it stands there: the same with fewer steps, episodes and seeds.
SHORTER = [
    (r"total_timesteps=[0-9_]+", "total_timesteps=8192"),
    (r"episodes=[0-9]+", "episodes=3"),
    ("seed in 0 1 2", "seed in 0 1"),
]
# What needs another machine, or the network; ranks are started by test_ranks.py.
ELSEWHERE = ("://", "torchrun", "metta launch", "sbatch", "kubectl", "run=big", "pip install")
# What a page takes for granted: a run that is there.
BEFORE = {"scale": "metta train run=a env=CartPole-v1 total_timesteps=4096 num_workers=0; metta sim run=a episodes=3"}
METTA = f'set -e; metta() {{ "{sys.executable}" -m metta.tools.main "$@"; }}; '
RUN = """
import json, subprocess, sys
for kind, text in json.loads(sys.argv[1]):
    print("---", text, flush=True)
    if kind == "python":
        exec(compile(text, "page", "exec"), globals())
    elif subprocess.run(["bash", "-c", text], stdin=subprocess.DEVNULL).returncode:
        sys.exit(f"failed: {text}")
"""


def steps(page: str, folder: Path) -> list[tuple[str, str]]:
    """The commands after a "$ " prompt and the Python of a page, in order; a block that names a file is that file."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        for pattern, replacement in SHORTER:
            block = re.sub(pattern, replacement, block)
        if language == "python" and (named := re.match(r"# (\w+\.py)\b", block)):
            (folder / named[1]).write_text(block)
        elif language == "python":
            found.append(("python", block))
        elif not language:
            commands = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
            found += [("bash", METTA + one) for one in commands if not any(word in one for word in ELSEWHERE)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_works(page: Path, tmp_path: Path) -> None:
    """A page whose commands were right once. What needs another machine is left out."""
    for name, module in (("wandb", WANDB), ("trackio", TRACKIO)):
        (tmp_path / f"{name}.py").write_text(module)
    if found := steps(page.read_text(), tmp_path):
        before = [("bash", METTA + BEFORE[page.stem])] if page.stem in BEFORE else []
        run_in(tmp_path, [sys.executable, "-c", RUN, json.dumps(before + found)])
    for name in ("wandb", "trackio") if page.stem == "agents_and_losses" else ():
        logged = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert [row["epoch"] for row in logged] == list(range(1, len(logged) + 1))
        assert logged[-1]["step"] == 8192 and "losses/policy_loss" in logged[-1]
