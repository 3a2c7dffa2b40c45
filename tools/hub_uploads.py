"""The half of a stand-in for the Hugging Face hub that takes repositories, files and commits.

POST /api/repos/create                        a repository, private if asked so
POST /api/validate-yaml                       whether a card's header can be read
POST /api/models/NAME/preupload/REVISION      which files go apart from git, and are there already
GET  /api/models/NAME/xet-write-token/…       where Xet's client puts them (`tools/hub_server.py`)
POST /NAME.git/info/lfs/objects/batch         where Git LFS puts them: PUT to the CDN
POST /api/models/NAME/commit/REVISION         lines of JSON: header, file, lfsFile, deletedFile
POST /api/models/NAME/tag/REVISION            a name for a commit
PUT  /api/models/NAME/settings                whether it is private
GET  /api/models/NAME/discussions             pull requests
POST /api/collections, …/SLUG/items           a collection, and what belongs to it; PATCH …/SLUG
"""

import base64
import json
import urllib.parse
from abc import ABC, abstractmethod
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import yaml

from hub_repository import MAIN, Content, ParentMovedError, Repository, git_blob, is_large, sha256

if TYPE_CHECKING:
    from hub_server import HubServer

_DATE = "2026-01-01T00:00:00.000Z"


class Uploads(BaseHTTPRequestHandler, ABC):
    """Answers requests that write; the rest is `tools/hub_server.py`'s.

    Attributes:
        body: Of the request.
    """

    body: bytes

    @property
    @abstractmethod
    def hub(self) -> "HubServer":
        """The hub that was asked."""

    @abstractmethod
    def open(self, name: str, revision: str) -> tuple[Repository, str] | None:
        """The repository and the commit of the revision, if the token may see it."""

    @abstractmethod
    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Answer."""

    def send_json(
        self, status: int, content: object, headers: dict[str, str] | None = None
    ) -> None:
        """Answer with JSON."""
        told = {"Content-Type": "application/json", **(headers or {})}
        self.send(status, json.dumps(content).encode(), told)

    def refuse(self, status: int, code: str, message: str) -> None:
        """Answer with an error as the hub words it."""
        headers = {"X-Error-Code": code} if code else {}
        self.send_json(status, {"error": message}, headers | {"X-Error-Message": message})

    def write(self, path: str) -> None:
        """Answer a request that writes."""
        kind, _, rest = path.removeprefix("api/").partition("/")
        if not path.startswith("api/"):
            self._store(path)
        elif self._token() is None:
            self.refuse(401, "", "Invalid username or password.")
        elif path == "api/repos/create":
            self._create()
        elif path == "api/validate-yaml":
            self._validate()
        elif kind == "collections":
            self._collect(rest)
        elif "/tag/" in rest:
            self._tag(*rest.split("/tag/"))
        elif rest.endswith("/settings"):
            self._set(rest.removesuffix("/settings"))
        elif "/preupload/" in rest:
            self._preupload(*rest.split("/preupload/"))
        elif "/commit/" in rest:
            self._commit(*rest.split("/commit/"))
        else:
            self.refuse(404, "", f"no such address: {path}")

    def open_to_write(self, name: str) -> Repository | None:
        """The repository, if the token may write to it."""
        opened = self.open(name, MAIN)
        if opened is None:
            return None
        if self._token() != self.hub.write_token:
            self.refuse(403, "", f"You don't have the rights to write to {name}.")
            return None
        return opened[0]

    def read_discussions(self, path: str) -> None:
        """The pull requests of a repository, all on one page."""
        name = path.removeprefix("api/models/").removesuffix("/discussions")
        opened = self.open(name, MAIN)
        if opened is None:
            return
        status = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("status", [None])
        found = [
            {
                "num": each.number,
                "title": each.title,
                "status": each.status,
                "isPullRequest": True,
                "author": {"name": name.split("/")[0]},
                "repo": {"name": name, "type": "model"},
                "createdAt": _DATE,
            }
            for each in opened[0].pull_requests
            if status[0] in (None, each.status)
        ]
        self.send_json(200, {"discussions": found, "count": len(found), "start": 0})

    def read_collections(self, path: str) -> None:
        """A collection by its slug, or those of an owner."""
        slug = path.removeprefix("api/collections").strip("/")
        if not slug:
            self.send_json(200, list(self.hub.collections.values()))
        elif slug in self.hub.collections:
            self.send_json(200, self.hub.collections[slug])
        else:
            self.refuse(404, "", "Collection not found")

    def _token(self) -> str | None:
        value = self.headers.get("Authorization")
        return value.removeprefix("Bearer ") if value else None

    def _json(self) -> dict[str, Any]:
        return json.loads(self.body)

    def _create(self) -> None:
        asked = self._json()
        name = f"{asked['organization']}/{asked['name']}"
        address = {"url": f"{self.hub.endpoint}/{name}", "id": "0" * 24, "name": name}
        if self._token() != self.hub.write_token:
            self.refuse(403, "", f"You don't have the rights to create a model under {name}")
        elif name in self.hub.repositories:
            self.send_json(409, {**address, "error": "You already created this model repo"})
        else:
            first: dict[str, Content] = {
                ".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
            }
            repository = Repository(first)
            if asked.get("visibility") == "private":
                repository.token = self.hub.write_token
            self.hub.repositories[name] = repository
            self.send_json(200, address)

    def _validate(self) -> None:
        header = self._json()["content"].removeprefix("---\n").split("\n---")[0]
        try:
            errors = [] if isinstance(yaml.safe_load(header), dict) else ["no mapping"]
        except yaml.YAMLError as error:
            errors = [str(error)]
        told = {"errors": [{"message": each} for each in errors], "warnings": []}
        self.send_json(400 if errors else 200, told)

    def _preupload(self, name: str, revision: str) -> None:
        opened = self.open(name, revision)
        if opened is None or self.open_to_write(name) is None:
            return
        repository, commit = opened
        files = repository.history[commit]
        answers: list[dict[str, Any]] = []
        for asked in self._json()["files"]:
            path = asked["path"]
            there = files.get(path)
            whole = there[0 : len(there)] if there is not None and not is_large(path) else b""
            digest = None if there is None else sha256(there) if is_large(path) else git_blob(whole)
            answers.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if is_large(path) else "regular",
                    "shouldIgnore": repository.ignored(path),
                    "oid": digest,
                }
            )
        self.send_json(200, {"files": answers})

    def _store(self, path: str) -> None:
        """Git LFS: what to upload and where; and, at the CDN, the upload itself."""
        if self.command == "PUT":
            digest = path.removeprefix("upload/")
            if sha256(self.body) != digest:
                self.send(400, b"the content has another digest", {})
                return
            self.hub.add_blob(digest, self.body)
            self.send(200, b"", {})
            return
        name = path.removesuffix(".git/info/lfs/objects/batch")
        if self.open_to_write(name) is None:
            return
        objects: list[dict[str, Any]] = []
        for asked in self._json()["objects"]:
            digest = asked["oid"]
            target = f"{self.hub.cdn}/upload/{digest}"
            missing = self.hub.blob(digest) is None
            actions = {"actions": {"upload": {"href": target, "header": {}}}} if missing else {}
            objects.append({"oid": digest, "size": asked["size"], **actions})
        self.send_json(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, revision: str) -> None:
        repository = self.open_to_write(name)
        if repository is None:
            return
        header: dict[str, Any] = {}
        added: dict[str, Content] = {}
        removed: set[str] = set()
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                header = value
            elif entry["key"] == "file":
                added[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                removed.add(value["path"])
            elif (data := self.hub.blob(value["oid"])) is not None and len(data) == value["size"]:
                added[value["path"]] = data
            else:
                self.refuse(400, "", f"{value['path']} was not uploaded")
                return
        try:
            with self.hub.lock:
                commit, opened = repository.add_commit(
                    revision,
                    added=added,
                    removed=removed,
                    parent=header.get("parentCommit"),
                    message=(header["summary"], header["description"]),
                    as_pull_request="create_pr=1" in self.path,
                )
        except ParentMovedError:
            self.refuse(412, "", "A commit has happened since. Please refresh and try again.")
            return
        page = f"{self.hub.endpoint}/{name}"
        told = {"success": True, "commitOid": commit, "commitUrl": f"{page}/commit/{commit}"}
        if opened is not None:
            told["pullRequestUrl"] = f"{page}/discussions/{opened.number}"
        self.send_json(200, told)

    def _tag(self, name: str, revision: str) -> None:
        repository = self.open_to_write(name)
        if repository is None:
            return
        tag = self._json()["tag"]
        if tag in repository.revisions:
            self.refuse(409, "", f"Tag {tag} already exists")
        else:
            repository.revisions[tag] = repository.revisions[revision]
            self.send_json(200, {})

    def _set(self, name: str) -> None:
        repository = self.open_to_write(name)
        if repository is not None:
            private = self._json()["visibility"] == "private"
            repository.token = self.hub.write_token if private else None
            self.send_json(200, {})

    def _collect(self, path: str) -> None:
        asked = self._json()
        if self._token() != self.hub.write_token:
            self.refuse(403, "", "You don't have the rights to write to collections")
            return
        if not path:
            slug = f"{asked['namespace']}/{asked['title'].lower().replace(' ', '-')}-{'0' * 24}"
            if slug in self.hub.collections:
                self.send_json(409, {"slug": slug, "error": "This collection already exists"})
                return
            collection = {
                "slug": slug,
                "title": asked["title"],
                "description": asked.get("description"),
                "owner": {"name": asked["namespace"]},
                "private": asked.get("private", False),
                "items": [],
                "lastUpdated": _DATE,
                "position": 0,
                "theme": "orange",
                "upvotes": 0,
            }
            self.hub.collections[slug] = collection
            self.send_json(200, collection)
            return
        collection = self.hub.collections[path.removesuffix("/items")]
        if self.command == "PATCH":
            collection |= asked
            self.send_json(200, {"data": collection})
            return
        item = asked["item"]
        if item["id"] in [each["id"] for each in collection["items"]]:
            self.refuse(409, "", "This item is already in this collection")
            return
        there = collection["items"]
        there.append(
            {"_id": f"{len(there):024}", "type": item["type"], "id": item["id"], "position": 0}
        )
        self.send_json(200, collection)
