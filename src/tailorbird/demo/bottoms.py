"""The cut of trousers, skirts and dresses: outlines with random proportions, before cloth, pose and light."""

from __future__ import annotations

import numpy as np

from tailorbird.demo.outline import (
    Garment,
    Part,
    Rng,
    chance,
    closed,
    curve,
    flipped,
    mirrored,
    oval,
)
from tailorbird.demo.tops import arms, bodice, buttons, measures, neckline


def _legs(rng: Rng, length: float, *, short: bool) -> Garment:
    waist = rng.uniform(0.34, 0.44)
    hip = waist + rng.uniform(0.05, 0.12)
    rise = rng.uniform(0.5, 0.62)
    kind = str(rng.choice(["jeans", "chino", "jogger", "wide"]))
    end = {
        "jeans": (0.17, 0.24),
        "chino": (0.18, 0.25),
        "jogger": (0.15, 0.2),
        "wide": (0.28, 0.4),
    }[kind]
    cuff = rng.uniform(*end) if not short else max(0.3, hip - 0.08 + rng.uniform(-0.02, 0.1))
    if not short:
        cuff = max(cuff, 0.42 - 0.15 * (length - rise))
    spread = rng.uniform(0.0, 0.16) + (0.03 if short else 0.0)
    low = length
    inner, outer = spread + 0.02, spread + 0.02 + cuff
    tilt = rng.uniform(0.0, 0.05) if short else 0.0
    line = mirrored(
        (0, 0.02),
        (waist, 0, 0.05),
        (hip, rise * 0.7, 0.0),
        (outer, low - tilt),
        (inner, low, -0.02),
        (0.0, rise),
    )
    parts = [
        Part((mirrored((0, -0.03), (waist, -0.05), (waist, 0.05), (0, 0.09)),), "lining", lift=0.3)
    ]
    parts.append(Part((line,), lift=1.1))
    crease = closed(
        ((hip + 0.02) / 2, rise * 0.7),
        ((inner + outer) / 2 + 0.03, low),
        ((inner + outer) / 2 - 0.03, low),
    )
    parts.append(Part((crease, flipped(crease)), "shade", tone=0.93))
    parts.append(Part((curve((0, 0.1), (0, rise)),), "shade", width=0.014, tone=0.7))
    bar = closed(
        (-waist - 0.01, -0.05, -0.035),
        (waist + 0.01, -0.05),
        (waist + 0.02, 0.06, 0.035),
        (-waist - 0.02, 0.06),
    )
    elastic = kind == "jogger" or (short and chance(rng, 0.35))
    parts.append(Part((bar,), "trim" if elastic else "cloth", lift=0.5))
    pocket = curve((waist - 0.14, 0.07, -0.1), (hip - 0.01, 0.3))
    if elastic:
        cords = (curve((-0.02, 0.03, 0.1), (-0.06, 0.3)), curve((0.02, 0.03, -0.1), (0.05, 0.27)))
        parts.append(Part(cords, "sole", width=0.02, lift=0.4))
        parts.append(Part((pocket, flipped(pocket)), "shade", width=0.02, tone=0.7))
    else:
        fly = curve((0.09, 0.06, 0.0), (0.09, rise * 0.6, 0.3), (0.0, rise * 0.85))
        parts.append(
            Part(
                (pocket, flipped(pocket), fly),
                "stitch" if kind == "jeans" else "shade",
                width=0.012,
                tone=0.75,
            )
        )
        parts.append(Part((oval(0, 0.015, 0.028, 0.028),), "metal", lift=0.4))
        loops = tuple(
            curve((x, -0.05), (x, 0.07))
            for x in (-0.7 * waist, -0.3 * waist, 0.3 * waist, 0.7 * waist)
        )
        parts.append(Part(loops, "cloth", width=0.03, lift=0.4))
    hem = closed((inner, low - 0.09), (outer, low - 0.09 - tilt), (outer, low - tilt), (inner, low))
    if (kind == "jogger" and not short) or chance(rng, 0.2):
        parts.append(
            Part((hem, flipped(hem)), "trim" if kind == "jogger" else "lining", lift=0.5, tone=1.1)
        )
    elif kind != "jogger":
        fold = curve((inner, low - 0.05), (outer, low - 0.05 - tilt))
        parts.append(Part((fold, flipped(fold)), "shade", width=0.01, tone=0.75))
    if chance(rng, 0.14):  # cargo pockets
        y, x = rise + 0.12 * (not short), (hip + outer) / 2
        bag = closed((x - 0.2, y), (x - 0.03, y), (x - 0.03, y + 0.24), (x - 0.2, y + 0.24))
        parts.append(Part((bag, flipped(bag)), lift=0.6))
    if kind == "jogger" and chance(rng, 0.4):
        strip = curve((hip - 0.02, 0.2), (outer - 0.03, low - 0.08))
        parts.append(Part((strip, flipped(strip)), "accent", width=0.045))
    return Garment(tuple(parts), -waist, fabrics="denim denim wash" if kind == "jeans" else "")


