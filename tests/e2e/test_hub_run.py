"""Runs whose source and donor, or calibration set, lie on a hub: pinned, locked, and moved once."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from conversion import SAMPLES
from hub_server import NO_PROXY, HubServer
from project_copy import QUICK, ProjectCopy
from scion.artifacts.manifest import read_manifest
from scion.checkpoint.hub.lock import lock_of, read_lock, write_lock
from scion.checkpoint.hub.source import PREFIX_BYTES
from scion.checkpoint.release_files import released
from scion.quantization.config import CALIBRATION_FILES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

AGENT, BASE = "owner/agent", "owner/base"
DATA, HUB = "datasets/owner/data", "hub.yaml"
FETCHES = ("--until", "fetch_source", "fetch_donor")


def test_source_and_donor_are_pinned_locked_and_moved_once(tmp_path: Path) -> None:
    project = ProjectCopy.make(tmp_path / "project")
    pico = project.folder / "resources/pico"
    project.configure(QUICK, **own_values(project.folder))
    with HubServer({AGENT: pico / "pico-agent", BASE: pico / "pico-base"}) as hub:
        there = {"HF_ENDPOINT": hub.endpoint, "NO_PROXY": NO_PROXY, "HF_HOME": str(tmp_path / "hf")}

        def run(*command: str) -> tuple[int, str]:
            done = project.run(*command, **there)
            return done.returncode, done.stdout + done.stderr

        def fetch() -> tuple[int, str]:
            return run("snakemake", "--cores", "2", "--configfile", QUICK, *FETCHES)

        status, said = run("scion", "pin", QUICK)
        assert status == 0, said
        assert "quick.lock.json: locked " in said
        assert hub.location(AGENT) in (project.folder / QUICK).read_text()

        hub.requests.clear()
        status, said = fetch()
        assert status == 0, said
        files = hub.repositories[AGENT].files
        smallest = sum(len(files[name]) for name in released(files))
        whole = hub.sent(f"{AGENT}/resolve") + large(hub, AGENT)
        # Headers are looked at by the plan and by the stage, before gigabytes are moved.
        shards = [name for name in released(files) if name.endswith(".safetensors")]
        looked_at = 2 * len(shards) * PREFIX_BYTES + 100_000
        assert smallest <= whole < smallest + looked_at
        donor = json.loads((project.folder / "results/own/fetch_donor.json").read_text())
        head = donor["facts"]["mtp_bytes"]
        assert head <= large(hub, BASE) < head + looked_at

        hub.requests.clear()
        status, said = fetch()
        assert status == 0, said
        assert hub.requests == []

        # A store that has nothing, and a hub that answers with another file for the same commit.
        files["config.json"] = bytes(files["config.json"][0 : len(files["config.json"])]) + b" "
        values = own_values(project.folder)
        values |= {**at(hub), "store": ["results/.other"]}
        project.configure(QUICK, **values)
        status, said = fetch()
        assert status != 0
        assert "a pinned repository is not what it was" in said
        # The donor is there, and of the source nothing.
        assert not list((project.folder / "results/.other/artifacts").glob(f"*/{shards[0]}"))


def test_calibration_rows_are_locked_and_give_the_bytes_of_a_local_file(
    converted_project: ProjectCopy, tmp_path: Path
) -> None:
    project = converted_project.copy(tmp_path / "project")
    shown = project.folder / "results/pico-agent-nvfp4-text-mtp/quantize_nvfp4.json"
    by_file = read_manifest(shown)
    assert CALIBRATION_FILES not in by_file["facts"]
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(project.folder / "resources/pico/calibration.jsonl", data / "train.jsonl")
    with HubServer({DATA: data}) as hub:
        there = {"HF_ENDPOINT": hub.endpoint, "NO_PROXY": NO_PROXY, "HF_HOME": str(tmp_path / "hf")}
        sets = [{"dataset": hub.location(DATA), "samples": SAMPLES}]
        quantization = {"recipe": "nvfp4_default", "calibration": {"sets": sets}}
        project.configure(HUB, quantization=quantization)
        lock = lock_of(project.folder / HUB)
        write_lock(lock, {})

        def run(*command: str) -> tuple[int, str]:
            done = project.run(*command, **there)
            return done.returncode, done.stdout + done.stderr

        quantize = ("snakemake", "--cores", "2", "--configfile", HUB, "--until", "quantize_nvfp4")
        status, said = run(*quantize)
        assert status != 0
        assert f"nothing of {hub.location(DATA)}; write it: scion pin {HUB}" in said
        assert hub.requests == []
        status, said = run("scion", "pin", HUB)
        assert status == 0, said
        status, said = run(*quantize)
        assert status == 0, said
        made = read_manifest(shown)
        locked = read_lock(lock)[hub.location(DATA)]
        assert made["facts"][CALIBRATION_FILES] == {
            hub.location(DATA): {"train.jsonl": locked["train.jsonl"].sha256}
        }
        assert made["content"] == by_file["content"]


def own_values(folder: Path) -> dict[str, Any]:
    """A configuration of one's own: it names nothing of the embedded pair's."""
    (folder / "data").mkdir(exist_ok=True)
    names = ("calibration", "prompts", "heldout", "heldout_texts", "ifeval")
    for name in names:
        shutil.copy(folder / f"resources/pico/{name}.jsonl", folder / "data")
    calibration, prompts, chats, texts, ifeval = (f"data/{name}.jsonl" for name in names)
    launch = {"name": "own", "title": "Own", "max_model_len": 2048, "speculative_tokens": 3}
    return {
        "release": "own",
        "source": f"hf://{AGENT}",
        "donor": f"hf://{BASE}",
        "quantization": {
            "recipe": "nvfp4_default",
            "calibration": {"sets": [{"dataset": calibration, "samples": 4}]},
        },
        "launches": [launch],
        "serving": {"launch": "own"},
        "measurement": {"launches": ["own"], "prompts": prompts},
        "quality": {"base": None, "chats": chats, "texts": texts},
        "ifeval": {"dataset": ifeval},
        "card": {
            "title": "Own",
            "summary": "A release of one's own.",
            "repository": "owner/release",
            "parent": AGENT,
            "base": BASE,
            "hardware_target": "a machine",
            "harness_only_note": None,
        },
    }


def at(hub: HubServer) -> dict[str, Any]:
    """Source and donor, pinned."""
    return {"source": hub.location(AGENT), "donor": hub.location(BASE)}


def large(hub: HubServer, name: str) -> int:
    """Bytes of a repository's large files that were moved."""
    repository = hub.repositories[name]
    digests = [
        item["lfs"]["sha256"] for item in repository.siblings(repository.commit) if "lfs" in item
    ]
    return sum(hub.sent(digest) for digest in digests)
