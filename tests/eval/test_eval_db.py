import contextlib
import errno
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from metta.errors import MettaError, UserError, one_line
from metta.eval import databases, sqlite_file, statistics
from metta.eval.databases import EvalDBError
from metta.eval.eval_db import EpisodeRow, EvalDB
from metta.eval.statistics import Score
from tests.helpers import postgres

WRITER = """
import sys
from metta.eval.eval_db import EpisodeRow, EvalDB
path, run, evaluations, episodes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
db = EvalDB(path)
for epoch in range(evaluations):
    rows = [EpisodeRow(seed, seed + 0.5, 10, {"hearts": 1.0}) for seed in range(episodes)]
    db.record(run, epoch, "arena", rows, "crc")
    db.record("shared", 0, "arena", rows, "crc")
    print(epoch, flush=True)
"""

READER = """
import sys
from metta.eval.eval_db import EvalDB
path, episodes = sys.argv[1], int(sys.argv[2])
db, answers = EvalDB(path), 0
print("reading", flush=True)
finished = False
while not finished:
    finished = bool(db.get_scores("finished"))
    for run in db.runs():
        for epoch, scores in db.get_scores(run).items():
            assert scores["arena"].episodes == episodes, (run, epoch, scores)
        assert db.latest_score(run) and db.best_epoch(run) is not None
    answers += 1
print(answers)
"""


def rows(*rewards: float) -> list[EpisodeRow]:
    return [EpisodeRow(seed, reward, 10) for seed, reward in enumerate(rewards)]


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | PATH)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


PATH = {"PYTHONPATH": str(Path(__file__).parents[2])}


