"""`metta analyze` as a process: what it prints and writes, against eval.db and the event files that it read."""

import csv
import json
import re
import shutil
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metta.errors import UserError
from metta.eval import statistics
from metta.eval.eval_db import EvalDB
from metta.eval.event_files import Points, over_runs, read_curves, thinned
from metta.rl.display.curves import CurveWriter
from metta.rl.saving.run_lock import RunLock
from metta.run_folder import RunFolder
from metta.tools.analyze import main as analyze_main
from tests.helpers.report_data import STEPS, checkpoint, evaluate, log, make_run
from tests.tools.test_tools_errors import files, metta


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs a and b; three seeds of ppo; runs without scores, elsewhere, and without an episode in common."""
    folder = tmp_path_factory.mktemp("analyze") / "train_dir"
    make_run(folder, "a", skill=1.0)
    make_run(folder, "b", skill=1.5)
    for seed in range(3):
        make_run(folder, f"ppo-s{seed}", skill=1 + seed / 4, seed=seed)
    for run in ("fresh", "new0", "new1"):
        checkpoint(folder, run, 0)
    evaluate(folder, "alone", 1, "CartPole-v1")
    for index in range(2):
        evaluate(folder, f"odd{index}", 1, seeds=range(10 * index, 10 * index + 5))
    return folder


@pytest.fixture
def train_dir(runs: Path, tmp_path: Path) -> Path:
    """A copy for one test, in tmp_path/train_dir."""
    return shutil.copytree(runs, tmp_path / "train_dir")


def analyze(train_dir: Path, *argv: str) -> str:
    """Run it beside train_dir; returns what it printed. It must not have imported torch."""
    result = metta(train_dir.parent, "analyze", *argv)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    *lines, torch = result.stdout.splitlines()
    assert torch == "False"
    return "\n".join(lines)


def refusal(train_dir: Path, *argv: str) -> str:
    """The one line that is said, without "metta analyze: "; no file is left or changed, and torch is not imported."""
    before = files_alone(train_dir.parent)
    result = metta(train_dir.parent, "analyze", *argv)
    assert (result.returncode, result.stdout) == (2, "False\n"), result.stdout + result.stderr
    assert files_alone(train_dir.parent) == before
    assert result.stderr.endswith("\n") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr.strip().removeprefix("metta analyze: ")


def files_alone(folder: Path) -> dict[str, tuple[int, str]]:
    """Without the folders: reading a database in WAL mode makes and removes a file beside it."""
    return {path: state for path, state in files(folder).items() if state[1]}


def page_data(file: Path) -> dict[str, Any]:
    """The data that the page draws."""
    text = file.read_text(encoding="utf-8")
    return json.loads(text.partition('id="data">')[2].partition("</script>")[0])


def plot(data: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [plot for section in data["sections"] for plot in section["plots"] if plot["id"] == name]
    return found


def test_numbers_are_those_of_eval_db(train_dir: Path) -> None:
    """A report that computes its own means says other numbers than sim did."""
    printed = analyze(train_dir, "runs=a,b")
    data = page_data(train_dir / "report.html")
    db = EvalDB(train_dir / "eval.db")
    for index, run in enumerate("ab"):
        history = db.get_scores(run)
        curve = plot(data, "score_arena")["curves"][index]
        assert data["xs"][curve["x"]] == [0, 2, 4]
        points = [history[epoch]["arena"] for epoch in (0, 2, 4)]
        assert curve["y"] == [point.mean for point in points]
        assert (curve["low"], curve["high"]) == ([p.low for p in points], [p.high for p in points])
        final = history[4]["arena"]
        row = plot(data, "final_arena")["rows"][index]
        assert row["value"] == final.iqm and row["low"] < final.iqm < row["high"]
        assert f"{final.mean:.2f} [{final.low:.2f}, {final.high:.2f}]  {final.iqm:.2f} [" in printed
        listed = data["runs"][index]
        assert listed["best"] == {"arena": db.best_epoch(run, "arena")}
        assert [one["scores"]["arena"] for one in listed["epochs"]] == [
            [p.mean, p.low, p.high, p.iqm, p.episodes] for p in points
        ]


def test_probability_is_paired_by_seed(tmp_path: Path) -> None:
    """Paired by position, two evaluations of different seeds compare different episodes."""
    train_dir = tmp_path / "train_dir"
    for run, seeds in (("a", range(10)), ("b", range(4, 14)), ("c", range(100, 110))):
        checkpoint(train_dir, run, 1)
        evaluate(train_dir, run, 1, seeds=seeds)
    db = EvalDB(train_dir / "eval.db")
    a, b = ({row.seed: row.reward for row in db.episodes(run, 1, "arena")} for run in "ab")
    printed = analyze(train_dir, "runs=a,b,c")
    (row,) = plot(page_data(train_dir / "report.html"), "better_arena")["rows"]
    assert row["value"] == np.mean([a[seed] > b[seed] for seed in range(4, 10)])
    assert "note: arena: a and c share no episode; evaluate them with the same seed= to see which is better." in printed


def test_seeds_of_one_setting_are_one_curve(train_dir: Path) -> None:
    """With the interval over runs: over their pooled episodes it would be far too narrow."""
    printed = analyze(train_dir, "runs=ppo-s*,a")
    data = page_data(train_dir / "report.html")
    db = EvalDB(train_dir / "eval.db")
    means = [[db.get_scores(f"ppo-s{seed}", epoch)["arena"].mean for seed in range(3)] for epoch in (0, 2, 4)]
    curve = plot(data, "score_arena")["curves"][0]
    assert curve["y"] == pytest.approx(np.mean(means, axis=1))
    assert curve["low"] == statistics.bootstrap_intervals(means)[0].tolist()
    rewards = [[row.reward for row in db.episodes(f"ppo-s{seed}", 4, "arena")] for seed in range(3)]
    final = plot(data, "final_arena")["rows"][0]
    assert (final["value"], final["low"], final["high"]) == statistics.iqm_over_runs(rewards)
    training = plot(data, "training_charts-episodic_return")["curves"][0]
    assert training["y"] == pytest.approx([np.mean([1, 1.25, 1.5]) * epoch + 1 / 8 for epoch in range(1, 5)])
    assert training["low"][0] == 1 and training["high"][0] == 1.75
    assert "3 seeds" in printed
    assert "note: a: fewer than 3 seeds, so the interval means little" in printed and "ppo-s*:" not in printed


def test_two_seeds_are_said_to_be_too_few(train_dir: Path) -> None:
    printed = analyze(train_dir, "runs=ppo-s[01]")
    assert "2 seeds (too few)" in printed
    assert "note: ppo-s[01]: fewer than 3 seeds, so the interval means little" in printed
    assert any("fewer than 3 seeds" in note for note in page_data(train_dir / "report.html")["notes"])


def test_runs_that_are_not_seeds_of_one_setting_are_told_apart(train_dir: Path) -> None:
    """A pattern that catches another setting makes its variance look like the seeds'."""
    checkpoint(train_dir, "ppo-s1", 4, {"seed": 0, "env": "arena", "learning_rate": 0.01})
    printed = analyze(train_dir, "runs=ppo-s*")
    assert "note: ppo-s* is not one setting: its runs differ in learning_rate (0.001, 0.01)." in printed
    assert "note: ppo-s*: some of its runs have the same seed, so they are not that many samples." in printed


