"""The files of deployments/ say what exists: flows, pools, settings, images, commands."""

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from flows.cli import app
from flows.deploying import CRAWL_POOL, GPU_POOL, NIGHTLY
from flows.settings import DEFAULT_CONFIG, Probing, load_settings
from storage.parts import write_batch
from tasks.probes import Choice, ProbeBatch, plan_probes, read_jobs
from tests.stores import NIGHT, model

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deployments"
PREFECT = yaml.safe_load((FOLDER / "prefect.yaml").read_text())
DEPLOYMENTS = {deployment["name"]: deployment for deployment in PREFECT["deployments"]}
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
GUIDE = (FOLDER / "README.md").read_text()
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


def test_the_names_that_the_code_calls_deployments_by_are_theirs():
    names = {f"{flow_of(deployment).name}/{name}" for name, deployment in DEPLOYMENTS.items()}
    assert {NIGHTLY, Probing().deployment} <= names


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


def test_the_guides_query_chooses_the_models_that_it_says(store):
    [example] = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    query = Probing.model_validate(tomllib.loads(example)["probe"]).query
    for name, confidence in (("o/sure", 0.99), ("o/unsure", 0.5)):
        rows = model(name, checkpoint_bytes=10)
        rows["norms"][0]["confidence"] = confidence
        write_batch(store, NIGHT, name.replace("/", "-"), 0, {**rows, "probes": []})
    batch = ProbeBatch(str(store.location), NIGHT, "night")
    plan_probes(batch, Choice(query, models=10, parameters=10**9, bytes=10**12, settings={}))
    assert [job.repo_id for job in read_jobs(batch)] == ["o/unsure"]


def test_every_setting_of_probes_is_in_the_file_that_ships_with_its_default():
    table = (ROOT / DEFAULT_CONFIG).read_text().rpartition("\n[probe]")[2].partition("\n")[2]
    shown = tomllib.loads(re.sub("^# (?!#)", "", table, flags=re.MULTILINE))
    examples = {name: shown[name] for name in ("query", "tokens")}  # what is null by default has no form in TOML
    assert shown == Probing().model_dump() | examples
