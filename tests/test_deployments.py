"""The files of deployments/ say what exists: flows, pools, settings, images, commands."""

import json
import re
import subprocess
import sysconfig
import tomllib
from importlib import import_module
from pathlib import Path

import boto3
import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel
from typer.main import get_command

from flows.cli import app
from flows.deploying import BATCHES, CRAWL_POOL, GPU_POOL, NIGHTLY
from flows.settings import DEFAULT_CONFIG, NightlySettings, Probing, load_settings
from storage.parts import write_batch
from tasks.probes import Choice, ProbeBatch, plan_probes, read_jobs
from tests.stores import NIGHT, model

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deployments"
PREFECT = yaml.safe_load((FOLDER / "prefect.yaml").read_text())
DEPLOYMENTS = {deployment["name"]: deployment for deployment in PREFECT["deployments"]}
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
GUIDE = (FOLDER / "README.md").read_text()
EXAMPLES = [
    NightlySettings.model_validate({"sources": [{"top": 1}], **tomllib.loads(example)})
    for example in re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
]
RULES_STAND_AFTER = ("--lifecycle-configuration", "echo")
DOCKERFILES = sorted(FOLDER.glob("Dockerfile.*"))


def flow_of(deployment):
    module, _, name = deployment["entrypoint"].rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_every_deployment_names_a_flow_and_parameters_that_it_has(deployment):
    parameters = deployment.get("parameters", {})
    assert parameters.keys() <= flow_of(deployment).parameters.properties.keys()


@pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_every_deployment_runs_on_a_pool_that_is_made(deployment):
    assert deployment["work_pool"]["name"] in (CRAWL_POOL, GPU_POOL)


def test_prefect_itself_reads_its_file_and_passes_over_no_line_of_it():
    read = PrefectYamlModel.model_validate(PREFECT)  # it passes over what it does not know, a misspelt name too
    assert keys(PREFECT) <= keys(read.model_dump())


def keys(value):
    """Return the paths of all names in what a YAML file holds."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {(name, *rest) for name, one in pairs for rest in ((), *keys(one))}


def test_the_names_that_the_code_calls_deployments_by_are_theirs():
    names = {f"{flow_of(deployment).name}/{name}" for name, deployment in DEPLOYMENTS.items()}
    assert {NIGHTLY, BATCHES, Probing().deployment} <= names


def test_a_night_begins_at_two_and_never_beside_another():
    nightly = DEPLOYMENTS["nightly"]
    [schedule] = nightly["schedules"]
    assert (schedule["cron"], schedule["timezone"]) == ("0 2 * * *", "UTC")
    assert nightly["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


@pytest.mark.parametrize("name", ["nightly", "publish"])
def test_a_flow_takes_the_name_of_a_settings_file_for_its_settings(name):
    flow = flow_of(DEPLOYMENTS[name])
    given = flow.validate_parameters({"settings": str(ROOT / DEFAULT_CONFIG)})
    assert given["settings"] == load_settings(ROOT / DEFAULT_CONFIG)


def test_a_flows_parameters_are_said_to_be_a_file_or_the_settings_themselves():
    settings = flow_of(DEPLOYMENTS["nightly"]).parameters.properties["settings"]
    assert {"string"} <= {choice.get("type") for choice in settings["anyOf"]}


def lint(tool, *arguments):
    """Return what a linter that is installed beside Python has to say."""
    command = [Path(sysconfig.get_path("scripts")) / tool, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return run.returncode, run.stdout + run.stderr


def test_the_compose_file_keeps_to_the_schema_of_such_files():
    status, said = lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", FOLDER / "compose.yaml")
    assert status == 0, said


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_a_linter_finds_nothing_in_an_image(file):
    assert lint("hadolint", "--no-color", file) == (0, "")


def test_every_image_of_the_compose_file_is_built_or_named_with_a_version():
    services = COMPOSE["services"]
    built = {service["image"]: service["build"] for service in services.values() if "build" in service}
    assert {(ROOT / build["dockerfile"]).name for build in built.values()} == {file.name for file in DOCKERFILES}
    for service in services.values():
        assert service["image"] in built or ":" in service["image"]
        assert set(service.get("depends_on", {})) <= set(services)


def test_no_port_of_the_compose_file_is_open_to_other_machines():
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_copies_what_is_there_and_lets_through_what_it_copies(file):
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", file.read_text(), re.MULTILINE) for name in line.split()]
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    assert copied
    assert all((ROOT / name).exists() for name in copied)
    assert set(copied) <= allowed


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_does_not_run_as_root(file):
    assert re.search(r"^USER (?!root)\w+$", file.read_text(), re.MULTILINE)


def test_the_guides_modules_commands_and_files_exist():
    assert set(re.findall(r"bin/normaudit (\w+)", GUIDE)) <= set(get_command(app).commands)
    for module in set(re.findall(r"python -m (flows[\w.]+|tasks[\w.]+)", GUIDE)):
        import_module(module if module != "tasks.model" else "tasks.model.jobs")
    for link in re.findall(r"\]\(((?!https?:)[^)]+)\)", GUIDE):
        assert (FOLDER / link).exists()


def test_the_guides_targets_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = set(re.findall(r"(?:^|`|&& |/api )make (\w+)", GUIDE, re.MULTILINE))
    assert {"install", "deploy"} <= named <= set(targets)


def test_the_guide_shows_each_runner_that_spreads_a_night():
    assert sorted(example.runner for example in EXAMPLES) == ["dask", "ray", "threads", "workers"]


def test_the_guides_query_chooses_the_models_that_it_says(store):
    [query] = [example.probe.query for example in EXAMPLES if example.probe.query]
    for name, confidence in (("o/sure", 0.99), ("o/unsure", 0.5)):
        rows = model(name, checkpoint_bytes=10)
        rows["norms"][0]["confidence"] = confidence
        write_batch(store, NIGHT, name.replace("/", "-"), 0, {**rows, "probes": []})
    batch = ProbeBatch(str(store.location), NIGHT, "night")
    plan_probes(batch, Choice(query, models=10, parameters=10**9, bytes=10**12, settings={}))
    assert [job.repo_id for job in read_jobs(batch)] == ["o/unsure"]


def test_the_guides_rules_for_uploads_that_were_cut_off_are_ones_that_a_bucket_takes(s3):
    amazon, google = (json.loads(re.search(f"{before} '(.*?)'", GUIDE, re.DOTALL)[1]) for before in RULES_STAND_AFTER)
    client = boto3.client("s3", "us-east-1", endpoint_url=s3.url, aws_access_key_id="a", aws_secret_access_key="b")
    client.put_bucket_lifecycle_configuration(Bucket="tests", LifecycleConfiguration=amazon)
    [rule] = client.get_bucket_lifecycle_configuration(Bucket="tests")["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    client.delete_bucket_lifecycle(Bucket="tests")
    client.close()
    assert google["rule"][0]["action"] == {"type": "AbortIncompleteMultipartUpload"}


def test_every_setting_of_probes_is_in_the_file_that_ships_with_its_default():
    table = (ROOT / DEFAULT_CONFIG).read_text().rpartition("\n[probe]")[2].partition("\n")[2]
    shown = tomllib.loads(re.sub("^# (?!#)", "", table, flags=re.MULTILINE))
    examples = {name: shown[name] for name in ("query", "tokens")}  # what is null by default has no form in TOML
    assert shown == Probing().model_dump() | examples
