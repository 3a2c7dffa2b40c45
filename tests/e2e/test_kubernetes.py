"""Jobs for Kubernetes, made by the published plugin and its client, before a stand-in of the API.

The stand-in holds each by the API's schema and runs it as a process. No cluster is behind it.
"""

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

import kubernetes_api
from cluster_run import CONFIG, SHORT_OF_MEMORY, UNTIL, WITHIN_SECONDS, command, contents, started
from conversion import SAMPLES
from kubernetes_api import Job, KubernetesApi
from project_copy import ProjectCopy

pytestmark = pytest.mark.skipif(
    not kubernetes_api.is_installed(), reason="envs/kubernetes is not installed"
)

PROFILE = ("--profile", "profiles/kubernetes")
GPU = "nvidia.com/gpu"
# Submits all at once, whatever the jobs before have made.
SUBMIT_ALL = ("--immediate-submit", "--notemp")
ON_GPUS = {"quantization": {"device": "cuda"}, "serving": {"environment": "serve-cuda"}}


@pytest.fixture
def project(tmp_path: Path) -> ProjectCopy:
    return ProjectCopy.make(tmp_path / "shared/project")


def run(project: ProjectCopy, api: KubernetesApi, *options: str, **variables: str):
    """Run the profile in a project, by a cluster that is found."""
    found = {name: api.environment()[name] for name in ("KUBECONFIG", "NO_PROXY")}
    return project.run("snakemake", *PROFILE, *options, **{**found, **variables})


def submitted(project: ProjectCopy, *options: str) -> list[Job]:
    """All jobs of a run, as the API has taken them; none is run."""
    folder = project.folder.parent
    cluster = kubernetes_api.kubernetes_api(folder / "cluster", {"scion": folder}, at_once=0)
    with cluster as api:
        done = run(project, api, *api.options(), *SUBMIT_ALL, *options)
    assert done.returncode == 0, done.stderr
    assert api.refused == []
    assert api.secrets == {}
    return api.jobs


def check_job(job: Job, project: ProjectCopy) -> None:
    """What holds of every job, of a GPU or not."""
    folder = project.folder
    resources = job.container["resources"]
    limits, requests = resources["limits"], resources["requests"]
    assert set(limits) <= {"memory", GPU}
    assert requests == {"cpu": requests["cpu"], **limits}
    assert job.container["workingDir"] == str(folder)
    assert job.command.startswith(f"{sys.executable} -m snakemake --snakefile '{folder}/Snakefile'")
    # Nothing that lies elsewhere is named: no pod would have it.
    paths = set(re.findall(r"(?<=[ '])/[^ ']+", f" {job.command}"))
    elsewhere = {path for path in paths if not Path(path).is_relative_to(folder.parent)}
    assert elsewhere == {sys.executable, str(Path(sys.executable).parent)}
    mounts = {mount["name"]: mount["mountPath"] for mount in job.container["volumeMounts"]}
    assert mounts == {"workdir": "/workdir", "scion": str(folder.parent), "dev-shm": "/dev/shm"}
    volumes = {volume.pop("name"): volume for volume in json.loads(json.dumps(job.pod["volumes"]))}
    assert volumes == {
        "workdir": {"emptyDir": {}},
        "scion": {"persistentVolumeClaim": {"claimName": "scion"}},
        "dev-shm": {"emptyDir": {"medium": "Memory", "sizeLimit": limits["memory"]}},
    }
    assert job.pod["securityContext"] == {
        "runAsUser": os.getuid(),
        "runAsGroup": os.getgid(),
        "supplementalGroups": sorted(os.getgroups()),
    }
    assert job.pod["activeDeadlineSeconds"] >= 600
    assert job.body["spec"]["backoffLimit"] == 0
    variables = {each["name"]: each["value"] for each in job.container["env"]}
    assert variables["HOME"] == "/workdir"


def test_jobs_of_the_embedded_release(project: ProjectCopy) -> None:
    jobs = {job.rule: job for job in submitted(project)}
    assert {"fetch_source", "quantize_nvfp4", "measure_serving", "seal_release"} <= set(jobs)
    for job in jobs.values():
        check_job(job, project)
        assert GPU not in job.container["resources"]["limits"]
        assert not job.pod["tolerations"]
    assert jobs["seal_release"].container["resources"] == {
        "requests": {"cpu": "950m", "memory": "2000M"},
        "limits": {"memory": "2000M"},
    }
    # All processors of a node: nothing is to run beside what is timed.
    assert jobs["measure_serving"].container["resources"]["requests"]["cpu"] == "15200m"


