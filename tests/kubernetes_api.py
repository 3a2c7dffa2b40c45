"""A stand-in of a Kubernetes API on this machine: it checks every body, and runs jobs as processes.

    with kubernetes_api(folder, claims={"scion": project.folder}) as cluster:
        subprocess.run(["snakemake", …], env=cluster.environment())
        cluster.jobs[0].body["spec"]

No cluster is behind it. Of the API it has what the client of an executor calls: secrets, jobs,
their status, their pods, logs, and that they are deleted. A body has to be valid by the schema of
the API, without a key that it lacks, and to keep rules that the schema does not tell and a real API
server enforces; else the answer is 422. A job's container is a process with the variables of its
specification alone, in its working directory. What it takes is watched as a node does it: more
memory than its limit ends it with SIGKILL, and so does its deadline. An image is not looked at, nor
are volumes mounted: a claim stands for the same path on this machine, an empty folder for a
temporary one.
"""

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil
import yaml

from lock import CLUSTER_ENVIRONMENT, ROOT
from scion.artifacts.environments import prefix

VERSION = "1.34"
"""The API whose schema is asked."""
NAMESPACE = "team"
"""The namespace that exists."""
_PACKAGES = (
    ROOT
    / prefix(str(CLUSTER_ENVIRONMENT))
    / "lib"
    / (f"python{sys.version_info.major}.{sys.version_info.minor}/site-packages")
)
_TOKEN = "token-of-the-tests"
# What an image without variables of its own gives a process.
_IMAGE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_LOOK_SECONDS = 0.2


def is_installed() -> bool:
    """Whether the environment with the client and the schema is there."""
    return (_PACKAGES / "kubernetes_validate").is_dir()


