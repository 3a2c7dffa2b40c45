"""Hermes Agent, the real package, completes a task with a tool on a real server of the release.

Hermes runs as users run it, from its command line and a config.yaml as the card shows it; its tool
is a plugin, `hermes_plugin`. What it did is read from its own database.
"""

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

import hermes_plugin
from scion.artifacts.environments import interpreter, prefix
from scion.engines.config import PICO_LAUNCH, Serving
from scion.engines.server import Server
from scion.engines.vllm import server as vllm
from scion.report.card.hermes import LEAST_CONTEXT, hermes_values

pytestmark = pytest.mark.serve

PROJECT = Path(__file__).parents[2]
HERMES = PROJECT / prefix("envs/hermes") / "bin/hermes"
PYTHON = PROJECT / interpreter("envs/serve-cpu")


@pytest.fixture(scope="module")
def server(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("hermes") / "server.log"
    with vllm.serve(
        release, name="release", launch=PICO_LAUNCH, serving=Serving(), python=PYTHON, log=log
    ) as running:
        yield running


def make_home(folder: Path, server: Server, **model: object) -> Path:
    """A home of Hermes with the plugin, pointed at the server by the card's snippet."""
    plugin = folder / "plugins/weather"
    plugin.mkdir(parents=True)
    shutil.copy(Path(hermes_plugin.__file__), plugin / "__init__.py")
    (plugin / "plugin.yaml").write_text("name: weather\nversion: '1'\ndescription: One tool.\n")
    (folder / "SOUL.md").write_text("You are a helpful agent that uses tools when needed.\n")
    card = hermes_values([PICO_LAUNCH], model=server.model, base_url=server.openai_url)
    config = {
        "model": {**yaml.safe_load(card["config"])["model"], **model},
        "plugins": {"enabled": ["weather"]},
        "security": {"allow_lazy_installs": False},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def ask_hermes(home: Path, question: str) -> subprocess.CompletedProcess[str]:
    """One question by the command line. Whatever asks another host than this one fails at once."""
    nowhere = "http://127.0.0.1:9"
    environment = {
        **{"HOME": str(home), "HERMES_HOME": str(home), "PATH": os.defpath},
        **{"HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere, "NO_PROXY": "127.0.0.1"},
    }
    command = [HERMES, "-z", question, "--toolsets", "weather"]
    command += ["--usage-file", home / "usage.json"]
    return subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, timeout=300
    )


def conversation(home: Path) -> list[dict[str, Any]]:
    """The messages that Hermes stored, in their order; printed, to be seen with `pytest -s`."""
    with closing(sqlite3.connect(home / "state.db")) as database:
        database.row_factory = sqlite3.Row
        rows = database.execute(
            "SELECT role, content, reasoning, tool_calls, finish_reason FROM messages ORDER BY id"
        )
        messages = [dict(row) for row in rows]
    print()
    for message in messages:
        print(json.dumps({key: value for key, value in message.items() if value}))
    return messages


@pytest.mark.parametrize(
    ("question", "weather"),
    [
        (
            "What is the weather in Tokyo right now?",
            {"city": "Tokyo", "temperature_c": 18, "condition": "cloudy"},
        ),
        (
            "How is the weather in Oslo today?",
            {"city": "Oslo", "temperature_c": 27, "condition": "windy"},
        ),
    ],
)
def test_a_task_with_a_tool(server: Server, tmp_path: Path, question: str, weather: dict[str, Any]):
    # pico has 2048 tokens, far more than the two requests need; the card's snippet claims more.
    home = make_home(tmp_path, server)
    (home / "weather.json").write_text(json.dumps({weather["city"]: weather}))
    done = ask_hermes(home, question)
    messages = conversation(home)
    assert done.returncode == 0, done.stderr
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
    asked, calling, result, answer = messages
    assert asked["content"] == question
    [call] = json.loads(calling["tool_calls"])
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": weather["city"]}
    assert json.loads(result["content"]) == weather
    assert answer["finish_reason"] == "stop"
    assert answer["content"] == done.stdout.strip()
    for fact in weather.values():
        assert str(fact) in done.stdout
    usage = json.loads((home / "usage.json").read_text())
    assert usage["completed"]
    assert not usage["failed"]
    assert usage["api_calls"] == 2
    assert usage["model"] == server.model


def test_a_context_too_short_for_hermes(server: Server, tmp_path: Path):
    """What the card's reader meets with a launch of less than 64K: Hermes reads the server's."""
    home = make_home(tmp_path, server, context_length=None)
    done = ask_hermes(home, "What is the weather in Tokyo right now?")
    assert done.returncode == 1
    assert "context window of 2,048 tokens" in done.stderr
    assert f"minimum {LEAST_CONTEXT:,}" in done.stderr
