"""A Hugging Face hub on this machine, for tests: real HTTP, the hub's own answers, faults on order.

    with HubServer({"owner/model": folder, "datasets/owner/data": other}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("NO_PROXY", NO_PROXY)
        hub.fail("model.safetensors", cut_after=1000)
        ...
        assert hub.requests[-1].path == ...

It speaks what huggingface_hub and `scion.checkpoint.hub.client` use: `/api/models/…` with siblings,
sizes and LFS records, or `…/tree/…` with the same; `/…/resolve/…` with redirects, ETag,
X-Repo-Commit, X-Linked-Size and X-Linked-ETag, and ranges. As at the hub, a large file (here:
*.safetensors) is not sent by the hub's host but by another one, a second server of another name, so
that a leaked token is seen. A file beyond `OnDisk.LEAST_BYTES` stays on disk and is read by ranges,
so that a sparse file may stand for a shard of gigabytes.

    python tests/hub_server.py owner/model=FOLDER

serves from a process of its own: prints the endpoint, and once its stdin ends all requests, a line
of JSON each.
"""

import hashlib
import json
import sys
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, cast

NO_PROXY = "127.0.0.1,localhost"
"""The hosts of both servers, to be asked without a proxy."""


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose path holds `match`."""

    match: str
    times: int
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    cut_after: int | None = None
    wrong_bytes: bool = False
    ignore_range: bool = False
    shift_range: bool = False
    body: bytes | None = None


@dataclass(frozen=True)
class Request:
    """A request that a server got, and how much content it sent back.

    Attributes:
        server: "hub" or "cdn".
        method: HTTP method.
        path: With its query.
        authorization: The header's value, if there was one.
        range: The Range header, if there was one.
        sent: Bytes of the body.
    """

    server: str
    method: str
    path: str
    authorization: str | None
    range: str | None
    sent: int


class OnDisk:
    """A file that is not held in memory; its digest is invented: hashing would take minutes."""

    LEAST_BYTES = 64 << 20

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.sha256 = sha256(f"{path.name} {self.size}".encode())

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, wanted: slice) -> bytes:
        with self.path.open("rb") as file:
            file.seek(wanted.start)
            return file.read(wanted.stop - wanted.start)


Content = bytes | OnDisk


class Repository:
    """The files of one folder as a repository with one commit."""

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, Content] = {
            str(path.relative_to(folder)): content(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        parts = [f"{name} {sha256(data)}" for name, data in self.files.items()]
        self.commit = hashlib.sha1("\n".join(parts).encode()).hexdigest()
        self.revisions = {"main": self.commit, self.commit: self.commit}
        self.token: str | None = None
        self.gated = False

    def siblings(self) -> list[dict[str, Any]]:
        """The listing of all files, as `?blobs=true` asks for it."""
        listing: list[dict[str, Any]] = []
        for name, data in self.files.items():
            blob = data if isinstance(data, bytes) and not is_large(name) else pointer(data)
            item: dict[str, Any] = {
                "rfilename": name,
                "size": len(data),
                "blobId": git_blob(blob),
            }
            if is_large(name):
                item["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": len(blob)}
            listing.append(item)
        return listing


def is_large(name: str) -> bool:
    """Whether the repository keeps a file with Git LFS."""
    return name.endswith(".safetensors")


def content(path: Path) -> Content:
    """What a file holds."""
    return path.read_bytes() if path.stat().st_size < OnDisk.LEAST_BYTES else OnDisk(path)


def sha256(data: Content) -> str:
    """Hex SHA-256."""
    return data.sha256 if isinstance(data, OnDisk) else hashlib.sha256(data).hexdigest()


def git_blob(data: bytes) -> str:
    """Hex hash of git's blob object."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def pointer(data: Content) -> bytes:
    """What git has of a file that Git LFS keeps."""
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(data)}\n"
    return f"{text}size {len(data)}\n".encode()