class RefusedError(Exception):
    """What the API refuses, with the status of its answer."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status, self.reason = status, reason
        super().__init__(message)


def quantity(text: str) -> float:
    """A quantity of the API as a number: `1500m`, `2000M`."""
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", text)
    assert found, text
    number, unit = found.groups()
    return float(number) * _UNITS[unit]


def check(body: Mapping[str, Any]) -> None:
    """Refuse what a real API server refuses.

    Raises:
        RefusedError: It is not valid.
    """
    if str(_PACKAGES) not in sys.path:
        sys.path.append(str(_PACKAGES))
    import kubernetes_validate  # pyright: ignore[reportMissingImports]

    try:
        kubernetes_validate.validate(body, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise RefusedError(422, "Invalid", f"{list(error.path)}: {error.message}") from error
    if body["kind"] == "Job":
        _check_pod(body["spec"]["template"]["spec"])


def _check_pod(pod: Mapping[str, Any]) -> None:
    """What the schema does not say of a pod."""

    def require(holds: bool, message: str) -> None:
        if not holds:
            raise RefusedError(422, "Invalid", message)

    require(pod.get("restartPolicy") in ("Never", "OnFailure"), "restartPolicy: unsupported value")
    volumes = [volume["name"] for volume in pod.get("volumes", [])]
    require(len(set(volumes)) == len(volumes), "volumes: duplicate value")
    require(all(re.fullmatch("[a-z0-9]([-a-z0-9]*[a-z0-9])?", each) for each in volumes), "volumes")
    for container in pod["containers"]:
        require(bool(container.get("image")), "image: required value")
        mounts = container.get("volumeMounts", [])
        require({mount["name"] for mount in mounts} <= set(volumes), "volumeMounts: not found")
        paths = [mount["mountPath"] for mount in mounts]
        require(len(set(paths)) == len(paths), "mountPath: must be unique")
        resources = container.get("resources", {})
        limits, requests = resources.get("limits", {}), resources.get("requests", {})
        for name, text in requests.items():
            limit = limits.get(name)
            # GPUs and what else a device plugin offers.
            if "/" in name:
                told = "limit must be set for non overcommitable resources"
                require(limit is not None, f"requests.{name}: {told}")
                require(limit == text, f"requests.{name}: must be equal to {name} limit")
            fits = limit is None or quantity(text) <= quantity(limit)
            require(fits, f"requests.{name}: must be less than or equal to {name} limit")


@dataclass
class Job:
    """A job, and its only pod."""

    body: dict[str, Any]
    exit_code: int | None = None
    reason: str = ""
    log: str = ""
    is_running: bool = False
    is_deleted: bool = False

    @property
    def name(self) -> str:
        return self.body["metadata"]["name"]

    @property
    def pod(self) -> dict[str, Any]:
        """The specification of its pod."""
        return self.body["spec"]["template"]["spec"]

    @property
    def container(self) -> dict[str, Any]:
        (container,) = self.pod["containers"]
        return container

    @property
    def command(self) -> str:
        """What its shell is told."""
        return self.container["args"][-1]

    @property
    def rule(self) -> str:
        """The rule that it runs."""
        found = re.search(r"--allowed-rules (\S+)", self.command)
        assert found, self.command
        return found[1]

    def status(self) -> dict[str, Any]:
        """As the API tells it of the job."""
        if self.exit_code is None:
            return {"active": 1}
        return {"succeeded": 1} if self.exit_code == 0 else {"failed": 1}

    def pod_status(self) -> dict[str, Any]:
        """As the API tells it of the pod."""
        if not self.is_running and self.exit_code is None:
            return {"phase": "Pending"}
        ended = {"exitCode": self.exit_code, "reason": self.reason or "Error"}
        state = {"running": {}} if self.exit_code is None else {"terminated": ended}
        about = {"ready": self.is_running, "restartCount": 0, "image": "", "imageID": ""}
        return {
            "phase": "Running" if self.exit_code is None else "Failed",
            "containerStatuses": [{"name": self.container["name"], "state": state, **about}],
        }


@dataclass
class KubernetesApi:
    """The stand-in.

    Attributes:
        folder: Where its files are.
        claims: The path that each claim's volume has, here and in pods.
        at_once: How many pods run at the same time; with 0 all of them wait.
        ends_with: The exit code with which each container ends as it begins; None runs it.
        jobs: All jobs that were taken, also those that were deleted.
        refused: What was refused, and why.
        secrets: Those that exist, decoded.
        away: To how many of the next questions it has no answer.
    """

    folder: Path
    claims: Mapping[str, Path]
    at_once: int
    ends_with: int | None = None
    url: str = ""
    jobs: list[Job] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    away: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    room: threading.Condition = field(default_factory=threading.Condition)

    def environment(self) -> dict[str, str]:
        """The variables with which this cluster is found."""
        config = self.folder / "kubeconfig"
        user = {"name": "user", "user": {"token": _TOKEN}}
        cluster = {"name": "stand-in", "cluster": {"server": self.url}}
        context = {"name": "c", "context": {"cluster": "stand-in", "user": "user"}}
        config.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "c",
                    **{"clusters": [cluster], "users": [user], "contexts": [context]},
                }
            )
        )
        return {**os.environ, "KUBECONFIG": str(config), "NO_PROXY": "127.0.0.1"}

    def options(self) -> list[str]:
        """What the command line of a run says of it."""
        claims = [f"{name}:{path}" for name, path in self.claims.items()]
        return [
            *("--kubernetes-shared-namespace", NAMESPACE),
            *("--kubernetes-shared-persistent-volumes", *claims),
            *("--container-image", "images.example/scion:1"),
        ]

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Any:
        """Answer a request."""
        found = re.fullmatch(r"/(api/v1|apis/batch/v1)/namespaces/([^/]+)/(.+)", path)
        if not found or found[2] != NAMESPACE:
            raise RefusedError(404, "NotFound", f"{path} not found")
        match (method, *found[3].split("/")):
            case ("POST", "secrets"):
                # An API server takes kind and version from the address.
                check({"kind": "Secret", "apiVersion": "v1", **body})
                decoded = {
                    name: base64.b64decode(text).decode() for name, text in body["data"].items()
                }
                self.secrets[body["metadata"]["name"]] = decoded
                return body
            case ("DELETE", "secrets", name):
                self.secrets.pop(name)
                return {"kind": "Status", "status": "Success"}
            case ("POST", "jobs"):
                check({"kind": "Job", "apiVersion": "batch/v1", **body})
                job = Job(body)
                self.jobs.append(job)
                threading.Thread(target=self._run, args=(job,), daemon=True).start()
                return body
            case ("GET", "jobs", name, "status"):
                job = self._job(name)
                return {**job.body, "status": job.status()}
            case ("DELETE", "jobs", name):
                self._job(name).is_deleted = True
                return {"kind": "Status", "status": "Success"}
            case ("GET", "pods"):
                job = self._job(query["labelSelector"].removeprefix("job-name="))
                pod = {"metadata": {"name": f"{job.name}-pod"}, "status": job.pod_status()}
                return {"kind": "PodList", "apiVersion": "v1", "items": [pod]}
            case ("DELETE", "pods", name):
                self._job(name.removesuffix("-pod"))
                return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}}
            case ("GET", "pods", name, "log"):
                if query.get("previous") == "True":
                    told = f'previous terminated container "snakemake" in pod "{name}" not found'
                    raise RefusedError(400, "BadRequest", told)
                return self._job(name.removesuffix("-pod")).log
            case _:
                raise RefusedError(404, "NotFound", f"{method} {path} not found")

    def _job(self, name: str) -> Job:
        for job in self.jobs:
            if job.name == name and not job.is_deleted:
                return job
        raise RefusedError(404, "NotFound", f"{name} not found")

    def _run(self, job: Job) -> None:
        """Run a job once there is room for it, if its volumes are there."""
        claimed = [each.get("persistentVolumeClaim") for each in job.pod["volumes"]]
        if any(claim and claim["claimName"] not in self.claims for claim in claimed):
            return
        with self.room:
            self.room.wait_for(lambda: sum(each.is_running for each in self.jobs) < self.at_once)
            if self.ended.is_set() or job.is_deleted:
                return
            job.is_running = True
        try:
            job.exit_code, job.reason = self._process(job)
        finally:
            with self.room:
                job.is_running = False
                self.room.notify_all()

    def _process(self, job: Job) -> tuple[int, str]:
        if self.ends_with is not None:
            return self.ends_with, "OOMKilled" if self.ends_with == 137 else ""
        log = self.folder / f"{job.name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*job.container["command"], *job.container["args"]],
                cwd=job.container["workingDir"],
                env={"PATH": _IMAGE_PATH, **self._variables(job)},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            limit = quantity(job.container["resources"]["limits"]["memory"])
            deadline = time.monotonic() + job.pod["activeDeadlineSeconds"]
            reason = ""
            while process.poll() is None:
                if _memory(process.pid) > limit:
                    reason = "OOMKilled"
                elif time.monotonic() > deadline:
                    reason = "DeadlineExceeded"
                if reason or self.ended.is_set() or job.is_deleted:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                time.sleep(_LOOK_SECONDS)
        job.log = log.read_text(errors="replace")
        # As a shell has it of a process that a signal has ended.
        code = process.returncode
        return (128 - code if code < 0 else code), reason

    def _variables(self, job: Job) -> dict[str, str]:
        """The variables of a container; what names a folder of the pod's own names one here."""
        own = [volume["name"] for volume in job.pod["volumes"] if "emptyDir" in volume]
        folders: dict[str, Path] = {}
        for mount in job.container["volumeMounts"]:
            if mount["name"] in own and mount["mountPath"] != "/dev/shm":
                folders[mount["mountPath"]] = self.folder / f"{job.name}-{mount['name']}"
                folders[mount["mountPath"]].mkdir()
        variables: dict[str, str] = {}
        for each in job.container["env"]:
            if "valueFrom" in each:
                key = each["valueFrom"]["secretKeyRef"]
                variables[each["name"]] = self.secrets[key["name"]][key["key"]]
            else:
                variables[each["name"]] = str(folders.get(each["value"], each["value"]))
        return variables


