"""A page in Chromium without a window, driven through the pipe of its developer tools.

(Chrome DevTools Protocol: commands and answers are JSON with a zero byte behind each.)
"""

import base64
import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
WIDTH, HEIGHT = 1280, 900


class Page:
    """One page, and what was asked for over the network since it was opened."""

    def __init__(self, to: int, answers: int) -> None:
        self._to = to
        self._answers = os.fdopen(answers, "rb", closefd=False)
        self._number = 0
        self._session = ""
        self._rest = b""
        self.events: list[Any] = []

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol, and wait for what it answers."""
        self._number += 1
        asked = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            asked["sessionId"] = self._session
        os.write(self._to, json.dumps(asked).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> Any:
        while b"\0" not in self._rest:
            more = os.read(self._answers.fileno(), 1 << 20)
            assert more, "chromium has gone"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path) -> None:
        """Open a file and wait until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")
        told = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = told["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        told = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def requested(self) -> list[str]:
        """Name what was asked for, the page itself included."""
        sent = (e for e in self.events if e.get("method") == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[Any]:
        """Return what the browser had to say: errors, and what the policy did not let happen."""
        methods = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [event for event in self.events if event.get("method") in methods]

    def screenshot(self, path: Path, scheme: str) -> None:
        """Take a picture; `scheme` is light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def opened(path: Path, profile: Path) -> Iterator[Page]:
    """Open a file in a browser of its own."""
    reading, to, answers, writing = *os.pipe(), *os.pipe()
    # The browser reads descriptor 3 and writes 4, which may be in use for something else here.
    ours, back = (fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (reading, writing))
    words = ["bash", "-c", 'r=$1 w=$2; shift 2; exec "$@" 3<&"$r" 4>&"$w"', "bash"]
    process = subprocess.Popen(
        [*words, str(ours), str(back), "chromium", *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=[ours, back], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for each in (reading, writing, ours, back):
        os.close(each)
    try:
        page = Page(to, answers)
        page.open(path)
        yield page
    finally:
        process.kill()
        process.wait()
        os.close(to)
        os.close(answers)
