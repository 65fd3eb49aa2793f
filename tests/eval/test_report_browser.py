"""report.html in a real browser, from file:// with the network off: what it draws is what eval.db holds."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metta.eval.eval_db import EvalDB
from tests.helpers.chromium import Browser, chromium
from tests.helpers.report_data import checkpoint, evaluate, log, make_run
from tests.tools.test_analyze import page_data, plot
from tests.tools.test_tools_errors import metta

HOSTILE = "</script><img src=x onerror=alert(1)>"  # an environment's name is anything a user types
CURVE = "figure#{} path.curve[data-group='{}']"
DRAWN = "return document.querySelectorAll('figure svg').length >= 4"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train_dir with runs a and b, three seeds of ppo and nine others, a replay, and two reports."""
    train_dir = tmp_path_factory.mktemp("report") / "train_dir"
    make_run(train_dir, "a", skill=1.0)
    make_run(train_dir, "b", skill=0.5)
    for seed in range(3):
        make_run(train_dir, f"ppo-s{seed}", skill=2, seed=seed)
    for index in range(9):
        checkpoint(train_dir, f"other{index}", 1)
        evaluate(train_dir, f"other{index}", 1, skill=index)
    for run in "ab":
        evaluate(train_dir, run, 4, HOSTILE)
    (train_dir / "a/checkpoints/agent_epoch_0.pt").unlink()
    (train_dir / "a/replays").mkdir()
    for name in ("epoch_4_arena.npz", "epoch_4_arena_seed_3.html", "holiday.gif"):
        (train_dir / "a/replays" / name).write_text("<p>a replay")
    log(train_dir / "a", {3000: {"charts/episodic_return": 7.0}})
    for argv in (["runs=a,b,ppo-s*"], ["runs=a,b", "out=two.html"], ["runs=other*,a,b", "out=pair.html"], MANY):
        result = metta(train_dir.parent, "analyze", *argv)
        assert result.returncode == 0, result.stderr
    return train_dir.parent


MANY = ["runs=a,b,ppo-s0," + ",".join(f"other{index}" for index in range(9)), "out=many.html"]


@pytest.fixture
def report(browser: Browser, folder: Path) -> Iterator[tuple[Browser, dict[str, Any]]]:
    """The report of a, b and ppo-s*, open at 1400 pixels, and its data; nothing may be said in the console."""
    file = folder / "train_dir/report.html"
    browser.open(file)
    browser.wait(DRAWN)
    yield browser, page_data(file)
    assert browser.console() == []


def points_drawn(browser: Browser, name: str, group: int) -> list[tuple[float, float]]:
    """The points of a curve in the units of its axes, computed back from the pixels."""
    found = browser.run(
        "const path = document.querySelector(arguments[0]), set = path.ownerSVGElement.dataset;"
        "return [path.getAttribute('d'), JSON.parse(set.box), JSON.parse(set.xRange), JSON.parse(set.yRange)]",
        CURVE.format(name, group),
    )
    path, box, (left, right), (low, high) = found
    pixels = [tuple(map(float, point.split(","))) for point in re.split("[ML]", path)[1:]]
    across, up = (right - left) / (box["right"] - box["left"]), (high - low) / (box["bottom"] - box["top"])
    return [(left + (x - box["left"]) * across, low + (box["bottom"] - y) * up) for x, y in pixels]


def assert_drawn(browser: Browser, data: dict[str, Any], name: str) -> None:
    """Every curve of a plot has the data's points, no more and no fewer, to a twentieth of a pixel."""
    curves = plot(data, name)["curves"]
    for group, curve in enumerate(curves):
        expected = list(zip(data["xs"][curve["x"]], curve["y"], strict=True))
        drawn = points_drawn(browser, name, group)
        assert len(drawn) == len(expected)
        for column in (0, 1):
            values = [point[column] for point in expected]
            assert [point[column] for point in drawn] == pytest.approx(values, abs=(max(values) - min(values)) * 0.002)


def test_the_curves_have_the_datas_points(report: tuple[Browser, dict[str, Any]]) -> None:
    """A plot is believed more than a table, and tested less."""
    browser, data = report
    names = [plot["id"] for section in data["sections"] for plot in section["plots"] if plot["kind"] == "lines"]
    assert {"score_arena", "profile_arena", "training_charts-episodic_return"} <= set(names)
    browser.run("document.querySelector('details.curves').open = true")
    browser.wait("return document.querySelectorAll('figure.small path.curve').length >= 4")
    for name in names:
        assert_drawn(browser, data, name)
    bands = browser.run("return document.querySelectorAll('#score_arena path.band').length")
    assert bands == 3