def assert_sound(where: str | Path) -> None:
    if isinstance(where, str):
        return  # the server's own affair
    with contextlib.closing(sqlite3.connect(where)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    """What EvalDB takes: every test with it runs with a file and with a server."""
    return tmp_path / "eval.db" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def db(where: str | Path, tmp_path: Path) -> EvalDB:
    return EvalDB(where, tmp_path)


@pytest.fixture
def file_db(tmp_path: Path) -> EvalDB:
    return EvalDB(tmp_path / "eval.db")


def open_as_others_do(where: str | Path) -> Any:
    """A connection of sqlite3 or psycopg."""
    return postgres.connect(where) if isinstance(where, str) else contextlib.closing(sqlite3.connect(where))


def test_nothing_evaluated_is_empty_and_asking_creates_nothing(db, where, tmp_path):
    """A score of 0.0 for what was never evaluated; an empty file left by a look at a folder."""
    assert db.get_scores("a") == {} and db.get_scores("a", 0) == {} and db.get_metrics("a") == {}
    assert db.latest_score("a") is None and db.best_epoch("a") is None
    assert db.runs() == [] and db.episodes("a", 0, "arena") == []
    assert db.rename_run("a", "b") == 0 and list(db.table()) == []
    assert list(tmp_path.iterdir()) == []
    if isinstance(where, str):
        with postgres.connect(where) as connection:
            assert connection.execute("SELECT to_regclass('episodes')").fetchone() == (None,)
    db.record("a", 3, "arena", rows(1, 2), "crc")
    assert db.get_scores("b") == {} and db.get_scores("a", 4) == {} and db.get_scores("a", 3, "navigation") == {}
    assert db.best_epoch("a", "navigation") is None
    assert [path.name for path in tmp_path.iterdir()] == ([] if isinstance(where, str) else ["eval.db"])


def test_scores_by_hand(db):
    """An interval or interquartile mean of the wrong column, and epoch 0 taken for no epoch."""
    db.record("a", 0, "arena", rows(0, 0, 0, 1), "crc")
    db.record("a", 0, "navigation", rows(7), "crc")
    expected = {"arena": Score(0.25, 0.0, 0.75, 0.0, 4), "navigation": Score(7, 7, 7, 7, 1)}
    assert db.get_scores("a", epoch=0) == expected
    assert db.get_scores("a", epoch=0, env="arena") == {"arena": expected["arena"]}
    assert db.get_scores("a") == {0: expected}
    assert db.get_scores("a", env="navigation") == {0: {"navigation": expected["navigation"]}}


def test_score_of_rewards_is_the_score_stored(db):
    """What a tool prints and what the database answers computed in two ways."""
    rewards = np.random.default_rng(0).normal(size=37).tolist()
    db.record("a", 1, "arena", rows(*rewards), "crc")
    assert Score.of(rewards) == db.get_scores("a", 1)["arena"]
    with pytest.raises(ValueError, match="no scores: nothing to compute"):
        Score.of([])


def test_history_agrees_with_each_epoch(db):
    """Evaluations of unequal size mixed up where they share a matrix product."""
    rng = np.random.default_rng(0)
    for epoch in (10, 9, 100, 0):
        for env, episodes in (("arena", 20), ("navigation", 20 + epoch)):
            db.record("a", epoch, env, rows(*rng.normal(size=episodes)), "crc")
    history = db.get_scores("a")
    assert list(history) == [0, 9, 10, 100]
    for epoch, scores in history.items():
        assert list(scores) == ["arena", "navigation"]
        for env, score in db.get_scores("a", epoch).items():
            assert vars(score) == pytest.approx(vars(scores[env]), rel=1e-9)
            rewards = [row.reward for row in db.episodes("a", epoch, env)]
            assert (score.mean, score.iqm) == (statistics.mean(rewards), statistics.interquartile_mean(rewards))
            assert (score.low, score.high) == pytest.approx(statistics.bootstrap_interval(rewards), rel=1e-9)


def test_evaluating_again_replaces(db):
    """Duplicated rows after a second evaluation, or a hundred episodes lost to a later look at ten."""
    db.record("a", 1, "arena", rows(1, 2, 3), "crc")
    db.record("a", 1, "arena", rows(5, 6), "crc")
    assert [row.reward for row in db.episodes("a", 1, "arena")] == [5, 6, 3]


def test_rows_of_another_agent_file_go(db):
    """Scores of a checkpoint that was overwritten, mixed with those of its successor of the same name."""
    for epoch, env in ((1, "arena"), (1, "navigation"), (2, "arena")):
        db.record("a", epoch, env, rows(1, 2, 3), "old")
    db.record("b", 1, "arena", rows(1, 2, 3), "old")
    db.record("a", 1, "arena", rows(9), "new")
    assert [row.reward for row in db.episodes("a", 1, "arena")] == [9]
    for run, epoch, env in (("a", 1, "navigation"), ("a", 2, "arena"), ("b", 1, "arena")):
        assert len(db.episodes(run, epoch, env)) == 3


def test_a_failed_record_changes_nothing(db):
    """Stale rows deleted before their successors turned out to be unusable."""
    db.record("a", 1, "arena", rows(1, 2), "old")
    with pytest.raises(EvalDBError, match=r"run=a epoch=1 arena: reward nan of seed 1 is not finite"):
        db.record("a", 1, "arena", rows(1, float("nan")), "new")
    with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError)):
        db.record("a", 1, "arena", [EpisodeRow(0, 1.0, 10, agent_group=None)], "new")  # type: ignore[arg-type]
    assert [row.reward for row in db.episodes("a", 1, "arena")] == [1, 2]


def test_latest_and_best(db):
    """Epoch 9 after epoch 10, the best epoch of another environment, the earlier of two equals, epoch 0 as none."""
    db.record("a", 0, "arena", rows(3, 5), "crc")
    assert db.best_epoch("a") == 0 and db.latest_score("a") == (0, db.get_scores("a", 0))
    for epoch, reward in ((9, 1.0), (10, 4.0), (20, 2.0)):
        db.record("a", epoch, "arena", rows(reward), "crc")
    db.record("a", 9, "navigation", rows(100), "crc")
    assert db.best_epoch("a") == 10  # the mean 4 twice: the later; arena has the most epochs
    assert db.best_epoch("a", "navigation") == 9
    latest = db.latest_score("a")
    assert latest is not None and latest[0] == 20 and latest[1]["arena"].mean == 2
    db.record("a", 21, "arena", [EpisodeRow(0, 50.0, 1, agent_group="blue")], "crc")
    assert db.best_epoch("a") == 10 and db.latest_score("a") == latest


