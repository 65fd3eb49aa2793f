"""Environments of the user's own: a file, a module, a class, a function, a MettaGridConfig; what is wrong with one."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from metta.envs.env_spec import EnvName
from metta.envs.make_env import check_env, make_env, spec_of
from metta.errors import UserError
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.sim.single_env import SingleEnv
from metta.tools.main import main
from tests.helpers.commands import result_of, run_in
from tests.helpers.small_envs import ONE_STEP
from tests.helpers.whole_door import check_door

MINE = '''
import gymnasium, numpy as np
from gymnasium import spaces
import {helper}

class Pond(gymnasium.Env):
    """A frog jumps between lily pads, some of which have sunk by the seed."""
    metadata = {{"render_modes": ["rgb_array"], "render_fps": 5}}
    observation_space = spaces.Box(0, 1, (6,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, pads: int = 6, wet: float = 0.2, render_mode=None):
        self.pads, self.wet, self.render_mode = pads, wet, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.afloat = 0, self.np_random.random(6) > self.wet
        return self.look(), {{}}

    def look(self):
        return {helper}.shown(self.place, self.afloat)

    def step(self, action):
        self.place = (self.place + int(action)) % 6
        sunk = not self.afloat[self.place]
        return self.look(), float(action) - 2 * sunk, bool(sunk and action == 2), False, {{}}

    def render(self):
        return np.full((8, 8, 3), 40 * self.place, np.uint8)


def shallow(depth: int = 3):
    return gymnasium.wrappers.TimeLimit(Pond(wet=depth / 10, render_mode="rgb_array"), 15)


def twice(env):
    return gymnasium.wrappers.TransformReward(env, lambda reward: 2 * reward)


class Puddle:
    class Deep(Pond):
        pass


class Drawn(Pond):
    def __init__(self, render_mode, goal=(0, 0), limit=None, depth=3, **others):
        super().__init__(render_mode=render_mode)


def dry():
    raise ArithmeticError("no water")


def gone(env=None):
    raise SystemExit(0)


class Blind(gymnasium.Env):
    action_space = spaces.Discrete(2)


class Lame(gymnasium.Env):
    observation_space = spaces.Discrete(2)
'''
HELPER = """
import numpy as np

def shown(place, afloat):
    observation = afloat.astype(np.float32)
    observation[place] = 0.5
    return observation
"""
GRID = """
from mettagrid.config.handler_config import Handler, updateActor
from mettagrid.config.game_value import InventoryValue
from mettagrid.config.mettagrid_config import (
    ActionsConfig, AgentConfig, GameConfig, GridObjectConfig, MettaGridConfig, MoveActionConfig, NoopActionConfig, WallConfig,
)
from mettagrid.config.mettagrid_config import ChangeVibeActionConfig
from mettagrid.config.reward_config import reward
from mettagrid.map_builder.random_map import RandomMapBuilder

def orchard(apples: int = 9, vibes: bool = False):
    tree = GridObjectConfig(name="tree", on_use_handler=Handler(mutations=[updateActor({"apple": 1})]))
    return MettaGridConfig(game=GameConfig(
        num_agents=3, max_steps=30, episode_truncates=True, resource_names=["apple"],
        objects={"tree": tree, "wall": WallConfig()},
        agent=AgentConfig(rewards={"apple": reward(InventoryValue(item="apple"), weight=0.5)}),
        actions=ActionsConfig(move=MoveActionConfig(), noop=NoopActionConfig(), change_vibe=ChangeVibeActionConfig(enabled=vibes)),
        map_builder=RandomMapBuilder.Config(agents=3, width=9, height=8, border_width=1, objects={"tree": apples}),
    ))

def growing(seed):
    config = orchard(3 + seed % 7)
    config.game.map_builder.width = 9 + seed % 3
    return config

def crowd(seed):
    config = orchard()
    config.game.num_agents = config.game.map_builder.agents = 2 + seed % 2
    return config

def full():
    config = orchard()
    config.game.num_agents = config.game.map_builder.agents = 42
    return config

