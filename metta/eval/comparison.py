"""What eval.db says of several runs side by side; the statistics are those of metta/eval/statistics.py."""

import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from metta.envs.env_spec import SAMPLED, categories
from metta.errors import MettaError, enumeration
from metta.eval import statistics
from metta.eval.eval_db import EvalDB, Scores
from metta.eval.statistics import Estimate, Floats, Score

FEW_SEEDS = 3  # an interval over fewer runs means little
PROFILE_POINTS = 101

RunScores: TypeAlias = dict[str, dict[int, Scores]]  # run -> epoch -> env -> Score


class ComparisonError(MettaError):
    """These runs cannot be compared."""


@dataclass(frozen=True)
class Group:
    """Runs that count as one: a single run, or the seeds of one setting."""

    name: str
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Curve:
    """Values `y` [N] over `x` [N] with their 95% band [N] each; a curve without an interval has none."""

    x: Floats
    y: Floats
    low: Floats | None = None
    high: Floats | None = None


@dataclass(frozen=True)
class Final:
    """The last evaluation of each run of a group, in the episodes that all of them played."""

    epochs: tuple[int, ...]  # of each run
    seeds: NDArray[np.int64]  # [E], ascending
    rewards: Floats  # [runs, E]
    mean: Estimate
    iqm: Estimate


@dataclass(frozen=True)
class Better:
    """P(A > B) over the episodes that the groups number `a` and `b` both played."""

    a: int
    b: int
    probability: Estimate
    episodes: int


@dataclass(frozen=True)
class EnvComparison:
    """One environment; the lists have an entry for each group."""

    env: str
    curves: list[Curve]  # mean reward over epochs
    best: list[int | None]  # epoch with the highest mean reward; None where a group's runs share no epoch
    finals: list[Final]
    profiles: list[Curve]  # share of episodes above a reward
    better: list[Better]  # of all pairs a < b that share episodes


@dataclass(frozen=True)
class Comparison:
    groups: list[Group]
    scores: RunScores
    envs: list[EnvComparison]
    overall: list[Estimate]  # for each group, over all environments; empty where there is only one
    notes: list[str]  # what a reader must know before believing the numbers


def compare(db: EvalDB, groups: Sequence[Group], where: Sequence[str] = ()) -> Comparison:
    """Compare the groups. ComparisonError if a run has no scores, or all runs have no environment in common.

    Scores of actions drawn on demand are those of an environment of its own: "CartPole-v1 sampled".
    where: the keys that say to `metta sim` where the runs are.
    """
    scores = {run: db.get_scores(run, sampled=None) for group in groups for run in group.runs}
    missing = [run for run, history in scores.items() if not history]
    if missing:
        which = f"{plural(missing, 'run', 'runs')} {enumeration(missing)} {plural(missing, 'has', 'have')}"
        command = shlex.join(["metta", "sim", f"run={','.join(missing)}", "epoch=all", *where])
        raise ComparisonError(f"{which} no scores in {db.name}: `{command}` evaluates every checkpoint")
    notes: list[str] = []
    note_few_seeds(groups, notes)
    envs = [compare_env(db, groups, scores, env, notes) for env in common_envs(scores, notes)]
    note_suites(groups, envs, notes)
    return Comparison(list(groups), scores, envs, over_envs(scores, groups, envs), notes)


def note_few_seeds(groups: Sequence[Group], notes: list[str]) -> None:
    if few := [group.name for group in groups if len(group.runs) < FEW_SEEDS]:
        notes.append(
            f"{enumeration(few)}: fewer than {FEW_SEEDS} seeds, so the interval means little: another training seed may"
            " end elsewhere. A single run's interval is over its episodes."
        )


def note_suites(groups: Sequence[Group], envs: Sequence[EnvComparison], notes: list[str]) -> None:
    """Note the groups' means over the environments of a suite, and over those of each category in it."""
    suites: dict[str, list[EnvComparison]] = defaultdict(list)
    for env in envs:
        for category in categories(env.env):
            suites[category].append(env)
    for category, members in suites.items():
        if len(members) > 1:
            means = [statistics.mean([env.finals[index].mean.value for env in members]) for index in range(len(groups))]
            each = ", ".join(f"{group.name} {mean:.2f}" for group, mean in zip(groups, means, strict=True))
            notes.append(f"mean of the {len(members)} environments of {category}: {each}.")


def envs_of(history: dict[int, Scores]) -> set[str]:
    return {env for scores in history.values() for env in scores}


def common_envs(scores: RunScores, notes: list[str]) -> list[str]:
    """List the environments in which every run was evaluated, by name; note those in which only some were."""
    by_run = {run: envs_of(history) for run, history in scores.items()}
    common = set.intersection(*by_run.values())
    if not common:
        have = "; ".join(f"{run}: {', '.join(sorted(envs))}" for run, envs in list(by_run.items())[:6])
        raise ComparisonError(
            f"these runs have no environment in common ({have}): evaluate them in the same one with `metta sim run=RUN "
            "epoch=all env=ENV`, or compare runs of one environment"
        )
    for env in sorted(set.union(*by_run.values()) - common):
        without = [run for run, envs in by_run.items() if env not in envs]
        notes.append(f"{env} is left out: {enumeration(without)} {plural(without, 'was', 'were')} not evaluated in it.")
    return sorted(common)


