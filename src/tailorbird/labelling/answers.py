"""Answers about photos, the classes, and undo: the state that a history of steps gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from tailorbird.errors import DatasetError

Kind = Literal["label", "none", "unusable", "skip"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""Answers: a class; none of the classes; a photo not to train on; ask again later."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person said of one photo.

    kind: one of KINDS. label: the class, for the kind `label` alone. blind: the photo was asked
    about without a proposal, as one of the random sample that becomes validation and test.
    """

    kind: Kind
    label: str = ""
    blind: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS or bool(self.label) != (self.kind == "label"):
            raise DatasetError(
                f"an answer is {self.kind!r} with the label {self.label!r}; it must be label with "
                "a class, or none, unusable or skip without"
            )


@dataclass(frozen=True)
class Step:
    """One act of a person, which `undo` takes back as a whole.

    number: counts from 1. classes: all classes after it, in the order in which they were added.
    answers: the changed photos, by name; None where a photo has no answer any more. about: what it
    was, in words. asked: whether it answered a screen; adding or renaming a class does not.
    """

    number: int
    classes: tuple[str, ...]
    answers: Mapping[str, Answer | None]
    about: str
    asked: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return the step as one line of the history."""
        return {
            "step": self.number,
            "about": self.about,
            "asked": self.asked,
            "classes": list(self.classes),
            "answers": {name: _packed(answer) for name, answer in self.answers.items()},
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Step:
        """Return the step of one line. Raises DatasetError for any other content."""
        try:
            return cls(
                int(stored["step"]),
                tuple(str(name) for name in stored["classes"]),
                {str(name): _unpacked(value) for name, value in stored["answers"].items()},
                str(stored["about"]),
                bool(stored["asked"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(f"the line is not a step of a labelling: {error!r}") from None


def _packed(answer: Answer | None) -> list[Any] | None:
    return None if answer is None else [answer.kind, answer.label, answer.blind]


def _unpacked(stored: Any) -> Answer | None:
    if stored is None:
        return None
    kind, label, blind = stored
    return Answer(kind, str(label), bool(blind))


@dataclass
class Answers:
    """The present answers and classes, and what each step replaced."""

    classes: tuple[str, ...] = ()
    by_name: dict[str, Answer] = field(default_factory=dict)
    number: int = 0
    """Number of the last step, undone ones included, so that none is used twice."""
    _past: list[tuple[Step, tuple[str, ...], dict[str, Answer | None]]] = field(
        default_factory=list
    )

    def apply(self, step: Step) -> None:
        """Make the changes of a step."""
        before = {name: self.by_name.get(name) for name in step.answers}
        self._past.append((step, self.classes, before))
        self._put(step.answers)
        self.classes = step.classes
        self.number = max(self.number, step.number)

    def undo(self) -> Step:
        """Take back the last step and return it. Raises IndexError without one."""
        step, self.classes, before = self._past.pop()
        self._put(before)
        return step

    def _put(self, answers: Mapping[str, Answer | None]) -> None:
        for name, answer in answers.items():
            # Taken out first, so that the order is that of the last answers.
            self.by_name.pop(name, None)
            if answer is not None:
                self.by_name[name] = answer

    @property
    def last(self) -> Step | None:
        """The step that `undo` would take back."""
        return self._past[-1][0] if self._past else None

    @property
    def steps(self) -> int:
        """The number of steps that answered a screen and were not undone."""
        return sum(step.asked for step, _, _ in self._past)

    def counts(self) -> dict[str, int]:
        """Return the number of labelled photos of each class, in the order of the classes."""
        counts = Counter(a.label for a in self.by_name.values() if a.kind == "label")
        return {name: counts[name] for name in self.classes}

    def renamed(self, old: str, new: str) -> tuple[tuple[str, ...], dict[str, Answer | None]]:
        """Return classes and changed answers after renaming; into a known class it merges."""
        at = self.classes.index(old)
        if new in self.classes:
            classes = tuple(name for name in self.classes if name != old)
        else:
            classes = (*self.classes[:at], new, *self.classes[at + 1 :])
        changed: dict[str, Answer | None] = {
            name: Answer("label", new, answer.blind)
            for name, answer in self.by_name.items()
            if answer.label == old
        }
        return classes, changed


def added(classes: Iterable[str], labels: Iterable[str]) -> tuple[str, ...]:
    """Return classes followed by the labels that are not among them."""
    return tuple(dict.fromkeys((*classes, *labels)))