class HubServer:
    """The hub and its CDN, in threads of this process.

    Args:
        folder_by_repo: Folders by `owner/name` or `datasets/owner/name`; read when it starts.

    Attributes:
        endpoint: The hub's address, for HF_ENDPOINT.
        repositories: What it holds; `token`, `gated` and `revisions` may be changed.
        requests: All requests so far, in the order of their ends.
    """

    def __init__(self, folder_by_repo: Mapping[str, Path]) -> None:
        self.repositories = {name: Repository(folder) for name, folder in folder_by_repo.items()}
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._servers = [_Server(self, "hub"), _Server(self, "cdn")]
        # Of another name, as at the hub: by names its client tells where to take a token.
        self.endpoint, self.cdn = (
            f"http://{host}:{server.server_port}"
            for host, server in zip(("127.0.0.1", "localhost"), self._servers, strict=True)
        )

    def __enter__(self) -> "HubServer":
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def commit(self, name: str) -> str:
        """The only commit of a repository."""
        return self.repositories[name].commit

    def location(self, name: str) -> str:
        """A repository as a configuration names it, pinned."""
        return f"hf://{name}@{self.commit(name)}"

    def fail(self, match: str, *, times: int = 1, **fault: Any) -> None:
        """Order a `Fault` for the next requests whose path holds `match`."""
        self._faults.append(Fault(match=match, times=times, **fault))

    def sent(self, match: str = "") -> int:
        """Bytes sent in answer to requests whose path holds `match`."""
        return sum(request.sent for request in self.requests if match in request.path)

    def take_fault(self, path: str) -> Fault:
        """The fault that applies to a request, one of its times used up; a harmless one if none."""
        with self._lock:
            for fault in self._faults:
                if fault.match in path and fault.times:
                    fault.times -= 1
                    return fault
        return Fault(match="", times=0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: HubServer, kind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.kind = kind

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that is content with a part of an answer hangs up.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _server(self) -> _Server:
        return cast(_Server, self.server)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self._fault = self._server.hub.take_fault(self.path)
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/")
        if self._fault.status is not None or self._fault.body is not None:
            self._send(self._fault.status or 200, self._fault.body or b"", self._fault.headers)
        elif self._server.kind == "cdn":
            digest = path.rsplit("/", 1)[1]
            self._send_file(self._find_large(digest), {"ETag": f'"{digest}"'})
        elif path.startswith("api/resolve-cache/"):
            self._resolve(path.removeprefix("api/resolve-cache/"), final=True)
        elif path.startswith("api/"):
            self._info(path.removeprefix("api/"))
        else:
            self._resolve(path, final=False)

    def _find_large(self, digest: str) -> Content:
        for repository in self._server.hub.repositories.values():
            for data in repository.files.values():
                if sha256(data) == digest:
                    return data
        raise KeyError(digest)

    def _info(self, path: str) -> None:
        kind, _, rest = path.partition("/")
        if "/tree/" in rest:
            self._tree(kind, rest)
            return
        name, _, revision = rest.partition("/revision/")
        opened = self._open(name if kind == "models" else f"{kind}/{name}", revision or "main")
        if opened is None:
            return
        repository, commit = opened
        siblings = repository.siblings()
        if "blobs=true" not in self.path.lower():
            siblings = [{"rfilename": item["rfilename"]} for item in siblings]
        body = {"_id": "0" * 24, "id": name, "sha": commit, "siblings": siblings}
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _tree(self, kind: str, path: str) -> None:
        """The same files as the hub's other listing has them, from which its client downloads."""
        name, _, revision = path.partition("/tree/")
        opened = self._open(name if kind == "models" else f"{kind}/{name}", revision)
        if opened is None:
            return
        entries = [
            {
                "type": "file",
                "path": item["rfilename"],
                "size": item["size"],
                "oid": item["blobId"],
                **({"lfs": {"oid": lfs["sha256"], **lfs}} if (lfs := item.get("lfs")) else {}),
            }
            for item in opened[0].siblings()
        ]
        self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def _resolve(self, path: str, *, final: bool) -> None:
        name, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        opened = self._open(name, revision)
        if opened is None:
            return
        repository, commit = opened
        if file not in repository.files:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        data = repository.files[file]
        blob = data if isinstance(data, bytes) else pointer(data)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_blob(blob)}"'}
        if final:
            self._send_file(data, headers)
        elif is_large(file):
            digest = sha256(data)
            headers |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(data))}
            headers["Location"] = f"{self._server.hub.cdn}/{file}/{digest}?signature=1"
            self._send(302, b"", headers)
        else:
            quoted = urllib.parse.quote(f"{name}/resolve/{commit}/{file}")
            self._send(307, b"", headers | {"Location": f"/api/resolve-cache/{quoted}"})

    def _open(self, name: str, revision: str) -> tuple[Repository, str] | None:
        """The repository and the commit of the revision, if the token may see it."""
        repository = self._server.hub.repositories.get(name)
        token = self.headers.get("Authorization")
        if repository is None:
            # The hub does not tell strangers which repositories exist.
            status = 404 if token else 401
            self._refuse(status, "RepoNotFound" if token else "", "Invalid username or password.")
        elif repository.token and token != f"Bearer {repository.token}":
            gated = repository.gated
            message = "Access to this repository is restricted" if gated else "Repository not found"
            self._refuse(401, "GatedRepo" if gated else "RepoNotFound", message)
        elif revision not in repository.revisions:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repository, repository.revisions[revision]
        return None

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code} if code else {}
        body = json.dumps({"error": message}).encode()
        self._send(status, body, headers | {"X-Error-Message": message})

    def _send_file(self, data: Content, headers: dict[str, str]) -> None:
        fault = self._fault
        headers = headers | {"Accept-Ranges": "bytes"}
        requested = self.headers.get("Range")
        if requested is None or fault.ignore_range:
            self._send(200, self._altered(data[0 : len(data)]), headers)
            return
        first, _, last = requested.removeprefix("bytes=").partition("-")
        start = int(first)
        end = min(int(last) + 1, len(data)) if last else len(data)
        if start >= len(data):
            self._send(416, b"", headers | {"Content-Range": f"bytes */{len(data)}"})
            return
        shift = 1 if fault.shift_range else 0
        headers["Content-Range"] = f"bytes {start + shift}-{end - 1 + shift}/{len(data)}"
        self._send(206, self._altered(data[start:end]), headers)

    def _altered(self, data: bytes) -> bytes:
        return bytes(byte ^ 255 for byte in data) if self._fault.wrong_bytes else data

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        cut = self._fault.cut_after
        sent = b"" if self.command == "HEAD" else body[:cut]
        request_headers: Message = self.headers
        request = Request(
            server=self._server.kind,
            method=self.command,
            path=self.path,
            authorization=request_headers.get("Authorization"),
            range=request_headers.get("Range"),
            sent=len(sent),
        )
        self._server.hub.requests.append(request)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(sent)
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


def main() -> int:
    """Serve the folders that the arguments name."""
    folders = dict(argument.split("=", 1) for argument in sys.argv[1:])
    with HubServer({name: Path(folder) for name, folder in folders.items()}) as hub:
        print(hub.endpoint, flush=True)
        sys.stdin.read()
        for request in hub.requests:
            print(json.dumps(asdict(request)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
