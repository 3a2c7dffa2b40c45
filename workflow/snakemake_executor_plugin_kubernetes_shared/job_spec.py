"""What a job asks of Kubernetes, in place of what the published plugin has it ask."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GPU = "nvidia.com/gpu"
"""The name under which NVIDIA's device plugin offers GPUs."""
HOME = "/workdir"
"""Where the published plugin mounts an empty folder of the pod's own."""


def mended(body: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The job that is submitted, and that runs on a folder which all pods share.

    Args:
        body: The job as the published plugin makes it, in the API's own form.
        asked: The resources of Snakemake's job: `mem_mb` (10^6 bytes), `runtime` (minutes), `gpu`
            (how many; 0 as if there were none).
        folder: Where the workflow runs, a folder of a volume.

    Returns:
        Another such form. Memory and GPUs are limits as well as requests: Kubernetes takes GPUs in
        no other way, and a job without a limit of memory would be ended by what others take. Of
        `disk_mb` nothing is asked, since artifacts lie on the volume. The deadline is the pod's,
        which begins when a node takes it; that of the job would count the time in the queue.
    """
    template = body["spec"]["template"]
    pod = template["spec"]
    (container,) = pod["containers"]
    gpus, memory = int(asked.get("gpu", 0)), f"{int(asked['mem_mb'])}M"
    limits = {"memory": memory} | ({GPU: str(gpus)} if gpus else {})
    cpu = container["resources"]["requests"]["cpu"]
    # A user whom the image does not know has neither a home nor a name there.
    named = {"HOME": HOME, "USER": os.environ.get("USER", "scion")}
    known = [{"name": name, "value": value} for name, value in named.items()]
    mended_container = {
        **container,
        "workingDir": str(folder),
        "env": [*container.get("env", []), *known],
        "resources": {"requests": {"cpu": cpu, **limits}, "limits": limits},
        "volumeMounts": [*container["volumeMounts"], {"name": "dev-shm", "mountPath": "/dev/shm"}],
    }
    # What processes share here counts as the job's memory; by default there would be 64 MB.
    shared_memory = {"name": "dev-shm", "emptyDir": {"medium": "Memory", "sizeLimit": memory}}
    # Whatever value a cluster gives the taint that keeps other pods off its GPUs.
    bears = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}] if gpus else []
    mended_pod = {
        **pod,
        "containers": [mended_container],
        "volumes": [*pod["volumes"], shared_memory],
        "tolerations": bears,
        "securityContext": {
            "runAsUser": os.getuid(),
            "runAsGroup": os.getgid(),
            # Of a store that users share a folder is writable by its group.
            "supplementalGroups": sorted(os.getgroups()),
        },
        "activeDeadlineSeconds": 60 * int(asked["runtime"]),
    }
    spec = {**body["spec"], "template": {**template, "spec": mended_pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", **body, "spec": spec}
