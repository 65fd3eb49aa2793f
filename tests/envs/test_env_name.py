"""EnvName: one label for one environment, and a file name for each label."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from metta.envs.env_spec import EnvName, categories
from metta.envs.make_env import check_env, make_env
from metta.errors import UserError
from metta.files.durable import rename_over, written_beside
from metta.rl.train_config import TrainConfig
from metta.run_folder import RunFolder
from metta.sim.recording import recorded_epoch, recording_path
from metta.sim.replay.films import SUFFIXES, replay_path


class WithDefaults(gymnasium.Env):
    """Takes a setting of each kind, one of unknown type, and any other."""

    def __init__(
        self, size: int = 5, rate: float = 1.0, walls: bool = True, map: str = "maze", seen: Any = None, **others: Any
    ):
        """Made only to be asked for its signature."""


@pytest.fixture
def registered() -> Any:
    """`test/WithDefaults-v0`, registered with a default and a limit of its own."""
    name = "test/WithDefaults-v0"
    gymnasium.register(name, entry_point=WithDefaults, max_episode_steps=50, kwargs={"size": 7})
    yield name
    del gymnasium.registry[name]


def test_a_label_is_name_and_settings_in_order() -> None:
    """A score stored under another name for the same settings typed in another order."""
    name = EnvName("arena", {"num_agents": 4, "max_steps": 100})
    assert name.label == "arena[max_steps=100,num_agents=4]" and EnvName("arena").label == "arena"
    assert name == EnvName("arena", {"max_steps": 100, "num_agents": 4})
    assert len({name, EnvName("arena", {"max_steps": 100}).with_({"num_agents": 4}), EnvName("arena")}) == 2
    assert EnvName("a", {"x": 1, "y": 2}).with_({"y": 3}).settings == {"x": 1, "y": 3}


def test_different_settings_have_different_labels() -> None:
    """Two environments whose scores are averaged, since a text looks like a number or like two settings."""
    values = [1, 1.0, "1", "1.0", True, "True", None, "None", "", "nan", float("nan"), "1e5", 1e5, (), "()", "a", "'a'"]
    settings: list[dict[str, Any]] = [{"x": value} for value in values]
    settings += [{"x": "1", "y": "2"}, {"x": "1,y=2"}, {"x": 1, "y": 2}, {"x": "1]"}, {}]
    assert len({EnvName("e", each).label for each in settings}) == len(settings)
    assert EnvName("e", {"map": "4 rooms/a-b"}).label == "e[map=4 rooms/a-b]"


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("s.py:S/a/b", ["s.py:S", "s.py:S/a"]),
        ("s.py:S/a/b[x=2.0] sampled", ["s.py:S[x=2.0] sampled", "s.py:S/a[x=2.0] sampled"]),
        ("s.py:S/a[1]/b[w=v.py:f,x='[/]']", ["s.py:S[w=v.py:f,x='[/]']", "s.py:S/a[1][w=v.py:f,x='[/]']"]),
        ("s.py:S/a:1/b", ["s.py:S", "s.py:S/a:1"]),
        ("s.py:One sampled", []),
        ("ALE/Pong-v5[frameskip=4]", []),
    ],
)  # fmt: skip
def test_a_category_has_the_settings(label: str, found: list[str]) -> None:
    """Other settings, and drawn actions, of the same suite in one mean; a name's own brackets taken for settings."""
    assert categories(label) == found


@pytest.mark.parametrize(
    ("name", "settings", "canonical"),
    [
        ("arena", {"num_agents": 24, "heart_reward": 1}, {}),
        ("arena", {"heart_reward": 2, "max_steps": 500, "mines": 11}, {"heart_reward": 2.0, "mines": 11}),
        ("navigation", {"num_agents": 24}, {"num_agents": 24}),
        ("Pendulum-v1", {"g": 10, "max_episode_steps": 200}, {}),
        ("Pendulum-v1", {"g": 2}, {"g": 2.0}),
        ("CartPole-v1", {"max_episode_steps": 200, "sutton_barto_reward": False}, {"max_episode_steps": 200}),
        ("test/WithDefaults-v0", {"size": 7.0, "rate": 1, "walls": True, "map": "maze", "max_episode_steps": 50}, {}),
        ("test/WithDefaults-v0", {"size": 5, "rate": 10**400}, {"size": 5, "rate": 10**400}),
        ("test/WithDefaults-v0", {"size": 5.5, "rate": 2}, {"size": 5.5, "rate": 2.0}),
        ("test/WithDefaults-v0", {"seen": 1.0, "other": 1}, {"seen": 1.0, "other": 1}),
    ],
)
def test_equal_settings_are_equal(
    registered: str, name: str, settings: dict[str, Any], canonical: dict[str, Any]
) -> None:
    """A default that was typed, or 1 for 1.0, as another environment in eval.db with scores of its own."""
    checked = check_env(EnvName(name, settings))
    assert checked.settings == canonical and checked == EnvName(name, canonical)
    assert [type(checked.settings[key]) for key in canonical] == [type(value) for value in canonical.values()]
    assert check_env(checked) == checked


