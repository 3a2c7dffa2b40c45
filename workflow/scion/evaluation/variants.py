"""What `compare_recipes` measures of each variant: quality, acceptance, agent tasks."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scion.checkpoint.shards import Checkpoint
from scion.common.devices import one_thread
from scion.engines.config import Launch, Serving
from scion.engines.vllm import server as vllm
from scion.evaluation.agent.asking import ask_all
from scion.evaluation.agent.results import count
from scion.evaluation.agent.tasks import TaskFile
from scion.evaluation.chats import Chat
from scion.evaluation.harness.options import parallel_requests
from scion.evaluation.offline.acceptance import measure_offline
from scion.evaluation.offline.target import Target
from scion.evaluation.offline.weights import Weights
from scion.evaluation.quality.documents import Document
from scion.evaluation.quality.full_vocabulary import Reference, Sums, score
from scion.quantization.variants_config import Comparison


@dataclass
class Measuring:
    """How each variant is measured.

    On a CPU one thread computes, so that the numbers are the same every time.

    Attributes:
        stage: Name of the stage, which the logs begin with.
        documents: Held-out documents.
        prompts: What acceptance is counted on; none leaves that out.
        tasks: The agent tasks.
        comparison: How long to look.
        serving: The server.
        launch: Context, batch and speculation that it is started with.
        device: Where models run without a server.
        python: Interpreter of the serving environment.
        log_folder: Where `<stage>.<variant>.server.log` go.
        engine: The server's name and version, once one was asked.
    """

    stage: str
    documents: Sequence[Document]
    prompts: Sequence[Chat]
    tasks: TaskFile
    comparison: Comparison
    serving: Serving
    launch: Launch
    device: torch.device
    python: Path
    log_folder: Path
    engine: dict[str, Any] | None = None

    def reference(self, folder: Path) -> Reference:
        """Let the bf16 source read the documents."""
        with one_thread(self.device):
            return Reference.of(self._target(folder), self.documents)

    def quality(self, folder: Path, reference: Reference) -> dict[str, Sums | None]:
        """Sums by part, W4A4 as the format says."""
        with one_thread(self.device):
            sums = score(self._target(folder), self.documents, reference)
        self._free()
        return sums

    def _target(self, folder: Path) -> Target:
        checkpoint = Checkpoint.open(folder)
        return Target(Weights(checkpoint, device=self.device, activations="nvfp4"))

    def _free(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def acceptance(self, folder: Path) -> dict[str, Any] | None:
        """Acceptance of the MTP head, without a server; None if it is left out."""
        if not self.prompts:
            return None
        with one_thread(self.device):
            counted = measure_offline(
                folder,
                self.prompts,
                draft_tokens=self.comparison.draft_tokens,
                reply_tokens=self.comparison.reply_tokens,
                device=self.device.type,
            )
        self._free()
        return {
            "prompts": len(self.prompts),
            "drafts": counted.drafts,
            "per_position": [estimate.record() for estimate in counted.per_position()],
            "mean_length": counted.mean_length().record(),
        }

    def agent_tasks(self, folder: Path, name: str) -> dict[str, Any] | None:
        """Passes of the agent tasks on a real server; None if they are left out.

        Raises:
            ScionError: The engine does not load the variant, dies, or a request fails.
        """
        cases = self.comparison.agent_cases
        if cases is None:
            return None
        with vllm.serve(
            folder,
            name=name,
            launch=self.launch,
            serving=self.serving,
            python=self.python,
            log=self.log_folder / f"{self.stage}.{name}.server.log",
        ) as server:
            self.engine = vllm.describe(server, self.serving)
            parallel = parallel_requests(self.launch)
            results = ask_all(server, self.tasks, cases, parallel)
        counted = count(self.tasks, results)
        # Requests and answers are run_agent_tasks' to keep.
        tasks = [{k: v for k, v in task.items() if k != "results"} for task in counted["tasks"]]
        return counted | {"tasks": tasks}
