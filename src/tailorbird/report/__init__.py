"""Reports about a model for people: an HTML page, a Markdown model card, or JSON.

`content` holds the inputs, `numbers` converts them to one plain dictionary, `charts` and `photos`
add pictures, `page` and `card` write the text, `writing` chooses the format.
"""

from tailorbird.report.content import Content
from tailorbird.report.writing import FORMATS, Format, attempt, describe, render, report_path, write

__all__ = ["FORMATS", "Content", "Format", "attempt", "describe", "render", "report_path", "write"]
