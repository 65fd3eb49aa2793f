"""What the runs of a report were trained with: the settings that differ, and all of each run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from metta.errors import enumeration
from metta.eval.comparison import Group
from metta.keys import BY_ENVIRONMENT, keys
from metta.rl.saving.saved_config import newest_config
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import CHANGEABLE, FOLDER, TrainConfig

OF_ITS_OWN = CHANGEABLE | FOLDER | {"seed"}  # keys in which the seeds of one setting may differ
UNKNOWN = "not known"  # of a run without a trainer file that can be read

Texts: TypeAlias = dict[str, str]  # key -> value, as text


@dataclass(frozen=True)
class Settings:
    """`runs`: of each run whose trainer file can be read. `differing`: a text for each group."""

    runs: dict[str, Texts]
    differing: dict[str, list[str]]
    notes: list[str]


def read_settings(train_dir: Path, groups: Sequence[Group]) -> Settings:
    """Read what each run's newest trainer file that can be read says."""
    runs = {}
    for run in (run for group in groups for run in group.runs):
        saved = newest_config(TinyCheckpointManager(run, train_dir))
        if saved is not None:
            runs[run] = texts(saved["config"])
    names = dict.fromkeys(name for config in runs.values() for name in config if name not in FOLDER)
    found = {name: [values_of(group, runs, name) for group in groups] for name in names}
    differing = {name: [enumeration(one) for one in values] for name, values in found.items() if differ(name, values)}
    begun = [f"{run} began with {texts['ancestry']}." for run, texts in runs.items() if texts.get("ancestry")]
    return Settings(runs, differing, begun + [note for group in groups for note in setting_notes(group, runs)])


def texts(config: Mapping[str, Any]) -> Texts:
    """Write out a configuration: `env.KEY` for each setting of the environment, what None means in words."""
    flat = {name: value for name, value in config.items() if name != "env_settings"}
    flat |= {f"env.{name}": value for name, value in (config.get("env_settings") or {}).items()}
    return {name: text(name, value) for name, value in flat.items()}


def text(name: str, value: Any) -> str:
    if value is None:
        unset = keys(TrainConfig)[name].metadata["unset"] if name in keys(TrainConfig) else BY_ENVIRONMENT
        return "-" if unset == BY_ENVIRONMENT else str(unset)
    return str(value).lower() if isinstance(value, bool) else str(value)


def values_of(group: Group, runs: Mapping[str, Texts], name: str) -> list[str]:
    """List the values of the group's runs, each once."""
    return sorted({runs[run].get(name, "-") if run in runs else UNKNOWN for run in group.runs})


def differ(name: str, values: Sequence[Sequence[str]]) -> bool:
    """Whether the groups differ in this key, or the runs of one, where seeds of one setting do not."""
    return any(one != values[0] for one in values) or (len(values[0]) > 1 and name not in OF_ITS_OWN)


def setting_notes(group: Group, runs: Mapping[str, Texts]) -> list[str]:
    """Note where the runs of a group are not seeds of one setting."""
    if len(group.runs) == 1:
        return []
    notes = []
    configs = {run: runs[run] for run in group.runs if run in runs}
    if unread := [run for run in group.runs if run not in configs]:
        which = enumeration(unread)
        notes.append(f"{group.name}: no trainer file of {which} can be read, to check that it is of the same setting.")
    for name in sorted({name for config in configs.values() for name in config} - OF_ITS_OWN):
        values = sorted({config.get(name, "-") for config in configs.values()})
        if len(values) > 1:
            notes.append(f"{group.name} is not one setting: its runs differ in {name} ({enumeration(values)}).")
    seeds = [config.get("seed") for config in configs.values()]
    if len(set(seeds)) < len(seeds):
        notes.append(f"{group.name}: some of its runs have the same seed, so they are not that many samples.")
    return notes
