"""A plugin of Hermes Agent: one tool, and requests that a model of 4 million weights can read.

`test_hermes` puts it into the plugins of a home of Hermes. The tool reads `weather.json` there. The
middleware is the way that Hermes has to change a request before it is sent: it asks greedily, and
keeps the first paragraph of Hermes' system prompt, which is the SOUL.md of the home. The others, on
steering, documentation, machine and day, are of no use to a model that knows 1024 tokens and never
saw such text, and would make its answer depend on the machine and the day.
"""

import json
import os
from pathlib import Path
from typing import Any

SCHEMA = {
    "name": "get_weather",
    "description": "Get the current weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


def get_weather(arguments: dict[str, Any], **_: object) -> str:
    """The weather that the test has written down; an error for another city."""
    weather = json.loads((Path(os.environ["HERMES_HOME"]) / "weather.json").read_text())
    return json.dumps(weather.get(arguments["city"], {"error": "unknown city"}))


def simplify(request: dict[str, Any], **_: object) -> dict[str, Any]:
    """The request with a short system message, and without chance."""
    system, *rest = request["messages"]
    short = system | {"content": system["content"].split("\n\n")[0]}
    return {"request": request | {"messages": [short, *rest], "temperature": 0}}


def register(context: Any) -> None:
    """What Hermes calls when it loads the plugin."""
    context.register_tool(name="get_weather", toolset="weather", schema=SCHEMA, handler=get_weather)
    context.register_middleware("llm_request", simplify)