def test_sampled_scores_stay_apart(db):
    """Evaluations of drawn and of likeliest actions in one mean, or one that replaces the other."""
    db.record("a", 1, "arena", rows(1, 2), "crc")
    db.record("a", 1, "arena", rows(5, 6), "crc", sampled=True)
    db.record("a", 2, "arena", rows(0), "crc", sampled=True)
    likeliest, sampled = Score.of([1, 2]), Score.of([5, 6])
    assert db.get_scores("a", 1) == {"arena": likeliest} and db.get_scores("a", 2) == {}
    assert db.get_scores("a", 1, sampled=True) == {"arena": sampled} == db.get_scores("a", 1, "arena", sampled=True)
    assert db.get_scores("a", sampled=None)[1] == {"arena": likeliest, "arena sampled": sampled}
    assert [row.reward for row in db.episodes("a", 1, "arena", sampled=True)] == [5, 6]
    assert db.get_metrics("a", 2, sampled=True) == {"arena": {}} and db.get_metrics("a", 2) == {}
    assert db.best_epoch("a", "arena") == 1 == db.best_epoch("a", sampled=False) == db.best_epoch("a", sampled=True)
    assert db.best_epoch("a", "arena", sampled=True) == 1
    latest = db.latest_score("a")
    assert latest is not None and (latest[0], list(latest[1])) == (2, ["arena sampled"])


def test_episodes_come_back_whole(db):
    """A reward rounded to single precision, metrics lost, numbers of numpy stored as raw bytes."""
    row = EpisodeRow(7, 1 / 3, 1000, {"hearts": 2.0, "ratio": 0.1})
    seed, reward, length = np.array([2]), np.array([0.1], np.float32), np.array([5], np.int32)
    numpy_row = EpisodeRow(seed[0], reward[0], length[0], {"hearts": np.float64(4), "ratio": float("nan")})
    db.record("a", np.int64(5), "arena", [row, numpy_row], "crc")
    first, second = db.episodes("a", np.int64(5), "arena")
    assert second == row
    assert first == EpisodeRow(2, float(np.float32(0.1)), 5, {"hearts": 4.0, "ratio": None})
    assert db.get_metrics("a", 5) == {"arena": {"hearts": 3.0, "ratio": 0.1}}
    assert db.get_metrics("a") == {5: {"arena": {"hearts": 3.0, "ratio": 0.1}}}


def test_agent_groups_stay_apart(db):
    """The mean over all agents mixed with those of its own parts."""
    groups = [EpisodeRow(0, reward, 10, agent_group=group) for group, reward in (("all", 2), ("red", 1), ("blue", 3))]
    db.record("a", 1, "arena", groups, "crc")
    assert db.get_scores("a", 1)["arena"].mean == 2
    assert db.get_scores("a", 1, agent_group="blue")["arena"].mean == 3
    assert [row.agent_group for row in db.episodes("a", 1, "arena")] == ["all", "blue", "red"]


def test_runs_and_odd_names(db):
    """A name that is taken for SQL or for a placeholder, and an order of names by the server's language."""
    for run in ("b", "a", "it's", "B", "b.2", "b-2", "b_2", "ä%s?"):
        db.record(run, 1, 'x"; DROP TABLE episodes', rows(1), "crc")
    assert db.runs() == sorted(["B", "a", "b", "b-2", "b.2", "b_2", "it's", "ä%s?"])
    assert list(db.get_scores("it's", 1)) == ['x"; DROP TABLE episodes']


def test_odd_folders(tmp_path):
    """A folder that is taken for a part of a URI."""
    odd = EvalDB(tmp_path / "100% sure? #1" / "eval.db")
    odd.record("a", 1, "arena", rows(1), "crc")
    assert odd.path is not None and odd.runs() == ["a"]
    assert [path.name for path in odd.path.parent.iterdir()] == ["eval.db"]


def test_plain_sql_reads_it(db, where):
    """A table that nobody but us can read."""
    db.record("a", 1, "arena", [EpisodeRow(0, 1.5, 10, {"hearts": 2.0})], "crc")
    with open_as_others_do(where) as connection:
        assert connection.execute("SELECT * FROM episodes").fetchall() == [
            ("a", 1, "arena", "all", 0, 1.5, 10, "crc", json.dumps({"hearts": 2.0}, separators=(",", ":")))
        ]


