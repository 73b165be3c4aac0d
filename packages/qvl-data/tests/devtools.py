"""Drive an installed Chromium through its DevTools protocol over two pipes: no port, no web socket, no dependency."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# A browser that has not answered by then never will; nothing waits for so long where it does.
_PATIENCE_S = 300
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking", "--mute-audio"),
)


# Contrast of every text with what lies behind it, by WCAG 2.1; those below the wanted ratio.
CONTRAST = """(() => {
  const part = (value) => { const s = value / 255; return s <= 0.03928 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4; };
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const found = numbers(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const low = [], UNSEEN = ['SCRIPT', 'NOSCRIPT', 'STYLE', 'OPTION'];
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility() || node.disabled || UNSEEN.includes(node.tagName)) continue;
    const [a, b] = [light(numbers(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const name = `${node.tagName}.${node.className}`;
    if (ratio < 4.5) low.push(`${name}: ${ratio.toFixed(2)} ${node.textContent.slice(0, 40)}`);
  }
  return [...new Set(low)];
})()"""


def find_browser() -> str | None:
    """Give the path of an installed Chromium or Chrome; None where there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


def _far_pipe() -> tuple[int, int]:
    """Give a pipe whose descriptors are neither 3 nor 4, which are to be made from them."""
    near = os.pipe()
    far = tuple(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 20) for descriptor in near)
    for descriptor in near:
        os.close(descriptor)
    return far[0], far[1]


class BrowserPage:
    """One page in a browser of its own. Use it as a context manager.

    `requests` are the addresses that were asked for, `said` what came to the console or was thrown, `blocked` what the
    page's policy has stopped.
    """

    def __init__(self, browser: str, *, width: int = 1280, height: int = 900, scripts: bool = True) -> None:
        self._browser = browser
        self._size = (width, height)
        self._scripts = scripts
        self._numbers = itertools.count(1)
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._session = ""
        self._shown, self._loaded = "", False
        self._asked: dict[str, str] = {}
        self.said: list[str] = []
        self.blocked: list[str] = []

    def __enter__(self) -> BrowserPage:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_read, self._to_write = _far_pipe()
        from_read, from_write = _far_pipe()
        # The browser reads from descriptor 3 and writes to 4.
        redirect = f'exec "$@" 3<&{to_read} 4>&{from_write} {to_read}<&- {from_write}>&-'
        command = [
            self._browser,
            *_FLAGS,
            "--remote-debugging-pipe",
            f"--user-data-dir={self._folder.name}",
            "about:blank",
        ]
        self._process = subprocess.Popen(
            ["bash", "-c", redirect, "bash", *command],
            pass_fds=(to_read, from_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(from_write)
        self._reader = threading.Thread(target=self._read, args=(from_read,), daemon=True)
        self._reader.start()
        try:
            self._attach()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to_write)
        self._reader.join(20)
        self._folder.cleanup()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and give its result."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to_write, data) :]
        while True:
            found = self._next()
            if found.get("id") == number:
                assert "error" not in found, found
                return found["result"]

    def visit(self, address: str) -> None:
        """Open a page of a server and wait until it is loaded."""
        self._go("about:blank")
        self._go(address)

    def open(self, path: Path, fragment: str = "") -> None:
        """Open a file and wait until it is loaded and drawn."""
        # Another fragment of the same page would not load it again.
        self._go("about:blank")
        self._go(path.resolve().as_uri() + (f"#{fragment}" if fragment else ""))

    def run(self, code: str) -> Any:
        """Give the value of an expression in the page; waits for a promise."""
        found = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    @property
    def requests(self) -> list[str]:
        return list(self._asked.values())

    def forget(self) -> None:
        """Forget what was asked for, said and blocked so far."""
        self._go("about:blank")
        self._asked.clear()
        self.said.clear()
        self.blocked.clear()

    def settle(self) -> None:
        """Wait until what the page has set off is done: two frames."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def texts(self, selector: str) -> list[str]:
        """Give the texts of elements, also where the page may run no script."""
        nodes = self.call("DOM.querySelectorAll", nodeId=self._root(), selector=selector)["nodeIds"]
        objects = [self.call("DOM.resolveNode", nodeId=node)["object"]["objectId"] for node in nodes]
        code = "function() { return this.textContent; }"
        found = [self.call("Runtime.callFunctionOn", objectId=one, functionDeclaration=code) for one in objects]
        return [one["result"]["value"] for one in found]

    def is_visible(self, selector: str) -> bool:
        """Tell whether the first such element takes up room, also where the page may run no script."""
        node = self.call("DOM.querySelector", nodeId=self._root(), selector=selector)["nodeId"]
        try:
            return bool(node) and self.call("DOM.getBoxModel", nodeId=node)["model"]["width"] > 0
        except AssertionError:
            return False

    def _root(self) -> int:
        return self.call("DOM.getDocument")["root"]["nodeId"]

    def choose(self, field: str, value: str) -> None:
        """Set a filter as a hand would: its value, then the event that a browser sends."""
        self.run(
            f"(() => {{ const field = document.getElementById({json.dumps('f-' + field)});"
            f" if (field.type === 'checkbox') field.checked = {json.dumps(bool(value))};"
            f" else field.value = {json.dumps(value)};"
            " field.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )

    def press(self, key: str, text: str = "") -> None:
        """Press a key."""
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        extra = {"windowsVirtualKeyCode": codes[key]} if key in codes else {}
        self.call(
            "Input.dispatchKeyEvent", type="keyDown", key=key, text=text or ("\r" if key == "Enter" else ""), **extra
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **extra)

    def look(self, *, width: int, height: int, dark: bool = False, media: str = "", phone: bool = False) -> None:
        """Set the window's size, the colours that the user prefers, and the medium (`print`)."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Save what is seen as PNG; `whole`, the page to its end."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def _attach(self) -> None:
        page = None
        # Right after its start a browser may have none.
        while page is None:
            targets = self.call("Target.getTargets")["targetInfos"]
            page = next((target for target in targets if target["type"] == "page"), None)
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for name in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{name}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.call("Emulation.setScriptExecutionDisabled", value=not self._scripts)
        self.look(width=self._size[0], height=self._size[1])

    def _go(self, address: str) -> None:
        # The end of loading may still be told of what was shown before.
        wanted = self.call("Page.navigate", url=address)["loaderId"]
        while not (self._shown == wanted and self._loaded):
            self._next()

    def _next(self) -> dict[str, Any]:
        found = self._answers.get(timeout=_PATIENCE_S)
        assert found, "the browser has ended"
        self._note(found.get("method", ""), found.get("params", {}))
        return found

    def _note(self, method: str, values: dict[str, Any]) -> None:
        if method == "Page.frameNavigated" and "parentId" not in values["frame"]:
            self._shown, self._loaded = values["frame"]["loaderId"], False
        elif method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self._asked[values["requestId"]] = values["request"]["url"]
        elif method == "Network.loadingFailed" and values.get("blockedReason") == "csp":
            self.blocked.append(self._asked.pop(values["requestId"]))
        elif method == "Runtime.exceptionThrown":
            self.said.append(str(values["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.said.append(str(values["args"]))
        elif method == "Log.entryAdded":
            text = values["entry"]["text"]
            (self.blocked if "Content Security Policy" in text else self.said).append(text)

    def _read(self, descriptor: int) -> None:
        """Put each message of the browser into the queue; an empty one when it has ended."""
        with os.fdopen(descriptor, "rb") as pipe:
            rest = b""
            while data := pipe.read1(1 << 20):
                *messages, rest = (rest + data).split(b"\0")
                for message in messages:
                    self._answers.put(json.loads(message))
        self._answers.put({})
