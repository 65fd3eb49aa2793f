"""`metta replay`: the files hold the recorded episode, and say so where they do not."""

import importlib.util
import json
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from metta.envs.env_spec import EnvName
from metta.envs.mettagrid.env import MettaGridEnv
from metta.envs.vec_env import Episode
from metta.run_folder import RunFolder
from metta.sim.players import RandomPlayer
from metta.sim.recording import Recording, Source, load_recording, recording_path, save_recordings
from metta.sim.replay.films import check_format, replay_path, write_mp4, write_replay
from metta.sim.replay.page import CODE
from metta.sim.single_env import SingleEnv, replay_steps
from tests.helpers.recorded_runs import ARENA, ARENA_LABEL, launch, make_runs

CART_LABEL = "CartPole-v1[max_episode_steps=40]"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("replay"))


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy, so that each test leaves what it likes."""
    shutil.copytree(made / "train_dir", tmp_path / "train_dir")
    return tmp_path


def recordings(folder: Path, run: str = "maze", label: str = ARENA_LABEL) -> Path:
    return recording_path(RunFolder(folder / "train_dir", run), 100, label)


def source(folder: Path, seed: int = 1) -> Source:
    return Source("maze", 100, EnvName("arena", ARENA), load_recording(recordings(folder), seed))


def page_data(page: Path) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*)</script>', page.read_text("utf-8"))
    assert found is not None
    return json.loads(found[1])


def replay(folder: Path, *argv: str, status: int = 0) -> tuple[str, str]:
    result = launch(folder, "replay", *argv)
    assert result.returncode == status, result.stderr
    return result.stdout, result.stderr


def test_the_page_is_where_the_tool_says(folder: Path) -> None:
    """Latest epoch, the run's own environment, seed 0, and a page, unless asked otherwise."""
    expected = replay_path(recordings(folder), 0, "html").relative_to(folder)
    assert replay(folder, "run=maze") == (f"{expected}\n", "")
    data = page_data(folder / expected)
    about = {"run": "maze", "epoch": 100, "env": ARENA_LABEL, "seed": 0, "steps": 30, "difference": None}
    assert {key: data[key] for key in about} == about
    files = [path.name for path in (folder / expected).parent.iterdir()]
    assert sorted(files) == sorted([recordings(folder).name, expected.name])


def test_the_page_has_every_position_and_inventory(folder: Path) -> None:
    """Unpacked as the page does it, and compared with the environment played again, step by step."""
    path = folder / "page.html"
    assert write_replay(source(folder), "html", path) is None
    data = page_data(path)
    width, agents = data["width"], 4
    env = MettaGridEnv(EnvName("arena", ARENA))
    recording = source(folder).recording
    cells = [thing["cell"] for thing in data["things"]]
    held: list[dict[int, int]] = [{} for _ in cells]
    events = {index: steps_from_start(data["items"].get(str(index), []), 3) for index in range(len(cells))}
    changes = 0
    for step in replay_steps(SingleEnv(env), recording):
        for index in range(len(cells)):
            if step > 0 and str(index) in data["moves"]:
                cells[index] += data["ways"][CODE.index(data["moves"][str(index)][step - 1])]
            for at, resource, amount in events[index]:
                if at == step:
                    held[index][resource] = amount
                    changes += 1
        shown = {
            (thing["type"], thing.get("agent"), cell, frozen(inventory))
            for thing, cell, inventory in zip(data["things"], cells, held, strict=True)
        }
        real = {
            (thing["type_name"], thing.get("agent_id"), thing["r"] * width + thing["c"], frozen(thing["inventory"]))
            for thing in env.objects(ignore=["wall"])
        }
        assert shown == real
    assert changes > 20
    walls = {thing["r"] * width + thing["c"] for thing in env.objects() if thing["type_name"] == "wall"}
    assert set(data["walls"]) == walls
    for agent in range(agents):
        rewards = [reward for _, reward in steps_from_start(data["rewards"][agent], 2)]
        assert sum(rewards) == pytest.approx(recording.returns[agent], abs=1e-5)
        assert [CODE.index(code) for code in data["actions"][agent]] == recording.actions[:, agent].tolist()
    assert recording.returns.sum() > 0


def frozen(inventory: dict[int, int]) -> frozenset[tuple[int, int]]:
    return frozenset((resource, amount) for resource, amount in inventory.items() if amount)


