"""A Progress that records what it receives."""

from __future__ import annotations

from collections.abc import Callable


class RecordedProgress:
    """Record stages, steps, notes and metrics; call `on_advance` at each step."""

    def __init__(self, on_advance: Callable[[int, int], None] | None = None) -> None:
        self.stages: list[str] = []
        self.steps: list[tuple[int, int]] = []
        self.notes: list[str] = []
        self.values: list[dict[str, float]] = []
        self._on_advance = on_advance

    def stage(self, name: str, total: int | None = None) -> None:
        self.stages.append(name)

    def advance(self, done: int, total: int) -> None:
        self.steps.append((done, total))
        if self._on_advance is not None:
            self._on_advance(done, total)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def metrics(self, **values: float) -> None:
        self.values.append(values)

    @property
    def text(self) -> str:
        return "\n".join(self.notes)
