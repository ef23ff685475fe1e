"""Tasks as shards on clusters: what is rendered, and what it means."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import recipes
from docker.setup.project import Failure
from docker.tools import cluster
from docker.tools.cluster import kubernetes, swarm
from docker.tools.cluster.compare import CLUSTER_ROWS
from docker.tools.cluster.job import Job, job_of
from docker.tools.context import Context, Variant, written
from docker.tools.contracts import contract_of, violations
from docker.tools.rows import Facts, Sample, expanded
from tree import REPOSITORY, Tree

VALIDATE = """
import kubernetes_validate, yaml
documents = list(yaml.safe_load_all(open("job.yaml")))
for version in range(29, 38):
    for document in documents:
        kubernetes_validate.validate(document, f"1.{version}", strict=True)
        print(document["kind"], version)
"""
COMPOSE = REPOSITORY / "docker/prod/compose.yaml"


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """Give a clone without env files."""
    tree = Tree(tmp_path / "clone")
    monkeypatch.chdir(tree.folder)
    return Context(tree.folder, task="3", shards="8", run_id="r1")


def job(context: Context, name: str = "prod") -> Job:
    return replace(job_of(context, context.variant(name)), image="sha256:1")


def documents(job: Job) -> dict[str, Any]:
    """Return the rendered documents, by kind."""
    return {one["kind"]: one for one in yaml.safe_load_all(kubernetes.render(job))}


def pod_of(job: Job) -> Any:
    return documents(job)["Job"]["spec"]["template"]["spec"]


def with_service(job: Job, **keys: Any) -> Job:
    return replace(job, service={**job.service, **keys})


# --- Kubernetes -------------------------------------------------------------------------------


def test_rendered_documents_match_the_schemas_of_kubernetes(
    context: Context, tmp_path: Path
) -> None:
    for shared in (True, False):
        scheduled = replace(job(context._replace(task="2")), shared_data=shared)
        (tmp_path / "job.yaml").write_text(kubernetes.render(scheduled))
        checked = recipes.run("kubernetes", tmp_path, VALIDATE).splitlines()
        kinds = ("ConfigMap", "Job", "CronJob")
        assert checked == [f"{kind} {version}" for version in range(29, 38) for kind in kinds]


def test_a_job_has_an_index_for_each_shard_and_repeats_what_a_repetition_can_remedy(
    context: Context,
) -> None:
    spec = documents(job(context))["Job"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == 8
    assert spec["backoffLimitPerIndex"] > 0
    assert "backoffLimit" not in spec
    assert "maxFailedIndexes" not in spec, "the other shards finish"
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["ttlSecondsAfterFinished"] > 0
    ignored, failed = spec["podFailurePolicy"]["rules"]
    assert ignored["action"] == "Ignore"
    assert ignored["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert failed["action"] == "FailIndex"
    codes = failed["onExitCodes"]
    assert codes["operator"] == "In"
    assert codes["containerName"] == pod_of(job(context))["containers"][0]["name"]
    page = (REPOSITORY / "docs/orchestrators.md").read_text()
    documented = re.search(r"^\| ([\d, ]+) \| no:", page, re.MULTILINE)
    assert documented
    assert codes["values"] == [int(code) for code in documented[1].split(", ")]


def test_a_pod_has_what_the_compose_file_has_and_no_more_rights(context: Context) -> None:
    context = context._replace(args=("--force",), registry="registry.example/team/")
    image = kubernetes.image(context, job(context))
    assert image == "registry.example/team/lighterage-prod:0.1.0"
    pod = pod_of(replace(job(context), image=image))
    assert pod["restartPolicy"] == "Never"
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & pod.keys()
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert (container["image"], container["args"]) == (image, ["3", "--force"])
    assert container["securityContext"] == {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    limits = {"cpu": "1", "memory": "1024Mi"}
    assert container["resources"] == {"requests": limits, "limits": limits}
    env = {item["name"]: item.get("value") for item in container["env"]}
    assert env["OF"] == "8"
    assert env["RUN_ID"] == "r1"
    assert env["LIGHTERAGE_ENV_FILE"] == "envs/prod.env"
    secret = next(volume["secret"] for volume in pod["volumes"] if "secret" in volume)
    assert {item["path"] for item in secret["items"]} >= {"prod.env", "secrets/password"}
    assert not any("hostPath" in volume for volume in pod["volumes"])


def test_the_comment_creates_the_secret_that_the_pod_mounts(context: Context) -> None:
    scheduled = job(context)
    comment = kubernetes.render(scheduled).partition("\n")[0]
    created = dict(re.findall(r"--from-file=(\w+)=(\S+)", comment))
    pod = pod_of(scheduled)
    secret = next(volume["secret"] for volume in pod["volumes"] if "secret" in volume)
    assert created.keys() == {item["key"] for item in secret["items"]}
    assert f"generic {secret['secretName']} " in comment
    assert created["env_file"] == "envs/secrets/prod.env"


def test_config_yaml_is_mounted_as_it_is_in_the_clone(context: Context) -> None:
    text = "---\ntasks:\n  3: {remote_file_path: a, file_save_path: 's3://b/c'}\n"
    (context.root / "config.yaml").write_text(text)
    found = documents(job(context))
    assert found["ConfigMap"]["data"] == {"config.yaml": text}
    pod = found["Job"]["spec"]["template"]["spec"]
    mount = next(m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "config")
    assert (mount["mountPath"], mount["subPath"]) == ("/app/config.yaml", "config.yaml")
    kinds = {volume["name"]: [*volume][1] for volume in pod["volumes"]}
    assert kinds["data"] == "emptyDir", "the target is in a bucket"
    pod = pod_of(job(context._replace(args=("--file-save-path", "data/x"))))
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "lighterage-prod-data"}} in pod[
        "volumes"
    ]


def test_a_scheduled_task_has_a_cron_job_whose_jobs_have_runs_of_their_own(
    context: Context,
) -> None:
    (context.root / "envs/prod.env").write_text(
        "TZ=Europe/Zurich\nREMOTE_HOST_ADDRESS=host\nUSERNAME=me\n"
    )
    found = documents(job(context._replace(task="2")))
    cron = found["CronJob"]["spec"]
    assert (cron["schedule"], cron["timeZone"]) == ("0 3 * * *", "Europe/Zurich")
    assert cron["concurrencyPolicy"] == "Forbid"
    spec = copy.deepcopy(cron["jobTemplate"]["spec"])
    env = spec["template"]["spec"]["containers"][0]["env"]
    run_id = next(item for item in env if item["name"] == "RUN_ID")
    field = run_id.pop("valueFrom")["fieldRef"]["fieldPath"]
    assert field == "metadata.labels['batch.kubernetes.io/job-name']"
    run_id["value"] = "r1"
    assert spec == found["Job"]["spec"], "the same in all else"
    assert "CronJob" not in documents(job(context))


def test_a_cron_job_has_the_time_zone_of_the_schedule(context: Context) -> None:
    (context.root / "envs/prod.env").write_text(
        "TZ=Europe/Zurich\nREMOTE_HOST_ADDRESS=host\nUSERNAME=me\n"
    )
    config = context.root / "config.yaml"
    text = 'schedule: "0 3 * * *"'
    assert text in config.read_text()
    config.write_text(config.read_text().replace(text, f"{text}\n      time_zone: Asia/Tokyo"))
    cron = documents(job(context._replace(task="2")))["CronJob"]["spec"]
    assert cron["timeZone"] == "Asia/Tokyo"


@pytest.mark.parametrize("schedule", ["0 0 L * *", "0 0 l * *", "0 0 * * 5#2", "0 0 * * 5L"])
def test_a_schedule_that_kubernetes_does_not_know_is_refused(
    context: Context, schedule: str
) -> None:
    config = context.root / "config.yaml"
    config.write_text(config.read_text().replace("0 3 * * *", schedule))
    with pytest.raises(Failure, match=re.escape(f"schedule of task 2: {schedule} has")):
        kubernetes.render(job(context._replace(task="2")))


# --- Swarm ------------------------------------------------------------------------------------


def test_swarm_gets_slots_and_the_options_that_it_knows(context: Context) -> None:
    words = swarm.render(job(context._replace(args=("--include", "a b.csv")))).splitlines()
    assert words[-4:] == ["sha256:1", "3", "--include", "'a b.csv'"]
    for word in (
        "'--env=SHARD={{.Task.Slot}}'", "--env=OF=8", "--env=RUN_ID=r1", "--replicas=8",
        "--restart-condition=on-failure", "--no-healthcheck", "--no-resolve-image",
        "--read-only", "--cap-drop=ALL", "--user=10001:10001", "--limit-memory=1g",
        "--limit-pids=128", "--init",
        "--secret=source=lighterage-prod-3-r1-password,target=/app/envs/secrets/password,"
        "uid=10001,gid=10001,mode=0400",
    ):  # fmt: skip
        assert word in words
    assert not any("mode=replicated-job" in word or "restart-window" in word for word in words)


# --- for all engines --------------------------------------------------------------------------


def facts_of(change: Mapping[str, Any]) -> Facts:
    """Measure the rows of clusters, of a compose file with other keys in its service."""
    variant = Variant(Context(REPOSITORY), "prod")
    compose = written(variant)
    services = {"tasks": {**compose["services"]["tasks"], **change}}
    return expanded(CLUSTER_ROWS, Sample(variant, {**compose, "services": services}, {}, {}))


def test_the_contract_declares_how_a_shard_differs_from_the_service() -> None:
    contract = contract_of(Variant(Context(REPOSITORY), "prod"))
    assert violations(facts_of({}), contract, complete=False) == []


@pytest.mark.parametrize(
    "change",
    [
        {"user": "20002:20002"},
        {"cap_drop": ["NET_RAW"]},
        {"mem_limit": "2g"},
        {"cpus": 0.5},
        {"tmpfs": ["/tmp:size=32m,mode=1777"]},
        {"volumes": ["data:/app/other"]},
        {"stop_grace_period": "20s"},
        {"environment": {"HOME": "/tmp", "OTHER": "1"}},
        {"secrets": [{"source": "password", "target": "/app/envs/secrets/password"}]},
        {"read_only": False},
        {"init": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_shard_follows_the_compose_file(change: Mapping[str, Any], context: Context) -> None:
    assert facts_of(change) == facts_of({}) or "tmpfs" in change
    changed = with_service(job(context), **change)
    for engine in (kubernetes, swarm):
        said = engine.service(engine.render(changed), changed)
        for key, value in change.items():
            if key == "environment":
                assert said[key]["OTHER"] == "1"
            elif key == "tmpfs":
                assert said[key][0].startswith("/tmp:size=32m")
            else:
                assert said[key] == value


def test_what_an_engine_leaves_out_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    before = facts_of({})["a shard on k8s"]
    service = kubernetes.service
    monkeypatch.setattr(
        kubernetes, "service", lambda text, job: {**service(text, job), "cap_drop": []}
    )
    now = facts_of({})["a shard on k8s"]
    assert {*now} - {*before} == {"capabilities dropped: none, where ALL is declared"}


def test_a_further_engine_is_a_module_and_a_line(
    context: Context, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up = SimpleNamespace(
        image=lambda context, job: "image:1",
        render=lambda job: json.dumps({"image": job.image, "command": job.command}),
        service=lambda text, job: json.loads(text),
    )
    monkeypatch.setitem(sys.modules, "docker.tools.cluster.made_up", made_up)
    monkeypatch.setitem(cluster.ENGINES, "made-up", "made_up")
    assert cluster.print_job("made-up", context, context.variant("prod")) == 0
    assert json.loads(capsys.readouterr().out) == {"image": "image:1", "command": ["3"]}
    assert "user: the image's, where 10001:10001 is declared" in facts_of({})["a shard on made-up"]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"run_id": "r" * 50}, "is no name for a shard, which has at most 63 characters"),
        ({"run_id": "r-"}, "RUN_ID=r-: "),
        ({"args": ("--fro",)}, "unknown option --fro"),
        ({"args": ("--after", "delete")}, "after is delete, which shards cannot do"),
    ],
)
def test_what_no_cluster_can_run_is_refused(
    context: Context, variables: dict[str, Any], said: str
) -> None:
    (context.root / "envs/prod.env").write_text("REMOTE_HOST_ADDRESS=host\nUSERNAME=me\n")
    with pytest.raises(Failure, match=re.escape(said)):
        job(context._replace(**variables))


def test_a_variant_that_mounts_the_working_tree_is_refused(context: Context) -> None:
    with pytest.raises(Failure, match="dev mounts the working tree"):
        job(context, "dev")


def test_secrets_with_names_that_swarm_refuses_are_refused(context: Context) -> None:
    with pytest.raises(Failure, match="take a shorter RUN_ID"):
        swarm.render(job(context._replace(run_id="r" * 40)))
