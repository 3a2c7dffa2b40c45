"""The card's snippet for Hermes Agent, as the test with the real agent uses it."""

from collections.abc import Sequence
from typing import Any

import yaml

from scion.engines.config import Launch

# Hermes refuses a model with fewer tokens of context.
LEAST_CONTEXT = 64_000
# Long enough for thinking and a tool call, and a quarter of the least context.
ANSWER_TOKENS = 16_384


def hermes_values(
    launches: Sequence[Launch], *, model: str, base_url: str = "http://localhost:8000/v1"
) -> dict[str, Any]:
    """What the template says of Hermes Agent.

    Args:
        launches: The release's launches, the recommended one first.
        model: The name that the server knows the model under.
        base_url: The server's OpenAI-compatible address.

    Returns:
        `config`, for `~/.hermes/config.yaml`; `least_context`; `launch`, the title of the first
        launch with so many tokens, None if there is none: Hermes is then told that there were
        enough, and must be kept to short conversations.
    """
    fitting = [launch for launch in launches if launch.max_model_len >= LEAST_CONTEXT]
    config: dict[str, Any] = {
        "default": model,
        "provider": "custom",
        "base_url": base_url,
        "max_tokens": ANSWER_TOKENS,
    }
    if not fitting:
        shortest = min(launch.max_model_len for launch in launches)
        config |= {"context_length": LEAST_CONTEXT, "max_tokens": shortest // 8}
    return {
        "config": yaml.safe_dump({"model": config}, sort_keys=False).strip(),
        "least_context": f"{LEAST_CONTEXT:,}",
        "launch": fitting[0].title if fitting else None,
        "context": f"{max(launch.max_model_len for launch in launches):,}",
    }
