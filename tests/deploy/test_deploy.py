"""The files of deploy/: parsed, linted by the programs that read them, and run where that needs no
container engine.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import tailorbird
from support import dockerfile
from support.data import encoded, picture
from support.deployed import DEPLOY, ROOT, TOKEN, Service, program
from tailorbird.corrections.database import locate
from tailorbird.service import ServeSettings

IMAGE = dockerfile.read(DEPLOY / "Dockerfile")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
UNIT = (DEPLOY / "tailorbird.service").read_text(encoding="utf-8")
RETRAIN = (DEPLOY / "tailorbird-retrain.service").read_text(encoding="utf-8")
TIMER = (DEPLOY / "tailorbird-retrain.timer").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
SETTINGS = ServeSettings(model=Path("model.onnx"))
LONGEST_END = SETTINGS.drain + SETTINGS.deadline + 15
"""Seconds after SIGTERM within which every process has ended; the supervisor kills what has not."""


def final(name: str) -> list[dockerfile.Instruction]:
    return [each for each in IMAGE if each.stage == IMAGE[-1].stage and each.name == name]


def variables(command: str = "serve") -> set[str]:
    """Every environment variable that a command, such as `tailorbird serve`, reads."""
    from typer.main import get_command

    from tailorbird.cli.app import app

    found = get_command(app).commands[command]  # type: ignore[attr-defined]
    named = {str(option.envvar) for option in found.params if option.envvar}
    return named | {"TAILORBIRD_THREADS", "TAILORBIRD_CACHE"}


def test_the_image_runs_as_a_numeric_user_without_a_shell_or_build_tools() -> None:
    (user,) = final("USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user.value)
    for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK", "VOLUME"):
        (each,) = final(name)
        assert each.words(), f"{name} is in exec form"
    (signal,) = final("STOPSIGNAL")
    assert signal.value == "SIGTERM"
    assert len({each.stage for each in IMAGE if each.stage}) == 2
    text = (DEPLOY / "Dockerfile").read_text()
    assert not re.search(r"\b(latest|apt-get|gcc|curl|wget|ADD|sudo|chmod 777)\b", text)
    assert re.fullmatch(r"PYTHON=\d+\.\d+-slim-\w+", IMAGE[0].value), (
        "the base image's tag names version and Debian release"
    )
    # Nothing after USER changes the filesystem as the service's user, and only the environment
    # comes from the first stage.
    names = [each.name for each in IMAGE if each.stage == user.stage]
    assert "RUN" not in names[names.index("USER") :]
    assert [each.value for each in final("COPY")] == [
        "--from=build /opt/tailorbird /opt/tailorbird"
    ]


def test_the_images_extras_exist_and_hold_no_training_framework() -> None:
    (install,) = (each.value for each in IMAGE if each.stage == "build" and each.name == "RUN")
    extras = re.findall(r"\w+", re.findall(r"\[(.*?)\]", install)[0])
    offered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert extras == ["serve", "postgres"] and set(extras) <= set(offered)
    assert not re.search(
        "torch|tensorflow|keras|timm|ray", " ".join(offered[extra][0] for extra in extras)
    )


def test_the_images_health_check_and_command_are_commands_of_ours() -> None:
    words = final("ENTRYPOINT")[0].words() + final("CMD")[0].words()
    check = final("HEALTHCHECK")[0].words()
    for command in (words, check):
        assert command[0] == "tailorbird"
        done = subprocess.run(
            [sys.executable, "-m", *command, "--help"], capture_output=True, text=True
        )
        assert done.returncode == 0
    absent = subprocess.run(
        [sys.executable, "-m", *check],
        env={"TAILORBIRD_PORT": "1", "PYTHONPATH": str(ROOT / "src")},
    )
    assert absent.returncode == 1, "Docker knows 0 and 1"


def test_every_variable_set_is_one_the_service_reads() -> None:
    from_image = set(dockerfile.environment(IMAGE, "service"))
    from_compose = set(COMPOSE["services"]["tailorbird"]["environment"])
    from_unit = set(re.findall(r"^Environment=(\w+)=", UNIT, re.M))
    from_guide = set(re.findall(r"\b(TAILORBIRD_[A-Z_]+)\b", GUIDE))
    of_compose_itself = set(re.findall(r"\$\{(\w+):-", (DEPLOY / "compose.yaml").read_text()))
    for name in from_image | from_compose | from_unit:
        assert not name.startswith("TAILORBIRD_") or name in variables(), name
    from_retrain = set(re.findall(r"^Environment=(TAILORBIRD_\w+)=", RETRAIN, re.M))
    assert from_retrain <= variables("retrain")
    assert from_guide <= variables() | variables("retrain") | of_compose_itself


def test_the_docker_context_holds_only_what_the_image_is_made_of() -> None:
    lines = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert lines[0] == "*"
    wanted = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        word
        for each in IMAGE
        if (each.stage, each.name) == ("build", "COPY")
        for word in each.value.split()[:-1]
    }
    assert {name.removeprefix("./") for name in copied} == wanted
    assert all((ROOT / name).exists() for name in wanted)


def test_compose_is_closed_but_for_the_proxy() -> None:
    services = COMPOSE["services"]
    assert [name for name, each in services.items() if "ports" in each] == ["proxy"]
    for name, each in services.items():
        assert each["read_only"] is True and each["cap_drop"] == ["ALL"], name
        assert (
            "no-new-privileges:true" in each["security_opt"] and each["restart"] == "unless-stopped"
        ), name
        assert each["mem_limit"] and each["pids_limit"], name
        assert (
            re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", each["image"])
            and "latest" not in each["image"]
        ), name
        assert int(each["stop_grace_period"].removesuffix("s")) > (
            0 if name == "postgres" else SETTINGS.deadline
        )
        for other, how in each.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"} and other in services
        assert set(each["networks"]) <= set(COMPOSE["networks"])
        for secret in each.get("secrets", []):
            assert secret in COMPOSE["secrets"]
    assert int(services["tailorbird"]["stop_grace_period"].removesuffix("s")) > LONGEST_END
    assert services["tailorbird"]["image"] == f"tailorbird:{tailorbird.__version__}"
    assert (
        "back" not in services["proxy"]["networks"]
        and COMPOSE["networks"]["back"]["internal"] is True
    )
    assert services["postgres"]["healthcheck"]["test"][0] == "CMD"
    # A health check that the service itself passes on, by the image's HEALTHCHECK.
    assert services["proxy"]["depends_on"]["tailorbird"] and final("HEALTHCHECK")
    for service, variable in (
        ("tailorbird", "TAILORBIRD_TOKEN_FILE"),
        ("tailorbird", "TAILORBIRD_CORRECTIONS_FILE"),
        ("postgres", "POSTGRES_PASSWORD_FILE"),
    ):
        path = services[service]["environment"][variable]
        assert path.removeprefix("/run/secrets/") in services[service]["secrets"]
    build = services["tailorbird"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    mounted = [
        each["target"] for each in services["tailorbird"]["volumes"] if isinstance(each, dict)
    ]
    assert mounted == ["/models"], (
        "the folder: a mounted file would stay the old one when a new one is renamed into place"
    )


def test_secrets_are_made_once_closed_and_fit_each_other(tmp_path: Path) -> None:
    script = tmp_path / "make-secrets.sh"
    script.write_bytes((DEPLOY / "make-secrets.sh").read_bytes())
    subprocess.run(["sh", "-eu", str(script)], check=True, capture_output=True)
    folder = tmp_path / "secrets"
    first = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(first) == {path["file"].rpartition("/")[2] for path in COMPOSE["secrets"].values()}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o444 for path in folder.iterdir())
    url = locate(first["corrections_url"].strip()).url
    database = COMPOSE["services"]["postgres"]["environment"]
    assert (
        url is not None
        and url.password == first["database_password"].strip()
        and len(str(url.password)) == 48
    )
    assert (url.username, url.database, url.host) == (
        database["POSTGRES_USER"],
        database["POSTGRES_DB"],
        "postgres",
    )
    ServeSettings(model=tmp_path, token=first["token"].strip())
    subprocess.run(["sh", str(script)], check=True, capture_output=True)
    assert first == {path.name: path.read_text() for path in folder.iterdir()}
    assert re.search(r"^/?deploy/secrets/$", (ROOT / ".gitignore").read_text(), re.M)


def test_systemd_takes_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    analyze = program("systemd-analyze", "systemd")
    unit = tmp_path / "tailorbird.service"
    unit.write_text(
        UNIT.replace("/opt/tailorbird/bin/tailorbird", "/bin/true")
    )  # it looks whether the program is there
    verified = subprocess.run(
        [analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    # 1.2 was measured; the scale ends at 10, and what cannot be given up is the network.
    scored = subprocess.run(
        [analyze, "security", "--offline=yes", "--no-pager", "--threshold=15", str(unit)],
        capture_output=True,
        text=True,
    )
    assert scored.returncode == 0, scored.stdout[-300:]


def test_systemd_takes_the_timer_and_finds_the_retraining_hardened(tmp_path: Path) -> None:
    analyze = program("systemd-analyze", "systemd")
    for name, text in (("tailorbird.service", UNIT), ("tailorbird-retrain.service", RETRAIN)):
        there = text.replace("/opt/tailorbird/bin/tailorbird", "/bin/true")
        (tmp_path / name).write_text(there)
    (tmp_path / "tailorbird-retrain.timer").write_text(TIMER)
    units = [str(tmp_path / f"tailorbird-retrain.{kind}") for kind in ("service", "timer")]
    verified = subprocess.run(
        [analyze, "verify", "--man=no", *units], capture_output=True, text=True
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    scored = subprocess.run(
        [analyze, "security", "--offline=yes", "--no-pager", "--threshold=15", units[0]],
        capture_output=True,
        text=True,
    )
    assert scored.returncode == 0, scored.stdout[-300:]


def test_the_retraining_runs_as_the_services_user_and_its_command_is_one_of_ours() -> None:
    from tailorbird.cli.retrain import WORSE_EXIT_CODE

    unit, service = (dict(re.findall(r"^(\w+)=(.*)$", text, re.M)) for text in (RETRAIN, UNIT))
    for name in ("DynamicUser", "User", "StateDirectory", "StateDirectoryMode", "UMask",
                 "EnvironmentFile", "IPAddressAllow", "PrivateUsers"):  # fmt: skip
        assert unit[name] == service[name], "the service reads what the retraining writes"
    assert unit["Type"] == "oneshot" and int(unit["SuccessExitStatus"]) == WORSE_EXIT_CODE
    words = unit["ExecStart"].split()
    assert words[:2] == ["/opt/tailorbird/bin/tailorbird", "retrain"]
    helped = subprocess.run(
        [sys.executable, "-m", "tailorbird", "retrain", "--help"], capture_output=True, text=True
    )
    for option in (word for word in words if word.startswith("--")):
        assert option in helped.stdout
    timer = dict(re.findall(r"^(\w+)=(.*)$", TIMER, re.M))
    assert timer["Persistent"] == "true" and timer["WantedBy"] == "timers.target"
    assert "Unit" not in timer, "the service of the same name"


def test_the_unit_gives_the_service_time_to_end_and_one_signal_only() -> None:
    settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT, re.M))
    assert int(settings["TimeoutStopSec"]) > LONGEST_END
    assert settings["KillMode"] == "mixed", "a second SIGTERM ends a process without its drain"
    assert settings["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert settings["EnvironmentFile"].startswith("-/") and "TOKEN=" not in "".join(
        re.findall(r"^Environment=.*", UNIT, re.M)
    )
    waits = re.findall(r"--wait (\d+)", settings["ExecStartPost"])
    assert int(waits[0]) < int(settings["TimeoutStartSec"])


@pytest.fixture(scope="module")
def confined(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a service of two workers under the unit's MemoryDenyWriteExecute=yes."""
    folder = tmp_path_factory.mktemp("confined")
    options = ("--workers", "2", "--corrections", str(folder / "corrections.db"))
    service = Service(folder, trained, *options, deny_write_execute=True)
    if not service.url:
        service.stop()
        service = Service(folder, trained, *options)  # Linux before 6.3 cannot deny it this way
    with httpx.Client(
        base_url=service.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30
    ) as client:
        yield client
    assert service.stop() == 0


