"""How the models that are compared are served: one launch for all, and what a refusal says."""

import re
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from scion.artifacts.artifact import Artifact
from scion.common.errors import ScionError
from scion.common.progress import Progress
from scion.engines.config import Launch, Serving
from scion.engines.server import Server
from scion.engines.vllm import server as vllm
from scion.evaluation.quality.documents import (
    Document,
    Kind,
    check_same_tokens,
    check_vocabulary,
    request_predictions,
)
from scion.evaluation.quality.top_k_scores import Predictions

_LONGEST_CAUSE = 300
_CAUSE = re.compile(r"\w+(?:Error|Exception): .*")


@dataclass(frozen=True)
class ScoringServer:
    """How each of the models is served.

    Attributes:
        stage: Name of the stage, which the logs begin with.
        serving: The machine's side.
        launch: Context, batch and cache, the same for all.
        top: How many of the most likely tokens are asked for at each place.
        python: Interpreter of the serving environment.
        log_folder: Where `<stage>.<model>.server.log` go.
        text_only: Whether every model is served without its vision tower, as the release has none.
        told: Told of what is done.
    """

    stage: str
    serving: Serving
    launch: Launch
    top: int
    python: Path
    log_folder: Path
    text_only: bool
    told: Progress

    def serve(self, name: str, model: Artifact) -> AbstractContextManager[Server]:
        """The server of a model, as a context manager."""
        self.told.doing(f"{name}: starting the server")
        print(f"{self.stage}: {name}: starting the server", file=sys.stderr, flush=True)
        return vllm.serve(
            model.folder,
            name=name,
            launch=self.launch,
            serving=self.serving,
            python=self.python,
            log=self.log_folder / f"{self.stage}.{name}.server.log",
            text_only=self.text_only,
            arguments=("--max-logprobs", str(self.top)),
        )

    def score(self, name: str, model: Artifact, documents: Sequence[Document]) -> list[Predictions]:
        """Serve a model and ask it about the documents, once their tokens are known to be its own.

        Raises:
            ScionError: Its tokens are others; the server can't be started, dies or fails.
        """
        check_vocabulary(model, documents)
        # A base model may have another chat template, or none: it is asked about the same tokens.
        kinds: tuple[Kind, ...] = ("texts",) if name == "base" else ("chats", "texts")
        with self.serve(name, model) as server:
            check_same_tokens(server, documents, kinds=kinds)
            return request_predictions(server, documents, top=self.top, told=self.told)


def refusal_of(error: ScionError) -> str | None:
    """What an engine said that died by an exception while it started; None for other failures."""
    cause = _CAUSE.search(error.found)
    if not error.found.startswith("exit code") or cause is None:
        return None
    # Lists of all parameters follow the first sentence.
    return cause[0].split(". ")[0][:_LONGEST_CAUSE]
