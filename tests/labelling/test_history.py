"""The history: every step on the disk, undo, and what a killed process leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tailorbird.errors import DatasetError, StorageFull
from tailorbird.labelling.answers import Answer, Answers, Step
from tailorbird.labelling.history import History

HAT = Answer("label", "hat")
DRESS = Answer("label", "dress", blind=True)
CLASSES = ("hat", "dress")


def step(number: int, **answers: Answer | None) -> Step:
    return Step(number, CLASSES, answers, "told")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "labels.history.jsonl"


def test_a_history_read_again_is_the_same(path: Path) -> None:
    history = History(path)
    history.record(step(1, a=HAT, b=DRESS))
    history.record(step(2, a=Answer("unusable"), **{"odd \udcff name,\n": HAT}))
    history.undo()
    history.record(step(3, c=Answer("none"), d=Answer("skip")))
    history.wrote("abc")
    again = History(path)
    assert again.answers.by_name == history.answers.by_name == {
        "a": HAT, "b": DRESS, "c": Answer("none"), "d": Answer("skip"),
    }  # fmt: skip
    assert again.answers.number == 3 and again.manifests == {"abc"}
    for expected in ({"a": HAT, "b": DRESS}, {}):
        again.undo()
        assert again.answers.by_name == expected, "undo goes on after a restart"
    assert again.undo() is None
    assert History(path).answers.by_name == {}


@pytest.mark.parametrize("lost", [1, 7, 40])
def test_a_torn_last_line_is_left_out_and_cut_off(path: Path, lost: int) -> None:
    history = History(path)
    history.record(step(1, a=HAT))
    history.record(step(2, b=HAT))
    path.write_bytes(path.read_bytes()[:-lost])
    again = History(path)
    assert again.answers.by_name == {"a": HAT} and again.cut > 0
    again.record(step(2, c=HAT))
    assert History(path).answers.by_name == {"a": HAT, "c": HAT}
    assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    "content",
    ["hello\n", '{"format": 1}\n', '["tailorbird"]\n',
     '{"tailorbird": "labelling", "format": 1}\n{"step": "x"}\n',
     '{"tailorbird": "labelling", "format": 1}\n7\n',
     '{"tailorbird": "labelling", "format": 1}\n{"undo": 4}\n',
     '{"tailorbird": "labelling", "format": 2}\n'],
)  # fmt: skip
def test_another_file_is_refused_and_left_alone(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(DatasetError, match="is not the history of a labelling"):
        History(path)
    assert path.read_text() == content


def test_a_step_that_cannot_be_written_did_not_happen(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History(path)
    history.record(step(1, a=HAT))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFull):
            history.record(step(2, b=HAT))
    assert history.answers.by_name == {"a": HAT}
    history.record(step(2, c=HAT))
    assert History(path).answers.by_name == {"a": HAT, "c": HAT}


def test_renaming_and_merging_classes() -> None:
    answers = Answers()
    answers.apply(step(1, a=HAT, b=DRESS))
    classes, changed = answers.renamed("hat", "cap")
    assert classes == ("cap", "dress") and changed == {"a": Answer("label", "cap")}
    classes, changed = answers.renamed("dress", "hat")
    assert classes == ("hat",) and changed == {"b": Answer("label", "hat", blind=True)}
    answers.apply(Step(2, classes, changed, "merged"))
    assert answers.counts() == {"hat": 2}
    answers.undo()
    assert answers.counts() == {"hat": 1, "dress": 1}


@pytest.mark.parametrize(("kind", "label"), [("label", ""), ("none", "hat"), ("maybe", "")])
def test_an_answer_that_says_two_things_is_refused(kind: str, label: str) -> None:
    with pytest.raises(DatasetError, match="it must be label with a class"):
        Answer(kind, label)  # type: ignore[arg-type]
