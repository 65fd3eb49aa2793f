"""Arguments become a configuration, or one line that helps."""

from dataclasses import asdict
from typing import Any

import pytest

from metta.errors import UserError
from metta.keys import keys, kinds
from metta.rl.train_config import CHANGEABLE, TrainConfig, going_on
from metta.tools.cli.arguments import help_text, literal, parse
from metta.tools.cli.config import AnalyzeConfig, PlayConfig, ReplayConfig, RunsConfig, SimConfig
from metta.tools.cli.epochs import epoch_text

ALL = [TrainConfig, SimConfig, PlayConfig, ReplayConfig, AnalyzeConfig, RunsConfig]


def parse_train(*argv: str) -> tuple[TrainConfig, frozenset[str]]:
    return parse(TrainConfig, argv, "metta train")


def test_values_have_their_types() -> None:
    config, given = parse_train("run=a", "total_timesteps=2_000_000", "learning_rate=1e-3", "lstm=true", "vf_clip=None")
    assert (config.run, config.total_timesteps, config.learning_rate, config.lstm) == ("a", 2_000_000, 1e-3, True)
    assert config.vf_clip is None
    assert given == {"run", "total_timesteps", "learning_rate", "lstm", "vf_clip"}


def test_what_depends_on_the_environment_is_none_until_it_is_known() -> None:
    config, _ = parse_train("run=a")
    assert [getattr(config, key) for key in ("env", "num_envs", "learning_rate", "gamma")] == [None] * 4


def test_env_settings_are_collected_with_their_types() -> None:
    settings = ("env.size=9", "env.rate=1e-2", "env.walls=false", "env.map=maze", "env.mode=nan")
    config, given = parse_train("run=a", "env=arena", *settings)
    assert config.env_settings == {"size": 9, "rate": 0.01, "walls": False, "map": "maze", "mode": "nan"}
    assert {type(value) for value in config.env_settings.values()} == {int, float, bool, str}
    assert "env.size" in given and "env_settings" not in given


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("2_000", 2000), ("-0.5", -0.5), ("True", True), ("1e400", "1e400"), ("inf", "inf"), ("a=b", "a=b")]
    + [("None", None), ("(1, 2)", (1, 2)), ("[[1],'a']", [[1], "a"]), ("{'a': None}", {"a": None}), ("'3'", "3")]
    + [("1,2", "1,2"), ("(a)", "(a)"), ("[" * 500, "[" * 500), ("{[]}", "{[]}"), ("f(1)", "f(1)"), ("none", "none")],
)
def test_literals(text: str, value: Any) -> None:
    """NaN and infinity stay text: NaN is not equal to itself, and a resumed run compares its settings.

    And a tuple, or None, that reaches the environment as a text, which it takes without a word.
    """
    assert literal(text) == value and type(literal(text)) is type(value)