def test_readers_do_not_wait_and_writers_say_who_holds_it(db, where, monkeypatch):
    """A reader held up by a writer; 'database is locked' shown to a user."""
    db.record("a", 1, "arena", rows(*[1] * 20), "crc")
    monkeypatch.setattr(databases, "WAIT_S", 0.0)
    with open_as_others_do(where) as writer:
        if isinstance(where, Path):
            writer.execute("PRAGMA cache_size = 1")  # so that it writes to the file before it is done
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("UPDATE episodes SET reward = 99, metrics = hex(zeroblob(100000))")
        else:
            writer.execute("UPDATE episodes SET reward = 99")
        assert db.get_scores("a", 1)["arena"].mean == 1
        with pytest.raises(EvalDBError, match=r": another process has kept it locked for 0 s$"):
            db.record("a", 1, "arena", rows(2), "crc")
        writer.execute("COMMIT")
        assert db.get_scores("a", 1)["arena"].mean == 99


def run_writers_and_readers(path: str | Path, evaluations: int, episodes: int) -> None:
    readers = [start(READER, path, episodes) for _ in range(4)]
    assert [line_of(reader) for reader in readers] == ["reading\n"] * 4
    writers = [start(WRITER, path, f"run{i}", evaluations, episodes) for i in range(8)]
    for writer in writers:
        out, err = writer.communicate()
        assert (out.split(), err, writer.returncode) == ([str(i) for i in range(evaluations)], "", 0)
    db = EvalDB(path)
    db.record("finished", 0, "arena", rows(*[1.0] * episodes), "crc")
    for reader in readers:
        out, err = reader.communicate()
        assert err == "" and reader.returncode == 0 and int(out) > 0
    assert db.runs() == ["finished", *(f"run{i}" for i in range(8)), "shared"]
    for i in range(8):
        for epoch in range(evaluations):
            stored = db.episodes(f"run{i}", epoch, "arena")
            assert [(row.seed, row.reward) for row in stored] == [(seed, seed + 0.5) for seed in range(episodes)]
        assert len(db.get_scores(f"run{i}")) == evaluations
    assert len(db.episodes("shared", 0, "arena")) == episodes
    assert_sound(path)
    assert isinstance(path, str) or [file.name for file in path.parent.iterdir()] == ["eval.db"]


def test_many_writers_and_readers_at_once(where):
    """Rows lost, doubled or half visible, or 'database is locked': 8 writers (who also create it), 4 readers."""
    run_writers_and_readers(where, evaluations=10, episodes=10)


@pytest.mark.slow
@pytest.mark.parametrize("evaluations, episodes", [(10, 100), (1000, 1), (1, 1000)])
def test_many_writers_of_a_thousand_rows(where, evaluations, episodes):
    """As above with 1,000 rows for each writer, in ten evaluations, one by one, and all at once."""
    run_writers_and_readers(where, evaluations, episodes)


def run_kills(path: str | Path, kills: int, episodes: int) -> None:
    rng = random.Random(0)
    for kill in range(kills):
        writer = start(WRITER, path, f"run{kill}", 1_000_000, episodes)
        committed = -1
        for _ in range(rng.randrange(1, 6)):
            committed = int(line_of(writer))
        sum(range(rng.randrange(1, 200_000)))  # a few ms at most, into the next evaluation
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        history = EvalDB(path).get_scores(f"run{kill}")
        assert set(range(committed + 1)) <= set(history)
        assert {score["arena"].episodes for score in history.values()} == {episodes}
        assert len(EvalDB(path).episodes("shared", 0, "arena")) == episodes
        assert_sound(path)
    EvalDB(path).record("after", 0, "arena", rows(1), "crc")
    assert EvalDB(path).get_scores("after", 0)["arena"].mean == 1
    print(f"{kills} writers killed: database sound, every evaluation whole")


def test_killed_writers_leave_whole_evaluations(where):
    """Half an evaluation visible, a committed one lost, or a file damaged, after SIGKILL at any time."""
    run_kills(where, kills=4, episodes=200)


@pytest.mark.slow
def test_many_killed_writers_leave_whole_evaluations(where):
    """As above, with 60 kills in evaluations of 2,000 rows."""
    run_kills(where, kills=60, episodes=2000)


def filled(path: Path) -> bytes:
    db = EvalDB(path)
    for epoch in range(40):
        db.record("a", epoch, "arena", rows(*range(50)), "crc")
    return path.read_bytes()


def with_version(content: bytes, version: int) -> bytes:
    return content[:60] + version.to_bytes(4, "big") + content[64:]