def test_an_environments_spec_has_the_canonical_name() -> None:
    """A label that depends on whether the environment was made or only checked."""
    for name, settings in (("arena", {"num_agents": 24, "max_steps": 9}), ("Pendulum-v1", {"g": 3})):
        env = make_env(EnvName(name, settings))
        assert env.spec.env == check_env(EnvName(name, settings)) != EnvName(name, settings)
        env.close()


def test_no_two_labels_share_a_file() -> None:
    """Recordings of one environment written over those of another: ALE/Pong-v5 and ALE-Pong-v5 were one file."""
    labels = ["ALE/Pong-v5", "ALE-Pong-v5", "a b", "a_b", "a[path=a/b]", "a[path=a:b]", "a[path=a-b]", "a[path=a%2Fb]"]
    run = RunFolder("train_dir", "run")
    paths = [recording_path(run, 3, label) for label in labels]
    assert len(set(paths)) == len(labels) and {path.parent for path in paths} == {run.replays}
    assert [recorded_epoch(path.name) for path in paths] == [3] * len(labels)
    assert paths[0].name == "epoch_3_ALE%2FPong-v5.npz"
    assert recording_path(run, 0, "arena[max_steps=30]").name == "epoch_0_arena[max_steps=30].npz"


@pytest.mark.parametrize("label", ["arena", "a_seed_3", "a_seed_3.npz", "a[path=x_seed_1.html]"])
def test_a_files_name_says_of_what_it_is(label: str) -> None:
    """A replay listed under no checkpoint, since its environment's name looks like the end of a file name."""
    recordings = recording_path(RunFolder("train_dir", "run"), 12, label)
    for path in (recordings, *(replay_path(recordings, 7, format) for format in SUFFIXES)):
        assert recorded_epoch(path.name) == 12
    assert recorded_epoch("epoch_012_arena.npz") is None and recorded_epoch("notes.txt") is None


def test_the_files_of_a_long_name_can_be_written(tmp_path: Path) -> None:
    """An evaluation that ended in "File name too long", its scores lost, for an environment with many settings."""
    labels = [f"arena[{'setting_with_a_name=1,' * 30}last={last}]" for last in (1, 2)]
    paths = [recording_path(RunFolder(tmp_path, "run"), 10**9, label) for label in labels]
    films = [replay_path(path, 2**31, format) for path in paths for format in SUFFIXES]
    for path in (*paths, *films):
        with written_beside(path, lambda file: file.write(b"x")) as partial:
            rename_over(partial, path)
        assert recorded_epoch(path.name) == 10**9
    assert len({*paths, *films}) == 2 * (1 + len(SUFFIXES))


def test_settings_are_copied() -> None:
    """One dict of settings that all runs of a loop share, and that an environment empties for the next one."""
    given: dict[str, Any] = {"config": {"sizes": [3], "pair": (1, np.float32(0.5))}}
    names = [EnvName.of("arena", given)]
    given["config"]["sizes"].append(4)
    names.append(EnvName.of("arena", given))
    assert [name.settings["config"]["sizes"] for name in names] == [[3], [3, 4]]
    assert names[0].settings["config"]["pair"] == (1, 0.5)


@pytest.mark.parametrize("value", [object(), np.zeros(3), lambda reward: reward, {"inside": [np.zeros(3)]}])
def test_what_no_run_can_keep_is_no_setting(value: Any) -> None:
    """A run that trains once, and that no command and no resume finds the environment of."""
    said = "^env.key is a .*, and settings are numbers, .*: give as env= a function that makes the environment with it$"
    with pytest.raises(UserError, match=said):
        TrainConfig(run="r", env="arena", env_settings={"key": value})
