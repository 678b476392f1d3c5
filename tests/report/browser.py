"""A page in headless Chromium, driven over its DevTools pipe: no driver and no library is needed."""

import json
import os
import shutil
import subprocess
from itertools import count
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_SECONDS = 60


class Browser:
    """One page. ``run`` evaluates JavaScript in it; ``errors`` holds what the page threw."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        (child_in, self._to), (self._from, child_out) = os.pipe(), os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4.
        flags = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe"
        command = f'exec "{CHROMIUM}" {flags} --user-data-dir="{profile}" about:blank 3<&{child_in} 4>&{child_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", command], pass_fds=(child_in, child_out), stderr=subprocess.DEVNULL, start_new_session=True
        )
        os.close(child_in)
        os.close(child_out)
        self._ids, self._buffer, self.errors, self.requests = count(1), b"", [], []
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        return self._until(lambda answer: answer.get("id") == number)["result"]

    def open(self, page: Path) -> None:
        self.errors.clear()
        self.requests.clear()
        self.send("Page.navigate", url=page.as_uri())
        self._until(lambda answer: answer.get("method") == "Page.loadEventFired")

    def run(self, expression: str) -> Any:
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def close(self) -> None:
        self._session = None
        os.close(self._to)
        os.close(self._from)
        try:
            self._process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _until(self, wanted) -> dict[str, Any]:
        while True:
            while b"\0" not in self._buffer:
                part = os.read(self._from, 1 << 16)
                assert part, "Chromium ended"
                self._buffer += part
            text, _, self._buffer = self._buffer.partition(b"\0")
            answer = json.loads(text)
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(answer["params"]["exceptionDetails"])
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            assert "error" not in answer, answer["error"]
            if wanted(answer):
                return answer
