"""Just enough of a Dockerfile's grammar to check one and to run its commands without Docker."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

KNOWN = frozenset(
    [
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "RUN",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ]
)


@dataclass(frozen=True)
class Instruction:
    """One instruction of one stage; `value` is its text on one line."""

    stage: str
    name: str
    value: str

    def words(self) -> list[str]:
        """The exec form's list. Raises ValueError for the shell form, which puts a shell between
        the signals and the program."""
        words = json.loads(self.value[self.value.index("[") :])
        assert isinstance(words, list) and all(isinstance(word, str) for word in words)
        return words


def read(path: Path) -> list[Instruction]:
    """Instructions in order. Raises ValueError for one that is unknown."""
    lines = [
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if not line.lstrip().startswith("#")
    ]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found: list[Instruction] = []
    stage = ""
    for line in filter(None, (line.strip() for line in text.splitlines())):
        name, _, value = line.partition(" ")
        if name not in KNOWN:
            raise ValueError(f"{path} holds an instruction {name!r}")
        if name == "FROM":
            stage = value.split(" AS ")[1]
        found.append(Instruction(stage, name, re.sub(r"\s+", " ", value).strip()))
    return found


def environment(instructions: list[Instruction], stage: str) -> dict[str, str]:
    """What ENV sets in a stage."""
    pairs = [
        word
        for each in instructions
        if (each.stage, each.name) == (stage, "ENV")
        for word in shlex.split(each.value)
    ]
    return dict(pair.split("=", 1) for pair in pairs)
