"""benchmarks/results.md, written from what the comparisons left in benchmarks/data, beside the targets."""

import json
from statistics import median
from typing import Any

from benchmarks.summary import DATA, HERE, spread, table

# case of training_speed.py -> (least ratio to Stable-Baselines3, least ratio to PufferLib)
TRAINING: dict[str, tuple[float | None, float | None]] = {
    "cartpole-8": (4.0, None),
    "cartpole-64": (3.0, 3.0),
    "arena": (None, 4.0),
    "arena-lstm": (None, 3.0),
    "breakout": (1.7, None),
}
LIBRARIES = {
    "metta": "metta",
    "before": "metta before",
    "alone": "metta, one process",
    "sb3": "Stable-Baselines3",
    "sb3-subproc": "with SubprocVecEnv",
    "puffer": "PufferLib",
    "puffer-mp": "with Multiprocessing",
}
PEERS = {"sb3": ("sb3", "sb3-subproc"), "puffer": ("puffer", "puffer-mp")}  # the better of each counts
README_LIBRARIES = {key: LIBRARIES[key] for key in ("metta", *PEERS)}
ARENA_TARGET = 40_000
QUIET_LOAD = 2  # on two cores: above it another process took turns with what was measured
INTRODUCTION = """Made by `make bench` (`benchmarks/run_all.py`). Medians and [ranges] of rounds that alternate between
what is compared. Differences under 25% mean nothing on a machine shared with others; ratios are what counts."""
GROWTH = """One core: {gflops:.0f} GFLOP/s in matrix products, copies {copies:.1f} GB/s. Microseconds are those of one
agent step; the largest part is the limit that rules there."""


def load(name: str) -> Any:
    """The results of one script; None where it has not run."""
    path = DATA / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def at_most(value: float, limit: float) -> str:
    return "met" if value <= limit else "**missed**"


def at_least(value: float, limit: float) -> str:
    return "met" if value >= limit else "**missed**"


def training() -> str:
    results = load("training_speed")
    libraries = {key: name for key, name in LIBRARIES.items() if any(key in r["rates"] for r in results["results"])}
    rows = []
    for result in results["results"]:
        case, rates = result["case"], result["rates"]
        ours = median(rates["metta"])
        verdicts = [f"{ARENA_TARGET:,}/s: {at_least(ours, ARENA_TARGET)}"] if case == "arena" else []
        for peer, least in zip(PEERS, TRAINING[case], strict=True):
            if peer in rates:
                ratio = ours / max(median(rates[way]) for way in PEERS[peer] if way in rates)
                wanted = f", at least {least:g}: {at_least(ratio, least)}" if least else ""
                verdicts.append(f"{ratio:.2f} times {libraries[peer]}{wanted}")
        if "before" in rates:
            verdicts.append(f"{ours / median(rates['before']):.2f} times as before")
        cells = [spread(rates[name]) if name in rates else "-" for name in libraries]
        rows.append([case, str(result["threads"]), *cells, "; ".join(verdicts)])
    sizes = {result["case"]: result["parameters"] for result in results["results"]}
    parameters = [
        f"{case}: " + ", ".join(f"{libraries[k]} {n:,}" for k, n in each.items()) for case, each in sizes.items()
    ]
    head = ("case", "torch threads", *libraries.values(), "metta is")
    return f"""## Training: agent steps per second of the whole loop

`training_speed.py`, {results["conditions"]["seconds"]:g} s each: same environment, network size, rollout, epochs and
minibatches. "metta" is what a user gets who says nothing of processes and threads, in both rows of a case the same: two
processes, one with 8 CartPoles; "one process" has `num_workers=0`, "before" is an earlier commit (`--before`).
The peers' environments are in their own process or in others; the better counts. PufferLib's kernel for advantages
wants CUDA's libraries: a numpy one stands in for it, and its time is not counted. {load_before(results)}

{table(head, rows)}

Parameters: {"; ".join(parameters)}."""