def test_the_settings_that_differ_come_first(train_dir: Path) -> None:
    """Two groups side by side without a word of what was done differently: the first question about any comparison."""
    for seed in range(3):
        config = {
            "seed": seed,
            "env": "arena",
            "env_settings": {"num_agents": 4},
            "learning_rate": 0.01,
            "vf_clip": None,
        }
        checkpoint(train_dir, f"ppo-s{seed}", 4, config)
    printed = analyze(train_dir, "runs=a,ppo-s*")
    assert [line.split() for line in printed.splitlines()[:3]] == [
        ["settings", "that", "differ", "a", "ppo-s*"],
        ["seed", "0", "0,", "1,", "2"],
        ["learning_rate", "0.001", "0.01"],
    ]
    settings = page_data(train_dir / "report.html")["settings"]
    assert settings["differing"] == {
        "seed": ["0", "0, 1, 2"],
        "learning_rate": ["0.001", "0.01"],
        "vf_clip": ["-", "no clipping"],
        "env.num_agents": ["-", "4"],
    }
    assert settings["runs"]["ppo-s2"]["env.num_agents"] == "4" and list(settings["runs"]) == [
        "a",
        "ppo-s0",
        "ppo-s1",
        "ppo-s2",
    ]
    checkpoint(train_dir, "a", 4, {**config, "seed": 7})
    assert "learning_rate" not in analyze(train_dir, "runs=a,ppo-s2")


