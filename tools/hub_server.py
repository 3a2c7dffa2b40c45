"""A Hugging Face hub on this machine, to try things on: real HTTP, the hub's own answers.

    python tools/hub_server.py owner/model=FOLDER datasets/owner/data=FOLDER --xet STORE

serves from a process of its own: prints the address and the token that may write, and once its
stdin ends (Ctrl-D) all requests, a line of JSON each. In a second shell:

    export HF_ENDPOINT=http://127.0.0.1:PORT HF_TOKEN=hf_write NO_PROXY=127.0.0.1,localhost
    scion publish results/RELEASE/release owner/release
    hf download owner/release

Tests start it in their own process, and order faults:

    with HubServer({"owner/model": folder, "datasets/owner/data": other}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("NO_PROXY", NO_PROXY)
        hub.fail("model.safetensors", cut_after=1000)
        ...
        assert hub.requests[-1].path == ...

It speaks what huggingface_hub, datasets and Scion use. Reading: `/api/models/…` with siblings,
sizes and LFS records, `…/tree/…` and `…/paths-info/…` with the same; `/…/resolve/…` with redirects,
ETag, X-Repo-Commit, X-Linked-Size, X-Linked-ETag, X-Xet-Hash, and ranges. Writing:
`tools/hub_uploads.py`. As at the hub, a large file is not sent by the hub's host but by another
one, a second server of another name, so that a leaked token is seen. A file beyond
`OnDisk.LEAST_BYTES` stays on disk and is read by ranges, so that a sparse file may stand for a
shard of gigabytes. All is forgotten when it ends.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from email.message import Message
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from hub_repository import Content, Repository, content, git_blob, is_large, pointer, sha256
from hub_uploads import Uploads
from xet_folder import TOKEN_SECONDS, XetFolder

NO_PROXY = "127.0.0.1,localhost"
"""The hosts of both servers, to be asked without a proxy."""


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose path holds `match`, after `skip`."""

    match: str
    times: int
    skip: int = 0
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
        sent: Bytes of the answer's body.
        received: Bytes of the request's body.
    """

    server: str
    method: str
    path: str
    authorization: str | None
    range: str | None
    sent: int
    received: int


class HubServer:
    """The hub and its CDN, in threads of this process.

    Args:
        folder_by_repo: Folders by `owner/name` or `datasets/owner/name`; read when it starts.
        xet: Folder that the hub's Xet client stores uploads in; None: uploads go by Git LFS.

    Attributes:
        endpoint: The hub's address, for HF_ENDPOINT.
        repositories: What it holds; `token`, `gated` and `revisions` may be changed.
        collections: What has been gathered, by slug.
        write_token: The token that may write.
        requests: All requests so far, in the order of their ends.
    """

    def __init__(self, folder_by_repo: Mapping[str, Path], *, xet: Path | None = None) -> None:
        self.repositories = {name: Repository.of(folder) for name, folder in folder_by_repo.items()}
        self.collections: dict[str, dict[str, Any]] = {}
        self.write_token = "hf_write"
        self.xet = XetFolder(xet) if xet is not None else None
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        self._blobs = Path(tempfile.mkdtemp(prefix="hub-"))
        self._faults: list[Fault] = []
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
        shutil.rmtree(self._blobs)

    def commit(self, name: str) -> str:
        """The last commit of a repository."""
        return self.repositories[name].commit

    def location(self, name: str) -> str:
        """A repository as a configuration names it, pinned."""
        return f"hf://{name}@{self.commit(name)}"

    def fail(self, match: str, *, times: int = 1, **fault: Any) -> None:
        """Order a `Fault` for the next requests whose path holds `match`."""
        self._faults.append(Fault(match=match, times=times, **fault))

    def clear_faults(self) -> None:
        """Order that nothing goes wrong any more."""
        self._faults.clear()

    def sent(self, match: str = "") -> int:
        """Bytes sent in answer to requests whose path holds `match`."""
        return sum(request.sent for request in self.requests if match in request.path)

    def received(self, match: str = "") -> int:
        """Bytes that came in requests whose path holds `match`; Xet's chunks are not among them."""
        return sum(request.received for request in self.requests if match in request.path)

    def blob(self, digest: str) -> Content | None:
        """A large file that was uploaded or belongs to a repository, by SHA-256."""
        path = self._blobs / digest
        if not path.exists() and self.xet is not None and (file := self.xet.find(digest)):
            self.xet.copy(file, path)
        if path.exists():
            return content(path, digest)
        for repository in self.repositories.values():
            for files in repository.history.values():
                for data in files.values():
                    if sha256(data) == digest:
                        return data
        return None

    def add_blob(self, digest: str, data: bytes) -> None:
        """Keep a large file that was uploaded."""
        (self._blobs / digest).write_bytes(data)

    def take_fault(self, path: str) -> Fault:
        """The fault that applies to a request, one of its times used up; a harmless one if none."""
        with self.lock:
            for fault in self._faults:
                if fault.match in path and fault.times:
                    if fault.skip:
                        fault.skip -= 1
                        continue
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