def test_the_service_works_where_no_memory_is_written_and_run(confined: httpx.Client) -> None:
    photos = [
        ("photo", ("a.jpg", encoded(picture("disc", 1)))),
        ("photo", ("b.webp", encoded(picture("box", 2), "WEBP"))),
    ]
    answer = confined.post("/v1/predict?heatmap=1", files=photos)
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert len(results) == 2 and all(
        "label" in result and "heatmaps" in result for result in results
    )
    said = {"receipt": results[0]["receipt"], "answer": "disc"}
    assert confined.post("/v1/corrections", json=said).status_code == 201


def test_every_metric_the_guide_and_the_alerts_speak_of_exists(confined: httpx.Client) -> None:
    """A counter with labels is exposed once it has counted."""
    confined.post("/v1/predict", content=encoded(picture("disc", 1)))
    assert confined.post("/v1/model/reload").json()["changed"] is False
    text = confined.get("/metrics").text
    exposed = set(re.findall(r"^(tailorbird_\w+)", text, re.M)) | set(
        re.findall(r"^# TYPE (\w+)", text, re.M)
    )
    spoken = set(re.findall(r"\btailorbird_[a-z_]+", GUIDE + (DEPLOY / "alerts.yml").read_text()))
    assert len(spoken) > 10 and spoken <= exposed


