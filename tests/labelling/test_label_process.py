"""`tailorbird label` as a process: its address, kill -9 at any moment, Ctrl-C, a second process."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from support.cli import POCKET, run
from support.labelling import drawn_cache, roll, true  # noqa: F401  (fixtures)
from support.reviewing import Page, reviewing
from tailorbird.labelling.history import History

CLASSES = ("--classes", "disc,box,cross")


class Person:
    """Answers truthfully over the API of the page."""

    def __init__(self, page: Page, window: str = "one") -> None:
        self.page = page
        self.window = window
        self.cookie = page.cookie()
        self.saved: dict[str, str] = {}
        """What the server said it saved."""

    def ask(self, path: str, body: object = None) -> tuple[int, Any]:
        status, _, data = self.page.ask(path, body, Cookie=self.cookie)
        return status, json.loads(data)

    def screen(self) -> dict[str, Any]:
        while True:
            status, screen = self.ask("/api/screen", {"window": self.window})
            assert status == 200, screen
            if screen["kind"] != "wait":
                return dict(screen)
            time.sleep(0.05)

    def answer(self) -> bool:
        """Answer one screen, photo by photo where it asks so; whether there was one."""
        screen = self.screen()
        photos = screen["photos"]
        parts = [photos] if screen["kind"] == "sheet" else [[photo] for photo in photos]
        for part in parts:
            answers = [
                {"photo": p["photo"], "kind": "label", "label": true(p["name"]), "seen": p["seen"]}
                for p in part
            ]
            status, content = self.ask("/api/answers", {"answers": answers})
            assert status == 200, content
            self.saved |= {p["name"]: true(p["name"]) for p in part}
        return bool(photos)


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_any_moment_no_saved_answer_is_lost(
    roll: Path,
    tmp_path: Path,
    seed: int,
) -> None:
    """Every answer that the server confirmed is there after kill -9, and the session goes on."""
    manifest = tmp_path / "labels.csv"
    wait = random.Random(seed).uniform(0.05, 0.6)
    saved: dict[str, str] = {}
    for _ in range(2):
        with reviewing(roll, tmp_path / "log", "-o", manifest, *CLASSES, does="label") as running:
            person = Person(running.page)
            person.answer()
            stopper = threading.Timer(wait, running.process.kill)
            stopper.start()
            try:
                while person.answer():
                    pass
            except (OSError, ValueError):
                pass  # it was killed while it answered
            running.process.wait(120)
            saved |= person.saved
        history = History(tmp_path / "labels.history.jsonl")
        given = {name: answer.label for name, answer in history.answers.by_name.items()}
        assert saved.items() <= given.items()
    with reviewing(roll, tmp_path / "log", "-o", manifest, *CLASSES, does="label") as running:
        _, state = Person(running.page).ask("/api/state")
        assert state["answers"]["label"] == len(given)
        assert state["undo"] is not None
        said = running.finish(signal.SIGINT)
    assert f"Manifest: {manifest}" in said
    assert manifest.read_text().count("\n") == len(given) + 1, "the manifest follows"


def test_ctrl_c_says_what_was_reached(roll: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "labels.csv"
    with reviewing(roll, tmp_path / "log", "-o", manifest, *CLASSES, does="label") as running:
        person = Person(running.page)
        for _ in range(3):
            person.answer()
        done = run("label", roll, "-o", manifest, *POCKET, "--no-browser", code=1)
        assert "is being labelled by another process" in done.stderr
        said = running.finish(signal.SIGINT)
        assert running.process.returncode == 0
    assert "steps; labels: disc" in said and "Train on it: " in said
    assert "90 files to label" in (tmp_path / "log").read_text()


def test_two_windows_label_at_once(roll: Path, tmp_path: Path) -> None:
    """Neither loses an answer, no photo is asked about twice, and conflicts save nothing."""
    manifest = tmp_path / "labels.csv"
    with reviewing(roll, tmp_path / "log", "-o", manifest, *CLASSES, does="label") as running:
        people = [Person(running.page, name) for name in ("one", "two")]
        failures: list[BaseException] = []

        def work(person: Person) -> None:
            try:
                for _ in range(4):
                    person.answer()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(person,)) for person in people]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(600)
        assert not failures, failures
        one, two = (person.saved for person in people)
        assert not set(one) & set(two)
        _, state = people[0].ask("/api/state")
        assert state["answers"]["label"] == len(one) + len(two)
        running.finish(signal.SIGINT)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("nowhere",), "is not a folder"),
        (("{roll}", "-o", "labels.txt"), "give the name of a .csv file"),
        (("{roll}", "--classes", "a/,b"), "a part without a letter or a digit"),
        (("{roll}", "--seed", "-1"), "seed is -1"),
    ],
)
def test_bad_options_exit_2(
    roll: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    said: str,
) -> None:
    words = [option.format(roll=roll) for option in options]
    done = run("label", *words, *POCKET, "--no-browser", code=2)
    assert said in done.stderr and not done.stdout
