"""The fetch stages against a hub: a local server that speaks its protocol."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoints import edit_json, half_made, tiny_config, write_checkpoint
from conversion import ENVIRONMENT, Conversion, Pico
from hub_server import HubServer
from scion.artifacts.making import Output
from scion.checkpoint import places
from scion.checkpoint.hub import http as hub_http
from scion.checkpoint.hub.source import PREFIX_BYTES
from scion.checkpoint.places import check_places
from scion.common.errors import ScionError
from scion.config import Config, check_sources
from scion.stages.fetch_donor import fetch_donor
from scion.stages.fetch_source import fetch_source


@pytest.fixture
def hub(pico: Pico, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer({"owner/agent": pico.agent, "owner/base": pico.base}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setattr(hub_http, "RETRY_SECONDS", (0.0, 0.0))
        yield server


def test_a_source_from_the_hub_has_the_tensors_of_the_folder(
    hub: HubServer, conversion: Conversion, tmp_path: Path
) -> None:
    location = hub.location("owner/agent")
    made = fetch_source(
        location=location, output=Output.at(tmp_path / "out"), environment=ENVIRONMENT
    )
    assert made.tensors() == conversion.fetch_source.tensors()
    assert made.facts["location"] == location
    assert sorted(path.name for path in tmp_path.iterdir()) == [".store", "out", "out.json"]
    assert half_made(tmp_path) == []


def test_a_source_that_is_there_is_not_asked_for_again(hub: HubServer, tmp_path: Path) -> None:
    location = hub.location("owner/agent")
    first = fetch_source(
        location=location, output=Output.at(tmp_path / "out"), environment=ENVIRONMENT
    )
    asked = len(hub.requests)
    again = fetch_source(
        location=location, output=Output.at(tmp_path / "out"), environment=ENVIRONMENT
    )
    assert again.root == first.root
    assert len(hub.requests) == asked


def test_a_failed_fetch_leaves_no_artifact_and_the_next_moves_only_the_rest(
    hub: HubServer, pico: Pico, tmp_path: Path
) -> None:
    location, output = hub.location("owner/agent"), tmp_path / "out"
    hub.fail("model-00002", times=3, status=503)
    with pytest.raises(ScionError):
        fetch_source(location=location, output=Output.at(output), environment=ENVIRONMENT)
    # What has arrived waits in the store.
    assert [path.name for path in tmp_path.iterdir()] == [".store"]
    (work,) = (tmp_path / ".store/work").iterdir()
    assert [path.name for path in work.iterdir()] == ["kept"]

    first = (pico.agent / "model-00001-of-00003.safetensors").stat().st_size
    assert hub.sent("model-00001") == first
    made = fetch_source(location=location, output=Output.at(output), environment=ENVIRONMENT)
    assert hub.sent("model-00001") == first
    assert made.check() == []
    assert half_made(tmp_path) == []


def test_of_a_donor_only_headers_head_and_a_sample_are_moved(
    hub: HubServer, conversion: Conversion, tmp_path: Path
) -> None:
    location = hub.location("owner/base")
    made = fetch_donor(
        location=location, output=Output.at(tmp_path / "out"), environment=ENVIRONMENT
    )
    assert made.tensors() == conversion.fetch_donor.tensors()
    head = made.facts["mtp_bytes"]
    sample = 8 << 10
    assert head <= hub.sent(".safetensors/") <= head + 3 * PREFIX_BYTES + sample
    # Of the shard without head the header alone, and rows of the embeddings.
    assert hub.sent("model-00001") <= PREFIX_BYTES + sample


def test_an_architecture_that_no_release_is_made_of_costs_no_shard(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config())
    edit_json(folder / "config.json", lambda config: config.update(model_type="bert"))
    with HubServer({"owner/other": folder}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        location = server.location("owner/other")
        with pytest.raises(ScionError, match="bert"):
            fetch_source(
                location=location, output=Output.at(tmp_path / "out"), environment=ENVIRONMENT
            )
        assert server.sent(".safetensors") == 0
        with pytest.raises(ScionError, match=r"(?s)source: .*bert"):
            check_places([("source", location)], [], license="apache-2.0", where="x", hub=True)


def test_what_a_config_names_is_looked_at_on_the_hub(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = hub.location("owner/agent")

    def look(location: str) -> list[str]:
        places.hub_answers.cache_clear()
        return check_places([("source", location)], [], license="apache-2.0", where="x", hub=True)

    assert look(agent) == []
    assert hub.sent(".safetensors") == 0
    with pytest.raises(ScionError, match="source: the hub refuses"):
        look(agent.replace("owner/agent", "owner/nobody"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert look(agent) == [f"source: {agent} was not looked at: no hub can be reached"]


def test_a_context_beyond_the_one_of_a_repository_is_refused(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    places.hub_answers.cache_clear()
    monkeypatch.setattr(Config, "checkpoints", lambda self: [("source", location)])
    location = hub.location("owner/agent")
    fits = Config()
    assert check_sources(fits, where="x", hub=True) == []
    (launch,) = fits.launches
    longer = (launch.model_copy(update={"max_model_len": 2049}),)
    with pytest.raises(ScionError, match=r"launches\.0\.max_model_len") as caught:
        check_sources(fits.model_copy(update={"launches": longer}), where="x", hub=True)
    assert caught.value.expected == "max_model_len 2048 at most"
    assert caught.value.where == f"{location}/config.json"
