"""Device, threads, software."""

import subprocess
import sys

import pytest
import torch

from metta.errors import UserError
from metta.machine import one_thread, pick_device, software


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents training on the CPU beside an idle GPU, and a traceback where there is none."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert pick_device("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto").type == "cuda"
    assert pick_device("cuda:1").index == 1


@pytest.mark.parametrize(("name", "gpus"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2), ("mps", 0)])
def test_a_device_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str, gpus: int) -> None:
    """Prevents torch's traceback for device=mps on Linux, or for the third of two GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"^device={name}: torch sees no such GPU here"):
        pick_device(name)


def test_one_thread_gives_the_others_back() -> None:
    """Prevents an evaluation from slowing down, and changing the bits of, what its process computes later."""
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_omp_num_threads_has_the_last_word() -> None:
    """Prevents a user's limit, or the number of threads of the run that is resumed, from being overruled."""
    code = (
        "import torch\nfrom metta.machine import set_threads, software\nset_threads(3)\nprint(torch.get_num_threads())"
    )
    for environment, threads in (({}, "3"), ({"OMP_NUM_THREADS": "2"}, "2")):
        command = [sys.executable, "-c", code]
        env = {"PYTHONPATH": ":".join(sys.path), **environment}
        assert subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip() == threads


def test_software_names_what_a_resume_compares() -> None:
    """Prevents a resume under another torch, or with other threads, from passing for an exact one."""
    assert set(software(torch.device("cpu"))) == {
        "metta",
        "torch",
        "numpy",
        "processor",
        "python",
        "device",
        "threads",
    }
