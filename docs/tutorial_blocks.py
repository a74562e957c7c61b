"""What a page of the tutorial is made of: fenced `console` and `pycon` blocks with what they print,
pictures, and remarks to the runner.

A `console` block holds commands after `$ ` (continued after a backslash, on lines that begin with
`> `) and below each what it prints. `$ command  # exits 3` says that it ends with that code; every
other command must end with 0. `$ tailorbird serve`, `review` and `label` keep running until a line
`^C`, after which stands what they print at their end. A `pycon` block holds Python after `>>>
` and `... `, and below each statement what it prints. `![words](images/tutorial/NAME)` is a
picture. It is the file NAME that a command wrote, unless the line before is `<!-- screenshot: PAGE
[SELECTOR] -->`, PAGE being an HTML file that a command wrote or the address of a running server.
PAGE may be followed by `upload FILE...`: the files are given to the upload page first. `<!--
review: answer -->` answers the running review truthfully: the file names of the wardrobe say what
the pictures show. `<!-- label: answer 130 -->` answers the running `tailorbird label` in the same
way, until there are so many labels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

FENCE = re.compile(r"^```(console|pycon)$")
PICTURE = re.compile(r"^!\[[^\]]+\]\(images/tutorial/([\w.-]+)\)")
SCREENSHOT = re.compile(r"^<!-- screenshot: (\S+)(?: (.+?))? -->$")
REVIEW = re.compile(r"^<!-- review: answer -->$")
LABEL = re.compile(r"^<!-- label: answer \d+ -->$")


@dataclass
class Step:
    """A step to run, with its lines on the page and the lines it printed."""

    kind: Literal["console", "pycon", "interrupt", "review", "label", "picture"]
    line: int
    asked: list[str]
    printed: list[str] = field(default_factory=list)

    @property
    def command(self) -> str:
        """The command or Python source without prompts, or a picture's name."""
        if self.kind in ("console", "pycon"):
            return "\n".join(re.sub(r"^(\$|>>>|\.\.\.|>) ?", "", line) for line in self.asked)
        return self.asked[0]

    @property
    def exit_code(self) -> int:
        """The exit code that the command must have."""
        found = re.search(r"# exits (\d+)$", self.command)
        return int(found[1]) if found else 0


@dataclass
class Picture(Step):
    """A picture: the file of this name, or a photograph of `page`, of the element `selector` alone
    where it is given.
    """

    page: str | None = None
    selector: str | None = None


Part = str | Step
"""A line of text, or a step."""


def parse(text: str) -> list[Part]:
    """The page as lines and steps, in order.

    Raises ValueError where a block is not in the form above.
    """
    parts: list[Part] = []
    kind: str | None = None
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        if kind is None:
            found = FENCE.match(line)
            kind = found[1] if found else None
            parts.append(line)
            if picture := PICTURE.match(line):
                shot = SCREENSHOT.match(lines[number - 2])
                page, selector = (shot[1], shot[2]) if shot else (None, None)
                parts.append(Picture("picture", number, [picture[1]], page=page, selector=selector))
            elif REVIEW.match(line):
                parts.append(Step("review", number, [line]))
            elif LABEL.match(line):
                parts.append(Step("label", number, [line]))
        elif line == "```":
            kind = None
            parts.append(line)
        else:
            _in_block(parts, kind, line, number)
    if kind is not None:
        raise ValueError(f"a block of {kind} is not closed")
    return parts


def _in_block(parts: list[Part], kind: str, line: str, number: int) -> None:
    prompt, more = ("$ ", "> ") if kind == "console" else (">>> ", "...")
    last = parts[-1]
    if line.startswith(prompt):
        parts.append(Step("console" if kind == "console" else "pycon", number, [line]))
    elif line == "^C":
        parts.append(Step("interrupt", number, [line]))
    elif not isinstance(last, Step):
        raise ValueError(
            f"line {number}: a block of {kind} begins with {line!r} rather than {prompt!r}"
        )
    elif (
        line.startswith(more)
        and not last.printed
        and (kind == "pycon" or last.asked[-1].endswith("\\"))
    ):
        last.asked.append(line)
    else:
        last.printed.append(line)


def steps(parts: list[Part]) -> list[Step]:
    """Return the steps to run, in order."""
    return [part for part in parts if isinstance(part, Step)]


def rendered(parts: list[Part]) -> str:
    """Return the text of the page."""
    lines: list[str] = []
    for part in parts:
        if isinstance(part, str):
            lines.append(part)
        elif part.kind in ("console", "pycon", "interrupt"):
            lines += [*part.asked, *part.printed]
    return "\n".join(lines) + "\n"