def test_scores_move_onto_the_steps_of_the_training_curves(report: tuple[Browser, dict[str, Any]]) -> None:
    """One switch, and both have one axis; the table of settings comes first, the whole of them folded away."""
    browser, data = report
    axis = "return JSON.parse(document.querySelector(`#${arguments[0]} svg`).dataset.xRange)"
    epochs = [x for x, _ in points_drawn(browser, "score_arena", 0)]
    browser.run("document.querySelector('#score_arena button.over').click()")
    assert browser.run(axis, "score_arena") == browser.run(axis, "training_charts-episodic_return") == [0, 3000]
    drawn = [x for x, _ in points_drawn(browser, "score_arena", 0)]
    assert drawn == pytest.approx([512 * epoch for epoch in epochs], abs=5)
    assert browser.run("return document.querySelector('#score_arena h3').textContent") == "Score over agent steps"
    browser.run("document.querySelector('#score_arena button.over').click()")
    assert [x for x, _ in points_drawn(browser, "score_arena", 0)] == epochs
    assert browser.run("return document.querySelector('h2').textContent") == "Settings that differ"
    assert not browser.run("return document.querySelector('details.settings').open")
    assert list(data["settings"]["runs"]) == ["a", "b", "ppo-s0", "ppo-s1", "ppo-s2"]


def test_the_intervals_are_where_their_values_are(report: tuple[Browser, dict[str, Any]]) -> None:
    browser, data = report
    for name in ("final_arena", "better_arena"):
        drawn = browser.run(
            "const svg = document.querySelector(`#${arguments[0]} svg`), box = JSON.parse(svg.dataset.box);"
            "const [low, high] = JSON.parse(svg.dataset.xRange), across = (high - low) / (box.right - box.left);"
            "const at = (x) => low + (x - box.left) * across;"
            "return [...svg.querySelectorAll('circle')].map((dot, i) => { const bar = svg.querySelectorAll('.bar')[i];"
            "  return [at(dot.cx.baseVal.value), at(bar.x1.baseVal.value), at(bar.x2.baseVal.value)] })",
            name,
        )
        expected = [[row["value"], row["low"], row["high"]] for row in plot(data, name)["rows"]]
        assert len(drawn) == len(expected) == 3
        for one, other in zip(drawn, expected, strict=True):
            assert one == pytest.approx(other, abs=1e-5)


def test_pointing_reads_out_the_values(report: tuple[Browser, dict[str, Any]], folder: Path) -> None:
    browser, _ = report
    x, y = browser.run(
        "const svg = document.querySelector('#score_arena svg'); svg.scrollIntoView({ block: 'center' });"
        "const dot = svg.querySelectorAll('circle[data-group=\"1\"]')[1].getBoundingClientRect();"
        "return [dot.left + dot.width / 2 + 5, dot.top]"
    )
    browser.move(x, y)
    tip = browser.run("const tip = document.getElementById('tip'); return tip.hidden ? '' : tip.innerText")
    score = EvalDB(folder / "train_dir/eval.db").get_scores("b", 2)["arena"]
    assert tip.startswith("epoch 2")
    (line,) = [line for line in tip.splitlines() if line.strip().startswith("b\t")]
    assert [float(word.replace("\u2212", "-")) for word in re.findall(r"[\u2212\d.]+", line)] == pytest.approx(
        [score.mean, score.low, score.high], abs=6e-3
    )
    browser.move(5, 5)
    assert browser.run("return document.getElementById('tip').hidden")


def test_the_arrow_keys_read_out_the_values(report: tuple[Browser, dict[str, Any]]) -> None:
    """Without a mouse a plot has no numbers otherwise."""
    browser, _ = report
    browser.run("document.querySelector('#score_arena svg').focus()")
    said = []
    for key in ("\ue014", "\ue014", "\ue012"):  # right, right, left
        browser.press(key)
        said.append(browser.run("return document.querySelector('#tip b').textContent"))
    assert said == ["epoch 0", "epoch 2", "epoch 0"]


def test_a_name_in_the_legend_hides_and_shows_its_curves(report: tuple[Browser, dict[str, Any]]) -> None:
    browser, _ = report
    count = "return document.querySelectorAll(\"figure [data-group='1']\").length"
    before = browser.run(count)
    assert before > 4
    x, y = browser.run(
        "const box = document.querySelectorAll('#legend button')[1].getBoundingClientRect();"
        "return [box.left + 20, box.top + 10]"
    )
    browser.move(x, y, press=True)
    assert browser.run(count) == 0
    browser.move(x, y, press=True)
    assert browser.run(count) == before


