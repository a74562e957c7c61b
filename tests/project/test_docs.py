"""The documentation: the tutorial runs, the generated pages are up to date, `--json` has the
documented keys, the site builds, links hold."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

import make_reference
import run_tutorial
import tailorbird
from support.cli import POCKET, lines, run
from support.documented_json import Schema, problems, schemas
from support.serving import serving
from tailorbird.corrections import open_store
from tailorbird.metrics.scores import MEASURES
from tailorbird.service.web.texts import LANGUAGES, texts
from tutorial_blocks import parse, rendered, steps
from tutorial_rules import differences, form

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


# The tutorial


@pytest.fixture(scope="module")
def tutorial() -> Iterator[tuple[list[str], dict[str, list[str]]]]:
    """What differs from the page, and what each command printed."""
    yield run_tutorial.compare(run_tutorial.PAGE.read_text(encoding="utf-8"))


def test_the_tutorial_shows_what_its_commands_print(
    tutorial: tuple[list[str], dict[str, list[str]]],
) -> None:
    found, _ = tutorial
    assert not found, "\n".join(found)


def test_the_tutorial_finds_the_labels_it_made_wrong(
    tutorial: tuple[list[str], dict[str, list[str]]],
) -> None:
    _, printed = tutorial
    (said,) = (
        lines for command, lines in printed.items() if command.startswith("tailorbird scan messy")
    )
    suspects = "\n".join(line for line in said if "suspect-label " in line)
    moved = ("hat/shorts-0005.jpg", "dress/pants-0009.jpg", "t-shirt/shoes-0012.jpg")
    assert sum(name in suspects for name in moved) >= 2, suspects


def test_the_tutorial_has_a_command_for_each_step_of_the_course() -> None:
    commands = "\n".join(
        step.command for step in steps(parse(run_tutorial.PAGE.read_text(encoding="utf-8")))
    )
    for wanted in (
        "tailorbird demo",
        "tailorbird backbones",
        "tailorbird train",
        "tailorbird find-lr",
        "--learning-rate 0.0001,",
        "--inner 0,",
        "--dropout 0,",
        "--views 4",
        "tailorbird predict",
        "tailorbird explain",
        "tailorbird serve",
        "InferenceSession",
        "tailorbird evaluate",
        "scan messy --suspects",
        "tailorbird review",
        "tailorbird label",
        "tailorbird learning-curve",
        "tailorbird compare",
        "tailorbird.train(",
        "tailorbird.sweep(",
    ):
        assert wanted in commands


def test_a_page_is_parsed_and_rendered_as_it_was() -> None:
    text = run_tutorial.PAGE.read_text(encoding="utf-8")
    assert rendered(parse(text)) == text
    several = "```console\n$ one \\\n> --two\nprinted\n$ three  # exits 3\n^C\nat the end\n```\n"
    one, three, stop = steps(parse(several))
    assert one.command == "one \\\n--two" and one.printed == ["printed"]
    assert three.exit_code == 3 and stop.kind == "interrupt" and stop.printed == ["at the end"]
    with pytest.raises(ValueError, match="begins with 'printed'"):
        parse("```console\nprinted\n```\n")
    with pytest.raises(ValueError, match="not closed"):
        parse("```pycon\n>>> 1\n")


TABLE = """400 files, 1 view each, pocket at 128 px: about 4 s; photos seen before are quicker
Test: accuracy 90.4% (95% interval 79.4% to 95.8%) on 52 photos
dress           0.889   0.889  0.889       9  t-shirt (1)
hat             1.000   1.000  1.000       3
- dropout: 0.5 is best (93.1%); 0.8 cannot be told apart (difference 0.3 points, p = 1.00)
Seconds: 4.4 (open 0.1, scan 1.2, head 1.1, test 1.4, write 0.2); 400 photos embedded now
""".splitlines()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("about 4 s", "about 11 s"),
        ("90.4%", "84.6%"),
        ("dress           0.889", "skirt           0.750"),
        ("t-shirt (1)", ""),
        (
            "0.8 cannot be told apart (difference 0.3 points, p = 1.00)",
            "0.8 is worse (by 4.3 points, p < 0.001)",
        ),
        ("Seconds: 4.4 (open 0.1", "Seconds: 104.4 (open 10.1"),
        ("scan 1.2, ", ""),
    ],
)
def test_noise_is_no_difference(old: str, new: str) -> None:
    assert old in "\n".join(TABLE)
    assert not differences(TABLE, "\n".join(TABLE).replace(old, new).splitlines())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("90.4%", "10.2%", "accuracy moved"),
        ("400 files", "399 files", "the tutorial says"),
        ("top-3", "top-5", ""),
        ("on 52 photos", "on 52 pictures", "not in the tutorial"),
        ("TABLE", "tailorbird: No such option: --views", "no longer printed"),
        (TABLE[1] + "\n", "", "no longer printed: Test"),
        ("  t-shirt (1)", "  9", "not in the tutorial"),
    ],
)
def test_what_a_reader_relies_on_is_a_difference(old: str, new: str, said: str) -> None:
    text = "\n".join(TABLE)
    now = new if old == "TABLE" else text.replace(old, new)
    found = differences(TABLE, now.splitlines())
    assert bool(found) == (now != text) and said in "".join(found)


def test_forms_keep_words_and_drop_numbers() -> None:
    assert form("  hat/hat-0002.jpg: hat (99%; right)") == form(
        "  dress/dress-0010.jpg: skirt (9%; wrong, it is dress)"
    )
    assert form("0.001   1000  86.8 ± 1.0") == form("    0.1   none   6.8 ± 11.0")
    assert form("hatch") == "hatch" and form("the shirts") == "the shirts", (
        "a class is a whole word"
    )


def test_a_command_that_fails_or_prints_a_path_breaks_the_tutorial() -> None:
    def said(*lines: str) -> str:
        return "\n".join(run_tutorial.compare("\n".join(("```console", *lines, "```\n")))[0])

    assert "it exited 2 rather than 0" in said("$ tailorbird predict --no-such-option")
    assert "it exited 0 rather than 3" in said("$ true  # exits 3")
    assert "a path of this machine" in said("$ pwd")
    assert (
        "no command wrote lr.svg"
        in "".join(
            run_tutorial.compare(
                "![a picture](images/tutorial/find-lr.svg)\n".replace("find-lr", "lr")
            )[0]
        )
        or not (run_tutorial.PICTURES / "lr.svg").exists()
    )
    assert "ZeroDivisionError" in "".join(run_tutorial.compare("```pycon\n>>> 1 / 0\n```\n")[0])


# Generated pages


def test_the_reference_is_up_to_date() -> None:
    assert (DOCS / "reference.md").read_text(encoding="utf-8") == make_reference.reference(), (
        "run python docs/make_reference.py"
    )


def test_the_python_page_has_every_public_name(site: Path) -> None:
    source = (DOCS / "python.md").read_text(encoding="utf-8")
    page = (site / "python.html").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: tailorbird\.(\w+)$", source, re.M)) == sorted(
        tailorbird.__all__
    )
    for name in tailorbird.__all__:
        value = getattr(tailorbird, name)
        assert f'id="{value.__module__}.{value.__qualname__}"' in page or (
            f'id="tailorbird.{name}"' in page
        )


# Words

JARGON = re.compile(r"\b(head|embed\w*|backbones?|calibrat\w*|log-loss|features?)\b", re.IGNORECASE)


def test_the_first_words_need_no_course() -> None:
    """The README's first paragraph, and everything on the page, for people who know no terms."""
    for page in (ROOT / "README.md", DOCS / "index.md"):
        first = page.read_text(encoding="utf-8").split("\n\n")[1]
        assert first.startswith("tailorbird learns from your photos")
        assert not JARGON.search(first)
    for language in LANGUAGES:
        assert not JARGON.search(json.dumps(texts(language)["upload"]))
        assert not JARGON.search(json.dumps(texts(language)["dashboard"]))


