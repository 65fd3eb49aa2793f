"""A headless Chromium, driven over the WebDriver protocol by Debian's chromedriver; nothing to install from PyPI."""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-component-update",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
]
START_S = 30.0


class Browser:
    """One page at a time. Its network is off: only files can be opened."""

    def __init__(self, address: str, profile: Path):
        self._address = address
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"], "binary": shutil.which("chromium")}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._call("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self._address += f"/{made['sessionId']}"
        self._command("Network.enable")
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self._command("Network.emulateNetworkConditions", **offline)

    def open(self, file: Path, width: int = 1400, height: int = 900, dark: bool = False) -> None:
        """Show a file at this size in pixels, on a system that prefers dark or light colours."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._command("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._command("Emulation.setEmulatedMedia", features=[scheme])
        self.console()
        self._call("POST", "/url", {"url": file.absolute().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """What `script` returns; it sees `arguments` and may return a promise."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str, wait_s: float = 20.0) -> Any:
        """The first true value that `script` returns; AssertionError after wait_s."""
        until = time.monotonic() + wait_s
        while not (found := self.run(script)):
            assert time.monotonic() < until, f"never true in {wait_s} s: {script}; console: {self.console()}"
            time.sleep(0.05)
        return found

    def move(self, x: float, y: float, press: bool = False) -> None:
        """Move the mouse to this place in the window, and click there."""
        actions: list[dict[str, Any]] = [{"type": "pointerMove", "x": round(x), "y": round(y), "duration": 0}]
        if press:
            actions += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        pointer = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions}
        self._call("POST", "/actions", {"actions": [pointer]})

    def press(self, key: str) -> None:
        """Type one key; WebDriver's codes: "\\ue012" left, "\\ue014" right."""
        actions = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def console(self) -> list[str]:
        """What the page has said since the last call: errors, refused requests, console.log."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, path: Path, full: bool = False) -> None:
        """The window as a PNG, or the whole page."""
        taken = self._command("Page.captureScreenshot", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(taken["data"]))

    def close(self) -> None:
        self._call("DELETE", "")

    def _command(self, name: str, **parameters: Any) -> Any:
        """One of Chromium's own, from its DevTools protocol."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._address + path, content, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser with its profile in `folder`; the test is skipped where there is none."""
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here: apt-get install chromium chromium-driver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(folder / "chromedriver.log", "wb") as log:
        driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=log, stderr=log)
    try:
        until = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert driver.poll() is None and time.monotonic() < until, (folder / "chromedriver.log").read_text()
                time.sleep(0.05)
        browser = Browser(f"http://127.0.0.1:{port}/session", folder / "profile")
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.wait()