small = orchard(2)
"""  # noqa: E501


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the user's files; the module beside them has a name of its own for each test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    for name in ("pond", "grid"):  # those of another test's folder
        monkeypatch.delitem(sys.modules, name, raising=False)
    helper = f"beside_{tmp_path.name}"
    (tmp_path / f"{helper}.py").write_text(HELPER)
    (tmp_path / "pond.py").write_text(MINE.format(helper=helper))
    (tmp_path / "grid.py").write_text(GRID)
    return tmp_path


@pytest.mark.parametrize(
    ("env", "settings", "label"),
    [
        ("pond.py:Pond", {"pads": 6.0, "max_episode_steps": 12}, "pond.py:Pond[max_episode_steps=12]"),
        ("grid.py:growing", {}, "grid.py:growing"),
        pytest.param(
            "pond:shallow",
            {"wrappers": "pond.py:twice"},
            "pond.py:shallow[wrappers=pond.py:twice]",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "grid.py:orchard",
            {"apples": 5, "vibes": True},
            "grid.py:orchard[apples=5,vibes=True]",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_place_has_all_that_a_built_in_environment_has(
    folder: Path, env: str, settings: dict[str, Any], label: str
) -> None:
    """A stranger's file turned away, or let in to train only: other bits with workers, or no way back to it."""
    assert check_door(folder, env, settings) == label


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("pond.py", {}, "env=pond.py: expected path/to/file.py:Name or package.module:Name"),
        ("pond.py:Pond-v0", {}, "env=pond.py:Pond-v0: expected path/to/file.py:Name or package.module:Name"),
        ("none.py:Pond", {}, "env=none.py:Pond: no file none.py"),
        ("pond.py:Pond.Pont", {}, "env=pond.py:Pond.Pont: no Pond.Pont in pond.py; it has Pond, shallow, twice, "),
        ("none:Pond", {}, "env=none:Pond: no module none"),
        ("pond.py:Pont", {}, "env=pond.py:Pont: no Pont in pond.py; it has Pond, shallow, twice, Puddle, Drawn, "),
        ("pond.py:Puddle", {}, "env=pond.py:Puddle gives a Puddle, which is no environment: wanted a gymnasium.Env, "),
        ("pond.py:dry", {}, "env=pond.py:dry cannot be made: ArithmeticError: no water (pond.py:51)"),
        ("pond.py:gone", {}, "env=pond.py:gone cannot be made: SystemExit: 0 (pond.py:55)"),
        ("pond.py:Pond", {"wrappers": "pond.py:gone"}, "env.wrappers=pond.py:gone failed: SystemExit: 0 (pond.py:55)"),
        ("pond.py:Pond", {"wrappers": 3}, "env.wrappers=3: expected functions, path/to/file.py:f or package.m"),
        ("pond.py:Drawn", {"goal": "1,2"}, "env.goal of pond.py:Drawn must be a tuple, as in (0, 0), not '1,2'"),
        ("pond.py:Blind", {}, "env=pond.py:Blind has no observation_space"),
        ("pond.py:Lame", {}, "env=pond.py:Lame has no action_space"),
        ("pond.py:Pond", {"pad": 3}, "env.pad is not a setting of pond.py:Pond (did you mean pads?); it has max"),
        ("pond.py:Pond", {"wet": "no"}, "env.wet of pond.py:Pond must be a number, not 'no'"),
        ("pond.py:Pond", {"wrapper": "pond.py:twice"}, "env.wrapper is not a setting of pond.py:Pond (did you mean w"),
        ("pond.py:Pond", {"wrappers": "pond.py:dry"}, "env.wrappers=pond.py:dry failed: TypeError: dry() takes"),
        ("pond.py:Pond", {"wrappers": "pond.py:no"}, "env.wrappers=pond.py:no: no no in pond.py; it has Pond, shallow"),
        ("pond.py:Pond", {"wrappers": "builtins:repr"}, "env.wrappers=builtins:repr gives a str, not a gymnasium.Env"),
        ("pond.py:Pond/a", {}, "env=pond.py:Pond/a: pond.py:Pond is no suite: wanted a dict of names to environments"),
        ("grid.py:orchard", {"wrappers": "pond.py:twice"}, "env.wrappers is for a gymnasium.Env: grid.py:orchard is"),
        ("grid.py:orchard", {"apples": 90}, None),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(folder: Path, name: str, settings: dict[str, Any], text: str | None) -> None:
    """A traceback through somebody's constructor, or a message that does not say what there is instead."""
    if text is None:
        make_env(EnvName(name, settings)).close()
        return
    with pytest.raises(UserError) as caught:
        make_env(EnvName(name, settings))
    assert str(caught.value).replace(f"{folder}/", "").startswith(text) and "\n" not in str(caught.value)


