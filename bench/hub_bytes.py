"""How many bytes move between a publisher and the hub, beside the fewest that could?

The embedded agent is fetched from a hub on this machine, the head of its base, both once more; its
release is published, once more, and after an edit of its card. The hub (tools/hub_server.py) is
asked by the real client, by Xet and without it, and counts what it sends and takes; of Xet's
storage, which the client reads and writes by itself, what the client reports and what lies there
then. The fewest bytes are those of the files or ranges that are wanted, and nothing else. The peers
are what people type: `snapshot_download` of source and donor, `upload_folder` of the release.

Both releases are folders that the workflow has sealed; they differ in a word of the card. Progress
goes to stderr; the last line of stdout is one JSON object.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
sys.path.append(str(PROJECT / "tools"))
# Before the client is imported, which reads these once.
_HOME = tempfile.TemporaryDirectory(prefix="hub-bytes-")
os.environ |= {
    "HF_HOME": _HOME.name,
    "HF_TOKEN": "hf_write",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "NO_PROXY": "127.0.0.1,localhost",
}

from huggingface_hub import CommitOperationAdd, HfApi, constants, snapshot_download  # noqa: E402
from support.measure import machine, tell  # noqa: E402

from hub_server import HubServer  # noqa: E402
from scion.artifacts.making import Output  # noqa: E402
from scion.audit.publication.audited import audited_release  # noqa: E402
from scion.audit.publication.transaction import Publisher, PublishOptions  # noqa: E402
from scion.checkpoint.hub.client import download_files, list_files  # noqa: E402
from scion.checkpoint.hub.location import HubRepository  # noqa: E402
from scion.checkpoint.release_files import released  # noqa: E402
from scion.stages.fetch_donor import fetch_donor  # noqa: E402
from scion.stages.fetch_source import fetch_source  # noqa: E402

PICO = PROJECT / "resources/pico"
DEFAULT = Path("results/pico-agent-nvfp4-text-mtp/release")
EDIT = "publish after an edit of the card"
AGENT, BASE, RELEASE = "owner/agent", "owner/base", "owner/release"
_ENVIRONMENT = "sha256:benchmark"


@dataclass(frozen=True)
class Counted:
    """What one step has moved.

    Attributes:
        bytes: In both directions, contents and answers.
        requests: To the hub.
    """

    bytes: int
    requests: int


class Counter:
    """Counts what moves, of a hub that keeps large files by Xet or does not."""

    def __init__(self, hub: HubServer) -> None:
        self._hub = hub

    def count(self, step: Callable[[], object]) -> Counted:
        """What a step moves; of what Xet's client fetches, nothing is seen here."""
        before, stored = len(self._hub.requests), self._stored()
        step()
        asked = self._hub.requests[before:]
        moved = sum(request.sent + request.received for request in asked)
        return Counted(moved + self._stored() - stored, len(asked))

    def _stored(self) -> int:
        return 0 if self._hub.xet is None else self._hub.xet.stored_bytes()