def test_the_glossary_is_sorted_and_explains_what_outputs_say() -> None:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    words = [word for word, _ in rows if word not in ("word", "---")]
    assert words == sorted(words, key=str.lower)
    known = {part.strip() for word in words for part in re.split(r"[,()]", word)}
    for measure in MEASURES.values():
        assert measure.title in known, measure.title
    for word in ("head", "backbone", "embed", "calibration", "precision", "recall", "F1",
                 "coverage", "confidence threshold", "baseline", "interval", "dropout", "L2",
                 "learning rate", "epoch", "view", "fold", "split", "seed", "manifest",
                 "receipt"):  # fmt: skip
        assert word in known, word
    linked = [ROOT / "README.md", DOCS / "index.md", DOCS / "tutorial.md"]
    assert all("glossary.md" in page.read_text(encoding="utf-8") for page in linked)


# --json


@pytest.fixture(scope="module")
def documented() -> dict[str, Schema]:
    return schemas((DOCS / "json.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


Ask = Any


@pytest.fixture
def ask(documented: dict[str, Schema], cache: Path) -> Ask:
    """Return a function that runs a command with --json and requires the documented keys."""

    def ask_for(name: str, *options: object, code: int = 0) -> list[Any]:
        arguments = (*name.split(), *options, "--json", "-q")
        done = run(*arguments, code=code, TAILORBIRD_CACHE=str(cache))
        found = lines(done)
        assert found
        for value in found:
            assert not (said := problems(value, documented[f"tailorbird {name}"], documented)), (
                "\n".join(said)
            )
        return found

    return ask_for


def test_json_of_scan_and_train(ask: Ask, shapes: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(shapes, photos)
    shutil.move(photos / "box" / "box-003.jpg", photos / "disc" / "wrong.jpg")
    shutil.copy(photos / "box" / "box-004.jpg", photos / "cross" / "copy.jpg")
    assert ask("scan", photos, code=3)[0].get("suspects") is None
    assert "suspects" in ask("scan", photos, "--suspects", *POCKET, code=3)[0]
    ask("scan", shapes, "--manifest", tmp_path / "split.csv")
    assert ask("scan", tmp_path / "split.csv")[0]["splits"]
    assert ask(
        "train",
        photos,
        "-o",
        tmp_path / "m.onnx",
        "--epochs",
        5,
        "--inner",
        8,
        "--suspects",
        *POCKET,
    )[0]["suspects"]
    scratch = ("--backbone", "cnn", "--size", 32, "--epochs", 2, "--no-report")
    assert ask("train", photos, "-o", tmp_path / "m.onnx", *scratch)[0]["finetune"]["history"]


def test_json_of_a_model_in_use(ask: Ask, trained: Path, shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no picture")
    photo = shapes / "disc" / "disc-001.jpg"
    assert len(ask("predict", trained, photo, tmp_path / "bad.jpg", code=3)) == 2
    assert len(ask("explain", trained, photo, tmp_path / "bad.jpg", "-o", tmp_path, code=3)) == 2
    ask("evaluate", trained, shapes, "--no-report")
    other = tmp_path / "other.onnx"
    ask(
        "train",
        shapes,
        "-o",
        other,
        "--no-report",
        "--epochs",
        1,
        "--inner",
        0,
        "--seed",
        3,
        *POCKET,
    )
    ask("compare", trained, other, shapes)
    assert ask("retrain", other, shapes)[0]["comparison"] is not None
    ask("export", trained, "--to", "int8", "--photos", shapes, "-o", tmp_path / "int8.onnx")


def test_json_of_experiments(ask: Ask, shapes: Path) -> None:
    ask("sweep", shapes, "--dropout", "0,0.5", "--inner", "8", "--folds", 2, "--seeds", 1, *POCKET)
    ask("find-lr", shapes, "--seeds", 1, "--steps", 20, *POCKET)
    ask("learning-curve", shapes, "--folds", 2, "--seeds", 1, *POCKET)


def test_json_of_the_rest(ask: Ask, trained: Path, shapes: Path, tmp_path: Path) -> None:
    ask("backbones")
    ask("backbones quantize", "pocket", "--photos", shapes)
    with serving(trained, tmp_path) as server:
        ask("health", server.address)
    database, body = tmp_path / "answers.db", (shapes / "disc" / "disc-002.jpg").read_bytes()
    digest = hashlib.sha256(body).hexdigest()
    with contextlib.closing(open_store(str(database), photos=tmp_path / "answers.photos")) as store:
        store.add(
            sha256=digest,
            predicted="disc",
            probability=0.6,
            top=[("disc", 0.6)],
            answer="box",
            model="shapes",
            model_sha256="0" * 64,
            receipt="r",
            photo=body,
        )
    assert ask("corrections stats", database)[0]["mistaken"][0]["count"] == 1
    assert ask("corrections export", database, "-o", tmp_path / "answers.csv")[0]["written"] == 1
    options = ("--corrections", database, "--epochs", 2, "--inner", 0, "--no-report")
    assert (
        ask("train", shapes, "-o", tmp_path / "m.onnx", *options, *POCKET)[0]["corrections"]
        is not None
    )
    assert ask("corrections forget", database, digest)[0] == {"rows": 1, "photo": True}
    ask("doctor")
    ask("cache")
    ask("cache clear")


def test_every_json_is_documented(documented: dict[str, Schema]) -> None:
    having = {
        f"tailorbird {name}"
        for name, command in make_reference.commands()
        if any(parameter.name == "json" for parameter in command.params)
    }
    assert {name for name in documented if name.startswith("tailorbird ")} == having


def test_a_key_that_is_new_gone_or_of_another_type_is_seen(documented: dict[str, Schema]) -> None:
    schema = documented["tailorbird health"]
    ready = {"ready": True, "url": "http://x", "warning": None}
    assert not problems(ready, schema, documented)
    assert problems({"ready": True, "warning": None}, schema, documented) == ["url is missing"]
    assert problems(ready | {"more": 1}, schema, documented) == ["more is not documented"]
    assert problems(ready | {"ready": 1}, schema, documented) == [
        "ready is int; documented is bool"
    ]


# The site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_has_every_page(site: Path) -> None:
    for page in PAGES:
        assert (site / f"{page.stem}.html").is_file()
    assert (site / "images" / "tutorial" / "page.png").is_file()
    assert not list(site.rglob("*.py")), "scripts are no pages"


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    loading = re.compile(  # addresses on another host
        r"<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*\b(?:src|data)\s*=\s*"
        r"[\"']?(?:https?:)?//"
        r"|<link\b(?=[^>]*rel=[\"']?(?:stylesheet|preconnect|icon|preload|modulepreload))[^>]*"
        r"href=[\"']?(?:https?:)?//"
        r"|@import\s+(?:url\()?[\"']?(?:https?:)?//|url\([\"']?(?:https?:)?//",
        re.IGNORECASE,
    )
    assert loading.search('<script src="https://cdn.example/x.js">') and loading.search(
        '<link rel="stylesheet" href="//x/y.css">'
    )
    for file in [*site.rglob("*.html"), *site.rglob("*.css")]:
        found = loading.search(file.read_text(encoding="utf-8"))
        assert not found, f"{file.name} loads {found}"


def test_every_page_is_in_the_navigation() -> None:
    text = re.sub(r"!!\S+", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def files(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [
            file
            for value in (entry.values() if isinstance(entry, dict) else entry)
            for file in files(value)
        ]

    assert sorted(files(yaml.safe_load(text)["nav"])) == sorted(page.name for page in PAGES)


# Architecture


def test_every_module_in_the_architecture_page_exists() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`((?:\w+/)+|(?:[\w.-]+/)*\w+\.(?:py|md|toml|json))`", text))
    assert len(names) > 40
    for name in names:
        assert (ROOT / "src" / "tailorbird" / name).exists() or (ROOT / name).exists(), name


def test_the_architecture_page_names_every_module() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    for path in (ROOT / "src" / "tailorbird").iterdir():
        name = f"{path.name}/" if path.is_dir() else path.name
        if not name.startswith("__"):
            assert f"| `{name}` |" in text, f"docs/architecture.md has no row for {name}"


# Links

LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")


def slug(heading: str) -> str:
    """As GitHub and Python-Markdown make it, of the headings that are here."""
    return re.sub(
        r"[\s]+", "-", re.sub(r"[^\w\s-]", "", re.sub(r"`|\*", "", heading)).strip().lower()
    )


def prose(text: str) -> str:
    """Without code, in which a bracket and a parenthesis are no link."""
    return re.sub(
        r"`[^`\n]+`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    )


@pytest.mark.parametrize(
    "page",
    [
        *PAGES,
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        ROOT / "benchmarks" / "README.md",
    ],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / unquote(path)) if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if page.parent == DOCS:
            assert target.resolve().is_relative_to(DOCS), (
                f"{page.name} links to {link}, which is not on the site"
            )
        if anchor:
            headings = re.findall(
                r"^#+ (.+)$",
                re.sub(r"^```.*?^```", "", target.read_text(encoding="utf-8"), flags=re.M | re.S),
                re.M,
            )
            assert anchor in {slug(heading) for heading in headings}, f"{page.name} links to {link}"


def test_every_command_named_anywhere_exists() -> None:
    known = {name for name, _ in make_reference.commands()} | {"corrections", "backbones", "cache"}
    for page in [*PAGES, ROOT / "README.md"]:
        for name in re.findall(
            r"(?:^ {4}|\$ |`)tailorbird ([a-z][\w-]*)",
            page.read_text(encoding="utf-8"),
            re.MULTILINE,
        ):
            assert name in known, f"{page.name} speaks of `tailorbird {name}`"


def test_options_shown_in_the_docs_exist() -> None:
    """`tailorbird COMMAND --option` in any page: the command takes that option."""
    takes = {
        name: {
            option
            for parameter in command.params
            for option in [*parameter.opts, *parameter.secondary_opts]
        }
        | {"--help", "-h"}
        for name, command in make_reference.commands()
    }
    for page in [*PAGES, ROOT / "README.md"]:
        text = re.sub(r" *\\\n\s*(?:> )?", " ", page.read_text(encoding="utf-8"))
        for line in re.findall(r"(?:^ {4}|\$ |`)tailorbird ([^`\n]+)", text, re.MULTILINE):
            words = re.split(r"\s+", re.split(r" [#|>&]| {3}", line)[0])
            name = " ".join(words[:2]) if " ".join(words[:2]) in takes else words[0]
            for option in [
                word.partition("=")[0] for word in words if word.startswith("-") and word != "-"
            ]:
                assert name not in takes or option.rstrip(",;.)") in takes[name], (
                    f"{page.name}: tailorbird {line}"
                )


def test_pictures_of_the_tutorial_are_small_and_used() -> None:
    used = {
        step.command
        for step in steps(parse(run_tutorial.PAGE.read_text(encoding="utf-8")))
        if step.kind == "picture"
    }
    kept = {path.name: path.stat().st_size for path in run_tutorial.PICTURES.iterdir()}
    assert set(kept) == used and max(kept.values()) <= run_tutorial.LARGEST
    assert threading.active_count() < 50, "no server was left running"
