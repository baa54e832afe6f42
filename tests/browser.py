"""A browser spoken to in plain JSON over a pipe: the Chrome DevTools protocol, no client library.

https://chromedevtools.github.io/devtools-protocol: Chromium reads commands from its descriptor 3 and answers on 4, each
message ended by a zero byte.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-extensions",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)


class Browser:
    """One page of a headless Chromium that can reach no host; as a context it ends with its block."""

    def __init__(self, folder: Path) -> None:
        # A shell gives Chromium its two descriptors, from the standard ones, and hands the rest to its log.
        command = ["sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null', "sh", CHROMIUM, *OPTIONS]
        with (folder / "chromium.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, f"--user-data-dir={folder / 'profile'}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.asked, self.events, self.session = 0, list[dict[str, Any]](), ""
        self.buffer = b""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self.process:  # which closes its pipes
            self.process.terminate()

    def read(self) -> dict[str, Any]:
        """The next message."""
        assert self.process.stdout is not None
        while b"\0" not in self.buffer:
            more = self.process.stdout.read1(1 << 20)  # type: ignore[attr-defined]
            assert more, "Chromium has ended"
            self.buffer += more
        message, self.buffer = self.buffer.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        return found

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """A command's result; what happens meanwhile is kept among the events."""
        assert self.process.stdin is not None
        self.asked += 1
        message = {"id": self.asked, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        self.process.stdin.write(json.dumps(message).encode() + b"\0")
        self.process.stdin.flush()
        while (answer := self.read()).get("id") != self.asked:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def show(self, address: str) -> None:
        """Open a page and wait until all that it names is there."""
        self.events.clear()
        failed = self.ask("Page.navigate", url=address).get("errorText")
        assert failed is None, f"{address}: {failed}"
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self.read())

    def width(self, points: int, height: int = 800) -> None:
        """Be a screen of this width; below 600 points a telephone."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=points,
            height=height,
            deviceScaleFactor=1,
            mobile=points < 600,
        )

    def value(self, expression: str) -> Any:
        """What a line of JavaScript gives; a promise is waited for."""
        found = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def complaints(self) -> list[str]:
        """What the page said since it was opened that a reader's console would show as an error or a warning."""
        said = []
        for event in self.events:
            about = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                said.append(about["exceptionDetails"].get("exception", {}).get("description", "an exception"))
            elif event["method"] == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
                said.append(" ".join(str(a.get("value")) for a in about["args"]))
            elif event["method"] == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
                said.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
        return said

    def requested(self) -> list[str]:
        """The addresses that the page asked for."""
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