def measure(release: Path, edited: Path | None, folder: Path, *, by_xet: bool) -> dict[str, Any]:
    """All steps, by Xet or without it."""
    constants.HF_HUB_DISABLE_XET = not by_xet
    with HubServer({}, xet=folder / "xet" if by_xet else None) as hub:
        os.environ["HF_ENDPOINT"] = hub.endpoint
        api = HfApi(endpoint=hub.endpoint, token=hub.write_token)
        for name, source in ((AGENT, PICO / "pico-agent"), (BASE, PICO / "pico-base")):
            api.create_repo(name)
            files = [path for path in sorted(source.iterdir()) if path.is_file()]
            added = [CommitOperationAdd(path.name, str(path)) for path in files]
            api.create_commit(name, added, commit_message="all of it")
        counter = Counter(hub)
        found: dict[str, Any] = {}

        def note(
            name: str, counted: Counted, fewest: int, *, peer: int | None = None, xet: int = 0
        ) -> None:
            moved = counted.bytes + xet
            found[name] = {
                "bytes": moved,
                "fewest": fewest,
                "requests": counted.requests,
                **({"peer": peer} if peer is not None else {}),
            }
            print(f"{'xet' if by_xet else 'http'} {name}: {found[name]}", file=sys.stderr)

        agent, base = hub.location(AGENT), hub.location(BASE)

        def fetch_whole() -> object:
            output = Output.at(folder / "fetch_source")
            return fetch_source(location=agent, output=output, environment=_ENVIRONMENT)

        def fetch_head() -> object:
            output = Output.at(folder / "fetch_donor")
            return fetch_donor(location=base, output=output, environment=_ENVIRONMENT)

        repository = HubRepository("model", AGENT, hub.commit(AGENT))
        names = released(list_files(repository))
        sizes = {name: len(hub.repositories[AGENT].files[name]) for name in names}
        by_client = 0
        if by_xet:
            moved = download_files(repository, names, folder / "alone")
            small = (size for name, size in sizes.items() if not name.endswith(".safetensors"))
            by_client = moved - sum(small)
        peer = counter.count(
            lambda: snapshot_download(AGENT, endpoint=hub.endpoint, local_dir=folder / "peer")
        )
        counted = counter.count(fetch_whole)
        note(
            "source",
            counted,
            sum(sizes.values()),
            xet=by_client,
            peer=None if by_xet else peer.bytes,
        )
        before = counter.count(
            lambda: snapshot_download(BASE, endpoint=hub.endpoint, local_dir=folder / "whole")
        )
        counted = counter.count(fetch_head)
        head = (folder / "fetch_donor/model-mtp.safetensors").stat().st_size
        note("donor's head", counted, head, peer=None if by_xet else before.bytes)
        note("both again", counter.count(lambda: (fetch_whole(), fetch_head())), 0)

        options = PublishOptions(to_main=True)
        whole = HubRepository("model", RELEASE, None)

        def publish(audited: Any) -> Callable[[], object]:
            publisher = Publisher(whole)
            return lambda: publisher.publish(publisher.plan(audited, options))

        first = audited_release(release)
        total = sum(first.size(name) for name in first.digests)
        note("publish", counter.count(publish(first)), total)
        note("publish again", counter.count(publish(first)), 0)
        if edited is not None:
            second = audited_release(edited)
            differing = [
                name for name, digest in second.digests.items() if first.digests.get(name) != digest
            ]
            fewest = sum(second.size(name) for name in differing)
            note(EDIT, counter.count(publish(second)), fewest)
            found[EDIT]["files"] = len(differing)
    if not by_xet:
        releases = {"publish": release, **({EDIT: edited} if edited is not None else {})}
        for step, moved in zip(releases, by_upload_folder(*releases.values()), strict=True):
            found[step]["peer"] = moved
    return found


def by_upload_folder(*releases: Path) -> list[int]:
    """What the peer moves for each of these, one after the other to one repository."""
    with HubServer({}) as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.write_token)
        api.create_repo(RELEASE)
        counter = Counter(hub)
        return [
            counter.count(
                lambda each=each: api.upload_folder(repo_id=RELEASE, folder_path=each)
            ).bytes
            for each in releases
        ]


def main() -> int:
    """Measure, and print the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--release", type=Path, default=DEFAULT, help=f"a sealed release (default: {DEFAULT})"
    )
    parser.add_argument(
        "--edited", type=Path, help="the same with another card; without it, that step is left out"
    )
    parser.add_argument("--output", type=Path, help="also write the report to this file")
    args = parser.parse_args()
    if not args.release.is_dir():
        parser.error(f"there is no release {args.release}: make run makes the default one")
    found: dict[str, Any] = {}
    for way in ("xet", "http"):
        with tempfile.TemporaryDirectory(prefix="hub-bytes-") as folder:
            found[way] = measure(args.release, args.edited, Path(folder), by_xet=way == "xet")
    tell({"machine": machine(Path(_HOME.name)), "moved": found}, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
