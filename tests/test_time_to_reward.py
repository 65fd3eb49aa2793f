"""benchmarks/time_to_reward.py: what the clock counts, and what the table says of a run that never got there."""

from types import SimpleNamespace

import pytest

from benchmarks import reach_target
from benchmarks.reach_target import Watch
from benchmarks.time_to_reward import ratios, slowness


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(reach_target.time, "monotonic", lambda: clock.now)
    return clock


def test_the_clock_stands_still_during_an_evaluation(clock, monkeypatch):
    """A library whose network is slow to evaluate, and one that is evaluated often, would seem slow to train."""
    returns = iter([10.0, 480.0])

    def mean_return(act):
        clock.now += 50
        return next(returns)

    monkeypatch.setattr(reach_target, "Episodes", lambda env: SimpleNamespace(mean_return=mean_return))
    watch = Watch("CartPole-v1", started=97.0)
    clock.now += 2
    watch.began(seconds_ago=1.0)
    assert not watch.reached(1_000, list)  # not due, and not played
    assert not watch.reached(1_100, list)
    clock.now += 3
    assert not watch.reached(2_000, list)
    assert watch.reached(2_048, list)
    assert watch.result() == {
        "reached": True,
        "seconds": 8.0,
        "startup_seconds": 4.0,
        "steps": 2_048,
        "evaluations": [(1_100, 5.0, 10.0), (2_048, 8.0, 480.0)],
    }


def run(seconds, reached=True):
    return {"reached": reached, "seconds": seconds, "startup_seconds": 2.0}


def test_a_run_that_never_got_there_is_slower_than_all_that_did():
    """A peer that gives up early would be the fastest."""
    failed, slow = run(10.0, reached=False), run(50.0)
    assert sorted([failed, slow], key=slowness) == [slow, failed]
    assert ratios({"metta": [run(4.0)], "sb3": [slow], "cleanrl": [failed]}) == ("12.5", "24.0")
    assert ratios({"metta": [run(4.0)], "cleanrl": [failed]}) == (">2.5", ">4.0")
    assert ratios({"metta": [failed], "sb3": [slow]}) == ("-", "-")
