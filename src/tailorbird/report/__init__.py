"""What a model is worth, for people: a page, a model card, or the numbers.

`content` is what is known, `numbers` works it out as one plain dictionary, `charts` and `photos` add pictures, `page` and `card`
write it down, `writing` picks the format.
"""

from tailorbird.report.content import Content
from tailorbird.report.writing import FORMATS, Format, attempt, describe, render, report_path, write

__all__ = ["FORMATS", "Content", "Format", "attempt", "describe", "render", "report_path", "write"]