def steps_from_start(events: list[Any], size: int) -> list[tuple[Any, ...]]:
    rows = np.array(events, dtype=object).reshape(-1, size)
    rows[:, 0] = np.cumsum(rows[:, 0])
    return [tuple(row) for row in rows]


def test_a_whole_episode_is_a_small_page(tmp_path: Path) -> None:
    """A page of megabytes cannot be sent to anyone. 24 agents and 500 steps, here at random."""
    single = SingleEnv(MettaGridEnv(EnvName("arena")))
    player = RandomPlayer(single.env.spec, 1)
    player.begin(0, 3)
    actions = np.array([player.act(single.observations, single.starts) for _ in range(500)])
    *_, steps = replay_steps(single, Recording(3, actions, single.returns))
    assert steps == 500 and single.over
    arena = Source("demo", 0, EnvName("arena"), Recording(3, actions, single.returns.copy()))
    assert write_replay(arena, "html", tmp_path / "page.html") is None
    assert (tmp_path / "page.html").stat().st_size < 150_000
    parts = re.findall(r'(?:src|href)="?([^" >]+)|@import|url\(', (tmp_path / "page.html").read_text("utf-8"))
    assert parts == ["data:,"]  # it needs nothing from elsewhere


def test_names_cannot_end_the_data(folder: Path) -> None:
    """A run's page is opened in a browser: nothing in it may become a script."""
    odd = Source("</script><script>alert(1)</script>", 1, EnvName("arena", ARENA), source(folder).recording)
    write_replay(odd, "html", folder / "page.html")
    assert page_data(folder / "page.html")["run"] == odd.run
    assert (folder / "page.html").read_text("utf-8").count("</script>") == 2


def test_mettascope_gets_the_same_rewards(folder: Path) -> None:
    """Made by MettaGrid's own Simulation: another map or seed there would be another game."""
    path = folder / "episode.json.z"
    assert write_replay(source(folder, 2), "mettascope", path) is None
    log = json.loads(zlib.decompress(path.read_bytes()))
    assert (log["num_agents"], log["max_steps"], log["map_size"]) == (4, 30, [25, 25])
    returns = load_recording(recordings(folder), 2).returns
    assert np.array_equal(np.array(log["infos"]["episode_rewards"]), returns) and returns.sum() > 0


def test_a_gif_of_gymnasium(folder: Path) -> None:
    """Every step is a frame, at the environment's own speed, with the last one in it."""
    path = recordings(folder, "cart", CART_LABEL)
    expected = replay_path(path, 1, "gif").relative_to(folder)
    assert replay(folder, "run=cart", "epoch=100", "seed=1") == (f"{expected}\n", "")
    with Image.open(folder / expected) as gif:
        assert gif.size == (600, 400) and gif.info["loop"] == 0
        milliseconds = 0
        for frame in ImageSequence.Iterator(gif):
            milliseconds += frame.info["duration"]
    assert milliseconds == 20 * (len(load_recording(path, 1).actions) + 1)


@pytest.mark.parametrize(
    "drawn", [np.full((2, 3, 3), 0.5), np.full((2, 3), 127, np.uint8), np.full((2, 3, 4), 127, np.uint8)]
)
def test_pictures_of_any_kind(monkeypatch: pytest.MonkeyPatch, drawn: np.ndarray) -> None:
    """MinAtar draws in floats from 0 to 1, others in grey or with transparency."""
    single = SingleEnv(MettaGridEnv(EnvName("arena", ARENA), "rgb_array"))
    monkeypatch.setattr(single.env, "render", lambda: drawn)
    assert single.picture().dtype == np.uint8 and np.array_equal(single.picture(), np.full((2, 3, 3), 127))


def test_an_mp4(folder: Path) -> None:
    """H.264 takes even sides only; and without the package that writes it, one line says what to install."""
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        with pytest.raises(ValueError, match="^format=mp4 needs the package imageio-ffmpeg"):
            check_format("mp4", EnvName("CartPole-v1"))
        return
    with open(folder / "x.mp4", "wb") as file:
        write_mp4(iter([np.zeros((201, 301, 3), np.uint8)] * 3), 30, file)
    assert (folder / "x.mp4").read_bytes()[4:8] == b"ftyp"


def rewrite(path: Path, seed: int, returns: np.ndarray | None = None, length: int | None = None) -> None:
    """Another recording of that seed in the place of the one that is there."""
    was = load_recording(path, seed)
    actions, returns = was.actions[:length], was.returns if returns is None else returns
    save_recordings(path, [Episode(0, 0, seed, len(actions), returns, {}, actions, np.ones(1, bool))])