def checkpoints() -> str:
    results = load("checkpoint_speed")
    parts = ["## Checkpoints: milliseconds", f"`checkpoint_speed.py`. {conditions(results)}"]
    for size, ways in results["sizes"].items():
        rows = [[name, *(cell(ways, name, column) for column in ("blocked", "durable", "load"))] for name in ways]
        parts.append(f"### {size}\n\n{table(('way', 'blocked', 'durable', 'load'), rows)}")
    sizes = list(results["sizes"])
    verdicts = [checkpoint_verdicts(size, results["sizes"][size]) for size in sizes]
    names = list(dict.fromkeys(name for verdict in verdicts for name in verdict))
    parts.append(table(("target", *sizes), [[name, *(v.get(name, "-") for v in verdicts)] for name in names]))
    newest = {name: median(values) for name, values in results["newest"].items()}
    ratio = newest["newest"] / newest["os.listdir"]
    found = ", ".join(f"{name} {spread(values)} ms" for name, values in results["newest"].items())
    parts.append(f"Newest checkpoint among 100,000 files: {found}; ratio {ratio:.2f}, at most 2: {at_most(ratio, 2)}.")
    return "\n\n".join(parts)


def cell(ways: dict[str, Any], name: str, column: str) -> str:
    values = ways[name][column]
    return "-" if name == "copy" and column != "blocked" else spread(values, 1 if max(values) < 100 else 0)


def checkpoint_verdicts(size: str, ways: dict[str, Any]) -> dict[str, str]:
    """Target -> the ratio reached, and whether that meets it."""

    def ratio(column: str, other: str, limit: float) -> str:
        value = median(ways["metta"][column]) / median(ways[other][column])
        return f"{value:.2f}: {at_most(value, limit)}"

    verdicts = {}
    if size == "4MB":
        blocked = median(ways["metta"]["blocked"])
        verdicts["blocked at most 2 ms"] = f"{blocked:.1f} ms: {at_most(blocked, 2)}"
    else:
        verdicts["blocked at most 1.3 times the copy"] = ratio("blocked", "copy", 1.3)
        for peer in ("DCP async_save", "Orbax async"):
            if peer in ways:
                verdicts[f"blocked no longer than {peer}"] = ratio("blocked", peer, 1.0)
    for peer in ("DCP async_save", "Orbax async"):
        if peer in ways:
            verdicts[f"durable in half the time of {peer}"] = ratio("durable", peer, 0.5)
    verdicts["durable within 1.2 times a raw write"] = ratio("durable", "raw write", 1.2)
    verdicts["load at most 1.3 times torch.load"] = ratio("load", "torch.save", 1.3)
    return verdicts


def evaluation() -> str:
    results = load("eval_speed")
    parts = ["## Evaluation", f"`eval_speed.py`. {conditions(results)}"]
    if "cartpole" in results:
        rates = results["cartpole"]
        best = max((name for name in rates if name.startswith("sb3")), key=lambda name: median(rates[name]))
        ratio = median(rates["metta"]) / median(rates[best])
        rows = [[name, spread(values, 1)] for name, values in rates.items()]
        parts.append(table(("CartPole-v1, 100 episodes of 500 steps", "episodes/s"), rows))
        parts.append(f"metta beside {best}: {ratio:.2f} times, at least 5: {at_least(ratio, 5)}.")
    if "arena" in results:
        rates = results["arena"]
        ratio = median(rates["batched"]) / median(rates["one at a time"])
        parts.append(table(("arena", "episodes/s"), [[name, spread(values, 1)] for name, values in rates.items()]))
        parts.append(f"Batched beside one at a time: {ratio:.2f} times, at least 3: {at_least(ratio, 3)}.")
    if "all" in results:
        together, apart = (median(values) for values in results["all"].values())
        verdict = "met" if together < apart else "**missed**"
        parts.append(
            f"50 checkpoints, 10 episodes each: `epoch=all` {together:.0f} s, 50 calls {apart:.0f} s, less: {verdict}."
        )
    return "\n\n".join(parts)