def test_scores_over_agent_steps(train_dir: Path) -> None:
    """Scores over epochs beside training curves over steps: nothing says where one is in the other."""
    analyze(train_dir, "runs=a,ppo-s*", "format=csv")
    rows = list(csv.DictReader((train_dir / "report_csv/scores.csv").read_text().splitlines()))
    assert {(row["epoch"], row["agent steps"]) for row in rows} == {
        ("0", "0"),
        ("2", str(2 * STEPS)),
        ("4", str(4 * STEPS)),
    }
    analyze(train_dir, "runs=a,ppo-s*")
    assert plot(page_data(train_dir / "report.html"), "score_arena")["pace"] == [[0, STEPS], [0, STEPS]]


def test_a_length_that_repeats_the_return_is_not_drawn(train_dir: Path) -> None:
    """CartPole pays 1 a step: the same picture twice."""
    for run, length in (("a", 3.0), ("b", 4.0)):
        log(train_dir / run, {9000: {"charts/episodic_return": 3.0, "charts/episodic_length": length}})
    for curves in (train_dir / "a").glob("events.*"):
        curves.unlink()
    log(train_dir / "a", {9000: {"charts/episodic_return": 3.0, "charts/episodic_length": 3.0}})
    for runs, drawn in (("a", False), ("a,b", True)):
        analyze(train_dir, f"runs={runs}")
        plots = [
            plot["id"] for section in page_data(train_dir / "report.html")["sections"] for plot in section["plots"]
        ]
        assert ("training_charts-episodic_length" in plots) == drawn


def test_several_environments(train_dir: Path) -> None:
    """Each has its section, and what only some runs were evaluated in is named, not dropped without a word."""
    for run in "ab":
        evaluate(train_dir, run, 4, "navigation", skill=3)
    evaluate(train_dir, "a", 4, "extra")
    printed = analyze(train_dir, "runs=a,b")
    data = page_data(train_dir / "report.html")
    assert [section["title"] for section in data["sections"]] == ["arena", "navigation", "All environments", "Training"]
    assert "note: extra is left out: b was not evaluated in it." in printed
    assert data["runs"][0]["envs"] == ["arena", "extra", "navigation"]


def test_evaluations_that_do_not_match_are_named(train_dir: Path) -> None:
    """A curve over epochs that only some seeds have would jump where one joins."""
    evaluate(train_dir, "ppo-s0", 6)
    printed = analyze(train_dir, "runs=ppo-s*")
    assert "note: arena: not every run of ppo-s* was evaluated at epoch 6; its curve leaves it out." in printed
    assert "note: arena: the last evaluations are not of the same epoch, but of 4, 6." in printed


def test_csv_holds_the_numbers(train_dir: Path) -> None:
    printed = analyze(train_dir, "runs=a,ppo-s*", "format=csv")
    folder = train_dir / "report_csv"
    assert printed.endswith(f"to {folder.relative_to(train_dir.parent)}")
    tables = {path.stem: list(csv.DictReader(path.read_text().splitlines())) for path in folder.iterdir()}
    assert set(tables) == {"scores", "score_arena", "final_arena", "better_arena", "profile_arena"} | {
        f"training_{name}" for name in ("charts-episodic_return", "charts-learning_rate", "losses-entropy")
    }
    score = EvalDB(train_dir / "eval.db").get_scores("ppo-s2", 2)["arena"]
    (row,) = [row for row in tables["scores"] if (row["run"], row["epoch"]) == ("ppo-s2", "2")]
    assert {"runs": "ppo-s*", "env": "arena", "episodes": "20"}.items() <= row.items()
    assert [float(row[name]) for name in ("mean", "low", "high", "iqm")] == [
        score.mean,
        score.low,
        score.high,
        score.iqm,
    ]
    steps = [row["agent steps"] for row in tables["training_charts-episodic_return"] if row["runs"] == "a"]
    assert steps == [str(STEPS * epoch) for epoch in range(1, 5)]


