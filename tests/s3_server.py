"""A real S3 server on this machine, SeaweedFS, and a proxy that counts and spoils what passes.

    with s3_server(folder) as s3:
        s3.use("writer", monkeypatch)       # the key of somebody, and the server's address
        with s3_proxy(s3.url) as proxy:
            proxy.count("PUT", "/files/")

Three keys exist: `writer` may do all, `reader` may read and list, `nobody` may do nothing. A
secret is the key's name with `-secret` behind it.
"""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import s3fs

RIGHTS = {
    "writer": ["Admin", "Read", "Write", "List", "Tagging"],
    "reader": ["Read", "List"],
    "nobody": ["Read:another-bucket"],
}
BUCKET = "bucket"
"""The bucket that exists."""
_STARTS_WITHIN_SECONDS = 120
_CHUNK = 1 << 14


@dataclass
class S3Server:
    """The server; `stop` ends it before its time."""

    url: str
    process: subprocess.Popen[bytes]

    def environment(self, key: str, url: str | None = None) -> dict[str, str]:
        """The variables with which somebody uses the server, through `url` if that is given."""
        return {
            "AWS_ENDPOINT_URL": url or self.url,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": f"{key}-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def use(self, key: str, monkeypatch: pytest.MonkeyPatch, url: str | None = None) -> None:
        """Let this process be somebody."""
        for name, value in self.environment(key, url).items():
            monkeypatch.setenv(name, value)

    def files(self) -> Any:
        """What is on the server, past every proxy."""
        return s3fs.S3FileSystem(
            key="writer",
            secret="writer-secret",
            endpoint_url=self.url,
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def stop(self) -> None:
        """End the server, whose data nobody wants; asked to end, it takes its time."""
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    """A port of the loopback interface such that the one 10,000 above it is free as well.

    SeaweedFS takes that for gRPC, whatever it is told.
    """
    while True:
        with socket.socket() as low, socket.socket() as high:
            low.bind(("127.0.0.1", 0))
            port = low.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                high.bind(("127.0.0.1", port + 10000))
                return port


@contextlib.contextmanager
def s3_server(folder: Path) -> Generator[S3Server]:
    """Start the server on free ports, its data in a folder; it ends with the block."""
    config = folder / "rights.json"
    folder.mkdir(parents=True, exist_ok=True)
    identities = [
        {
            "name": name,
            "credentials": [{"accessKey": name, "secretKey": f"{name}-secret"}],
            "actions": actions,
        }
        for name, actions in RIGHTS.items()
    ]
    config.write_text(json.dumps({"identities": identities}))
    (folder / "data").mkdir()
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    command = [str(Path(sys.executable).with_name("weed")), "server", "-ip=127.0.0.1"]
    command += ["-ip.bind=127.0.0.1", f"-dir={folder / 'data'}", "-s3", f"-s3.config={config}"]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    command += [f"-{name}.localSocket={folder / name}.sock" for name in ("filer", "s3")]
    # A bucket that is missing stays missing; nothing is told to anybody, and no other port opened.
    command += ["-s3.autoCreateBucket=false", "-master.telemetry=false"]
    command += [
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=200",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    server = S3Server(f"http://127.0.0.1:{ports['s3']}", process)
    try:
        _wait(server, folder / "log")
        yield server
    finally:
        server.stop()
        # Where these are is not to be chosen, and a killed server leaves them.
        for port in ports.values():
            for left in Path("/tmp").glob(f"seaweedfs-*-{port + 10000}.sock"):
                left.unlink(missing_ok=True)


def _wait(server: S3Server, log: Path) -> None:
    """Return once the server keeps an object."""
    deadline = time.monotonic() + _STARTS_WITHIN_SECONDS
    while True:
        try:
            files = server.files()
            if not files.exists(BUCKET):
                files.mkdir(BUCKET)
            files.pipe_file(f"{BUCKET}/object", b"1")
            return
        except Exception:
            assert server.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.3)


@dataclass(frozen=True)
class Passed:
    """A request that went through the proxy; `sent` and `received` are bytes of bodies."""

    method: str
    path: str
    received: int
    sent: int
    status: int


@dataclass
class S3Proxy:
    """What stands before the server.

    Attributes:
        url: Its address.
        passed: The requests whose answers have ended, or were cut.
        under_way: Requests that have begun and not ended, `<method> <path>`.
        slow: Seconds to wait before each `_CHUNK` of a body, either way, of paths that hold
            `/files/`.
        cut: Number of answers, of paths that hold `/files/`, that still end half-way.
        gone: Whether every connection breaks.
        fault: Gives a status to answer with, by method and path, instead of asking the server.
    """

    url: str
    passed: list[Passed] = field(default_factory=list)
    under_way: list[str] = field(default_factory=list)
    slow: float = 0
    cut: int = 0
    gone: bool = False
    fault: Callable[[str, str], int | None] = lambda method, path: None

    def count(self, method: str, text: str = "") -> int:
        """How many requests had a method and, in their path, a text; refused ones do not count."""
        return len(self._all(method, text))

    def sent(self, text: str) -> int:
        """Bytes that came from objects whose path holds a text."""
        return sum(each.sent for each in self._all("GET", text))

    def received(self, text: str) -> int:
        """Bytes that went to objects whose path holds a text."""
        return sum(each.received for each in self._all("PUT", text))

    def _all(self, method: str, text: str) -> list[Passed]:
        return [
            each
            for each in list(self.passed)
            if each.method == method and text in each.path and each.status < 400
        ]


@contextlib.contextmanager
def s3_proxy(upstream: str) -> Generator[S3Proxy]:
    """Stand before an S3 server while the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.handle_error = lambda request, client_address: None
    proxy = S3Proxy(f"http://127.0.0.1:{server.server_port}")
    server.proxy, server.upstream = proxy, urlsplit(upstream).netloc  # pyright: ignore[reportAttributeAccessIssue]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _pass(self) -> None:
        proxy: S3Proxy = self.server.proxy  # pyright: ignore[reportAttributeAccessIssue]
        name = f"{self.command} {self.path}"
        proxy.under_way.append(name)
        received = sent = 0
        status = 599
        try:
            body = bytearray()
            for chunk in self._chunks(self.rfile, int(self.headers.get("Content-Length") or 0)):
                body += chunk
                received += len(chunk)
            if proxy.gone:
                raise ConnectionError("the server is gone")
            fault = proxy.fault(self.command, self.path)
            if fault is not None:
                status = fault
                self._refuse(fault)
                return
            answer, connection = self._ask(bytes(body))
            status = answer.status
            with contextlib.closing(connection):
                length = int(answer.headers.get("Content-Length") or 0)
                content = 0 if self.command == "HEAD" else length
                self._send_head(answer)
                cut = proxy.cut > 0 and self.command == "GET" and "/files/" in self.path
                proxy.cut -= cut
                for chunk in self._chunks(answer, content // 2 if cut else content):
                    self.wfile.write(chunk)
                    sent += len(chunk)
                self.close_connection = self.close_connection or cut
        finally:
            proxy.under_way.remove(name)
            proxy.passed.append(Passed(self.command, self.path, received, sent, status))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass

    def _ask(self, body: bytes) -> tuple[http.client.HTTPResponse, http.client.HTTPConnection]:
        upstream: str = self.server.upstream  # pyright: ignore[reportAttributeAccessIssue]
        connection = http.client.HTTPConnection(upstream, timeout=60)
        # The signature is over the host that the client named, so that is handed on.
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for key, value in self.headers.items():
            if key.lower() not in ("expect", "connection"):
                connection.putheader(key, value)
        connection.endheaders(body)
        return connection.getresponse(), connection

    def _send_head(self, answer: http.client.HTTPResponse) -> None:
        self.send_response_only(answer.status)
        for key, value in answer.headers.items():
            if key.lower() not in ("connection", "content-length", "transfer-encoding"):
                self.send_header(key, value)
        self.send_header("Content-Length", str(answer.headers.get("Content-Length") or 0))
        self.end_headers()

    def _refuse(self, status: int) -> None:
        body = b"" if self.command == "HEAD" else b"<Error><Code>Injected</Code></Error>"
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _chunks(self, source: Any, size: int) -> Generator[bytes]:
        proxy: S3Proxy = self.server.proxy  # pyright: ignore[reportAttributeAccessIssue]
        while size:
            if proxy.slow and "/files/" in self.path:
                time.sleep(proxy.slow)
            if proxy.gone:
                raise ConnectionError("the server is gone")
            chunk = source.read(min(_CHUNK, size))
            if not chunk:
                raise ConnectionError("the other side ended early")
            size -= len(chunk)
            yield chunk