def growth() -> str:
    results = load("growth")
    machine = results["machine"]
    parts = [
        "## Growth, and the limit",
        f"`growth.py`. {conditions(results)}",
        GROWTH.format(gflops=machine["flops"] / 1e9, copies=machine["copy"] / 1e9),
    ]
    head = ("", "parameters", "steps/s", "env", "arithmetic", "memory", "calls", "largest")
    rows = []
    for sweep in ("num_envs", "agents", "parameters"):
        for label, line in results.get(sweep, {}).items():
            us = [f"{value:.2f} us" for value in line["us"].values()]
            name = f"{label} parameters" if sweep == "parameters" else f"{sweep}={label}"
            rate = f"{line['steps_per_second']:,.0f}"
            rows.append([name, f"{line['parameters']:,}", rate, *us, line["largest"]])
    if rows:
        parts += [table(head, rows), "![growth](growth.svg)"]
    if "limit" in results:
        rows = []
        for case, line in results["limit"].items():
            best = max(line["fractions"].values())
            verdict = f"50%: {at_least(best, 0.5)}" if case == "arena" else "-"
            reached = [f"{spread(line['rates'][n])} ({line['fractions'][n]:.0%})" for n in line["rates"]]
            rows.append([case, f"{line['limit']:,.0f}", *reached, f"{line['share_of_peak']:.0%}", verdict])
        workers = [f"num_workers={n}" for n in next(iter(results["limit"].values()))["rates"]]
        limit_head = ("case", "limit, steps/s", *workers, "share of one core's peak", "target")
        parts += [
            "The limit is `cores / (env time + arithmetic at the peak of matrix products)`.",
            table(limit_head, rows),
        ]
    return "\n\n".join(parts)


def printed() -> str:
    """What the scripts without a file of their own printed."""
    parts = []
    for name, what in (("eval_db", "Scores: 5 million rows"), ("env_speed", "The environments alone")):
        path = DATA / f"{name}.txt"
        if path.exists():
            parts.append(f"## {what}\n\n`{name}.py`:\n\n```\n{path.read_text().strip()}\n```")
    return "\n\n".join(parts)


def conditions(results: dict[str, Any]) -> str:
    return f"{results['conditions']['threads']} torch thread(s). {load_before(results)}"


def load_before(results: dict[str, Any]) -> str:
    before = results["conditions"]["load"]
    busy = " **It was busy: what is met or missed here is not settled.**" if before >= QUIET_LOAD else ""
    return f"The machine's load before it began: {before}.{busy}"


def versions() -> str:
    """Of the last script that noted them: cores and packages."""
    for name in ("growth", "eval_speed", "checkpoint_speed"):
        if (results := load(name)) is not None:
            skipped = ("threads", "load", "seconds", "cores", "python")
            noted = results["conditions"]
            packages = ", ".join(f"{key} {value}" for key, value in noted.items() if key not in skipped)
            return f"{noted['cores']} cores, Python {noted['python']}, {packages}."
    return ""


def speed_table() -> str:
    """README's table of training speed: each library at its best."""
    names = {
        "cartpole-8": "CartPole-v1, 8 environments",
        "cartpole-64": "CartPole-v1, 64 environments",
        "arena": "arena, 24 agents x 8",
        "arena-lstm": "arena with an LSTM",
        "breakout": "ALE/Breakout-v5, 8 environments",
    }
    best: dict[tuple[str, str], float] = {}
    for result in load("training_speed")["results"]:
        for way, rates in result["rates"].items():
            place = result["case"], next((peer for peer, ways in PEERS.items() if way in ways), way)
            best[place] = max(median(rates), best.get(place, 0))
    rows = [
        [name, *(f"{best[case, library]:,.0f}" if (case, library) in best else "-" for library in README_LIBRARIES)]
        for case, name in names.items()
    ]
    return table(("", *README_LIBRARIES.values()), rows)


def write_results(notes: str = "") -> None:
    sections = {"training_speed": training, "checkpoint_speed": checkpoints, "eval_speed": evaluation, "growth": growth}
    text = [
        "# Results",
        INTRODUCTION,
        versions(),
        notes,
        *(section() for name, section in sections.items() if load(name) is not None),
        printed(),
    ]
    (HERE / "results.md").write_text("\n\n".join(part for part in text if part) + "\n")