def test_the_probes_of_the_guide_are_answered(tmp_path: Path, trained: Path) -> None:
    """A kubelet asks by the pod's address; health checks answer it with --allow-host, too."""
    probes = [
        block
        for block in re.findall(r"```yaml\n(.*?)```", GUIDE, re.S)
        if "readinessProbe" in block
    ]
    assert len(probes) == 1
    pod = next(iter(yaml.safe_load_all(probes[0])))["spec"]["template"]["spec"]
    service = Service(tmp_path, trained, "--allow-host", "photos.example.org")
    try:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = pod["containers"][0][probe]["httpGet"]
            headers = {"Host": "10.1.2.3:8000"}
            assert httpx.get(service.url + asked["path"], headers=headers).status_code == 200
        assert httpx.get(f"{service.url}/v1/model", headers=headers).status_code == 400
    finally:
        service.stop()


def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    here = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "tailorbird").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert inside == here
    assert (
        {"lite.onnx", "pocket.onnx"} <= {Path(name).name for name in inside}
        and "tailorbird/service/page/index.html" in inside
        and "tailorbird/service/web/assets/base.css" in inside
    )
    assert wheel.stat().st_size < 10 * 2**20


def test_yaml_of_the_guide_and_of_prometheus_parses() -> None:
    for block in re.findall(r"```yaml\n(.*?)```", GUIDE, re.S):
        assert list(yaml.safe_load_all(block))
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    assert all({"alert", "expr", "labels", "annotations"} <= set(rule) for rule in rules)
    scrape = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    assert scrape["rule_files"] == ["alerts.yml"]
    assert {rule["alert"] for rule in rules} == set(re.findall(r"`(Tailorbird\w+)`", GUIDE)), (
        "the guide says what each alert means"
    )


def test_every_file_the_guide_names_exists() -> None:
    named = set(re.findall(r"\bdeploy/([\w-]+(?:\.\w+)?)", GUIDE))
    assert len(named) >= 7 and named <= {path.name for path in DEPLOY.iterdir()}


def test_every_option_the_guide_names_exists() -> None:
    wide = {"COLUMNS": "300", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "tailorbird", "serve", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=wide)
    offered = set(re.findall(r"--[a-z][a-z-]+", done.stdout))
    section = GUIDE.split("## Sizing")[1].split("\n## ")[0]
    named = set(re.findall(r"`(--[a-z-]+)", section))
    assert {"--workers", "--queue", "--batch", "--deadline"} <= named <= offered


def test_the_check_of_the_image_reads_this_dockerfile() -> None:
    """Import deploy/check.py only: it needs root and runs for minutes."""
    spec = importlib.util.spec_from_file_location("check", DEPLOY / "check.py")
    assert spec and spec.loader
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    assert check.UNWANTED.match("torch-2.0") and not check.UNWANTED.match("torchless-1")
    assert check.reachable(Path(sys.base_prefix)) == "" or "mount --bind" in check.reachable(
        Path(sys.base_prefix)
    )