def test_a_class_inside_a_class(folder: Path) -> None:
    """A place that is taken for an id of Gymnasium's, and no word of what is wrong with it."""
    for name in ("pond.py:Puddle.Deep", "pond:Puddle.Deep"):
        env = make_env(EnvName(name, {"pads": 5}))
        assert (env.spec.env.label, env.spec.num_actions) == ("pond.py:Puddle.Deep[pads=5]", 3)


def test_a_render_mode_that_must_be_given(folder: Path) -> None:
    """An environment that nothing can make: what its constructor needs is no setting."""
    modes = [make_env(EnvName("pond.py:Drawn"), mode)._env.render_mode for mode in (None, "rgb_array")]  # type: ignore
    given = make_env(EnvName("pond.py:Drawn", {"render_mode": "rgb_array"}))
    assert [*modes, given._env.render_mode] == [None, "rgb_array", "rgb_array"]  # type: ignore[attr-defined]


def test_settings_that_are_equal_are_equal(folder: Path) -> None:
    """Scores of one environment under two names: by another path, as a module, by a default that was typed."""
    names: list[tuple[str, dict[str, Any]]] = [("pond.py:Pond", {}), (f"{folder}/pond.py:Pond", {"pads": 6})]
    names += [("./pond.py:Pond", {}), ("pond:Pond", {"wet": 0.2})]
    assert {check_env(EnvName(name, settings)) for name, settings in names} == {EnvName(f"{folder}/pond.py:Pond")}
    settings = {"goal": (0, 0), "limit": None, "other": None, "depth": None}
    assert check_env(EnvName("pond.py:Drawn", settings)).label == "pond.py:Drawn[depth=None,other=None]"


def test_each_episode_of_a_config_of_the_seed_is_its_own(folder: Path) -> None:
    """A curriculum of which every episode is the first; agents that change from one to the next without a word."""
    env: Any = make_env(EnvName("grid.py:growing"))
    arrays = SingleEnv(env)
    sizes = []
    for seed in (0, 1, 2, 0):
        arrays.reset(seed)
        kinds = [thing["type_name"] for thing in env.objects()]
        sizes.append((env.game.width, kinds.count("tree"), arrays.observations.tobytes()))
    assert [size[:2] for size in sizes[:3]] == [(9, 3), (10, 4), (11, 5)] and sizes[3] == sizes[0] != sizes[1]
    with pytest.raises(UserError, match="env=grid.py:crowd: the configuration of seed 1 has other num_agents"):
        SingleEnv(make_env(EnvName("grid.py:crowd"))).reset(1)


SCRIPT = """
import gymnasium, numpy as np, sys
from metta import PolicyEvaluator, TrainConfig, train

class Dice(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 6, (1,))
    action_space = gymnasium.spaces.Discrete(2)
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self.throw(), {}
    def throw(self):
        return self.np_random.integers(1, 7, 1).astype(np.float32)
    def step(self, action):
        seen = self.throw()
        return seen, float(seen[0] > 3) * action, bool(seen[0] == 6), False, {}

def dear(env):
    return gymnasium.wrappers.TransformReward(env, lambda reward: 10 * reward)

gymnasium.register("Dice-v0", entry_point=Dice)
if __name__ == "__main__":
    small = dict(num_envs=2, horizon=16, minibatch_size=16, hidden_size=4, total_timesteps=64, display="none", num_shards=2)
    for run, env, workers in (("class", Dice, 2), ("id", "Dice-v0", 2), ("wrapped", "Dice-v0", 0)):
        settings = {"wrappers": dear} if run == "wrapped" else {}
        train(TrainConfig(run=run, env=env, env_settings=settings, num_workers=workers, **small))
    with PolicyEvaluator(num_workers=1) as evaluator:
        scores = [evaluator.evaluate(run, 2, episodes=20, env=Dice) for run in ("class", "id")]
        scores.append(evaluator.evaluate("class", 2, episodes=20, sampled=True))
"""  # noqa: E501


