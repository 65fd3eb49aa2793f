"""A run's copy in object storage: what arrives, what comes back, and who may write, whatever the store does."""

import io
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from metta import object_store
from metta.errors import CheckpointError, MettaError, RunLockedError, UserError
from metta.eval.event_files import read_curves
from metta.object_store import ObjectStore
from metta.rl.saving import mirror as mirror_module
from metta.rl.saving.checkpoint_saver import CheckpointSaver
from metta.rl.saving.mirror import Mirror, NotUploadedError
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import TrainConfig
from metta.rl.trainer import train
from metta.run_folder import RunFolder
from metta.tools.main import main
from tests.helpers.exact import differences
from tests.helpers.s3_server import BUCKET, S3Server
from tests.helpers.small_checkpoints import Agent, Large, assert_latest, flip, save, state_of
from tests.promises.test_layers import ROOT, code_lines


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The server with an empty bucket, and this process set up to find it."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import boto3

    client = boto3.client("s3", endpoint_url=s3_server.url)
    client.create_bucket(Bucket=BUCKET)
    yield s3_server
    s3_server.fault = lambda request: None
    for file in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=file["Key"])
    s3_server.requests.clear()


@pytest.fixture(params=["s3", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the copy is: every test with it runs with a server and with a folder."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        return f"s3://{BUCKET}/some/where"
    return f"file://{tmp_path}/bucket"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds become hundredths."""
    for module, name, value in (
        (object_store, "BEAT_S", 0.1),
        (object_store, "FREE_S", 0.5),
        (mirror_module, "PAUSES_S", (0.05, 0.2)),
        (mirror_module, "LAST_S", 30.0),
    ):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setitem(object_store.HTTP, "retry_config", {"max_retries": 0, "retry_timeout": timedelta(seconds=5)})


def machine(tmp_path: Path, name: str) -> TinyCheckpointManager:
    return TinyCheckpointManager("a", tmp_path / name)


def there(url: str) -> list[str]:
    return sorted(key.removeprefix("a/") for key in ObjectStore(url).files("a"))


PAIR = ["checkpoints/agent_epoch_{}.pt", "checkpoints/trainer_epoch_{}.pt"]


def pairs(*epochs: int) -> list[str]:
    return sorted(name.format(epoch) for name in PAIR for epoch in epochs)


SMALL: dict[str, Any] = {
    "run": "a",
    "env": "CartPole-v1",
    "num_envs": 2,
    "horizon": 16,
    "minibatch_size": 32,
    "update_epochs": 1,
    "hidden_size": 4,
    "num_workers": 0,
    "anneal_lr": False,  # which total_timesteps would change
    "checkpoint_interval": 2,
    "display": "none",
    "device": "cpu",
}


def test_a_run_goes_on_elsewhere_to_the_same_bits(tmp_path, url):
    """A machine that is gone took the run with it; another began afresh, or went on to other bits."""
    whole = TrainConfig(**SMALL, train_dir=str(tmp_path / "whole"), total_timesteps=32 * 6)
    assert train(whole) == 0
    for name, epochs in (("first", 2), ("second", 4), ("first", 6)):  # back on the first, whose files are older
        config = TrainConfig(**SMALL, mirror=url, train_dir=str(tmp_path / name), total_timesteps=32 * epochs)
        assert train(config) == 0
        assert [name for name in there(url) if "checkpoint" in name] == pairs(*range(0, epochs + 1, 2))
    assert machine(tmp_path, "second").list_epochs() == [2, 4]
    one, other = (machine(tmp_path, name).load_latest() for name in ("whole", "first"))
    assert one is not None and other is not None and one[0] == other[0] == 6
    for state in (one[2], other[2]):
        del state["config"]["total_timesteps"], state["config"]["train_dir"]
    assert differences(one[1:], other[1:]) == []
    assert "mirror" not in other[2]["config"]
    assert main(["pull", "run=a", f"mirror={url}", f"train_dir={tmp_path / 'looks'}"]) == 0
    for name in ("first", "looks"):  # curves in parts, of which each machine wrote some
        steps, _ = read_curves(RunFolder(tmp_path / name, "a"))["losses/entropy"]
        assert list(steps) == [32 * epoch for epoch in range(1, 7)]


def test_what_is_newer_stays(tmp_path, url):
    """Recorded episodes replaced by older ones: by a pull, or by a push of what was brought long ago."""
    recorded = {name: tmp_path / name / "a/replays/arena.npz" for name in ("one", "other", "third")}
    save(machine(tmp_path, "one"), 1)

    def move(tool: str, name: str) -> None:
        assert main([tool, "run=a", f"mirror={url}", f"train_dir={tmp_path / name}"]) == 0

    def record(name: str, text: str) -> None:
        recorded[name].parent.mkdir(parents=True, exist_ok=True)
        recorded[name].write_text(text)

    record("one", "1")
    move("push", "one")
    move("pull", "other")
    os.utime(recorded["other"], (0, 0))  # it was long ago
    record("one", "123")
    move("pull", "one")
    assert recorded["one"].read_text() == "123"
    move("push", "one")
    move("push", "other")
    move("pull", "third")
    assert recorded["third"].read_text() == "123"
    move("pull", "other")
    assert recorded["other"].read_text() == "123"


def test_what_is_sent_in_which_order(tmp_path, s3):
    """An agent file that is there before its trainer file: a pair that is none, for whoever looks at that moment."""
    manager = machine(tmp_path, "here")
    save(manager, 3, 20)
    (manager.folder.parent / "events.out").write_text("curves")
    (manager.folder.parent / "replays").mkdir()
    (manager.folder.parent / "replays" / "arena.npz").write_text("episodes")
    (manager.folder / "agent_epoch_5.pt.0badcafe.tmp").write_text("half")
    with Mirror(f"s3://{BUCKET}", "a", tmp_path / "here"):
        pass
    sent = [path.removeprefix(f"/{BUCKET}/a/").rstrip("?") for method, path in s3.requests if method == "PUT"]
    named = [path for path in sent if path not in ("trainer.lock", f"/{BUCKET}")]
    expected = [f"checkpoints/{kind}_epoch_{epoch}.pt" for epoch in (20, 3) for kind in ("trainer", "agent")]
    assert named[:4] == expected and sorted(named[4:]) == ["events.out", "replays/arena.npz"]
    assert there(f"s3://{BUCKET}") == sorted(named)  # the lock is given back
    with Mirror(f"s3://{BUCKET}", "a", tmp_path / "there") as mirror:
        assert mirror.bring_extras() == 2
    assert machine(tmp_path, "there").list_epochs() == [20]
    assert (tmp_path / "there/a/replays/arena.npz").read_text() == "episodes"


def test_only_a_sound_pair_is_brought(tmp_path, url, capsys):
    """A damaged newest pair that ends the run, or starts it afresh, where an older one is sound."""
    save(machine(tmp_path, "here"), 1, 2, 3, 4)
    flip(machine(tmp_path, "here").file("trainer", 3))
    flip(machine(tmp_path, "here").file("agent", 2))
    with Mirror(url, "a", tmp_path / "here"):
        pass
    ObjectStore(url).delete("a/checkpoints/trainer_epoch_4.pt")
    with Mirror(url, "a", tmp_path / "there"):
        assert_latest(machine(tmp_path, "there"), 1)
    said = capsys.readouterr().err
    assert [f"epoch {epoch} in" in said for epoch in (4, 3, 2, 1)] == [True, True, True, False]
    ObjectStore(url).delete("a/checkpoints/trainer_epoch_1.pt")
    with pytest.raises(CheckpointError, match="no checkpoint of run a in .* is sound, of 4"):
        Mirror(url, "a", tmp_path / "elsewhere").bring_newest()
    assert machine(tmp_path, "elsewhere").list_epochs() == []
    assert there(url) == [name for name in pairs(1, 2, 3, 4) if not re.search(r"trainer_epoch_[14]\.", name)]


def test_a_second_trainer_is_refused(tmp_path, url):
    """Two machines that train one run, each over the other's checkpoints."""
    with Mirror(url, "a", tmp_path / "one"):
        with pytest.raises(RunLockedError, match=r"run a is held by process [0-9]+ on .*, by a/trainer.lock in "):
            Mirror(url, "a", tmp_path / "two").__enter__()
        with Mirror(url, "b", tmp_path / "two"):
            pass
    with Mirror(url, "a", tmp_path / "two"):
        pass
    assert there(url) == []


def test_a_slow_holder_is_fenced(tmp_path, url, monkeypatch):
    """A machine that slept, woke, and wrote its checkpoints among those of the machine that had taken its run."""
    save(machine(tmp_path, "one"), 1)
    slow = Mirror(url, "a", tmp_path / "one")
    with pytest.raises(RunLockedError, match=r"run a has been taken by process"), slow:
        while there(url) != sorted([*pairs(1), "trainer.lock"]):
            time.sleep(0.02)
        awake = slow._lease.beat
        monkeypatch.setattr(slow._lease, "beat", lambda: None)  # asleep
        with Mirror(url, "a", tmp_path / "two"):
            assert_latest(machine(tmp_path, "two"), 1)
            machine(tmp_path, "two").save_checkpoint(Agent(7), 2, state_of(7))
            while len(there(url)) < 5:
                time.sleep(0.02)
            monkeypatch.setattr(slow._lease, "beat", awake)
            saver = CheckpointSaver(slow.manager)
            saver.save(Agent(2), 2, state_of(2))
            for epoch in range(3, 100):  # training notices, and ends
                slow.check()
                saver.save(Agent(epoch), epoch, state_of(epoch))
                time.sleep(0.05)
    agent = torch.load(io.BytesIO(ObjectStore(url).read("a/checkpoints/agent_epoch_2.pt")[0]), weights_only=False)
    assert differences(agent, Agent(7)) == [] and there(url) == pairs(1, 2)


def test_what_a_dead_holder_began_is_finished(tmp_path, url):
    """A trainer file without its agent file, of a machine that died between them, which then fitted no agent file."""
    save(machine(tmp_path, "one"), 1)
    content = machine(tmp_path, "one").file("trainer", 1).read_bytes()
    ObjectStore(url).create("a/checkpoints/trainer_epoch_1.pt", content)
    ObjectStore(url).create("a/trainer.lock", b"process 1 on gone, 0, beat 0")
    machine(tmp_path, "two").save_checkpoint(Agent(5), 1, state_of(5))
    with Mirror(url, "a", tmp_path / "two"):
        pass
    with Mirror(url, "a", tmp_path / "three"):
        assert differences(machine(tmp_path, "three").load_agent(1), Agent(5)) == []


def test_another_run_of_the_name_is_refused(tmp_path, url):
    """Two runs mixed in one folder, since both are called a."""
    machine(tmp_path, "one").save_checkpoint(Agent(5), 1, state_of(5))
    save(machine(tmp_path, "two"), 1, 2)
    with Mirror(url, "a", tmp_path / "two"):
        pass
    with pytest.raises(CheckpointError, match=r"has another run a: its agent_epoch_1.pt is not .*one/a/checkpoints"):
        Mirror(url, "a", tmp_path / "one").__enter__()
    assert machine(tmp_path, "one").list_epochs() == [1] and there(url) == pairs(1, 2)


def failing_puts(times: int, fault: str | float, what: str = "_epoch_") -> Any:
    """Spoil the first so many uploads of files whose names have `what` in them."""
    left = iter(range(times))
    hits = re.compile(f"PUT .*{what}")
    return lambda request: fault if hits.match(" ".join(request)) and next(left, None) is not None else None


FAULTS: dict[str, Any] = {
    "answers 500": (failing_puts(5, "500"), None),
    "done, and answers 500": (failing_puts(5, "lost"), None),
    "answers after the time is up": (failing_puts(2, 2.0), {"timeout": timedelta(seconds=1), "allow_http": True}),
    "cut in the midst of a file": (failing_puts(5, "cut"), None),
    "half of a multipart": (failing_puts(3, "500", "partNumber=2"), None),
    "beats that are not answered": (failing_puts(2, "lost", "trainer.lock"), None),
}


@pytest.mark.parametrize("case", FAULTS)
def test_training_goes_on_while_the_store_fails(tmp_path, s3, monkeypatch, capsys, case):
    """Training that waits for the store or ends with it; half a file there; a fault that nobody is told of."""
    fault, options = FAULTS[case]
    if options is not None:
        monkeypatch.setitem(object_store.HTTP, "client_options", options)
    manager = machine(tmp_path, "here")
    manager.folder.mkdir(parents=True)
    with Mirror(f"s3://{BUCKET}", "a", tmp_path / "here") as mirror:
        s3.fault = fault
        saver = CheckpointSaver(manager)
        for epoch in (1, 2, 3):
            agent = Large(epoch)
            with open(manager.folder.parent / "events.out", "ab") as curves:
                curves.write(bytes(epoch << 22))
            began = time.monotonic()
            saver.save(agent, epoch, state_of(epoch))
            assert time.monotonic() - began < 1.5
            time.sleep(0.15)
        saver.wait()
    said = capsys.readouterr().err
    assert ("not uploaded yet, training goes on and it is tried again" in said) == ("beats" not in case)
    assert there(f"s3://{BUCKET}") == [*pairs(1, 2, 3), "events.out"]
    with Mirror(f"s3://{BUCKET}", "a", tmp_path / "there") as mirror:
        assert mirror.there["a/events.out"].size == 6 << 22
        assert differences(machine(tmp_path, "there").load_agent(3), agent) == []


def test_the_exit_status_tells_what_never_arrived(tmp_path, s3, capsys, monkeypatch):
    """A job that ends well, and its last checkpoints are nowhere but on the machine that is given back."""
    monkeypatch.setattr(mirror_module, "LAST_S", 4.0)
    monkeypatch.chdir(tmp_path)
    argv = [f"{name}={str(value).lower() if value is False else value}" for name, value in SMALL.items()]
    s3.fault = lambda request: "500" if "agent_epoch_4" in request[1] else None
    assert main(["train", *argv, "total_timesteps=128", f"mirror=s3://{BUCKET}/p"]) == 1
    said = capsys.readouterr().err
    send = f"`metta push mirror=s3://{BUCKET}/p run=a` sends it"
    assert f"metta train: epoch 4 of run a never arrived: {send}\n" in said and said.count("not uploaded yet") == 1
    for uploading in (thread for thread in threading.enumerate() if thread.name == "mirror"):
        uploading.join()  # an attempt under way would find the fault gone
    s3.fault = lambda request: None
    assert main(["push", f"mirror=s3://{BUCKET}/p", "run=a"]) == 0
    assert main(["pull", f"mirror=s3://{BUCKET}/p", "run=a", "train_dir=look"]) == 0
    assert capsys.readouterr().out == "a: sent 1 checkpoints, 2 were there\na: brought 7 files to look/a\n"
    assert TinyCheckpointManager("a", "look").list_epochs() == [0, 2, 4]


def test_pull_says_what_is_damaged(tmp_path, url, capsys, monkeypatch):
    """A damaged checkpoint taken for a sound one, or one that keeps the others from coming."""
    monkeypatch.chdir(tmp_path)
    for run in ("a", "a-2", "b"):
        save(TinyCheckpointManager(run), 1, 2)
    flip(TinyCheckpointManager("a-2").file("agent", 1))
    assert main(["push", f"mirror={url}", "run=a*,b"]) == 0
    assert main(["pull", f"mirror={url}", "run=a*", "train_dir=look"]) == 1
    said = capsys.readouterr()
    assert said.out.endswith("a: brought 4 files to look/a\na-2: brought 2 files to look/a-2\n")
    assert re.search(r"metta pull: .*agent_epoch_1\.pt.* is damaged: entry .* has the wrong CRC", said.err)
    assert main(["pull", f"mirror={url}", "run=a", "train_dir=look"]) == 0
    assert capsys.readouterr().out == "a: brought 0 files to look/a\n"
    machine(tmp_path, "other").save_checkpoint(Agent(5), 1, state_of(5))
    assert main(["pull", f"mirror={url}", "run=a", "train_dir=other"]) == 2  # two runs in one folder
    assert "has another run a: its agent_epoch_1.pt is not" in capsys.readouterr().err
    assert TinyCheckpointManager("a", "other").list_epochs() == [1]
    assert main(["pull", f"mirror={url}", "run=c", "train_dir=look"]) == 2
    assert f"no run c in {url}: have a, a-2, b" in capsys.readouterr().err


MISTAKES: dict[str, Any] = {
    "no bucket": ("s3://nobody/x", {}, "s3://nobody/x: NoSuchBucket: The specified bucket does not exist"),
    "no credentials": ("s3://bucket", {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no credentials"),
    "unreachable": ("s3://bucket", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "error sending request"),
    "no URL": ("/some/folder", {}, "object storage is s3://bucket/prefix, gs://"),
    "unknown": ("ftp://host/x", {}, "object storage is s3://bucket/prefix, gs://"),
    "in memory": ("MEMORY:///x", {}, "object storage is s3://bucket/prefix, gs://"),
    "a web server": ("http://127.0.0.1:1/x", {}, "object storage is s3://bucket/prefix, gs://"),
    "no bucket's name": ("s3://", {}, "object storage is s3://bucket/prefix, gs://"),
    "a file": ("file:///etc/passwd", {}, "file:///etc/passwd"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_get_one_line(tmp_path, s3, capsys, monkeypatch, case):
    """A traceback, or a run that trains for days and then has nowhere to go."""
    url, environment, message = MISTAKES[case]
    for name, value in environment.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1/169.254.169.254")
    monkeypatch.chdir(tmp_path)
    for argv in (["train", "run=a", "env=CartPole-v1"], ["push", "run=a"], ["pull", "run=a"]):
        if argv[0] == "push":
            save(TinyCheckpointManager("a"), 1)
        assert main([*argv, f"mirror={url}"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"metta {argv[0]}: ") and message in said and said.count("\n") == 1
        assert argv[0] == "push" or not (tmp_path / "train_dir" / "a" / "events.out").exists()


def test_without_obstore_the_extra_is_named(monkeypatch):
    """A traceback of an import, where one line says what to install."""
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UserError, match=r"s3://bucket needs obstore \(pip install 'metta\[mirror\]'\)"):
        ObjectStore("s3://bucket")


def test_it_stays_one_small_module():
    """A mirror that grows into a store: policies, records, caches, URIs."""
    assert code_lines((ROOT / "metta/rl/saving/mirror.py").read_text()) <= 150
    known = [path.name for path in (ROOT / "metta").rglob("*.py") if "saving.mirror" in path.read_text()]
    assert sorted(known) == ["pull.py", "push.py", "train.py", "trainer.py"]
    assert issubclass(NotUploadedError, MettaError) and NotUploadedError.exit_status == 1