MISTAKES = {
    "learning_rat=3": "unknown key learning_rat=: did you mean learning_rate?",
    "lr=3": "unknown key lr=: did you mean learning_rate?",
    "qqq=3": "unknown key qqq=: `metta train --help` lists the keys",
    "env_settings=3": "unknown key env_settings=: `metta train --help` lists the keys",
    "env.a.b=3": "unknown key env.a.b=: did you mean env?",
    "seed@=gamma": "unknown key seed@=: did you mean seed?",
    "...seed=3": "unknown key ...seed=: did you mean seed?",
    "run=b": "run= is given twice: a and b",
    "seed": "seed: arguments are key=value, as in seed=3",
    "": "an empty argument: arguments are key=value, as in seed=3",
    "=3": "=3: arguments are key=value, as in seed=3",
    "--seed=3": "--seed=3: keys have no dashes, as in seed=3",
    "seed=": "seed= has no value",
    "seed=x": "seed=x: not a whole number, as in 2_000_000",
    "seed=1.5": "seed=1.5: not a whole number, as in 2_000_000",
    "num_envs=None": "num_envs=None: not a whole number, as in 2_000_000",
    "learning_rate=fast": "learning_rate=fast: not a number",
    "lstm=yes": "lstm=yes: not true or false",
    "display=loud": "display=loud: not one of auto, rich, plain, none",
    "device=gpu": "device=gpu: must be auto, cpu, cuda, cuda:N or mps",
    "device=cuda:128": "device=cuda:128: must be auto, cpu, cuda, cuda:N or mps",
    "device=cuda:x": "device=cuda:x: must be auto, cpu, cuda, cuda:N or mps",
    "seed=-1": "seed=-1: must be 0 to 4294967295",
    "num_envs=0": "num_envs=0: must be at least 1",
    "gamma=1.01": "gamma=1.01: must be 0 to 1",
    "learning_rate=0": "learning_rate=0.0: must be greater than 0",
    "learning_rate=nan": "learning_rate=nan: must be finite",
    "learning_rate=inf": "learning_rate=inf: must be finite",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_says_what_would_be_right(mistake: str) -> None:
    with pytest.raises(UserError) as error:
        parse_train("run=a", mistake)
    assert str(error.value) == MISTAKES[mistake]


def test_the_first_of_several_mistyped_values_is_named() -> None:
    with pytest.raises(UserError, match=r"^num_envs=x: "):
        parse_train("run=a", "num_envs=x", "gamma=y")


def test_a_required_key_is_named() -> None:
    with pytest.raises(UserError, match=r"^missing run=: name of the run"):
        parse_train("seed=3")


@pytest.mark.parametrize("value", ["os:getpid", "os:abort", "antigravity:x"])
def test_a_value_is_never_imported_or_called(value: str) -> None:
    """Parsers that read module:name as something to import and call: seed=os:getpid was a number, os:abort the end."""
    with pytest.raises(UserError, match="not a whole number"):
        parse_train("run=a", f"seed={value}")
    assert parse_train("run=a", f"agent={value}")[0].agent == value


def test_sim_epochs() -> None:
    """An epoch= that stays a text is asked in each tool again what it is, and what no tool asks for is ignored."""
    values = {"0": 0, "120": 120, "latest": "latest", "best": "best", "all": "all", "20..60": range(20, 61)}
    for text, epoch in {**values, "7..7": range(7, 8)}.items():
        parsed = parse(SimConfig, [f"epoch={text}"], "metta sim")[0].epoch
        assert (parsed, type(parsed)) == (epoch, type(epoch)) and epoch_text(parsed) == text
    wanted = "must be a number, a range as in 20..60, latest, best or all"
    for text in ("-1", "1.5", "newest", "1_0", "²", "1..", "..9", "..", "9..1", "1..2..3", "latest..9", "1" * 19):
        with pytest.raises(UserError) as error:
            parse(SimConfig, [f"epoch={text}"], "metta sim")
        assert str(error.value) == f"epoch={text}: {wanted}"


@pytest.mark.parametrize("text", ["all", "1..9", "x", "1" * 19])
def test_one_epoch(text: str) -> None:
    """A range of which play and replay show the first, or none."""
    for tool, arguments in ((PlayConfig, []), (ReplayConfig, ["run=a"])):
        with pytest.raises(UserError) as error:
            parse(tool, [*arguments, f"epoch={text}"], "metta tool")
        assert str(error.value) == f"epoch={text}: must be a number, latest or best"


@pytest.mark.parametrize("config_class", ALL)
def test_help_reads_well_at_80_columns(config_class: type) -> None:
    text = help_text(config_class, "metta tool")
    assert all(len(line) <= 80 for line in text.splitlines())
    assert config_class.__doc__ and config_class.__doc__.splitlines()[0] in text
    assert all(f"  {name}=" in text for name in keys(config_class))
    assert ("  env.KEY=VALUE" in text) == ("env_settings" in kinds(config_class))


def test_help_shows_types_and_defaults() -> None:
    text = " ".join(help_text(TrainConfig, "metta train").split())
    for entry in (
        "usage: metta train run=TEXT key=value ...",
        "seed=INT of everything random [0]",
        "learning_rate=NUM of Adam [by environment]",
        "anneal_lr=true|false let it fall linearly to 0 at total_timesteps [true]",
        "display=auto|rich|plain|none",
    ):
        assert entry in text


@pytest.mark.parametrize("argument", ["--help", "-h", "help"])
def test_help_wins_over_mistakes(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        parse_train("no_such=1", argument)
    assert leaving.value.code == 0
    assert capsys.readouterr().out.startswith("usage: metta train")


def saved(**values: Any) -> dict[str, Any]:
    return asdict(TrainConfig(**{"run": "old", "env": "arena", "env_settings": {"walls": 9}, "gamma": 0.9, **values}))


def resumed(*argv: str) -> TrainConfig:
    config, anew = going_on(saved(), 1, *parse_train("run=a", *argv))
    assert anew is None
    return config


def test_a_run_goes_on_with_its_own_configuration() -> None:
    config = resumed()
    assert asdict(config) == saved(run="a")


def test_the_same_values_may_be_given_again() -> None:
    """env.mines=10 is the default, and heart_reward=1 is 1.0."""
    given = ("env=arena", "env.walls=9", "env.mines=10", "env.heart_reward=1", "gamma=0.9", "seed=0")
    assert asdict(resumed(*given)) == saved(run="a")


def test_changeable_keys_change() -> None:
    values = {
        "total_timesteps": 5,
        "checkpoint_interval": 3,
        "keep_last": 2,
        "num_workers": 1,
        "device": "cpu",
        "display": "none",
        "evaluate": 7,
        "on_epoch": "mine.py:f",
        "trust": True,
    }
    assert values.keys() == CHANGEABLE
    config = resumed(*(f"{key}={value}" for key, value in values.items()))
    assert {key: getattr(config, key) for key in values} == values


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("gamma=0.5", "gamma=0.5: run a was started with gamma=0.9, and keeps that to its end"),
        ("env=CartPole-v1", "env=CartPole-v1: run a was started with env=arena, and keeps that to its end"),
        ("env.walls=8", "env.walls=8: run a was started with env.walls=9, and keeps that to its end"),
        ("env.mines=9", "env.mines=9: run a was started without it, and keeps that to its end"),
    ],
)
def test_any_other_value_given_again_is_refused(argument: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        resumed(argument)
    assert str(error.value) == message