@pytest.mark.slow
def test_what_a_script_defines_travels_with_the_run(tmp_path: Path) -> None:
    """A run that only the script that began it can go on with, and code that leaves with an agent file."""
    (tmp_path / "script.py").write_text(SCRIPT)
    run_in(tmp_path, [sys.executable, "script.py"])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    train_dir = f"train_dir={tmp_path}/train_dir"
    metta = [sys.executable, "-m", "metta.tools.main"]
    for run, label in (("class", "__main__:Dice"), ("id", "Dice-v0"), ("wrapped", "Dice-v0[wrappers=__main__:dear]")):
        said, _ = run_in(elsewhere, [*metta, "sim", f"run={run}", "episodes=4", train_dir])
        assert f"  {label}  " in said
        _, said = run_in(elsewhere, [*metta, "train", f"run={run}", "total_timesteps=128", "display=none", train_dir])
        assert said == ""
    checkpoints = tmp_path / "train_dir/class/checkpoints"
    assert b"throw" not in (checkpoints / "agent_epoch_4.pt").read_bytes()
    manager = TinyCheckpointManager("class", tmp_path / "train_dir")
    assert "environment" in manager.load_trainer_state(4)


DERIVED = """
import beside_script
from metta import TrainConfig, train

class Mine(beside_script.Env):
    pass

small = dict(num_envs=2, horizon=16, hidden_size=4, total_timesteps=32, display="none")
train(TrainConfig(run="r", env=Mine, num_workers=0, **small))
"""


def test_what_a_script_s_environment_needs_is_found_or_named(tmp_path: Path) -> None:
    """A traceback through the reader of the run for a class whose base lies beside the script."""
    (tmp_path / "beside_script.py").write_text(ONE_STEP)
    (tmp_path / "script.py").write_text(DERIVED)
    run_in(tmp_path, [sys.executable, "script.py"])
    sim = ["-m", "metta.tools.main", "sim", "run=r", "episodes=2", f"train_dir={tmp_path}/train_dir"]
    said, _ = run_in(tmp_path, [sys.executable, *sim])
    assert "  __main__:Mine  " in said
    (tmp_path / "beside_script.py").unlink()
    done = result_of(tmp_path, [sys.executable, *sim])
    missing = "the environment saved with the run needs what is not here: ModuleNotFoundError: No module named"
    assert (done.returncode, done.stderr) == (2, f"metta sim: {missing} 'beside_script'\n")


