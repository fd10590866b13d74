"""Headless Chromium through its DevTools pipe: what a page logs, asks for and measures.

Uses the standard library only. ``MPRM_REQUIRE_BROWSER=1`` turns a missing browser from
a skip into a failure.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from typing import Any

import pytest

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "chromium-headless-shell",
    "headless_shell",
    "microsoft-edge",
)
SECONDS = 180

_FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--mute-audio",
    "--hide-scrollbars",
)


def find_browser():
    """Path of a Chromium in PATH; skips the test without one, or fails if demanded."""
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return path
    reason = f"no browser in PATH (looked for {', '.join(NAMES)})"
    if os.environ.get("MPRM_REQUIRE_BROWSER"):
        pytest.fail(f"MPRM_REQUIRE_BROWSER is set, but there is {reason}")
    pytest.skip(reason)


class Browser:
    """One headless browser with one page; use as a context manager.

    Attributes:
        messages: console messages, uncaught errors and log entries since the last open.
        requests: addresses asked for since the last open, but for data: ones, which
            are part of the page.
    """

    def __init__(self, path):
        self._profile = tempfile.mkdtemp(prefix="browser-")
        browser = [path, *_FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        # The browser reads commands from file 3 and answers on file 4.
        files = 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1'
        self._process: Any = subprocess.Popen(
            ["sh", "-c", files, "sh", *browser],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._buffer = b""
        self._number = 0
        self._session = None
        self._events = []
        self.messages = []
        self.requests = []

    def __enter__(self):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *error):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError):
            self._process.__exit__(*error)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method, **parameters):
        """The result of one DevTools command."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        self._process.stdin.write(json.dumps(command).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def open(self, path):
        """Load a file and wait until it and all it asks for are there."""
        self.messages, self.requests, self._events = [], [], []
        self.call("Page.navigate", url=path.resolve().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._note(self._next())
        # What is logged late by rendering arrives before the answer to this.
        self.evaluate(
            "new Promise(f => requestAnimationFrame(() => setTimeout(f, 50)))"
        )

    def evaluate(self, expression):
        """Value of a JavaScript expression in the page, promises awaited."""
        result = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def show(self, width, height=900, media="screen", dark=False):
        """Set the size of the window in CSS pixels, the medium and the scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = "dark" if dark else "light"
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def screenshot(self, path, clip=None):
        """Save the whole page, or a part {x, y, width, height}, as PNG."""
        parameters = {"clip": {**clip, "scale": 1}} if clip else {}
        image = self.call(
            "Page.captureScreenshot", captureBeyondViewport=True, **parameters
        )
        path.write_bytes(base64.b64decode(image["data"]))

    def print_pdf(self, path):
        """Print the page to PDF."""
        printed = self.call("Page.printToPDF", printBackground=False)
        path.write_bytes(base64.b64decode(printed["data"]))

    def _note(self, event):
        method, parameters = event.get("method"), event.get("params", {})
        self._events.append(method)
        if method == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            self.requests += [] if url.startswith("data:") else [url]
        elif method == "Runtime.consoleAPICalled":
            said = [a.get("value", a.get("description")) for a in parameters["args"]]
            self.messages.append(f"{parameters['type']}: {said}")
        elif method == "Runtime.exceptionThrown":
            self.messages.append(str(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded":
            entry = parameters["entry"]
            self.messages.append(f"{entry['level']}: {entry['text']}")

    def _next(self):
        end = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            left = end - time.monotonic()
            answers = self._process.stdout
            ready, _, _ = select.select([answers], [], [], max(left, 0))
            data = answers.read(1 << 20) if ready else b""
            assert data, "the browser ended" if ready else "the browser does not answer"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)