def test_smoothing_changes_training_curves_only(report: tuple[Browser, dict[str, Any]]) -> None:
    """Smoothed scores would be other scores."""
    browser, _ = report
    names = ("training_charts-episodic_return", "score_arena")
    before = [points_drawn(browser, name, 1) for name in names]
    browser.run(
        "const slider = document.querySelector('input[type=range]'); slider.value = 0.5;"
        "slider.dispatchEvent(new Event('input'))"
    )
    after = [points_drawn(browser, name, 1) for name in names]
    assert after[1] == before[1] and len(after[0]) == len(before[0]) == 4
    returns = [0.5, 1.0, 1.5, 2.0]  # of run b: skill * epoch
    running, weight = 0.0, 0.5
    for index, value in enumerate(returns):
        running = weight * running + (1 - weight) * value
        assert after[0][index][1] == pytest.approx(running / (1 - weight ** (index + 1)), abs=0.01)


def test_checkpoints_with_the_best_marked_and_replays_linked(
    report: tuple[Browser, dict[str, Any]], folder: Path
) -> None:
    browser, _ = report
    browser.run("document.querySelector('details.run').open = true")
    browser.wait("return document.querySelector('details.run table') !== null")
    text = browser.run("return document.querySelector('details.run').innerText")
    best = EvalDB(folder / "train_dir/eval.db").best_epoch("a", "arena")
    marked = browser.run(
        "return [...document.querySelectorAll('details.run tr')].filter((row) => row.innerText.includes('\u2605'))"
        ".map((row) => row.cells[0].textContent)"
    )
    assert marked == [str(best)] == ["4"]
    assert "not kept" in text and "metta replay run=a epoch=4 seed=0" in text and "actions recorded" in text
    links = browser.run("return [...document.querySelectorAll('details.run a')].map((link) => link.href)")
    files = [Path(link.removeprefix("file://")) for link in links]
    assert [file.relative_to(folder / "train_dir/a").as_posix() for file in files] == [
        "checkpoints/agent_epoch_2.pt",
        "checkpoints/agent_epoch_4.pt",
        "replays/epoch_4_arena_seed_3.html",
        "replays/holiday.gif",
    ]
    assert all(file.exists() for file in files)


def test_the_page_fetches_nothing(report: tuple[Browser, dict[str, Any]]) -> None:
    """Neither from the network nor from other files: it can be sent to somebody."""
    browser, _ = report
    assert browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)") == []


def test_names_are_text(browser: Browser, folder: Path) -> None:
    """A name with markup in it ended the data early, or ran."""
    browser.open(folder / "two.html")
    browser.wait(DRAWN)
    assert HOSTILE in browser.run("return [...document.querySelectorAll('h2')].map((heading) => heading.textContent)")
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert browser.console() == []


def test_many_runs_make_a_matrix(browser: Browser, folder: Path) -> None:
    browser.open(folder / "many.html")
    browser.wait(DRAWN)
    cells = [cell[0] for row in plot(page_data(folder / "many.html"), "better_arena")["cells"] for cell in row if cell]
    drawn = browser.run(
        "return [...document.querySelectorAll('#better_arena rect[data-value]')].map((cell) => +cell.dataset.value)"
    )
    assert len(cells) == 12 * 11 and drawn == cells
    assert browser.console() == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [420, 1400])
@pytest.mark.parametrize("name", ["train_dir/report.html", "many.html"])
def test_it_fits(browser: Browser, folder: Path, name: str, width: int, dark: bool) -> None:
    """On a phone the page must not scroll sideways, and in the dark not be white."""
    browser.open(folder / name, width=width, dark=dark)
    browser.wait(DRAWN)
    assert browser.run("return document.documentElement.scrollWidth") == width
    red, green, blue = map(
        int, re.findall(r"\d+", browser.run("return getComputedStyle(document.body).backgroundColor"))
    )
    assert (red + green + blue < 120) == dark
    overflowing = browser.run(
        "return [...document.querySelectorAll('figure > svg')].filter((svg) => [...svg.querySelectorAll('text')].some("
        "(text) => { const a = text.getBoundingClientRect(), b = svg.getBoundingClientRect();"
        " return a.left < b.left - 1 || a.right > b.right + 1 || a.bottom > b.bottom + 1 }))"
        ".map((svg) => svg.parentElement.id)"
    )
    assert overflowing == []
    assert browser.console() == []