def test_a_file_that_moved(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run lost with a renamed folder; scores of two files of one name that are averaged without a word."""
    small = [
        "num_envs=2",
        "horizon=16",
        "minibatch_size=16",
        "hidden_size=4",
        "display=none",
        "env.max_episode_steps=9",
    ]
    assert main(["train", "run=r", "env=pond.py:Pond", "total_timesteps=64", "num_workers=0", *small]) == 0
    assert main(["sim", "run=r", "episodes=2"]) == 0
    (folder / "new").mkdir()
    (folder / "pond.py").rename(folder / "new/pond.py")
    for command in (
        ["sim", "run=r"],
        ["train", "run=r", "total_timesteps=128"],
        ["replay", "run=r"],
        ["play", "run=r"],
    ):
        capsys.readouterr()
        assert main(command) == 2
        assert f"env={folder}/pond.py:Pond: no file {folder}/pond.py" in capsys.readouterr().err
    moved = ["env=new/pond.py:Pond", "env.max_episode_steps=9"]
    assert main(["sim", "run=r", "episodes=2", *moved]) == 0
    assert main(["train", "run=r", "total_timesteps=128", "display=none", *moved]) == 0
    assert main(["sim", "run=r", "episodes=2"]) == 0  # it remembers
    (folder / "pond.py").write_text((folder / "new/pond.py").read_text() + "\n")
    capsys.readouterr()
    assert main(["sim", "run=r", "env=pond.py:Pond", "env.max_episode_steps=9"]) == 2
    assert "this run has another file by that name" in capsys.readouterr().err
    sim = ["sim", "run=r", "env=new/pond.py:Pond", "env.max_episode_steps=9", "episodes=2"]
    assert main([*sim, "env.wrappers=new/pond.py:twice"]) == 0
    capsys.readouterr()
    assert main([*sim, "env.wrappers=pond.py:twice"]) == 2
    other = f"another file by that name, {folder}/new/pond.py:twice: rename one"
    assert f"env.wrappers={folder}/pond.py:twice: this run has {other}" in capsys.readouterr().err


def test_a_suite(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five evaluations by hand, and a mean on paper; a mean over other settings of the suite too."""
    (folder / "ponds.py").write_text(
        "from pond import Pond, shallow\n"
        "PONDS = {'dry/small': (Pond, {'wet': 0.1, 'max_episode_steps': 9}), 'dry/deep': shallow,\n"
        "         'wet': ('pond.py:Pond', {'wet': 0.9, 'max_episode_steps': 9}), 'bad': (Pond, {'wett': 1})}\n"
        "GOOD = {name: PONDS[name] for name in PONDS if name != 'bad'}\n"
    )
    small = ["num_envs=2", "horizon=16", "minibatch_size=16", "hidden_size=4", "display=none", "num_workers=0"]
    assert main(["train", "run=r", "env=ponds.py:GOOD/wet", "total_timesteps=64", *small]) == 0
    capsys.readouterr()
    assert main(["sim", "run=r", "env=ponds.py:GOOD", "episodes=3"]) == 0
    printed = capsys.readouterr().out
    rows = {line[line.index("ponds.py") :].split()[0]: line for line in printed.splitlines() if "ponds.py" in line}
    means = [float(re.split(r"\s{2,}", rows[f"ponds.py:GOOD/{name}"])[3]) for name in ("dry/small", "dry/deep", "wet")]
    assert float(rows["ponds.py:GOOD"].split()[-1]) == pytest.approx(sum(means) / 3, abs=0.011)
    assert float(rows["ponds.py:GOOD/dry"].split()[-1]) == pytest.approx(sum(means[:2]) / 2, abs=0.011)
    assert main(["replay", "run=r", "env=ponds.py:GOOD/dry/deep", "seed=2"]) == 0
    assert main(["sim", "run=r", "env=ponds.py:GOOD", "env.wrappers=pond.py:twice", "episodes=1", "sampled=true"]) == 0
    wrapped = "ponds.py:GOOD[wrappers=pond.py:twice] sampled"
    assert f"mean of {wrapped} " in capsys.readouterr().out
    assert main(["analyze", "runs=r"]) == 0
    printed = capsys.readouterr().out
    assert f"mean of the 3 environments of {wrapped}: r" in printed
    assert "mean of the 3 environments of ponds.py:GOOD: r" in printed and "of ponds.py:GOOD/dry: r" in printed
    assert "ponds.py:GOOD/dry" in (folder / "train_dir/report.html").read_text()
    with (folder / "ponds.py").open("a") as file:
        file.write(
            "LOOP = {'x': 'ponds.py:LOOP/y', 'y': 'ponds.py:LOOP/x'}\n"
            "NONE, NUMBERS = {}, {1: Pond}\n"
            "DRAWN, SET = {'a': Pond, 'a sampled': Pond}, {'a[wet=0.5]': Pond}\n"
        )
    for env, said in (
        ("ponds.py:LOOP", "env=ponds.py:LOOP/x leads to itself"),
        ("ponds.py:NONE", "env=ponds.py:NONE is a suite without environments"),
        ("ponds.py:NONE/x", "env=ponds.py:NONE is a suite without environments"),
        ("ponds.py:NUMBERS", "env=ponds.py:NUMBERS: names in a suite are text, not 1"),
        ("ponds.py:DRAWN", "a name in a suite cannot end in ' sampled', as 'a sampled': scores' names do"),
        ("ponds.py:SET", "a name in a suite cannot end in '[wet=0.5]', as 'a[wet=0.5]': scores' names do"),
        ("ponds.py:PONDS", "env.wett is not a setting of ponds.py:PONDS/bad (did you mean wet?)"),
        ("ponds.py:GOOD/wett", "no wett in ponds.py:GOOD; it has dry/small, dry/deep, wet"),
    ):
        assert main(["sim", "run=r", f"env={env}"]) == 2
        assert said in capsys.readouterr().err
    assert main(["train", "run=s", "env=ponds.py:GOOD", *small]) == 2
    assert "is a suite, which `metta sim` plays" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_a_map_without_room_for_all_is_named() -> None:
    """MettaGrid's search for room that there is not, without an end and without a word."""
    said = "^env=grid.py:full: 42 agents, and each kind of object once, do not fit into 7 x 6 cells$"
    with pytest.raises(UserError, match=said):
        spec_of(EnvName("grid.py:full"))