def test_an_episode_that_comes_out_otherwise(folder: Path) -> None:
    """A replay of another episode was passed off as the one that was scored. The smallest change counts."""
    returns = load_recording(recordings(folder), 1).returns
    changed = returns.copy()
    changed[2] = np.nextafter(changed[2], 99)
    rewrite(recordings(folder), 1, returns=changed)
    said = f"agent 2's return was {changed[2]!s} when recorded, and is {returns[2]!s} now"
    out, err = replay(folder, "run=maze", "seed=1", status=1)
    assert err == f"metta replay: this is not the episode that was recorded: {said}\n"
    assert page_data(folder / out.strip())["difference"] == said
    assert write_replay(source(folder), "mettascope", folder / "episode.json.z") == said
    changed[3] += 1
    rewrite(recordings(folder), 1, returns=changed)
    assert write_replay(source(folder), "html", folder / "page.html") == f"{said}; 2 agents' returns differ"


def test_an_episode_of_another_length(folder: Path) -> None:
    rewrite(recordings(folder), 1, length=20)
    assert write_replay(source(folder), "html", folder / "page.html") == (
        "the recorded episode ended after 20 steps, this one goes on"
    )
    longer = Recording(1, np.concatenate([source(folder).recording.actions] * 2), np.zeros(4))
    longer_source = Source("maze", 100, EnvName("arena", ARENA), longer)
    assert write_replay(longer_source, "html", folder / "page.html") == (
        "the recorded episode ended after 40 steps, this one after 30"
    )


def test_a_checkpoint_that_is_gone_can_be_replayed(folder: Path) -> None:
    """Retention removes checkpoints; their episodes stay."""
    for path in (folder / "train_dir/cart/checkpoints").iterdir():
        path.rename(path.with_name(path.name.replace("100", "200")))
    assert replay(folder, "run=cart", "epoch=100", "out=it.gif") == ("it.gif\n", "")
    assert replay(folder, "run=cart", status=2)[1] == (
        f"metta replay: no episode of epoch=200 in {CART_LABEL} is recorded (of epoch 100 there are): "
        "`metta sim run=cart epoch=200` records some\n"
    )


MAZE = f"train_dir/maze/replays/{recording_path(RunFolder('train_dir', 'maze'), 100, ARENA_LABEL).name}"
MISTAKES = {
    "": "missing run=: name of a run in train_dir",
    "run=nope": "no run nope with a checkpoint in ./train_dir: have cart, maze",
    "run=maze epoch=7": "no checkpoint for epoch=7 in train_dir/maze/checkpoints: have 100",
    "run=maze env=arena": "no episode of epoch=100 in arena is recorded: "
    "`metta sim run=maze env=arena epoch=100` records some",
    "run=maze env=navigation env.max_steps=9": "no episode of epoch=100 in navigation[max_steps=9] is recorded: "
    "`metta sim run=maze env=navigation env.max_steps=9 epoch=100` records some",
    "run=cart env=CartPole-v1 env.max_episode_steps=40 seed=5": f"seed=5 of epoch=100 in {CART_LABEL} is not recorded, "
    "seeds 0 to 2 are: `metta sim run=cart env=CartPole-v1 env.max_episode_steps=40 epoch=100 episodes=6` records it",
    "run=cart format=html": "format=html is for MettaGrid (arena, navigation): CartPole-v1 takes gif or mp4",
    "run=cart format=gif out=x.html": "out=x.html: a file of format=gif is named *.gif",
    "run=cart out=no/x.gif": "out=no/x.gif: no folder no",
    "run=maze format=png": "format=png: not one of auto, gif, mp4, html, mettascope",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_are_one_line_that_says_what_to_do(made: Path, line: str) -> None:
    result = launch(made, "replay", *line.split())
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"metta replay: {MISTAKES[line]}\n"
    assert len(list(made.rglob("replays/*"))) == 2


def test_a_damaged_recording_is_one_line(folder: Path) -> None:
    path = recordings(folder, "cart", CART_LABEL)
    path.write_bytes(path.read_bytes()[:300])
    assert replay(folder, "run=cart", "env=CartPole-v1", "env.max_episode_steps=40", status=2)[1] == (
        f"metta replay: {path.relative_to(folder)} is damaged or holds no episodes: "
        "`metta sim run=cart env=CartPole-v1 env.max_episode_steps=40 epoch=100` records new ones\n"
    )
