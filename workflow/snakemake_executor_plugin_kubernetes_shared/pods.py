"""The executor: the published plugin's, on a folder that all pods share."""

import importlib
import os
import sys
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from snakemake_interface_executor_plugins.logging import LoggerExecutorInterface

from scion.artifacts.environments import not_installed, prefix
from scion.common.errors import ScionError
from snakemake_executor_plugin_kubernetes_shared.job_spec import mended

ENVIRONMENT = "envs/kubernetes"
# What a run gets that names no image.
_SNAKEMAKE_IMAGE = "snakemake/snakemake:"


def make_executor(workflow: Any, logger: LoggerExecutorInterface) -> Any:
    """Make the executor of a run.

    Raises:
        SystemExit: No image is named; no volume holds the folder of the workflow or its store;
            envs/kubernetes is not installed; no cluster is named, or it takes no jobs. Which it is
            has been printed.
    """
    try:
        _require_image(workflow.remote_execution_settings.container_image)
        volumes = workflow.executor_settings.persistent_volumes
        for folder in (Path.cwd(), workflow.globals["STORE"].folder):
            _require_volume(folder, [volume.path for volume in volumes])
        lacking = not_installed(ENVIRONMENT)
        if lacking:
            raise lacking
        return _executor_class()(workflow, logger)
    except ScionError as error:
        # Snakemake would add the lines of this module to a WorkflowError.
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _require_image(image: str) -> None:
    if image.startswith(_SNAKEMAKE_IMAGE):
        raise ScionError(
            "no container image is named",
            where="--container-image",
            expected=f"an image with glibc and the Python behind {sys.executable}",
            found=f"none, for which Snakemake takes {image}",
            hint="docs/guides/cluster.md says what has to be in it",
        )


def _require_volume(folder: Path, mounted: list[Path]) -> None:
    if not any(folder.resolve().is_relative_to(path.resolve()) for path in mounted):
        raise ScionError(
            "no pod would see a folder of this run",
            where=folder,
            expected="a ReadWriteMany volume, mounted here and in each pod, that holds it",
            found=f"volumes at {', '.join(map(str, mounted)) or 'no path'}",
            hint="--kubernetes-shared-persistent-volumes CLAIM:PATH",
        )


def _executor_class() -> Any:
    """The class, once its environment is on Python's path, behind Snakemake's own packages."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    sys.path.append(str((prefix(ENVIRONMENT) / "lib" / version / "site-packages").resolve()))
    published: Any = importlib.import_module("snakemake_executor_plugin_kubernetes")
    client: Any = importlib.import_module("kubernetes.client")
    config: Any = importlib.import_module("kubernetes.config")
    unreachable: Any = importlib.import_module("urllib3.exceptions").MaxRetryError

    class PodExecutor(published.Executor):  # pyright: ignore[reportUntypedBaseClass]
        """One run's jobs on Kubernetes."""

        def __post_init__(self) -> None:
            try:
                super().__post_init__()
            except config.ConfigException as error:
                raise ScionError(
                    "no cluster is named to hand jobs to",
                    where=os.environ.get("KUBECONFIG", "~/.kube/config"),
                    expected="a kubeconfig with a context, or a pod with a service account",
                    # Of the two that were tried the kubeconfig is the one to mend.
                    found=error.__context__ or error,
                    hint="set KUBECONFIG; `kubectl config current-context` says what is chosen",
                ) from error
            except (client.ApiException, unreachable) as error:
                raise ScionError(
                    "the cluster takes no jobs",
                    where=f"{self.kubeapi.api_client.configuration.host}, namespace "
                    f"{self.namespace}",
                    expected="leave to make and delete secrets and jobs, to read the status of "
                    "jobs, and to list and delete pods and read their logs",
                    found=getattr(error, "body", None) or error,
                    hint="`kubectl auth can-i create jobs --namespace NAME` asks the same cluster",
                ) from error
            self._connect()

        def _connect(self) -> None:
            self.kubeapi, self.batchapi = client.CoreV1Api(), client.BatchV1Api()
            create, read = self.batchapi.create_namespaced_job, self.kubeapi.read_namespaced_pod_log

            def create_mended(namespace: str, body: Any) -> Any:
                plain = self.batchapi.api_client.sanitize_for_serialization(body)
                return create(namespace, mended(plain, self._asked, Path.cwd()))

            def read_log(*, previous: bool, **named: Any) -> str:
                # A container that ran once has no previous log: the API answers with an error,
                # upon which the published plugin ends the run. Nor has one that never began.
                try:
                    return read(**named)
                except (client.ApiException, unreachable) as error:
                    return f"the log can't be read: {error}"

            self.batchapi.create_namespaced_job = create_mended
            self.kubeapi.read_namespaced_pod_log = read_log
            waiting = client.V1Job(status=client.V1JobStatus(active=1))
            self.batchapi.read_namespaced_job_status = self._asking(
                self.batchapi.read_namespaced_job_status, waiting
            )
            self.kubeapi.list_namespaced_pod = self._asking(
                self.kubeapi.list_namespaced_pod, client.V1PodList(items=[])
            )

        def _asking(self, ask: Callable[..., Any], meanwhile: Any) -> Callable[..., Any]:
            """A question of the API, with what is taken as its answer while it gives none.

            The published plugin forgets a job of which it could not ask, and waits for ever. One
            that is gone it calls failed, if it is told None.
            """

            def asked(*arguments: Any, **named: Any) -> Any:
                try:
                    return ask(*arguments, **named)
                except unreachable as error:
                    self.logger.warning(f"the cluster does not answer; asked again: {error}")
                except client.ApiException as error:
                    if error.status == HTTPStatus.NOT_FOUND:
                        return None
                    if error.status not in (0, 429) and error.status < 500:
                        raise
                    self.logger.warning(f"the cluster has no answer; asked again: {error}")
                return meanwhile

            return asked

        def run_job(self, job: Any) -> None:
            self._asked = dict(job.resources)
            if "gpu" in self._asked:
                # The published plugin refuses a job without, even one that asks for none.
                job.resources.update({"gpu_manufacturer": "nvidia"})
            super().run_job(job)

        def _reauthenticate_and_retry(self, func: Callable[[], Any]) -> Any:
            config.load_config()
            self._connect()
            return func()

    return PodExecutor
