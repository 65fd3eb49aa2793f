"""`metta play`: watched in a real pseudo-terminal, in a window, and where there is neither."""

import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from metta.envs.env_spec import EnvName
from metta.envs.mettagrid.env import MettaGridEnv
from metta.run_folder import RunFolder
from metta.sim import simulation
from metta.sim.recording import load_recording, recording_path
from metta.sim.single_env import SingleEnv
from metta.tools.cli.play_views import MapView, fitted, open_view
from tests.helpers.commands import metta_in
from tests.helpers.pseudo_terminal import PseudoTerminal, plain, width
from tests.helpers.recorded_runs import ARENA, ARENA_LABEL, ROOT, clean_environment, launch, make_runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("play"))


def terminal(folder: Path, argv: list[str], columns: int, rows: int) -> PseudoTerminal:
    command = [sys.executable, str(ROOT / "tools/play.py"), *argv]
    return PseudoTerminal(command, folder, clean_environment(), columns, rows)


def step_of(frame: list[str]) -> int:
    found = re.match(r"step ([0-9]+),", plain(frame[0]))
    assert found is not None, frame[0]
    return int(found[1])


def test_without_a_terminal_it_plays_to_the_end(folder: Path) -> None:
    """It waited for keys for ever in a pipe. What it plays is what `sim` played: the return is the recorded one."""
    result = launch(folder, "play", "run=cart", "seed=1")
    path = recording_path(RunFolder(folder / "train_dir", "cart"), 100, "CartPole-v1[max_episode_steps=40]")
    recording = load_recording(path, 1)
    steps, total = len(recording.actions), recording.returns[0]
    expected = f"run=cart epoch=100 env=CartPole-v1[max_episode_steps=40] seed=1: step {steps}, return {total:.2f}\n"
    assert (result.returncode, result.stdout, result.stderr) == (0, expected, "")


def test_an_episode_without_end_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that plays for ever into a log file."""
    monkeypatch.setattr(simulation, "MOST_STEPS", 20)
    endless = ("env=tests.sim.test_players:Endless", "seed=7")
    _, said = metta_in(tmp_path, "play", "random=true", *endless, status=1)
    assert said.startswith("metta play: env=test_players.py:Endless: no end of seed 7 after 20 steps; ")


def test_an_agent_file_from_elsewhere(folder: Path) -> None:
    """A stranger's file that has its evaluation go on for days, by the settings of its environment."""
    shutil.copy(folder / "train_dir/maze/checkpoints/agent_epoch_100.pt", folder / "mine.pt")
    refused = launch(folder, "play", "agent=mine.pt", "env.max_steps=5")
    assert refused.returncode == 2 and "to play as it was trained, give env=arena env.num_agents=4 " in refused.stderr
    given = refused.stderr.split("give ")[1].replace("max_steps=30", "max_steps=5").split()
    result = launch(folder, "play", "agent=mine.pt", *given)
    assert (result.returncode, result.stderr) == (0, "")
    label = ARENA_LABEL.replace("max_steps=30", "max_steps=5")
    assert result.stdout.startswith(f"agent=mine.pt env={label} seed=0: step 5, mean return of 4 agents ")


MISTAKES = {
    "": "missing run=: a run in train_dir, or agent= or random=true",
    "random=true": "missing env=: what a random agent is to play, as in env=arena",
    "run=maze agent=mine.pt": "give run=maze or agent=mine.pt, not both",
    "run=maze epoch=3": "no checkpoint for epoch=3 in train_dir/maze/checkpoints: have 100",
    "run=nope": "no run nope with a checkpoint in ./train_dir: have cart, maze",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_are_one_line(folder: Path, line: str) -> None:
    result = launch(folder, "play", *line.split())
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr == f"metta play: {MISTAKES[line]}\n"


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (200, 50)])
def test_the_map_in_a_terminal(folder: Path, columns: int, rows: int) -> None:
    """Every key does what the last line says, and no frame is wider or higher than the screen."""
    with terminal(folder, ["run=maze"], columns, rows) as play:
        play.wait_for("steps/s")
        play.type(" ")
        paused = play.wait_for("paused")
        first = step_of(paused)
        play.type("s\x1b[C")
        stepped = play.wait_for(f"^step {first + 2},")
        play.type("\t")
        followed = play.wait_for("⭐")
        for frame in (paused, stepped, followed):
            assert len(frame) == rows and max(map(width, frame)) <= columns
            assert any("🤖" in line for line in frame) and "q quit" in plain(frame[-1])
        assert sum("██" in line for line in paused) >= (25 if rows >= 27 else rows - 3)  # the map, or what fits of it
        play.type("nn")
        play.wait_for("^step 0,")
        play.type("r " + "+" * 9)
        play.wait_for("the end")
        if columns == 200:
            play.process.send_signal(signal.SIGTERM)
            assert play.wait() == 128 + signal.SIGTERM and play.restored()
            return
        play.type("q")
        assert play.wait() == 0 and play.restored()
        summary = play.output.rstrip().split("\r\n")[-1].rpartition("\x1b[?1049l")[2]
        assert summary.startswith(f"run=maze epoch=100 env={ARENA_LABEL} seed=2: step 30, mean return of 4 agents ")


