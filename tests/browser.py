"""A headless Chromium, driven over its DevTools protocol with the websocket client that jupyter_server brings."""

import base64
import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
import websocket

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed: apt-get install chromium")
OPTIONS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]


class Browser:
    """One page in a browser of its own, whose profile is a new folder; `console`: errors and warnings of the page."""

    def __init__(self, profile: Path):
        command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        (address,) = next(line.split()[-1:] for line in self.process.stderr if line.startswith("DevTools listening"))
        with urllib.request.urlopen(f"http://{address.split('/')[2]}/json") as answer:
            page = next(target for target in json.load(answer) if target["type"] == "page")
        self.socket = websocket.create_connection(page["webSocketDebuggerUrl"], suppress_origin=True, timeout=300)
        self.count, self.console = 0, []
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.communicate()

    def call(self, method: str, **parameters) -> dict:
        """Send one command and return its result."""
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while (message := json.loads(self.socket.recv())).get("id") != self.count:
            self._note(message.get("method"), message["params"])
        assert "error" not in message, message
        return message["result"]

    def _note(self, event: str, said: dict) -> None:
        if event == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.console.append(" ".join(str(part.get("value", part.get("description"))) for part in said["args"]))
        elif event == "Runtime.exceptionThrown":
            self.console.append(str(said["exceptionDetails"]))
        elif event == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.console.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")

    def evaluate(self, script: str):
        """Return the value of a JavaScript expression; of a promise, what it is fulfilled with."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, condition: str):
        """Wait until a JavaScript expression is true, and return its value."""
        look = f"const look = () => {{ const value = {condition}; value ? done(value) : setTimeout(look, 50) }}; look()"
        return self.evaluate(f"new Promise(done => {{ {look} }})")

    def open(self, address: str) -> None:
        """Load a page, and wait until all of it is there."""
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, scheme: str) -> None:
        """Prefer light or dark."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path) -> None:
        """Write a screenshot of the whole page."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))