def pants(rng: Rng) -> Garment:
    """Jeans, chinos, joggers or wide trousers; sometimes cropped."""
    return _legs(
        rng, rng.uniform(1.2, 1.5) if chance(rng, 0.1) else rng.uniform(1.65, 2.15), short=False
    )


def shorts(rng: Rng) -> Garment:
    """Short legs, sometimes down to the knee."""
    return _legs(
        rng, rng.uniform(1.05, 1.2) if chance(rng, 0.12) else rng.uniform(0.72, 1.02), short=True
    )


def _skirting(
    rng: Rng, top: float, waist: float, length: float, full: float
) -> tuple[Part, list[Part]]:
    """The lower half of a dress, or a skirt: from half-width `waist` at y = `top` to `full` times that at the hem."""
    hem, low = waist * full, top + length
    hip = waist + (hem - waist) * 0.4 + 0.05
    half = curve((0, top), (waist, top, 0.04), (hip, top + length * 0.35, -0.02), (hem, low))
    waves = int(rng.integers(2, 5)) if full > 1.5 else 0
    x = np.linspace(hem, 0, 40)
    arch = rng.uniform(0.02, 0.07) * (1 - (x / hem) ** 2)
    edge = np.stack(
        [x, low + arch * length + 0.018 * np.sin(x / hem * np.pi * 2 * waves) * bool(waves)], axis=1
    )
    half = np.vstack([half, edge])
    line = np.vstack([half, half[::-1] * (-1, 1)])
    count = rng.uniform(7, 14) if full > 1.5 else rng.uniform(0, 3)
    skirt = Part((line,), lift=1.1, pleats=(count, waist / hem))
    extra: list[Part] = []
    style = rng.integers(0, 6)
    if style == 0 and full > 1.4:  # pressed pleats
        fan = np.linspace(-0.9, 0.9, int(rng.integers(7, 13)))
        folds = tuple(curve((waist * f, top + 0.05), (hem * f, low + 0.03)) for f in fan)
        extra.append(Part(folds, "shade", width=0.022, tone=0.74))
    elif style == 1:  # tiers
        for f in (0.38, 0.7):
            w = waist + (hem - waist) * f + 0.04 * (1 - f)
            extra.append(
                Part(
                    (curve((-w, top + length * f, -0.03), (w, top + length * f)),),
                    "shade",
                    width=0.03,
                    tone=0.75,
                )
            )
    elif style == 2:
        extra.append(
            Part((np.vstack([edge, edge[::-1] * (-1, 1)]) - (0, 0.03),), "trim", width=0.05)
        )
    elif style == 3 and full < 1.5:  # a slit
        slit = closed(
            (waist * 0.4, low - length * 0.3), (hem * 0.5, low + 0.05), (hem * 0.36, low + 0.05)
        )
        extra.append(Part((slit,), "lining", tone=0.7))
    return skirt, extra


