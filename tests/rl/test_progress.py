"""What training shows: on a terminal of any width, in a log file, and when it is told to be silent."""

import os
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from metta.rl.display.panel import PHASES, make_progress, number, sparkline
from metta.rl.display.progress import Progress, clock
from tests.helpers.configs import run_config
from tests.helpers.pseudo_terminal import PseudoTerminal, plain, width

ROOT = Path(__file__).parents[2]
TRAIN = "train run=r env=CartPole-v1 num_envs=2 horizon=64 minibatch_size=128 hidden_size=8 total_timesteps=2560"


@pytest.mark.parametrize("columns", [80, 200])
def test_the_panel_fits_the_terminal(columns, tmp_path):
    """A line wider than the terminal wraps, and the panel is no longer drawn over itself but down the screen."""
    command = [sys.executable, "-m", "metta.tools.main", *TRAIN.split(), f"train_dir={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with PseudoTerminal(command, tmp_path, environment, columns, 50) as terminal:
        assert terminal.wait() == 0, terminal.output
        lines = re.split(r"\r\n|\r|\x1b\[[0-9;?]*[A-Zhl]", terminal.output)
    shown = "\n".join(map(plain, lines))
    for text in (
        "run=r  env=CartPole-v1",
        "steps/s",
        "time left",
        "value loss",
        "learn",
        "forward",
        "return",
        "evaluation",
    ):
        assert text in shown
    assert shown.lstrip().startswith("run=r: starting")  # seconds before the first panel
    first_panel = shown.partition("╰")[0]
    assert all(phase in first_panel for phase in PHASES)  # or its columns would jump
    assert "run=r complete: epoch 20, 2,560 agent steps" in shown
    assert max(width(line) for line in lines) <= columns
    assert terminal.output.rfind("\x1b[?25h") > terminal.output.rfind("\x1b[?25l")


def test_display_none_is_silent_but_for_a_failure(capsys):
    """A run that stops for good without a word, because its display was off."""
    progress = make_progress(run_config(total_timesteps=100, display="none"), 0, str)
    progress.start()
    progress.update(1, 50, {}, {})
    progress.saved(1)
    progress.stop("complete")
    assert capsys.readouterr().err == ""
    progress.fail("no space")
    assert capsys.readouterr().err == "run=r stopped: no space\n"


def test_a_log_file_gets_plain_lines(capsys):
    """Escape codes in the log of a queue system."""
    progress = make_progress(run_config(total_timesteps=100), 0, str)
    progress.update(1, 50, {"charts/episodic_return": 3.0, "charts/episodic_length": 9.0}, {})
    progress.saved(1)
    line = capsys.readouterr().err
    assert line.startswith("run=r epoch=1 steps=50/100 return=3.00 length=9 steps/s=") and "\x1b" not in line


def test_time_left_is_never_negative():
    """The last epoch takes the steps past the total."""
    progress = Progress(run_config(total_timesteps=100))
    progress.update(1, 120, {}, {})
    assert progress.time_left == "0:00"


def test_small_formats():
    """Trends, numbers and times, by hand."""
    assert sparkline([], 5) == "" and sparkline([2, 2], 5) == "▁▁"
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 7, 7], 2) == "▁█"
    assert [number(x) for x in (float("nan"), 1234.5, 3.14159, 0.00021)] == ["-", "1,234", "3.14", "0.00021"]
    assert [clock(x) for x in (0.4, 61, 3723)] == ["0:00", "1:01", "1:02:03"]


def test_a_terminal_of_another_width_is_cleared(monkeypatch):
    """The old panel, torn, above each new one after the terminal was made narrower."""
    cleared, columns = [], [120]
    monkeypatch.setattr(Console, "width", property(lambda console: columns[0]))
    monkeypatch.setattr(Console, "clear", lambda console: cleared.append(console.width))
    progress = make_progress(run_config(display="rich"), 0, str)
    progress.start()
    columns[0] = 80
    progress.stop("complete")
    assert cleared == [80]