def test_pictures(train_dir: Path) -> None:
    """Every plot as a picture in which something is drawn in each group's colour, and the same bytes each time."""
    for index in range(6):
        make_run(train_dir, f"more{index}", skill=index / 2)
    runs = "runs=a,b," + ",".join(f"more{index}" for index in range(6))  # of which many pairs make a matrix
    for out in ("pictures", "again"):
        analyze(train_dir, runs, "format=png", f"out={out}")
    folder = train_dir.parent / "pictures"
    assert {path.stem for path in folder.iterdir()} >= {"score_arena", "final_arena", "better_arena", "profile_arena"}
    for path in folder.iterdir():
        with Image.open(path) as picture:
            assert picture.width == 1520 and len(picture.getcolors(1 << 20) or []) > 20, path
        assert path.read_bytes() == (train_dir.parent / "again" / path.name).read_bytes()
    with Image.open(folder / "score_arena.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or []}
    assert {(0x2A, 0x6F, 0xDB), (0xE8, 0x70, 0x1A)} <= colours


@pytest.mark.parametrize("form", ["csv", "png"])
def test_no_two_plots_are_one_file(train_dir: Path, form: str) -> None:
    """Names that differ only in what no file name holds, or in case, or as another file's: one was overwritten."""
    for env in ("s.py:S/a/b", "s.py:S/a-b", "Arena", "all", "arena_steps", "seä", "seö"):
        evaluate(train_dir, "a", 4, env)
    log(train_dir / "a", {n * STEPS: {"mine/x y": 1.0, "mine/x-y": 2.0} for n in range(1, 4)})
    number = int(re.findall(r"wrote (?:scores.csv and )?(\d+)", analyze(train_dir, "runs=a", f"format={form}"))[0])
    names = {path.name.lower() for path in (train_dir / f"report_{form}").iterdir()} - {"scores.csv"}
    assert len(names) == number
    assert {f"score_s.py-s-a-b-2.{form}", f"training_mine-x-y-2.{form}", f"final_all-2.{form}"} <= names


def test_pictures_without_matplotlib(train_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback, or minutes of reading before it is said."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = "format=png needs matplotlib (pip install 'metta[png]'); format=html and format=csv do not"
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        analyze_main(["runs=a", "format=png", f"train_dir={train_dir}"])
    assert not (train_dir / "report_png").exists()


def test_an_outlier_does_not_squeeze_the_rest(train_dir: Path) -> None:
    """A critic's first explained variance is -5, and all that follows a flat line; or it is left out without a word."""
    log(train_dir / "a", {10_000 * n: {"losses/outlier": -5.0 if n == 1 else n / 100} for n in range(1, 61)})
    analyze(train_dir, "runs=a")
    found = plot(page_data(train_dir / "report.html"), "training_losses-outlier")
    low, high = found["focus"]
    assert 0.02 <= low < 0.05 and 0.55 < high <= 0.6 and min(found["curves"][0]["y"]) == -5
    assert found["caption"] == "A few values lie beyond 0.0218 to 0.588."
    assert plot(page_data(train_dir / "report.html"), "training_charts-episodic_return")["focus"] is None


def test_one_run(train_dir: Path) -> None:
    """Nothing to compare with is no reason for an error, nor for an empty plot."""
    assert "P(A > B)" not in analyze(train_dir, "runs=a")
    ids = [plot["id"] for section in page_data(train_dir / "report.html")["sections"] for plot in section["plots"]]
    assert "score_arena" in ids and "better_arena" not in ids


HAVE = "have a, alone, b, fresh, new0, new1, odd0, odd1, ppo-s0, ppo-s1, ppo-s2"
MISTAKES = {
    "": "missing runs=: names and patterns: a,b or ppo-s*",
    "runs=c": f"no run c in ./train_dir: {HAVE}",
    "runs=a,x*": f"no run matches x* in ./train_dir: {HAVE}",
    "runs=a train_dir=nowhere": "no run a in nowhere: there is none yet",
    "runs=a,a": "runs=a,a: a is in it twice, by a and by a",
    "runs=a,*": "runs=a,*: a is in it twice, by a and by *",
    "runs=../x": "run='../x' is not a run name: use letters, digits, '.', '_' and '-', at most 200",
    "runs=a,": "run='' is not a run name: use letters, digits, '.', '_' and '-', at most 200",
    "runs=a,fresh": "run fresh has no scores in train_dir/eval.db: `metta sim run=fresh epoch=all` evaluates every"
    " checkpoint",
    "runs=a,fresh,new*": "runs fresh, new0, new1 have no scores in train_dir/eval.db: `metta sim run=fresh,new0,new1"
    " epoch=all` evaluates every checkpoint",
    "runs=a,alone": "these runs have no environment in common (a: arena; alone: CartPole-v1): evaluate them in the same"
    " one with `metta sim run=RUN epoch=all env=ENV`, or compare runs of one environment",
    "runs=odd*": "the runs of odd* share no episode of arena: evaluate them with the same seed= in `metta sim`",
    "runs=a format=pdf": "format=pdf: not one of html, png, csv",
    "runs=a out=train_dir": "out=train_dir: is a folder; format=html writes one file",
    "runs=a out=no/report.html": "out=no/report.html: no folder no",
    "runs=a format=csv out=no/tables": "out=no/tables: no folder no",
    "runs=a out=train_dir/eval.db": "out=train_dir/eval.db: a file of format=html is named *.html",
    "runs=a eval_db=no.db": "eval_db=no.db: no such file",
    "runs=a format=csv out=train_dir/eval.db": "out=train_dir/eval.db: is a file; format=csv writes a folder",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes(train_dir: Path, line: str) -> None:
    assert refusal(train_dir, *line.split()) == MISTAKES[line]


def test_a_damaged_database_is_one_line(train_dir: Path) -> None:
    (train_dir / "eval.db").write_text("not a database")
    assert "is not a score database" in refusal(train_dir, "runs=a")


def test_a_live_run_is_not_disturbed(train_dir: Path) -> None:
    """Its lock is held, its event file ends in half a record, its scores are just being written."""
    events = next((train_dir / "a").glob("events.*"))
    whole = events.read_bytes()
    events.write_bytes(whole + whole[:30])
    writer = sqlite3.connect(train_dir / "eval.db", isolation_level=None)
    with RunLock(train_dir / "a/trainer.lock"):
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM episodes WHERE run = 'a' AND epoch = 4")
        before = files(train_dir / "a")
        analyze(train_dir, "runs=a,b")
        assert files(train_dir / "a") == before
        writer.execute("COMMIT")
        analyze(train_dir, "runs=a,b", "out=after.html")
    writer.close()
    seen, after = (page_data(file)["runs"][0] for file in (train_dir / "report.html", train_dir.parent / "after.html"))
    assert [bool(one["scores"]) for one in seen["epochs"]] == [True, True, True]
    assert [bool(one["scores"]) for one in after["epochs"]] == [True, True, False]


def test_a_folder_that_may_not_be_written(train_dir: Path) -> None:
    """Somebody else's runs can be analysed from elsewhere; what was evaluated and then removed is said to be gone."""
    shutil.rmtree(train_dir / "a")
    analyze(train_dir, "runs=a", "out=report.html")
    (run,) = page_data(train_dir.parent / "report.html")["runs"]
    assert [one["file"] for one in run["epochs"]] == [None, None, None] and run["folder"] == "train_dir/a/"


# Training curves.


def curves(run_dir: Path) -> dict[str, Points]:
    return read_curves(RunFolder(run_dir.parent, run_dir.name))


def values(run_dir: Path, name: str = "r") -> dict[int, float]:
    steps, found = curves(run_dir)[name]
    return dict(zip(steps.astype(int).tolist(), found.tolist(), strict=True))


def test_a_resumed_run_has_no_overlap(tmp_path: Path) -> None:
    """What a killed process logged after its last checkpoint was drawn over what its successor logged."""
    log(tmp_path, {step: {"r": 1.0} for step in (10, 20, 30, 40)})
    log(tmp_path, {step: {"r": 2.0} for step in (30, 40, 50)}, purge_step=21)
    assert values(tmp_path) == {10: 1, 20: 1, 30: 2, 40: 2, 50: 2}


def test_a_resumed_run_that_has_not_logged_yet_ends_at_its_checkpoint(tmp_path: Path) -> None:
    log(tmp_path, {step: {"r": 1.0} for step in (10, 20, 30)})
    log(tmp_path, {}, purge_step=21)
    assert values(tmp_path) == {10: 1, 20: 1}


def test_a_run_begun_again_at_0_says_nothing_of_it(tmp_path: Path) -> None:
    """TensorBoard's purge_step cannot be 0, so such a run's second file only begins at a lower step."""
    log(tmp_path, {step: {"r": 1.0, "rare": 1.0} for step in (10, 20, 30)})
    log(tmp_path, {10: {"r": 2.0}, 20: {"r": 2.0}})
    assert values(tmp_path) == {10: 2, 20: 2}


def test_a_clock_set_back_does_not_change_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents what a killed process logged from being drawn over what its successor logged, its clock being late."""
    run = RunFolder(tmp_path.parent, tmp_path.name)
    for hour, (resumed_at, step, value) in zip((3, 1, 2), ((0, 30, 1.0), (20, 30, 2.0), (20, 40, 3.0)), strict=True):
        monkeypatch.setattr(time, "time", lambda hour=hour: 3600.0 * hour)
        writer = CurveWriter(run, resumed_at)
        writer.add({"r": value}, step)
    assert values(tmp_path) == {40: 3.0}


def test_every_cut_of_an_event_file_is_read_up_to_there(tmp_path: Path) -> None:
    """A file that is being written ends anywhere."""
    file = log(tmp_path, {step: {"r": float(step)} for step in (1, 2, 3)})
    whole = file.read_bytes()
    counts = []
    for size in range(len(whole) + 1):
        file.write_bytes(whole[:size])
        counts.append(len(curves(tmp_path).get("r", ([], []))[0]))
    assert counts == sorted(counts) and set(counts) == {0, 1, 2, 3}


def test_damage_in_an_event_file_ends_it(tmp_path: Path) -> None:
    file = log(tmp_path, {step: {"r": float(step)} for step in (1, 2, 3)})
    whole = file.read_bytes()
    file.write_bytes(whole[:-30] + b"\xff" * 30)
    assert list(values(tmp_path)) == [1, 2]
    file.write_bytes(b"\xff" * 100)
    assert curves(tmp_path) == {}


def test_thinning_keeps_the_mean_and_the_ends() -> None:
    steps, found = thinned((np.arange(1000.0), np.arange(1000.0) ** 2), 100)
    assert len(steps) == len(found) == 100
    assert steps.tolist() == [10 * i + 4.5 for i in range(100)]
    assert found.mean() == pytest.approx((np.arange(1000.0) ** 2).mean())


def test_curves_over_runs_end_where_the_shortest_does() -> None:
    """Beyond it the mean would be of fewer runs, and jump."""
    curve = over_runs([(np.array([1.0, 2, 3]), np.array([1.0, 2, 3])), (np.array([1.0, 2]), np.array([3.0, 4]))], 500)
    assert curve.x.tolist() == [1, 2] and curve.y.tolist() == [2, 3]


def test_curves_at_different_steps_meet_on_one_grid() -> None:
    """Episodes end when they end: one run logs returns at other steps than another."""
    odd, even = np.array([1.0, 3, 5]), np.array([2.0, 4, 6])
    curve = over_runs([(odd, 10 * odd), (even, 10 * even)], 500)
    assert curve.x.tolist() == [2, 3, 4, 5] and curve.y.tolist() == [20, 30, 40, 50]