def skirt(rng: Rng) -> Garment:
    """Narrow or wide, short or long; plain, pleated, tiered or buttoned."""
    waist = rng.uniform(0.28, 0.42)
    full = rng.uniform(1.0, 1.35) if chance(rng, 0.35) else rng.uniform(1.5, 2.4)
    length = rng.uniform(0.6, 1.0) if chance(rng, 0.6) else rng.uniform(1.0, 1.6)
    skirt, extra = _skirting(rng, 0.0, waist, length, full)
    parts = [Part((oval(0, 0, waist * 0.97, 0.045),), "lining", lift=0.2), skirt, *extra]
    bar = closed(
        (-waist - 0.005, -0.03, -0.05),
        (waist + 0.005, -0.03),
        (waist + 0.02, 0.09, 0.05),
        (-waist - 0.02, 0.09),
    )
    parts.append(Part((bar,), str(rng.choice(["trim", "cloth", "cloth"])), lift=0.5))
    if chance(rng, 0.25):
        parts.append(Part((curve((0, 0.1), (0, length)),), "shade", width=0.012, tone=0.8))
        parts.append(
            Part(
                buttons(0.04, length - 0.05, 0.16, 0.03, 0.025),
                str(rng.choice(["metal", "stitch"])),
                lift=0.4,
            )
        )
    return Garment(tuple(parts), -waist, fabrics="denim" if full < 1.6 and chance(rng, 0.3) else "")


def dress(rng: Rng) -> Garment:
    """A bodice with straps, sleeves or neither on a skirt."""
    at = measures(rng, length=(0.75, 0.95), loose=-0.03)
    at["waist"] = at["hem"] = at["chest"] * rng.uniform(0.68, 0.9)
    waist, top = at["waist"], at["length"] - 0.02
    full = rng.uniform(1.15, 1.5) if chance(rng, 0.3) else rng.uniform(1.5, 2.5)
    skirt, extra = _skirting(rng, top, waist, rng.uniform(0.75, 1.45), full)
    style = str(rng.choice(["straps", "tank", "short", "long", "strapless"], p=_DRESS_ODDS))
    parts: list[Part] = [skirt, *extra]
    if style in ("straps", "strapless"):
        y, c = 0.3, at["chest"] * 0.82
        line = mirrored(
            (0, y + 0.07, -0.1),
            (c * 0.55, y, 0.05),
            (c, y + 0.16, -0.04),
            (waist, at["length"]),
            (0, at["length"] + 0.02),
        )
        if style == "straps":
            strap = curve((c * 0.6, y + 0.03, 0.04), (c * 0.45, -0.02))
            parts.append(
                Part((strap, flipped(strap)), "cloth", width=rng.uniform(0.02, 0.07), lift=0.3)
            )
        parts.append(Part((line,), lift=1.0))
        hang = at["chest"] * 0.8 * (style == "straps")
    else:
        if style == "tank":
            at["shoulder"] = at["neck"] + rng.uniform(0.1, 0.18)
            at["chest"] = min(at["chest"], at["shoulder"] + 0.08)
        drop, bow, behind, rib = neckline(rng, at, 0.42)
        if style != "tank":
            long = style == "long"
            arm, cuff = (rng.uniform(0.8, 1.05), 0.19) if long else (rng.uniform(0.25, 0.42), 0.3)
            parts = [
                *arms(
                    rng, at, arm, cuff, rng.uniform(0.25, 0.6) if long else rng.uniform(0.5, 0.9)
                ),
                *parts,
            ]
        at["sag"] = 0.02
        parts += [*behind, Part((bodice(at, drop, bow),), lift=1.0), *rib]
        hang = at["shoulder"]
    if chance(rng, 0.55):
        belt = closed(
            (-waist - 0.01, top - 0.05, -0.02),
            (waist + 0.01, top - 0.05),
            (waist + 0.02, top + 0.05, 0.02),
            (-waist - 0.02, top + 0.05),
        )
        parts.append(Part((belt,), str(rng.choice(["trim", "accent", "lining"])), lift=0.5))
    if chance(rng, 0.15):
        parts.append(Part(buttons(0.42, at["length"] + 0.4, 0.13, 0.0, 0.022), "stitch", lift=0.4))
    return Garment(tuple(parts), hang)


_DRESS_ODDS = [0.32, 0.34, 0.14, 0.14, 0.06]
