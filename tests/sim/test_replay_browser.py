"""The replay page in a real browser, from a file and with the network off."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from metta.envs.env_spec import EnvName
from metta.envs.mettagrid.env import MettaGridEnv
from metta.sim.players import RandomPlayer
from metta.sim.recording import Recording, Source
from metta.sim.replay.films import write_replay
from metta.sim.single_env import SingleEnv, replay_steps
from tests.helpers.chromium import Browser, chromium
from tests.helpers.recorded_runs import ARENA

LEFT, RIGHT, END, HOME = "\ue012", "\ue014", "\ue010", "\ue011"  # WebDriver's names of keys
PICTURE = "return document.getElementById('map').toDataURL()"
TIP = "return [...tip.querySelectorAll('.row')].map(row => [...row.children].map(cell => cell.textContent))"
COLORS = """
    const style = getComputedStyle(document.body);
    return [style.backgroundColor, style.color].map(color => color.match(/\\d+/g).map(Number));
"""
STEPS = 30


@pytest.fixture(scope="module")
def recording() -> Recording:
    single = SingleEnv(MettaGridEnv(EnvName("arena", ARENA)))
    player = RandomPlayer(single.env.spec, 1)
    player.begin(0, 2)
    actions = np.array([player.act(single.observations, single.starts) for _ in range(STEPS)])
    assert [*replay_steps(single, Recording(2, actions, single.returns))][-1] == STEPS
    return Recording(2, actions, single.returns.copy())


@pytest.fixture(scope="module")
def page(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "replay.html"
    assert write_replay(Source("demo", 100, EnvName("arena", ARENA), recording), "html", path) is None
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def center(browser: Browser, element: str, across: float = 0.5) -> tuple[float, float]:
    """Of an element by its id: its middle, or another place from left to right."""
    script = "const b = document.getElementById(arguments[0]).getBoundingClientRect(); "
    x, y, width, height = browser.run(script + "return [b.x, b.y, b.width, b.height]", element)
    return x + across * width, y + height / 2


def click(browser: Browser, element: str) -> None:
    browser.move(*center(browser, element), press=True)


def step(browser: Browser) -> int:
    return browser.run("return replay.step")


def test_nothing_is_said_on_the_console(browser: Browser, page: Path) -> None:
    """An error in the script, or something that would be fetched from elsewhere."""
    browser.open(page)
    browser.run("for (let s = 0; s <= 30; s++) replay.seek(s); return 1")
    assert browser.console() == []
    assert browser.run("return document.title").startswith("demo epoch 100, arena[")
    assert browser.run("return document.getElementById('difference').hidden")


def test_play_and_pause(browser: Browser, page: Path) -> None:
    browser.open(page)
    at_start = browser.run(PICTURE)
    click(browser, "play")
    browser.wait("return replay.step >= 3")
    click(browser, "play")
    paused, picture = step(browser), browser.run(PICTURE)
    assert picture != at_start
    browser.run("return new Promise(done => setTimeout(done, 300))")
    assert step(browser) == paused and browser.run(PICTURE) == picture
    browser.run("const s = document.getElementById('speed'); s.value = 100; return 1")
    browser.press(" ")  # the play button has the focus
    browser.wait(f"return replay.step === {STEPS}")
    browser.wait("return document.getElementById('play').getAttribute('aria-label') === 'Play'")
    click(browser, "play")  # from the end it begins again
    browser.wait(f"return replay.step < {STEPS}")
    browser.run("replay.pause(); return 1")
    assert browser.console() == []


def test_steps_scrubbing_and_keys(browser: Browser, page: Path) -> None:
    browser.open(page)
    pictures = [browser.run(PICTURE)]
    for button, expected in (("forward", 1), ("forward", 2), ("back", 1)):
        click(browser, button)
        assert step(browser) == expected
        pictures.append(browser.run(PICTURE))
    assert pictures[1] == pictures[3] and len(set(pictures)) == 3
    browser.move(*center(browser, "scrubber"), press=True)
    assert step(browser) == STEPS // 2
    assert browser.run("return document.getElementById('step').textContent").startswith("step 15 of 30 · reward ")
    browser.move(*center(browser, "scrubber", 0.999), press=True)
    assert step(browser) == STEPS
    browser.run("document.activeElement.blur(); return 1")
    for key, expected in ((HOME, 0), (RIGHT, 1), (RIGHT, 2), (LEFT, 1), (END, 30)):
        browser.press(key)
        assert step(browser) == expected
    browser.run("location.hash = 'step=12'; location.reload(); return 1")
    browser.wait("return window.replay && replay.step === 12")
    assert browser.console() == []


def test_agents_are_drawn_where_they_are(browser: Browser, page: Path, recording: Recording) -> None:
    """The environment played again says where each agent is at each step; the picture has its colour there."""
    browser.open(page)
    env = MettaGridEnv(EnvName("arena", ARENA))
    pixel = """
        const [step, row, column, agent] = arguments;
        replay.seek(step);
        const size = map.width / width, x = Math.round((column + 0.5) * size), y = Math.round((row + 0.5) * size);
        const drawn = map.getContext("2d").getImageData(x, y - Math.round(0.31 * size), 1, 1).data;
        const wanted = new OffscreenCanvas(1, 1).getContext("2d");
        wanted.fillStyle = agentColor(agent, theme);
        wanted.fillRect(0, 0, 1, 1);
        return [Array.from(drawn), Array.from(wanted.getImageData(0, 0, 1, 1).data)];
    """
    for at in replay_steps(SingleEnv(env), recording):
        for thing in env.objects(ignore=["wall"]) if at % 6 == 0 else []:
            if "agent_id" in thing:
                drawn, wanted = browser.run(pixel, at, thing["r"], thing["c"], thing["agent_id"])
                assert drawn == wanted, (at, thing)


def test_hovering_an_agent_tells_what_it_holds(browser: Browser, page: Path, recording: Recording) -> None:
    """Reward and inventory at this step, as the environment has them; and a click keeps the agent in sight."""
    env = MettaGridEnv(EnvName("arena", ARENA))
    single = SingleEnv(env)
    [*_] = replay_steps(single, recording)
    browser.open(page)
    browser.run(f"replay.seek({STEPS}); return 1")
    held_something = 0
    for thing in env.objects(ignore=["wall"]):
        if "agent_id" not in thing:
            continue
        agent = thing["agent_id"]
        left, top, size = browser.run("const b = map.getBoundingClientRect(); return [b.x, b.y, cell]")
        browser.move(left + (thing["c"] + 0.5) * size, top + (thing["r"] + 0.5) * size)
        browser.wait(f"return !tip.hidden && tip.textContent.startsWith('agent {agent}')")
        told = dict(browser.run(TIP))
        assert float(told["reward"]) == pytest.approx(single.returns[agent], abs=0.0051)
        assert told["row, column"] == f"{thing['r']}, {thing['c']}"
        assert re.fullmatch(r"noop|move (north|south|west|east)", told["action"])
        for resource, name in enumerate(env.resources):
            assert told.get(name, "0") == str(thing["inventory"].get(resource, 0))
            held_something += thing["inventory"].get(resource, 0)
    assert held_something > 0
    before = browser.run(PICTURE)
    browser.run("rows[1].click(); return 1")
    assert browser.run(PICTURE) != before and browser.run("return rows[1].className") == "selected "
    assert browser.console() == []


@pytest.mark.parametrize("width", [420, 1400])
def test_narrow_wide_light_and_dark(browser: Browser, page: Path, width: int) -> None:
    """Nothing is cut off at the right, and both schemes are really different."""
    seen = []
    for dark in (False, True):
        browser.open(page, width=width, height=900, dark=dark)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        background, text = browser.run(COLORS)
        assert (sum(background) < sum(text)) == dark
        seen.append(browser.run(PICTURE))
        tops = browser.run("return ['aside', '#stage'].map(name => document.querySelector(name).offsetTop)")
        assert (tops[0] > tops[1]) == (width == 420)
    assert seen[0] != seen[1]


def test_the_page_says_where_it_is_not_the_recorded_episode(
    browser: Browser, recording: Recording, tmp_path: Path
) -> None:
    other = Recording(recording.seed, recording.actions, recording.returns + 1)
    said = write_replay(Source("demo", 100, EnvName("arena", ARENA), other), "html", tmp_path / "page.html")
    browser.open(tmp_path / "page.html")
    expected = f"This is not the episode that was recorded: {said}."
    assert browser.run("return document.getElementById('difference').textContent") == expected
    assert browser.run("return document.getElementById('difference').offsetHeight") > 0
