"""Gates: layers, public names, documented commands, and what a light install imports."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tailorbird
from tailorbird.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "tailorbird"

FRAMEWORKS = {
    "torch",
    "timm",
    "keras",
    "tensorflow",
    "jax",
    "ray",
    "starlette",
    "sklearn",
    "scipy",
    "fastapi",
    "uvicorn",
}
DATABASES = {"sqlalchemy", "psycopg"}
HEAVY = {
    "onnx",
    "onnxruntime",
    "sklearn",
    "scipy",
    "huggingface_hub",
    "rich",
    "numpy",
    "PIL",
    "matplotlib",
    "optuna",
    "jinja2",
}


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def check_contracts(root: Path) -> subprocess.CompletedProcess[str]:
    """Run `lint-imports` on the sources below a folder, with the contracts in pyproject.toml."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--config", str(ROOT / "pyproject.toml")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root / "src")},
        capture_output=True,
        text=True,
    )


def test_the_contracts_of_the_layers_hold() -> None:
    """Layers, circles of modules, and who may import what; `make lint` checks them as well."""
    done = check_contracts(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_broken_layer_is_found(tmp_path: Path) -> None:
    """Also if the import is inside a function."""
    copy = Path(shutil.copytree(SOURCE, tmp_path / "src" / "tailorbird"))
    with (copy / "errors.py").open("a") as file:
        file.write("\n\ndef broken() -> None:\n    from tailorbird.files import write_text\n")
    done = check_contracts(tmp_path)
    assert done.returncode == 1
    assert "tailorbird.errors -> tailorbird.files" in done.stdout


@pytest.mark.parametrize("folder", ["src", "tests", "examples"])
def test_only_inference_makes_and_runs_sessions(folder: str) -> None:
    """ONNX Runtime elsewhere might be imported before its telemetry is disabled.

    The quantiser that is part of it changes graphs without running them.
    """
    allowed = {SOURCE / "quantization.py": "onnxruntime.quantization."}
    for path in (ROOT / folder).rglob("*.py"):
        if path.parent == SOURCE / "inference":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = {name for name in imported(tree) if name.split(".")[0] == "onnxruntime"}
        assert all(name.startswith(allowed.get(path, "nowhere")) for name in found), path
        for node in ast.walk(tree):
            assert not isinstance(node, ast.Attribute) or node.attr != "InferenceSession", path


def test_errors_import_nothing_of_ours() -> None:
    assert not [
        name
        for name in imported(ast.parse((SOURCE / "errors.py").read_text()))
        if name.startswith("tailorbird")
    ]


def test_public_names_are_pinned_and_all_there() -> None:
    assert tailorbird.__all__ == [
        "Classifier", "Comparison", "Dataset", "Evaluation", "Explanation", "Failure", "Finding",
        "FinetuneSettings", "InputError", "Prediction", "RetrainSettings", "Retraining", "RunError",
        "Sample", "Scores", "Suspect", "Suspects", "TailorbirdError", "TrainResult",
        "TrainSettings", "compare", "evaluate", "explain", "find_learning_rate", "import_model",
        "learning_curve", "load", "retrain", "scan", "suspects", "sweep", "train", "use_device",
        "write_manifest",
    ]  # fmt: skip
    for name in tailorbird.__all__:
        assert getattr(tailorbird, name).__doc__
    assert re.fullmatch(r"\d+\.\d+\.\d+", tailorbird.__version__)
    with pytest.raises(AttributeError, match="has no attribute 'fit'; it has Classifier"):
        tailorbird.fit  # noqa: B018


def test_the_error_tree_in_the_docstring_is_the_tree() -> None:
    from tailorbird import errors

    classes = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    drawn = re.findall(r"^ *[│├└─ ]*([A-Z]\w+)", errors.__doc__ or "", re.M)
    assert set(classes) <= set(drawn)
    for value in classes.values():
        assert issubclass(value, errors.TailorbirdError) and value.exit_code in (1, 2)


def fresh(code: str) -> set[str]:
    """Modules loaded after running code in a new interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_importing_the_package_costs_nothing() -> None:
    assert not fresh("import tailorbird") & (HEAVY | FRAMEWORKS | DATABASES)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import contextlib, sys; sys.argv = ['tailorbird', *{arguments}]\n"
        "from tailorbird.cli import main\n"
        "with contextlib.suppress(SystemExit): main()"
    )
    assert not fresh(code) & (HEAVY | FRAMEWORKS | DATABASES)


def test_predict_loads_no_training_library(trained: Path) -> None:
    code = (
        "import numpy; from tailorbird.model import Classifier; "
        f"Classifier({str(trained)!r}).predict(numpy.zeros((9, 9, 3), numpy.uint8))"
    )
    assert not fresh(code) & (
        FRAMEWORKS | DATABASES | {"sklearn", "scipy", "huggingface_hub", "matplotlib", "jinja2"}
    )


def test_the_core_depends_on_no_training_framework() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {
        re.split(r"[<>=\[; ]", requirement)[0].lower() for requirement in project["dependencies"]
    }
    assert not names & {*FRAMEWORKS, "torchvision", "tensorflow-cpu"}
    assert {"onnxruntime", "numpy", "pillow"} <= names


def commands() -> list[list[str]]:
    from typer.main import get_command

    from tailorbird.cli.app import app

    found: list[list[str]] = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        found.append([name])
        found.extend([name, inner] for inner in getattr(command, "commands", {}))
    return found


def test_readme_covers_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in commands():
        assert f"tailorbird {' '.join(command)}" in text, (
            f"README.md does not mention `tailorbird {' '.join(command)}`"
        )


def test_every_command_has_a_file_and_help() -> None:
    for command in commands():
        # `import` is a keyword, which no module can be named.
        module = {"import": "import_model"}.get(command[0], command[0].replace("-", "_"))
        assert (SOURCE / "cli" / f"{module}.py").exists()
        done = CliRunner().invoke(app, [*command, "--help"])
        assert done.exit_code == 0 and "--debug" in done.stdout and "-q" in done.stdout, command