def test_jobs_that_take_gpus(project: ProjectCopy) -> None:
    launches = [{"name": "pico", "title": "Two GPUs", "max_model_len": 2048, "tensor_parallel": 2}]
    (project.folder / CONFIG).write_text(json.dumps({**ON_GPUS, "launches": launches}))
    nodes = ("--default-resources", "machine_type=a3-highgpu-8g", "mem_mb=2000", "runtime=10")
    jobs = {job.rule: job for job in submitted(project, "--configfile", CONFIG, *nodes)}
    for job in jobs.values():
        check_job(job, project)
        instance = "node.kubernetes.io/instance-type"
        assert job.pod["nodeSelector"] == {instance: "a3-highgpu-8g"}
    gpus = {rule: job.container["resources"]["limits"].get(GPU) for rule, job in jobs.items()}
    assert gpus["quantize_nvfp4"] == "1"
    assert gpus["measure_serving"] == gpus["run_agent_tasks"] == "2"
    assert gpus["fetch_source"] is gpus["fix_keys"] is gpus["seal_release"] is None
    for rule, job in jobs.items():
        keys = [each["key"] for each in job.pod["tolerations"]]
        assert keys == ([GPU] if gpus[rule] else [])


@pytest.mark.parametrize("how", ["as it is made", "with limits"])
def test_the_stand_in_refuses_what_the_published_plugin_asks_of_gpus(
    project: ProjectCopy, how: str
) -> None:
    (project.folder / CONFIG).write_text(json.dumps(ON_GPUS))
    jobs = {job.rule: job for job in submitted(project, "--configfile", CONFIG)}
    body = jobs["quantize_nvfp4"].body
    (container,) = body["spec"]["template"]["spec"]["containers"]
    if how == "with limits":
        kubernetes_api.check(body)
        container["resources"]["limits"][GPU] = "2"
        match = "must be equal"
    else:
        del container["resources"]["limits"]
        match = "limit must be set for non overcommitable resources"
    with pytest.raises(kubernetes_api.RefusedError, match=match):
        kubernetes_api.check(body)


def test_the_stand_in_refuses_a_key_that_the_api_lacks(project: ProjectCopy) -> None:
    body = submitted(project, "--until", "fetch_source")[0].body
    kubernetes_api.check(body)
    body["spec"]["template"]["spec"]["deadline"] = 600
    with pytest.raises(kubernetes_api.RefusedError, match="deadline"):
        kubernetes_api.check(body)


def test_each_try_asks_for_more(project: ProjectCopy) -> None:
    folder = project.folder.parent
    cluster = kubernetes_api.kubernetes_api(folder / "api", {"scion": folder}, ends_with=137)
    with cluster as api:
        until = ("--until", "lint_source", "--seconds-between-status-checks", "1")
        done = run(project, api, *api.options(), *until)
    assert done.returncode == 1
    asked = [
        (job.container["resources"]["limits"]["memory"], job.pod["activeDeadlineSeconds"])
        for job in api.jobs
        if job.rule == "fetch_source"
    ]
    assert [memory for memory, _ in asked] == ["2000M", "4000M", "6000M"]
    first, second, third = (seconds for _, seconds in asked)
    assert (second, third) == (2 * first, 3 * first)
    # What has failed is taken from the cluster, and nothing that the API has was asked for amiss.
    assert all(job.is_deleted for job in api.jobs)
    assert api.refused == []


def test_a_job_that_somebody_deletes_is_tried_again(project: ProjectCopy) -> None:
    folder = project.folder.parent
    cluster = kubernetes_api.kubernetes_api(folder / "api", {"scion": folder}, at_once=0)
    options = ["snakemake", *PROFILE, "--until", "fetch_donor"]
    options += ["--seconds-between-status-checks", "1", "--retries", "1"]
    with cluster as api:
        snakemake = str(Path(sys.executable).with_name(options[0]))
        words = [snakemake, *options[1:], *api.options()]
        with started(words, project, api.environment()) as process:
            deadline = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < deadline:
                for job in api.jobs:
                    job.is_deleted = True
                time.sleep(0.2)
            said, _ = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert [job.rule for job in api.jobs] == ["fetch_donor"] * 2


# Set-ups that can't work


IMAGE = "--container-image images.example/scion:1"
VOLUME = "--kubernetes-shared-persistent-volumes"
WHOLE = (
    f"{IMAGE} --kubernetes-shared-namespace {kubernetes_api.NAMESPACE} {VOLUME} scion:{{folder}}"
)


