"""Modules with the calls of wandb and trackio that the pages show, for both packages are heavy and want a network."""

WANDB = """
import json

run = None

def init(*, project, id, resume, config):
    global run
    assert run is None and resume == "allow" and config["run"] == id
    run = id

def log(data, step):
    assert run is not None and all(isinstance(value, int | float) for value in data.values())
    with open("wandb.jsonl", "a") as file:
        file.write(json.dumps({**data, "step": step}) + "\\n")
"""
TRACKIO = """
import json

class Run:
    def log(self, metrics, step=None):
        assert all(isinstance(value, int | float) for value in metrics.values())
        with open("trackio.jsonl", "a") as file:
            file.write(json.dumps({**metrics, "step": step}) + "\\n")

def init(project, name=None, resume="never"):
    assert resume == "allow"
    return Run()
"""