def test_ctrl_c_restores_the_terminal(folder: Path) -> None:
    """Ctrl-C left the shell without echo and cursor."""
    with terminal(folder, ["random=true", "env=arena", "env.num_agents=2"], 80, 24) as play:
        play.wait_for("steps/s")
        assert not play.restored()
        play.type("\x03")
        assert play.wait() == 128 + signal.SIGINT and play.restored()
        assert "Traceback" not in play.output


def test_pictures_in_a_terminal(folder: Path) -> None:
    """CartPole where there is no screen: 600x400 pixels in half blocks, in their proportions; and a new size is met."""
    with terminal(folder, ["run=cart"], 80, 24) as play:
        play.wait_for("steps/s")
        play.type(" ")
        frame = play.wait_for("paused")
        blocks = [plain(line) for line in frame if "▀" in line]
        assert len(frame) == 24 and len(blocks) == 22 and {len(line) for line in blocks} == {66}
        play.type("s")
        assert play.wait_for(f"^step {step_of(frame) + 1},") != frame
        play.resize(40, 20)
        smaller = [plain(line) for line in play.wait_for(r"(?s)^(.{0,40}\n){19}.{0,40}$") if "▀" in line]
        assert len(smaller) in (13, 14) and {len(line) for line in smaller} == {40}
        play.type("q")
        assert play.wait() == 0 and "not played to its end" in play.output


def test_a_window_is_opened_where_there_is_a_screen(folder: Path) -> None:
    """SDL's dummy driver stands for the screen. A random agent needs no run."""
    argv = ("random=true", "env=CartPole-v1", "env.max_episode_steps=5", "train_dir=none")
    result = launch(folder, "play", *argv, environment={"DISPLAY": ":0", "SDL_VIDEODRIVER": "dummy"})
    expected = "random env=CartPole-v1[max_episode_steps=5] seed=0: step 5, return 5.00\n"
    assert (result.returncode, result.stdout, result.stderr) == (0, expected, "")
    assert not (folder / "none").exists()


def test_the_map_shows_everything_where_it_is() -> None:
    """The renderer's rows and columns swapped; the far edge cut off."""
    env = MettaGridEnv(EnvName("arena", {**ARENA, "walls": 3}))
    single = SingleEnv(env)
    single.reset(5)
    lines = MapView(env).lines(single, 50, 25)
    cells = [re.findall("██|· |.", re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in lines]
    symbols = {"wall": "██", "mine": "🗻", "generator": "⚡", "altar": "💟", "agent": "🤖"}
    expected = [["· "] * 25 for _ in range(25)]
    for thing in env.objects():
        expected[thing["r"]][thing["c"]] = symbols[thing["type_name"]]
    assert cells == expected


class TextGame(gymnasium.Env):
    """Can be written, and has a window that does not open."""

    metadata = {"render_modes": ["human", "ansi"]}  # noqa: RUF012 (it is Gymnasium's)
    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, **settings: Any):
        self.render_mode = settings.get("render_mode")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if self.render_mode == "human":
            raise RuntimeError("no display")
        return np.zeros(1, np.float32), {}

    def render(self) -> Any:
        return "a long line of text\nand a second one"


def test_text_where_neither_window_nor_picture_can_be_had(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """DISPLAY often names a screen that is gone, as in an old tmux."""
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setitem(gymnasium.registry, "Text-v0", gymnasium.envs.registration.EnvSpec("Text-v0", TextGame))
    single, view = open_view(EnvName("Text-v0"), seed=0, terminal=True)
    single.reset(0)
    assert view is not None and view.lines(single, 11, 5) == ["a long line", "and a secon"]
    said = "metta play: no window: env=Text-v0 failed in the episode of seed 0: RuntimeError: no display ("
    assert capsys.readouterr().err.startswith(said)
    assert open_view(EnvName("Text-v0"), seed=0, terminal=False)[1] is None
    monkeypatch.setattr(TextGame, "metadata", {"render_modes": []})
    with pytest.raises(ValueError, match="env=Text-v0 cannot be shown here: it has render_mode none"):
        open_view(EnvName("Text-v0"), seed=0, terminal=True)


def test_pictures_keep_their_proportions() -> None:
    picture = np.zeros((400, 600, 3), np.uint8)
    assert fitted(picture, 80, 44).shape == (44, 66, 3)
    assert fitted(picture, 30, 44).shape == (20, 30, 3)
    assert fitted(np.zeros((10, 10, 3), np.uint8), 80, 44).shape == (44, 44, 3)
