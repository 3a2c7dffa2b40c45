"""Snakemake's executor for Kubernetes where every pod sees one folder: `kubernetes-shared`.

The published plugin takes it that pods share no files with the machine that Snakemake runs on, and
moves what rules declare through object storage. Here a volume that all pods mount holds the
checkout and the store. Jobs are still made, submitted and watched by the published plugin; `pods`
tells it what is shared and `job_spec` mends what it asks for.

Snakemake imports this package wherever it starts, so here is only what it wants to know of an
executor. The plugin and its client, which take more than a second to import, are in envs/kubernetes
and are imported when an executor is made.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import AbstractExecutor
from snakemake_interface_executor_plugins.logging import LoggerExecutorInterface
from snakemake_interface_executor_plugins.settings import CommonSettings, ExecutorSettingsBase
from snakemake_interface_executor_plugins.workflow import WorkflowExecutorInterface

from scion.common.errors import ScionError


@dataclass(frozen=True)
class Volume:
    """A volume that all pods mount.

    Attributes:
        name: Of the claim of the volume, in the namespace of the jobs.
        path: Where it is mounted, here and in each pod.
    """

    name: str
    path: Path

    @classmethod
    def parse(cls, text: str) -> "Volume":
        """Read `CLAIM:PATH`.

        Raises:
            WorkflowError: It is something else.
        """
        name, _, path = text.partition(":")
        if not name or not path.startswith("/"):
            raise WorkflowError(
                str(
                    ScionError(
                        "a volume can't be told from what was said",
                        where="--kubernetes-shared-persistent-volumes",
                        expected="CLAIM:PATH, the path from the root on: scion:/shared",
                        found=text,
                        hint="name the claim of a ReadWriteMany volume, and where it is mounted",
                    )
                )
            )
        return cls(name, Path(path))

    def unparse(self) -> str:
        """`CLAIM:PATH`."""
        return f"{self.name}:{self.path}"


def _parse(texts: list[str]) -> list[Volume]:
    return [Volume.parse(text) for text in texts]


def _unparse(volumes: list[Volume]) -> list[str]:
    return [volume.unparse() for volume in volumes]


@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    """What a command line can say, as `--kubernetes-shared-NAME`; the published plugin's names."""

    namespace: str = field(
        default="default", metadata={"help": "The namespace that jobs are submitted to."}
    )
    persistent_volumes: list[Volume] = field(
        default_factory=list[Volume],
        metadata={
            "help": "Claims of ReadWriteMany volumes, and where they are mounted in each pod as "
            "on this machine: CLAIM:PATH. One of them holds the folder of the workflow.",
            "parse_func": _parse,
            "unparse_func": _unparse,
            "nargs": "+",
        },
    )
    service_account_name: str = field(
        default="", metadata={"help": "The service account of the pods."}
    )
    cpu_scalar: float = field(
        default=0.95,
        metadata={
            "help": "The part of its threads that a job asks for as CPUs: nodes keep some of "
            "theirs for themselves, and a job of as many threads as a node has would fit on none."
        },
    )
    omit_job_cleanup: bool = field(
        default=False, metadata={"help": "Leave jobs that have ended in the cluster."}
    )
    # No stage needs it.
    privileged: ClassVar[bool] = False


common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    # Variables that a run names travel in a secret.
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,
)


class Executor(AbstractExecutor):
    """Stands for the executor until one is wanted; making one makes that of `pods`."""

    def __new__(cls, workflow: WorkflowExecutorInterface, logger: LoggerExecutorInterface) -> Any:
        """Make the executor.

        Raises:
            SystemExit: Jobs can't be handed to a cluster; why has been printed.
        """
        from snakemake_executor_plugin_kubernetes_shared.pods import make_executor

        return make_executor(workflow, logger)