def _memory(pid: int) -> int:
    """Bytes that a process and all that it started have resident."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total


@contextlib.contextmanager
def kubernetes_api(
    folder: Path, claims: Mapping[str, Path], *, at_once: int = 2, ends_with: int | None = None
) -> Generator[KubernetesApi]:
    """Start the stand-in; it ends with the block, and what it runs with it."""
    folder.mkdir(parents=True)
    api = KubernetesApi(folder, claims, at_once, ends_with)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(api))
    api.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        api.ended.set()
        deadline = time.monotonic() + 30
        while any(job.is_running for job in api.jobs) and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)


def _handler(api: KubernetesApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            address = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(address.query).items()}
            status, said = 201 if self.command == "POST" else 200, None
            try:
                if self.headers.get("Authorization") != f"Bearer {_TOKEN}":
                    raise RefusedError(401, "Unauthorized", "Unauthorized")
                if self.command == "GET" and api.away > 0:
                    api.away -= 1
                    raise RefusedError(503, "ServiceUnavailable", "the server is starting")
                said = api.answer(self.command, address.path, query, body)
            except RefusedError as error:
                status = error.status
                if status < 500:
                    api.refused.append(f"{self.command} {address.path}: {error}")
                told = {"message": str(error), "reason": error.reason, "code": status}
                said = {"kind": "Status", "apiVersion": "v1", "status": "Failure", **told}
            text = said if isinstance(said, str) else json.dumps(said)
            self.send_response(status)
            kind = "text/plain" if isinstance(said, str) else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_DELETE = _answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