def refused(project: ProjectCopy, line: str, **variables: str) -> str:
    """What is said of a command line with which nothing can be run, and nothing was begun."""
    folder = project.folder.parent
    with kubernetes_api.kubernetes_api(folder / "cluster", {"scion": folder}) as api:
        done = run(project, api, *line.format(folder=folder).split(), **variables)
    assert done.returncode == 1
    for part in ("where:", "expected:", "found:", "hint:"):
        assert part in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert api.jobs == []
    assert api.secrets == {}
    assert not (project.folder / "results").exists()
    return done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{VOLUME} scion:/", "error: no container image is named"),
        (IMAGE, "error: no pod would see a folder of this run"),
        (f"{IMAGE} {VOLUME} scion:/data other:/more", "volumes at /data, /more"),
        (f"{IMAGE} {VOLUME} scion", "expected: CLAIM:PATH"),
        (f"{WHOLE} --kubernetes-shared-namespace other", "/namespaces/other/secrets not found"),
    ],
)
def test_a_command_line_that_lacks_something(line: str, said: str, project: ProjectCopy) -> None:
    assert said in refused(project, line)


def test_no_cluster_is_named(project: ProjectCopy) -> None:
    said = refused(project, WHOLE, KUBECONFIG="/nonexistent")
    assert "error: no cluster is named to hand jobs to\n  where:    /nonexistent" in said
    assert "No configuration found" in said


def test_a_store_that_no_volume_holds(project: ProjectCopy, tmp_path: Path) -> None:
    (project.folder / CONFIG).write_text(json.dumps({"store": [str(tmp_path / "store")]}))
    said = refused(project, f"{WHOLE} --configfile {CONFIG}")
    assert f"no pod would see a folder of this run\n  where:    {tmp_path / 'store'}" in said


def test_the_plugin_is_not_installed(project: ProjectCopy) -> None:
    (project.folder / "envs/kubernetes/.venv").unlink()
    said = refused(project, WHOLE)
    assert "error: the environment kubernetes is not installed" in said
    assert "make KUBERNETES=1 setup" in said
    # Whoever does without Kubernetes does not notice.
    assert project.run("snakemake", "-n").returncode == 0


def test_a_cluster_that_does_not_answer(project: ProjectCopy) -> None:
    folder = project.folder.parent
    with kubernetes_api.kubernetes_api(folder / "cluster", {"scion": folder}) as api:
        found = api.environment()["KUBECONFIG"]
    done = project.run("snakemake", *PROFILE, *api.options(), KUBECONFIG=found, NO_PROXY="*")
    assert done.returncode == 1
    assert "error: the cluster takes no jobs" in done.stderr
    assert f"where:    {api.url}" in done.stderr


# A release


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_release_is_made_by_pods_as_it_is_here(
    converted_project: ProjectCopy, tmp_path: Path
) -> None:
    # In both the source is fetched and repaired.
    here, there = (converted_project.copy(tmp_path / "shared" / name) for name in ("here", "there"))
    for each in (here, there):
        # Calibrated as none was before.
        each.configure(CONFIG, samples=SAMPLES + 1)
    options = [*PROFILE, "--max-threads", "1", "--set-resources", SHORT_OF_MEMORY]
    # Modules of the copy: the secret brings the variable to the pods.
    options += ["--envvars", "PYTHONPATH", "--seconds-between-status-checks", "1"]
    claims = {"scion": tmp_path / "shared"}
    with (
        kubernetes_api.kubernetes_api(tmp_path / "cluster", claims) as api,
        started(command(*options, *api.options()), there, api.environment()) as process,
        started(command("--cores", "1"), here, dict(os.environ)) as local,
    ):
        # Questions without an answer lose no job.
        api.away = 3
        said, _ = process.communicate(timeout=WITHIN_SECONDS)
        logs = "\n".join(f"== {job.rule}\n{job.log[-2000:]}" for job in api.jobs)
        assert process.returncode == 0, said[-6000:] + logs
        said, _ = local.communicate(timeout=WITHIN_SECONDS)
        assert local.returncode == 0, said[-6000:]
    # The first try was ended for its memory, and nothing else failed.
    (failed,) = (job for job in api.jobs if job.exit_code != 0)
    assert (failed.rule, failed.exit_code, failed.reason) == ("quantize_nvfp4", 137, "OOMKilled")
    tries = [job for job in api.jobs if job.rule == "quantize_nvfp4"]
    limits = [job.container["resources"]["limits"]["memory"] for job in tries]
    assert limits == ["300M", "2500M"]
    assert [job.rule for job in api.jobs][-1] == "verify_release"
    assert (api.refused, api.away) == ([], 0)
    assert api.secrets == {}
    assert all(job.is_deleted for job in api.jobs)
    assert contents(there) == contents(here)
    assert "verify_release" in {stage for _, stage in contents(there)}
    # Nothing is left of the try that was killed, and nothing is made twice.
    assert not list((there.folder / "results/.store/work").iterdir())
    plan = there.run("snakemake", "-n", "--configfile", CONFIG, *UNTIL)
    assert plan.returncode == 0, plan.stderr
    assert all(line.startswith("nothing to do: ") for line in plan.stdout.splitlines())
