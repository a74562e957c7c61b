"""Write docs/python.md from the public names themselves: `python docs/make_python.py`. A test fails when it is out of date."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tailorbird

HEAD = """# Python

Everything public is in `tailorbird` itself; `import tailorbird` loads nothing until a name is used. This page is made from the
docstrings by `docs/make_python.py`; a test compares the two. The [tutorial](tutorial.md#the-same-from-python) has examples that run.
"""
GROUPS: tuple[tuple[str, Callable[[Any], bool]], ...] = (
    ("Functions", lambda value: not isinstance(value, type)),
    ("What they give", lambda value: isinstance(value, type) and not issubclass(value, Exception)),
    ("Errors", lambda value: isinstance(value, type) and issubclass(value, Exception)),
)


def page() -> str:
    """The whole page."""
    public = {name: getattr(tailorbird, name) for name in tailorbird.__all__}
    parts = [HEAD]
    for title, belongs in GROUPS:
        parts.append(f"## {title}\n")
        parts += [
            class_section(name, value)
            if isinstance(value, type)
            else function_section(name, value, 3)
            for name, value in public.items()
            if belongs(value)
        ]
    return "\n".join(parts)


def function_section(name: str, function: Any, level: int, *, owner: str = "tailorbird") -> str:
    """Heading, signature, docstring."""
    return f"{'#' * level} {name}\n\n```python\n{signature(f'{owner}.{name}', function)}\n```\n\n{text(function)}\n"


def class_section(name: str, cls: type) -> str:
    """A class: docstring, fields, properties and methods that are its own."""
    parts = [f"### {name}\n"]
    if "__init__" in vars(cls) and not dataclasses.is_dataclass(cls):
        parts.append(f"```python\n{signature(f'tailorbird.{name}', cls)}\n```\n")
    parts.append(f"{text(cls)}\n")
    if "__init__" in vars(cls) and cls.__init__.__doc__ and not dataclasses.is_dataclass(cls):  # type: ignore[misc]
        parts.append(f"{text(cls.__init__)}\n")  # type: ignore[misc]
    if dataclasses.is_dataclass(cls):
        parts.append("| field | type |\n| --- | --- |")
        parts.append(
            "\n".join(
                f"| `{field.name}` | `{kind(field.type)}` |" for field in dataclasses.fields(cls)
            )
            + "\n"
        )
    for key, member in vars(cls).items():
        if key.startswith("_"):
            continue
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if isinstance(function, property):
            parts.append(f"**`{key}`** (property): {text(function)}\n")
        elif inspect.isfunction(function):
            shown = signature(key, function)
            parts.append(f"**`{re.sub(chr(10) + ' *', ' ', shown)}`**\n\n{text(function)}\n")
    return "\n".join(parts)


def signature(name: str, value: Any) -> str:
    """As one would write it; on several lines where it is long."""
    found = inspect.signature(value)
    parameters = [p for p in found.parameters.values() if p.name != "self"]
    shown: list[str] = []
    starred = False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            shown.append("*")
            starred = True
        text = (
            parameter.name
            if parameter.annotation is parameter.empty
            else f"{parameter.name}: {kind(parameter.annotation)}"
        )
        if parameter.default is not parameter.empty:
            text += f" = {parameter.default!r}" if ":" in text else f"={parameter.default!r}"
        shown.append(text)
    gives = (
        ""
        if found.return_annotation is inspect.Signature.empty
        else f" -> {kind(found.return_annotation)}"
    )
    line = f"{name}({', '.join(shown)}){gives}"
    if len(line) <= 100:
        return line
    return f"{name}(\n" + "".join(f"    {one},\n" for one in shown) + f"){gives}"


def kind(annotation: Any) -> str:
    """A type as the source has it."""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def text(value: Any) -> str:
    """A docstring as Markdown: what looks like markup is none."""
    return re.sub(r"(?<!`)(\*|<|_(?=\w*[*_]))(?!`)", r"\\\1", inspect.getdoc(value) or "")


if __name__ == "__main__":
    (Path(__file__).parent / "python.md").write_text(page(), encoding="utf-8")