def compare_env(db: EvalDB, groups: Sequence[Group], scores: RunScores, env: str, notes: list[str]) -> EnvComparison:
    histories = [[history_in(scores[run], env) for run in group.runs] for group in groups]
    curves = [score_curve(group, env, runs, notes) for group, runs in zip(groups, histories, strict=True)]
    finals = [final_scores(db, group, env, runs, notes) for group, runs in zip(groups, histories, strict=True)]
    last = {epoch for final in finals for epoch in final.epochs}
    if len(last) > 1:
        notes.append(f"{env}: the last evaluations are not of the same epoch, but of {enumeration(sorted(last))}.")
    better = []
    for a, b in combinations(range(len(groups)), 2):
        found = probability(finals, a, b)
        if found is None:
            notes.append(
                f"{env}: {groups[a].name} and {groups[b].name} share no episode; evaluate them with the same seed="
                " to see which is better."
            )
        else:
            better.append(found)
    best = [
        db.best_epoch(group.runs[0], env) if len(group.runs) == 1 else best_epoch(curve)
        for group, curve in zip(groups, curves, strict=True)
    ]
    return EnvComparison(env, curves, best, finals, profiles(finals), better)


def history_in(history: dict[int, Scores], env: str) -> dict[int, Score]:
    return {epoch: scores[env] for epoch, scores in sorted(history.items()) if env in scores}


def score_curve(group: Group, env: str, runs: Sequence[dict[int, Score]], notes: list[str]) -> Curve:
    """Compute mean reward over epochs: of one run with its interval over episodes, of several over runs."""
    if len(runs) == 1:
        epochs, points = list(runs[0]), list(runs[0].values())
        columns = np.array([(point.mean, point.low, point.high) for point in points]).T
        return Curve(np.array(epochs, dtype=np.float64), *columns)
    epochs = sorted(set.intersection(*(set(run) for run in runs)))
    if left := sorted({epoch for run in runs for epoch in run} - set(epochs)):
        notes.append(
            f"{env}: not every run of {group.name} was evaluated at epoch {enumeration(left)}; its curve leaves"
            f" {plural(left, 'it', 'them')} out."
        )
    if not epochs:
        none = np.empty(0)
        return Curve(none, none, none, none)
    means = np.array([[run[epoch].mean for run in runs] for epoch in epochs])
    return Curve(np.array(epochs, dtype=np.float64), statistics.means(means), *statistics.bootstrap_intervals(means))


def best_epoch(curve: Curve) -> int | None:
    """Find the epoch at which the curve is highest, the later one of equals."""
    return int(max(zip(curve.y, curve.x, strict=True))[1]) if len(curve.x) else None


def final_scores(db: EvalDB, group: Group, env: str, runs: Sequence[dict[int, Score]], notes: list[str]) -> Final:
    epochs = tuple(max(run) for run in runs)
    rewards = [
        {row.seed: row.reward for row in db.episodes(run, epoch, env) if row.agent_group == "all"}
        for run, epoch in zip(group.runs, epochs, strict=True)
    ]
    seeds = sorted(set.intersection(*(set(found) for found in rewards)))
    if not seeds:
        raise ComparisonError(
            f"the runs of {group.name} share no episode of {env}: evaluate them with the same seed= in `metta sim`"
        )
    if any(len(found) != len(seeds) for found in rewards):
        notes.append(
            f"{env}: the runs of {group.name} have {len(seeds)} episodes in common; its final scores are of these."
        )
    matrix = np.array([[found[seed] for seed in seeds] for found in rewards])
    if len(runs) == 1:
        score = runs[0][epochs[0]]
        mean = Estimate(score.mean, score.low, score.high)
    else:
        of_runs = statistics.means(matrix)
        mean = Estimate(statistics.mean(of_runs), *statistics.bootstrap_interval(of_runs))
    return Final(epochs, np.array(seeds), matrix, mean, statistics.iqm_over_runs(matrix))


def probability(finals: Sequence[Final], a: int, b: int) -> Better | None:
    """Estimate P(A > B), paired by episode seed; None if they share none."""
    _, in_a, in_b = np.intersect1d(finals[a].seeds, finals[b].seeds, return_indices=True)
    if len(in_a) == 0:
        return None
    estimate = statistics.probability_of_improvement(finals[a].rewards[:, in_a], finals[b].rewards[:, in_b])
    return Better(a, b, estimate, len(in_a))


def profiles(finals: Sequence[Final]) -> list[Curve]:
    """Compute performance profiles from just below the lowest reward of all (there each is 1) to the highest (0)."""
    low = min(float(final.rewards.min()) for final in finals)
    high = max(float(final.rewards.max()) for final in finals)
    margin = 0.02 * (high - low) or 1.0
    thresholds = np.linspace(low - margin, high, PROFILE_POINTS)
    return [Curve(thresholds, *statistics.performance_profile(final.rewards, thresholds)) for final in finals]


def over_envs(scores: RunScores, groups: Sequence[Group], envs: Sequence[EnvComparison]) -> list[Estimate]:
    """Compute the interquartile mean of the final mean rewards over runs and environments, by stratified bootstrap.

    Rewards of different environments are made comparable by a scale for each, 0 at the lowest and 1 at the highest
    mean reward that any evaluation of these runs reached. A single run has no interval: its own value is both ends.
    An environment counts once: with sampled actions only where it has no other scores.
    """
    names = {comparison.env for comparison in envs}
    envs = [one for one in envs if one.env.removesuffix(SAMPLED) not in names - {one.env}]
    if len(envs) < 2:
        return []
    columns = []
    for comparison in envs:
        means = [s[comparison.env].mean for h in scores.values() for s in h.values() if comparison.env in s]
        low, span = min(means), (max(means) - min(means)) or 1.0
        columns.append([(statistics.means(final.rewards) - low) / span for final in comparison.finals])
    return [
        statistics.iqm_stratified(np.stack([column[index] for column in columns], axis=1))
        for index in range(len(groups))
    ]


def plural(items: Sequence[object], one: str, many: str) -> str:
    return one if len(items) == 1 else many