class _Handler(Uploads):
    protocol_version = "HTTP/1.1"

    @property
    def _server(self) -> _Server:
        return cast(_Server, self.server)

    @property
    def hub(self) -> HubServer:
        return self._server.hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_PATCH(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._fault = self.hub.take_fault(self.path)
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/")
        if self._fault.status is not None or self._fault.body is not None:
            self.send(self._fault.status or 200, self._fault.body or b"", self._fault.headers)
        elif self.command in ("POST", "PUT", "PATCH") and "/paths-info/" not in path:
            self.write(path)
        elif self._server.kind == "cdn":
            digest = path.rsplit("/", 1)[1]
            data = self.hub.blob(digest)
            assert data is not None, f"the hub itself has named {digest}"
            self._send_file(data, {"ETag": f'"{digest}"'})
        elif path.startswith("api/resolve-cache/"):
            self._resolve(path.removeprefix("api/resolve-cache/"), final=True)
        elif path.startswith("api/collections"):
            self.read_collections(path)
        elif "/xet-read-token/" in path or "/xet-write-token/" in path:
            self._xet_token(path)
        elif path.endswith("/discussions"):
            self.read_discussions(path)
        elif path.startswith("api/"):
            self._info(path.removeprefix("api/"))
        else:
            self._resolve(path, final=False)

    def _xet_token(self, path: str) -> None:
        """The address of Xet's storage, as hf-xet and as huggingface_hub read it."""
        kind = "write" if "/xet-write-token/" in path else "read"
        name, _, revision = path.removeprefix("api/models/").partition(f"/xet-{kind}-token/")
        opened = self.open(name, revision) if kind == "read" else self.open_to_write(name)
        if opened is None:
            return
        if self.hub.xet is None:
            self.refuse(404, "", "Xet is not enabled for this repository")
            return
        told: dict[str, Any] = {
            "casUrl": self.hub.xet.address,
            "accessToken": "xet",
            "exp": int(time.time()) + TOKEN_SECONDS,
        }
        headers = {
            "X-Xet-Cas-Url": told["casUrl"],
            "X-Xet-Access-Token": told["accessToken"],
            "X-Xet-Token-Expiration": str(told["exp"]),
        }
        self.send_json(200, told, headers)

    def _info(self, path: str) -> None:
        kind, _, rest = path.partition("/")
        for listing in ("tree", "paths-info"):
            if f"/{listing}/" in rest:
                self._list(kind, rest, listing)
                return
        name, _, revision = rest.partition("/revision/")
        opened = self.open(name if kind == "models" else f"{kind}/{name}", revision or "main")
        if opened is None:
            return
        repository, commit = opened
        siblings = repository.siblings(commit)
        if "blobs=true" not in self.path.lower():
            siblings = [{"rfilename": item["rfilename"]} for item in siblings]
        private = repository.token is not None
        body = {"_id": "0" * 24, "id": name, "sha": commit, "private": private}
        self.send_json(200, {**body, "siblings": siblings})

    def _list(self, kind: str, path: str, listing: str) -> None:
        """The same files as the hub's other listings have them, from which its clients download."""
        name, _, rest = path.partition(f"/{listing}/")
        revision, _, folder = rest.partition("/")
        if revision == "refs":
            revision, folder = rest, ""
        opened = self.open(name if kind == "models" else f"{kind}/{name}", revision)
        if opened is None:
            return
        repository, commit = opened
        entries = [
            {
                "type": "file",
                "path": item["rfilename"],
                "size": item["size"],
                "oid": item["blobId"],
                **({"lfs": {"oid": lfs["sha256"], **lfs}} if (lfs := item.get("lfs")) else {}),
            }
            for item in repository.siblings(commit)
        ]
        if listing == "paths-info":
            asked = json.loads(self.body)["paths"]
            entries = [entry for entry in entries if entry["path"] in asked]
        elif folder:
            entries = [entry for entry in entries if entry["path"].startswith(f"{folder}/")]
        self.send_json(200, entries)

    def _resolve(self, path: str, *, final: bool) -> None:
        name, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        if revision == "refs":
            kind, number, file = file.split("/", 2)
            revision = f"refs/{kind}/{number}"
        opened = self.open(name, revision)
        if opened is None:
            return
        repository, commit = opened
        files = repository.history[commit]
        if file not in files:
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        data = files[file]
        blob = data if isinstance(data, bytes) else pointer(data)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_blob(blob)}"'}
        if final:
            self._send_file(data, headers)
        elif is_large(file):
            digest = sha256(data)
            headers |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(data))}
            headers["Location"] = f"{self.hub.cdn}/{file}/{digest}?signature=1"
            if self.hub.xet is not None and (stored := self.hub.xet.find(digest)):
                token = f"{self.hub.endpoint}/api/models/{name}/xet-read-token/{commit}"
                headers |= {"X-Xet-Hash": stored.hash, "X-Xet-Refresh-Route": token}
            self.send(302, b"", headers)
        else:
            quoted = urllib.parse.quote(f"{name}/resolve/{commit}/{file}")
            self.send(307, b"", headers | {"Location": f"/api/resolve-cache/{quoted}"})

    def open(self, name: str, revision: str) -> tuple[Repository, str] | None:
        """The repository and the commit of the revision, if the token may see it."""
        repository = self.hub.repositories.get(name)
        token = self.headers.get("Authorization")
        if repository is None:
            # The hub does not tell strangers which repositories exist.
            status = 404 if token else 401
            self.refuse(status, "RepoNotFound" if token else "", "Invalid username or password.")
        elif repository.token and token != f"Bearer {repository.token}":
            gated = repository.gated
            message = "Access to this repository is restricted" if gated else "Repository not found"
            self.refuse(401, "GatedRepo" if gated else "RepoNotFound", message)
        elif revision not in repository.revisions:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repository, repository.revisions[revision]
        return None

    def refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code} if code else {}
        body = json.dumps({"error": message}).encode()
        self.send(status, body, headers | {"X-Error-Message": message})

    def _send_file(self, data: Content, headers: dict[str, str]) -> None:
        fault = self._fault
        headers = headers | {"Accept-Ranges": "bytes"}
        requested = self.headers.get("Range")
        if requested is None or fault.ignore_range:
            self.send(200, self._altered(data[0 : len(data)]), headers)
            return
        first, _, last = requested.removeprefix("bytes=").partition("-")
        start = int(first)
        end = min(int(last) + 1, len(data)) if last else len(data)
        if start >= len(data):
            self.send(416, b"", headers | {"Content-Range": f"bytes */{len(data)}"})
            return
        shift = 1 if fault.shift_range else 0
        headers["Content-Range"] = f"bytes {start + shift}-{end - 1 + shift}/{len(data)}"
        self.send(206, self._altered(data[start:end]), headers)

    def _altered(self, data: bytes) -> bytes:
        return bytes(byte ^ 255 for byte in data) if self._fault.wrong_bytes else data

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
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
            received=len(self.body),
        )
        self.hub.requests.append(request)
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", metavar="NAME=FOLDER", help="what it holds at first")
    parser.add_argument(
        "--xet", type=Path, metavar="FOLDER", help="take and give large files by Xet, kept there"
    )
    args = parser.parse_args()
    folders = dict(argument.split("=", 1) for argument in args.folders)
    xet = args.xet.resolve() if args.xet else None
    # Ended so, too, it takes its files away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with HubServer({name: Path(folder) for name, folder in folders.items()}, xet=xet) as hub:
        print(hub.endpoint, flush=True)
        print(f"the token that may write: {hub.write_token}", file=sys.stderr)
        sys.stdin.read()
        for request in hub.requests:
            print(json.dumps(asdict(request)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
