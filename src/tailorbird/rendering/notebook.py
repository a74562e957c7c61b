"""HTML that notebooks show for predictions and scores.

All styles are inline, and colours are the page's own or transparent, so that light and dark
notebooks both look right. Names are escaped.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tailorbird.images import ResizeRule
from tailorbird.rendering.overlays import data_uri, jpeg, overlay

_BAR = "rgba(20,120,200,.35)"
_LONGEST = 60


def prediction_html(
    top: Sequence[tuple[str, float]],
    *,
    verdict: str,
    source: str | None,
    photo: Image.Image | None,
    heatmaps: npt.NDArray[np.float32] | None,
    rule: ResizeRule | None,
) -> str:
    """Return a photo, a bar for each of the most probable classes, and its heat maps, if any.

    Args:
        top: labels with probabilities, the most probable first.
        verdict: what to read before the first label, such as `not sure: `.
        source: name of the photo.
        photo: the picture to show; None shows none.
        heatmaps: (T, h, w), one map for each of the first T labels.
        rule: how photos are resized for the model; None: squashed.
    """
    pictures = []
    if photo is not None:
        pictures.append(_picture(photo, "photo"))
        for (label, probability), grid in zip(
            top, heatmaps if heatmaps is not None else (), strict=False
        ):
            shown = overlay(photo, grid, rule)
            pictures.append(_picture(shown, f"{_short(label)} {probability:.0%}"))
    rows = "".join(_bar(label, probability) for label, probability in top)
    name = f'<div style="opacity:.65;font-size:85%">{_name(source)}</div>' if source else ""
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:12px;align-items:flex-start;max-width:900px">'
        f'<div style="display:flex;flex-wrap:wrap;gap:8px">{"".join(pictures)}</div>'
        '<div style="min-width:220px;flex:1">'
        f'<div style="font-size:115%">{verdict}<b>{_name(top[0][0])}</b></div>'
        f"{rows}{name}</div></div>"
    )


def scores_html(scores: Mapping[str, Any], title: str, below: str = "") -> str:
    """Return accuracy with its interval and a row for each class.

    Args:
        scores: as in `evaluate --json`.
        title: plain text above the table.
        below: plain text under it.
    """
    low, high = scores["interval"]
    known = scores["coverage"] is not None
    coverage = f"; confident on {scores['coverage']:.1%}" if known else ""
    cell = 'style="text-align:right;padding:1px 10px"'
    rows = "".join(
        f'<tr><td style="text-align:left;padding:1px 10px">{_name(row["label"])}</td>'
        + "".join(f"<td {cell}>{row[key]:.3f}</td>" for key in ("precision", "recall", "f1"))
        + f"<td {cell}>{row['support']:,}</td></tr>"
        for row in scores["per_class"]
    )
    head = "".join(f"<th {cell}>{name}</th>" for name in ("precision", "recall", "F1", "photos"))
    ending = (
        f'<div style="opacity:.65;font-size:85%">{escape(_clean(below))}</div>' if below else ""
    )
    headline = (
        f"<b>{scores['n']:,} photos are too few to say</b>: {low:.0%} to {high:.0%} right"
        if scores.get("too_few")
        else f"accuracy <b>{scores['accuracy']:.1%}</b> ({low:.1%} to {high:.1%}) on "
        f"{scores['n']:,} photos"
    )
    return (
        f'<div><div style="font-size:115%">{escape(title)}: {headline}{coverage}</div>'
        '<table style="border-collapse:collapse"><thead><tr>'
        f'<th style="text-align:left;padding:1px 10px">class</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>{ending}</div>"
    )


def _picture(image: Image.Image, caption: str) -> str:
    words = escape(_clean(caption))
    return (
        '<div style="text-align:center;font-size:85%">'
        f'<img src="{data_uri(jpeg(image))}" alt="{words}" style="max-height:180px;'
        f'max-width:180px;display:block;margin:0 auto 2px;border-radius:4px">{words}</div>'
    )


def _bar(label: str, probability: float) -> str:
    width = f"{100 * probability:.1f}%"
    return (
        '<div style="margin:3px 0;padding:1px 6px;border-radius:4px;'
        f'background:linear-gradient(90deg,{_BAR} {width},rgba(128,128,128,.12) 0)">'
        f'<span style="float:right">{probability:.1%}</span>{_name(label)}</div>'
    )


def _name(text: str) -> str:
    whole = escape(_clean(text))
    short = escape(_short(text))
    return f"<bdi>{short}</bdi>" if short == whole else f'<bdi title="{whole}">{short}</bdi>'


def _short(text: str) -> str:
    text = _clean(text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _clean(text: str) -> str:
    """Replace control characters and lone surrogates, which a page cannot hold."""
    return "".join(
        "\ufffd" if unicodedata.category(sign) in ("Cc", "Cs") else sign for sign in text
    )
