"""The pictures in README.md, of what is in train_dir: `make pictures`, once `make demo` has trained run=demo.

It trains run=small too, for the report to compare demo with, and evaluates the checkpoints that have no scores yet.
"""

import io
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from metta.agent.policy_agent import PolicyAgent
from metta.errors import UserError
from metta.eval.eval_db import EvalDB
from metta.eval.event_files import read_curves
from metta.eval.policy_evaluator import PolicyEvaluator
from metta.keys import Config, key
from metta.rl.display.panel import panel
from metta.rl.display.progress import Progress
from metta.rl.one_run import Trainer
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import RunConfig
from metta.run_folder import RunFolder
from metta.tools.cli.arguments import parse
from metta.tools.cli.config import TRAIN_DIR
from metta.tools.cli.table import score_text
from metta.tools.main import main as metta
from tests.helpers.chromium import Browser, chromium

PICTURES = Path(__file__).parent / "pictures"
SMALL = ("run=small", "env=arena", "hidden_size=32", "total_timesteps=700_000")
EPISODES = 10  # of each checkpoint
SEED = 3  # of the replayed episode
COLUMNS = 80  # of the training display
EPOCHS = 12  # trained for it
STEPS, FRAMES_PER_STEP, FRAME_MS = 90, 2, 50  # of the replay

BUSIEST = """
    const length = arguments[0], gain = (step) => total[step + length] - total[step];
    return Array.from({ length: steps - length }, (_, step) => step).reduce((a, b) => gain(b) > gain(a) ? b : a);
"""


@dataclass(frozen=True, kw_only=True)
class PicturesConfig(Config):
    """Draw docs/pictures from run=demo."""

    train_dir: str = key(TRAIN_DIR, "./train_dir")


def main() -> None:
    try:
        train_dir = Path(parse(PicturesConfig, sys.argv[1:], "pictures")[0].train_dir)
        check(train_dir)
    except UserError as error:
        print(f"make pictures: {error}", file=sys.stderr)
        sys.exit(2)
    PICTURES.mkdir(exist_ok=True)
    tool(train_dir, "train", *SMALL)
    evaluate(train_dir)
    draw_training(train_dir, PICTURES / "train.svg")
    with tempfile.TemporaryDirectory() as name, chromium(folder := Path(name)) as browser:
        tool(train_dir, "replay", "run=demo", f"seed={SEED}", f"out={folder}/replay.html")
        draw_replay(browser, folder / "replay.html", PICTURES / "replay.gif")
        tool(train_dir, "analyze", "runs=demo,small", f"out={folder}/report.html")
        browser.open(folder / "report.html", width=1200, height=1220)
        browser.screenshot(PICTURES / "report.png")
    for path in sorted(PICTURES.iterdir()):
        print(f"{path}: {path.stat().st_size / 1000:,.0f} kB")


def check(train_dir: Path) -> None:
    """UserError where something is missing."""
    if not TinyCheckpointManager("demo", train_dir).exists():
        raise UserError(f"no run demo in {train_dir}: `make demo` trains it")
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            raise UserError(f"no {program} here: apt-get install chromium chromium-driver")


def tool(train_dir: Path, name: str, *argv: str) -> None:
    if status := metta([name, *argv, f"train_dir={train_dir}"]):
        sys.exit(status)


def evaluate(train_dir: Path) -> None:
    """Scores of every checkpoint of both runs."""
    scores = EvalDB(train_dir / "eval.db")
    with PolicyEvaluator(train_dir) as evaluator:
        for run in ("demo", "small"):
            for epoch in TinyCheckpointManager(run, train_dir).list_epochs():
                if not scores.get_scores(run, epoch):
                    print(f"run={run} epoch={epoch}: {EPISODES} episodes", file=sys.stderr)
                    evaluator.evaluate(run, epoch, episodes=EPISODES)


def draw_training(train_dir: Path, path: Path) -> None:
    """The display of run=demo, resumed in memory from the checkpoint in its middle; returns until then as logged."""
    manager = TinyCheckpointManager("demo", train_dir)
    epochs = manager.list_epochs()
    epoch = epochs[len(epochs) // 2]
    score = EvalDB(train_dir / "eval.db").get_scores("demo", epoch)["arena"]
    agent, state = manager.load_agent(epoch), manager.load_trainer_state(epoch)
    assert isinstance(agent, PolicyAgent)
    trainer = Trainer(RunConfig(**state["config"]), agent)
    trainer.load_state_dict(state)
    progress = Progress(trainer.config, trainer.agent_steps, lambda: f"epoch {epoch}: arena {score_text(score)}")
    progress.saved(epoch)
    for name, values in (("return", progress.returns), ("length", progress.lengths)):
        steps, before = read_curves(RunFolder(train_dir, "demo"))[f"charts/episodic_{name}"]
        values += before[steps <= trainer.agent_steps].tolist()
    for _ in range(EPOCHS):
        scalars = trainer.run_epoch()
        progress.update(trainer.epoch, trainer.agent_steps, scalars, trainer.timers.seconds)
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(panel(progress, COLUMNS))
    svg = console.export_svg(title="./tools/train.py run=demo")
    path.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))  # fonts from the net
    trainer.close()


def draw_replay(browser: Browser, page: Path, path: Path) -> None:
    """The replay page while the agents get the most reward. All frames share a palette, so that little differs."""
    browser.open(page, width=1100, height=880)
    first = browser.run(BUSIEST, STEPS)
    pictures = []
    for frame in range(STEPS * FRAMES_PER_STEP):
        browser.run("replay.seek(arguments[0])", first + frame / FRAMES_PER_STEP)
        browser.screenshot(page.with_suffix(".png"))
        pictures.append(Image.open(page.with_suffix(".png")).convert("RGB"))
    sample = np.concatenate([np.asarray(picture) for picture in pictures[::12]])
    palette = Image.fromarray(sample).quantize(255)
    frames = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, optimize=True)


if __name__ == "__main__":
    main()