DAMAGE = {
    "text": (lambda sound: b"run,epoch,score\n" * 50, "is not a score database"),
    "torn header": (lambda sound: sound[:50], "is not a score database"),
    "torn": (lambda sound: sound[: len(sound) // 2], "is damaged (database disk image is malformed)"),
    "zeros": (lambda sound: sound[:4096] + bytes(len(sound) - 4096), "is damaged (database disk image is malformed)"),
    "schema": (lambda sound: sound[:100] + b"\xff" * 3996 + sound[4096:], "is damaged"),
    "newer": (lambda sound: with_version(sound, 2), "has score format 2, this metta reads 1: use the metta"),
    "other": (lambda sound: sound[:68] + b"GPKG" + sound[72:], "is another program's database"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_unusable_file_gets_one_line_and_is_left_as_it_is(tmp_path, case):
    """A traceback, or a damaged or newer file overwritten, 'repaired' or littered around by a mere look at it."""
    path = tmp_path / "eval.db"
    damage, message = DAMAGE[case]
    path.write_bytes(damage(filled(path)))
    content = path.read_bytes()
    for call in (
        lambda: EvalDB(path).get_scores("a"),
        lambda: EvalDB(path).runs(),
        lambda: EvalDB(path).record("a", 1, "arena", rows(1), "crc"),
    ):
        with pytest.raises(EvalDBError) as caught:
            call()
        assert str(path) in str(caught.value) and message in str(caught.value) and "\n" not in str(caught.value)
        assert path.read_bytes() == content
        assert [file.name for file in tmp_path.iterdir()] == ["eval.db"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own, of 400 kB."""
    (disk := tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def fill(disk: Path) -> None:
    with open(disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


def test_scores_on_a_full_disk_can_be_read(small_disk):
    """Prevents `disk I/O error` in place of the list of runs, with which one would make room."""
    db, link = EvalDB(small_disk / "eval.db"), EvalDB(small_disk / "link.db")
    (small_disk / "link.db").symlink_to("eval.db")
    db.record("a", 1, "arena", rows(1), "crc")
    fill(small_disk)
    for _ in range(2):  # SQLite's first attempt leaves files behind
        assert db.runs() == link.runs() == ["a"]
    with pytest.raises(EvalDBError, match=r"eval\.db: the disk is full$"):
        db.record("a", 2, "arena", rows(1), "crc")
    (small_disk / "filler").unlink()
    db.record("a", 2, "arena", rows(1), "crc")
    assert sorted(link.get_scores("a")) == [1, 2]


def test_scores_of_a_killed_writer_are_not_passed_over_on_a_full_disk(small_disk):
    """Prevents the file alone from being read where SQLite's log beside it holds what was committed last."""
    db, link = EvalDB(small_disk / "eval.db"), EvalDB(small_disk / "link.db")
    (small_disk / "link.db").symlink_to("eval.db")
    db.record("a", 1, "arena", rows(1), "crc")
    with contextlib.closing(sqlite3.connect(small_disk / "eval.db", isolation_level=None)) as writer:
        writer.execute("UPDATE episodes SET run = 'b'")
        content, log = (small_disk / "eval.db").read_bytes(), (small_disk / "eval.db-wal").read_bytes()
    (small_disk / "eval.db").write_bytes(content)
    (small_disk / "eval.db-wal").write_bytes(log)
    fill(small_disk)
    for scores in (db, link):
        with pytest.raises(EvalDBError, match=r": the disk is full$"):
            scores.runs()
    (small_disk / "filler").unlink()
    assert link.runs() == ["b"]


@pytest.mark.parametrize("epoch", [2**63, 2**70])
def test_a_number_of_more_than_64_bits_gets_one_line(db, epoch):
    """Prevents OverflowError or psycopg's DataError for an epoch that no database can hold."""
    db.record("a", 1, "arena", rows(1), "crc")
    said = r": (bigint out of range|Python int too large to convert to SQLite INTEGER)"
    with pytest.raises(EvalDBError, match=said):
        db.record("a", epoch, "arena", rows(1), "crc")
    if db.path is not None:
        with pytest.raises(EvalDBError, match=said):
            db.get_scores("a", epoch)
    assert list(db.get_scores("a")) == [1]


HALF: Any = 0.5


@pytest.mark.parametrize(("call", "said"), [
    (lambda db: db.record("a\0", 1, "arena", rows(1), "crc"), r"^run='a\\x00' env='arena': no name .* has a NUL$"),
    (lambda db: db.record("a", 1, "are\0na", rows(1), "crc"), r"^run='a' env='are\\x00na': no name .* has a NUL$"),
    (lambda db: db.record("a", 1, "arena", rows(1, 1.7e308), "crc"), r"reward 1.7e\+308 of seed 1 is .*beyond 1e\+300"),
    (lambda db: db.record("a", 3.7, "arena", rows(1), "crc"), r"^epoch=3\.7: must be a whole number$"),
    (lambda db: db.record("a", 1, "arena", [EpisodeRow(HALF, 1.0, 1)], "crc"), r"^seed=0\.5: must be a whole number$"),
    (lambda db: db.record("a", 1, "arena", rows(1), "crc", "false"), r"^sampled='false': must be True or False$"),
])  # fmt: skip
def test_what_is_stored_is_what_was_given(db, call, said):
    """Epoch 3.7 stored as 3, "false" taken for true, a name in SQLite that no copy takes, sums that are infinite."""
    with pytest.raises(MettaError, match=said):
        call(db)
    assert list(db.table()) == []


def test_a_folder_in_its_place_gets_one_line(tmp_path):
    """A traceback where the path is no file, or its folder cannot be made."""
    with pytest.raises(EvalDBError, match="Is a directory"):
        EvalDB(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(EvalDBError, match="Not a directory"):
        EvalDB(tmp_path / "file" / "eval.db")
    with pytest.raises(EvalDBError, match=r"cannot create .*eval\.db"):
        EvalDB("/proc/none/eval.db").record("a", 1, "arena", rows(1), "crc")


def test_a_format_that_changed_while_we_were_there_is_seen(file_db):
    """Rows written in the old format to a file whose new version number is still in the WAL, not in the header."""
    db = file_db
    db.record("a", 1, "arena", rows(1), "crc")
    with contextlib.closing(sqlite3.connect(db.path, isolation_level=None)) as newer:
        newer.execute("PRAGMA user_version = 2")
        assert EvalDB(db.path).path == db.path  # the header says nothing of it
        for call in (lambda: db.get_scores("a"), lambda: db.record("a", 1, "arena", rows(1), "crc")):
            with pytest.raises(EvalDBError, match="has score format 2"):
                call()


def test_a_folder_that_may_not_be_written_can_be_read(file_db, monkeypatch):
    """Scores in somebody else's train_dir that cannot be read, since SQLite wants to write beside them."""
    db = file_db
    db.record("a", 1, "arena", rows(1), "crc")
    real, opened = sqlite3.connect, []

    def connect(name: str, **options: Any) -> sqlite3.Connection:
        opened.append(name)
        return real(name, **options)

    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(sqlite3, "connect", connect)
    assert db.get_scores("a", 1)["arena"].mean == 1
    assert opened[0].endswith("?mode=ro&immutable=1")
    with pytest.raises(EvalDBError, match="attempt to write a readonly database"):
        db.record("a", 2, "arena", rows(1), "crc")
    assert [file.name for file in db.path.parent.iterdir()] == ["eval.db"]


class Walk:
    pass


def test_scores_are_asked_for_as_evaluate_is(file_db):
    """sqlite3's ProgrammingError over the class that evaluate() takes; int()'s ValueError over epoch="latest"."""
    label = f"{Path(__file__).name}:Walk"
    file_db.record("a", 1, label, rows(1), "crc")
    assert file_db.get_scores("a", 1, Walk) == file_db.get_scores("a", 1, label) != {}
    assert file_db.best_epoch("a", Walk) == 1
    with pytest.raises(UserError, match="^epoch='latest': must be a whole number$"):
        file_db.get_scores("a", epoch="latest")


@pytest.mark.parametrize("error", ["EPERM", "ENOTSUP", "ENOSYS"])
def test_a_file_system_without_hard_links(file_db, monkeypatch, error):
    """exFAT and SMB have none: the scores of the first evaluation could not be stored, after all its episodes."""
    db = file_db
    number = getattr(errno, error)

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", fail)
    for epoch in (1, 2):
        db.record("a", epoch, "arena", rows(1), "crc")
    assert sorted(db.get_scores("a")) == [1, 2]
    assert [path.name for path in db.path.parent.iterdir() if ".new-" in path.name] == []


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "fuse.sshfs", "lustre"])
def test_a_network_file_system_is_refused(tmp_path, monkeypatch, kind):
    """SQLite's WAL on a network file system loses rows without a word; one line names what to give instead."""
    shared = tmp_path / "home of all"
    shared.mkdir()
    EvalDB(shared / "old.db").record("a", 1, "arena", rows(1), "crc")
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/sda1 / ext4 rw 0 0\nserver:/home {str(shared).replace(' ', chr(92) + '040')} {kind} rw 0 0\n"
    )
    monkeypatch.setattr(sqlite_file, "MOUNTS", mounts)
    new = EvalDB(shared / "eval.db")
    assert new.get_scores("a") == {}  # there is nothing yet, and nothing to lose
    said = rf"lies on a network file system \({kind}\).*: give eval_db=postgresql://user@host/database, or"
    for call in (
        new.check_writable,
        lambda: new.record("a", 1, "arena", rows(1), "crc"),
        lambda: EvalDB(shared / "old.db"),
    ):
        with pytest.raises(EvalDBError, match=said):
            call()
    assert not (shared / "eval.db").exists()
    (shared / "local").mkdir()
    mounts.write_text(
        mounts.read_text() + f"/dev/sdb1 {str(shared / 'local').replace(' ', chr(92) + '040')} xfs rw 0 0\n"
    )
    EvalDB(shared / "local" / "eval.db").record("a", 1, "arena", rows(1), "crc")


def test_both_answer_alike(tmp_path, postgres_url):
    """A score, an order or a best epoch that depends on where the rows lie; a copy that is not what was copied."""
    file, server = EvalDB(tmp_path / "eval.db"), EvalDB(postgres_url, tmp_path)
    rng = np.random.default_rng(0)
    for run in ("b", "a", "B-1"):
        for epoch in (3, 20, 100):
            for env in ("arena", "Zoo", "arena[x=1]"):
                some = [
                    EpisodeRow(int(seed), reward, 9, {"m": reward / 3})
                    for seed, reward in enumerate(rng.normal(size=30))
                ]
                for db in (file, server):
                    db.record(run, epoch, env, some, "crc")
    again = EvalDB(tmp_path / "again.db", tmp_path)
    again.record("a", 3, "arena", [EpisodeRow(99, 1.0, 1)], "another agent's")
    assert server.copy_to(again) == file.copy_to(server) == 3 * 3 * 3 * 30
    assert list(file.table()) == list(server.table()) == list(again.table())
    for run in file.runs():
        assert file.get_scores(run) == server.get_scores(run) and file.get_metrics(run) == server.get_metrics(run)
        assert file.best_epoch(run) == server.best_epoch(run) and file.latest_score(run) == server.latest_score(run)
    assert file.rename_run("a", "c") == server.rename_run("a", "c") == 270
    assert file.runs() == server.runs() == ["B-1", "b", "c"]
    assert again.copy_to(server, ["a"]) == 270 and server.runs() == ["B-1", "a", "b", "c"]


def test_a_copy_mixes_no_two_versions_of_an_environment(db, tmp_path):
    """Copied again after the environment's code had changed, the copy kept seeds of the old code beside the new."""
    source = EvalDB(tmp_path / "source.db", tmp_path)
    for run, epoch, env in (("a", 1, "arena"), ("a", 1, "navigation"), ("a", 2, "arena"), ("b", 1, "arena")):
        db.record(run, epoch, env, rows(1, 2, 3), "crc")
    source.record("a", 1, "arena", rows(1, 2, 3), "crc")
    source.record("a", 1, "arena", rows(7, 8), "crc", anew=True)
    assert source.copy_to(db) == 2
    assert [row.reward for row in db.episodes("a", 1, "arena")] == [7, 8]
    for run, epoch, env in (("a", 1, "navigation"), ("a", 2, "arena"), ("b", 1, "arena")):
        assert len(db.episodes(run, epoch, env)) == 3


def test_a_server_that_comes_back(postgres_url):
    """One restart of the server broke every later call over the connection that was kept."""
    db = EvalDB(postgres_url)
    db.record("a", 1, "arena", rows(1), "crc")
    with postgres.connect(postgres_url) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    assert db.runs() == ["a"]
    db.record("a", 2, "arena", rows(1), "crc")
    assert sorted(db.get_scores("a")) == [1, 2]


SERVERS = {
    "unreachable": (lambda url: re.sub(r"@.*?/postgres", "@127.0.0.1:1/postgres", url), "Connection refused"),
    "no such host": (lambda url: re.sub(r"@.*?/postgres", "@host.invalid/postgres", url), "host.invalid"),
    "password": (lambda url: url.replace(postgres.QUOTED, "wr%2Fong"), "password authentication failed for user"),
    "no such database": (lambda url: url.replace("/postgres?", "/nothing?"), 'database "nothing" does not exist'),
    "port": (lambda url: re.sub(r":[0-9]+/postgres", ":port/postgres", url), "invalid integer value"),
    "token": (lambda url: url.replace(postgres.QUOTED, "wr%ong"), "invalid percent-encoded token"),
    "in the query": (lambda url: url.replace(postgres.QUOTED, "a") + "&password=wr%ong", "percent-encoded token"),
    "key": (lambda url: url + "&colour=red", 'invalid URI query parameter: "colour"'),
}  # fmt: skip


@pytest.mark.parametrize("case", SERVERS)
def test_a_server_that_cannot_be_used_gets_one_line(postgres_url, case):
    """A traceback, or a password in an error that goes to a log."""
    change, message = SERVERS[case]
    with pytest.raises(EvalDBError) as caught:
        EvalDB(change(postgres_url))
    said = str(caught.value)
    assert message in said and said.startswith("postgresql+psycopg://metta:***@") and "\n" not in said
    assert not re.search(r"wr.{1,3}ong|pass:w", said)


def test_a_table_that_is_not_ours_gets_one_line(postgres_url):
    """A table of another version, or another program's, read as scores or written into."""
    db = EvalDB(postgres_url)
    db.record("a", 1, "arena", rows(1), "crc")
    for comment, message in (
        ("'metta scores 2'", "has score format 2, this metta reads 1: use the metta that wrote it"),
        ("NULL", "its table episodes is another program's: name another database"),
    ):
        with postgres.connect(postgres_url) as other:
            other.execute(f"COMMENT ON TABLE episodes IS {comment}")
        for call in (lambda: EvalDB(postgres_url), db.runs, lambda: db.record("a", 2, "arena", rows(1), "crc")):
            with pytest.raises(EvalDBError, match=message):
                call()


@pytest.mark.parametrize("url", ["mysql://me:secret@host/db", "sqlite:///eval.db", "s3://bucket/eval.db"])
def test_another_kind_of_url_gets_one_line(url):
    """A folder named `mysql:` made in the working directory."""
    with pytest.raises(EvalDBError, match="scores are in a file, or in postgresql://user@host/database") as caught:
        EvalDB(url)
    assert "secret" not in one_line(caught.value)


def test_without_psycopg_a_url_names_the_extra(monkeypatch):
    """A traceback of an import, where one line says what to install."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError, match=r"needs psycopg \(pip install 'metta\[postgres\]'\)"):
        EvalDB("postgresql://me@host/db")


def test_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    """Prevents a UnicodeEncodeError where training had worked: a folder's name is bytes, of any kind."""
    folder = tmp_path / os.fsdecode(b"bad\xff")
    folder.mkdir()
    db = EvalDB(folder / "eval.db")
    db.record("a", 1, "arena", rows(1, 2), "crc")
    assert EvalDB(folder / "eval.db").get_scores("a", 1)["arena"].mean == 1.5


def test_a_creation_that_was_killed_is_begun_again(tmp_path: Path) -> None:
    """Prevents a file of no bytes, which a killed first writer leaves, from being refused; and its drafts."""
    db = EvalDB(tmp_path / "eval.db")
    (tmp_path / "eval.db").touch()
    assert db.runs() == []
    db.record("a", 1, "arena", rows(1), "crc")
    assert db.get_scores("a", 1)["arena"].mean == 1
    assert [path.name for path in tmp_path.iterdir()] == ["eval.db"]
    with contextlib.closing(sqlite3.connect(tmp_path / "eval.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
