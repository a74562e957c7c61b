"""The cut of t-shirts, longsleeves, shirts and outwear: outlines with random proportions, before cloth, pose and light."""

from __future__ import annotations

import numpy as np

from tailorbird.demo.outline import (
    Array,
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


def arms(
    rng: Rng, at: dict[str, float], length: float, cuff: float, angle: float, band: str = ""
) -> list[Part]:
    """Two sleeves from the shoulder `at`, `length` long, hanging `angle` radians away from straight down."""
    parts = []
    bend = rng.normal(0, 0.16) if length > 0.6 else 0.0
    for side in (1, -1):
        first = angle + rng.normal(0, 0.06)
        last = first + bend + rng.normal(0, 0.1) * (length > 0.6)
        down = [np.array([np.sin(a), np.cos(a)]) for a in (first, last)]
        inward = [np.array([-np.cos(a), np.sin(a)]) for a in (first, last)]
        top = np.array([at["shoulder"] - 0.015, at["slope"] - 0.008])
        pit = np.array([at["chest"] - 0.05, at["armpit"]])
        elbow = top + down[0] * length * 0.5
        end = elbow + down[1] * length * 0.5
        wide = (np.hypot(*(pit - top)) * 0.8 + cuff) / 2
        elbow_in = elbow + (inward[0] + inward[1]) / 2 * wide * 1.02
        end_in = end + inward[1] * cuff
        inner = (elbow_in + end_in) / 2 if length > 0.6 else (pit * 0.35 + end_in * 0.65)
        knots = [
            (*top, 0.07),
            (*elbow, 0.02),
            (*end, 0.0),
            (*end_in, 0.0),
            (*inner, 0.0),
            (*pit, 0.0),
        ]
        if length > 0.6:
            knots[4:5] = [(*elbow_in, -0.03)]
        line = closed(*knots)
        turn = float(last * side)
        parts.append(Part((line if side > 0 else flipped(line),), turn=turn, lift=0.9))
        if band:
            deep = min(0.12, length * 0.16)
            back = down[1] * deep
            strip = closed((*(end - back),), (*end,), (*end_in,), (*(end_in - back),))
            parts.append(Part((strip if side > 0 else flipped(strip),), band, turn=turn, lift=0.35))
    return parts


def bodice(at: dict[str, float], drop: float, bow: float) -> Array:
    """The body of a garment with the measures `at`; the neckline is `drop` deep and bulges by `bow`."""
    return mirrored(
        (0, drop, bow),
        (at["neck"], 0, 0.02),
        (at["shoulder"], at["slope"], -0.09),
        (at["chest"], at["armpit"], -0.02),
        (at["waist"], at["length"] * 0.6, -0.01),
        (at["hem"], at["length"], at["tail"]),
        (0, at["length"] + at["sag"]),
    )


def measures(rng: Rng, *, length: tuple[float, float], loose: float = 0.0) -> dict[str, float]:
    """Measures by name, garment units: half-widths, and depths below the neck."""
    chest = rng.uniform(0.4, 0.5) + loose
    shoulder = chest + rng.uniform(-0.03, 0.06)
    waist = chest * rng.uniform(0.86, 1.02)
    return {
        "neck": rng.uniform(0.15, 0.22),
        "shoulder": shoulder,
        "slope": rng.uniform(0.06, 0.14),
        "chest": chest,
        "armpit": rng.uniform(0.38, 0.48) + loose / 2,
        "waist": waist,
        "hem": waist * rng.uniform(0.98, 1.12),
        "length": rng.uniform(*length),
        "tail": 0.0,
        "sag": rng.uniform(0, 0.03),
    }


def neckline(
    rng: Rng, at: dict[str, float], low: float = 0.3
) -> tuple[float, float, list[Part], list[Part]]:
    """The depth and bow of a collarless neckline, what lies behind the body, and the rib in front of it."""
    vee = chance(rng, 0.25)
    drop = rng.uniform(0.2, low) if vee else rng.uniform(0.1, low - 0.06)
    bow = 0.0 if vee else -0.26
    back = closed(
        (-at["neck"] * 1.03, 0, 0.06), (at["neck"] * 1.03, 0, -bow), (0, drop * 1.1, -bow)
    )
    rib = curve((-at["neck"], 0, bow), (0, drop, bow), (at["neck"], 0))
    behind = [Part((back,), "lining", lift=0.4), Part((closed(*_tag),), "sole")]
    return drop, bow, behind, [Part((rib,), "trim", width=rng.uniform(0.03, 0.06), lift=0.3)]


_tag = ((-0.035, 0.0), (0.035, 0.0), (0.035, 0.045), (-0.035, 0.045))


def _print(rng: Rng, at: dict[str, float]) -> list[Part]:
    """A picture, letters or a pocket on the chest."""
    kind = rng.integers(0, 7)
    y = at["armpit"] + rng.uniform(0.0, 0.12)
    if kind == 0:
        return [
            Part((oval(0, y + 0.08, 0.19, 0.19),), "accent"),
            Part((oval(0.05, y + 0.04, 0.12, 0.12),), "stitch"),
        ]
    if kind == 1:
        rows = [
            curve((-w, y + 0.1 * i), (w, y + 0.1 * i))
            for i, w in enumerate(rng.uniform(0.12, 0.26, 3))
        ]
        return [Part(tuple(rows), "accent", width=0.05)]
    if kind == 2:
        peak = closed(
            (-0.24, y + 0.24), (-0.07, y - 0.04), (0.03, y + 0.1), (0.1, y + 0.02), (0.25, y + 0.24)
        )
        return [Part((peak,), "accent"), Part((oval(0.13, y - 0.06, 0.045, 0.045),), "accent")]
    if kind == 3:
        pocket = closed(
            (0.1, y - 0.12), (0.3, y - 0.12), (0.3, y + 0.08), (0.2, y + 0.13), (0.1, y + 0.08)
        )
        return [Part((pocket,), "cloth", lift=0.35)]
    if kind == 4:
        w = at["chest"] + 0.02
        return [
            Part(
                (closed((-w, y), (w, y), (at["waist"], y + 0.2), (-at["waist"], y + 0.2)),),
                "accent",
            )
        ]
    return []


def tshirt(rng: Rng) -> Garment:
    """Short sleeves, sometimes down to the elbow; a round or V neck, often a print."""
    at = measures(rng, length=(1.12, 1.5), loose=rng.uniform(0, 0.08))
    drop, bow, behind, rib = neckline(rng, at, 0.36)
    arm = rng.uniform(0.5, 0.62) if chance(rng, 0.1) else rng.uniform(0.26, 0.42)
    sleeves = arms(
        rng, at, arm, rng.uniform(0.27, 0.36), rng.uniform(0.55, 1.05), rng.choice(["", "", "trim"])
    )
    body = [Part((bodice(at, drop, bow),), lift=1.0)]
    return Garment((*sleeves, *behind, *body, *_print(rng, at), *rib), hang=at["shoulder"])


def longsleeve(rng: Rng) -> Garment:
    """Long sleeves, sometimes only to below the elbow; plain, striped or knitted, sometimes with a roll neck."""
    at = measures(rng, length=(1.1, 1.45), loose=rng.uniform(0, 0.06))
    drop, bow, behind, rib = neckline(rng, at)
    arm = rng.uniform(0.62, 0.8) if chance(rng, 0.1) else rng.uniform(0.95, 1.2)
    knit = chance(rng, 0.4)
    sleeves = arms(
        rng, at, arm, rng.uniform(0.17, 0.24), rng.uniform(0.3, 0.75), "trim" if knit else ""
    )
    roll = chance(rng, 0.16)
    front = [Part((bodice(at, 0.05 if roll else drop, bow),), lift=1.0)]
    if knit:
        y, w = at["length"], at["hem"]
        front.append(
            Part(
                (mirrored((0, y - 0.1), (w * 0.99, y - 0.1), (w, y), (0, y + at["sag"])),),
                "trim",
                lift=0.3,
            )
        )
    if roll:
        n = at["neck"]
        rib = [
            Part(
                (
                    closed(
                        (-n, -0.14, 0.08),
                        (n, -0.14, 0.05),
                        (n * 1.1, 0.06, 0.1),
                        (-n * 1.1, 0.06, 0.05),
                    ),
                ),
                lift=0.7,
            )
        ]
        rib.append(Part((curve((-n, -0.03, -0.08), (n, -0.03)),), "shade", width=0.015, tone=0.8))
        behind = []
    chest = _print(rng, at) if not knit and chance(rng, 0.4) else []
    order = (*front, *chest, *sleeves) if chance(rng, 0.65) else (*sleeves, *behind, *front, *chest)
    return Garment(
        (*(behind if order[0] is front[0] else ()), *order, *rib),
        hang=at["shoulder"],
        fabrics="knit knit rib melange" if knit else "",
    )


def buttons(
    top: float, bottom: float, gap: float, x: float = 0.0, radius: float = 0.02
) -> tuple[Array, ...]:
    """A row of buttons from `top` to `bottom`, `gap` apart."""
    return tuple(oval(x, y, radius, radius) for y in np.arange(top, bottom, gap))


def shirt(rng: Rng) -> Garment:
    """A collar, a row of buttons, long or short sleeves."""
    at = measures(rng, length=(1.25, 1.55))
    at["tail"], at["sag"] = rng.choice([0.0, 0.1]), rng.uniform(0.02, 0.08)
    n, low = at["neck"], at["length"]
    drop = rng.uniform(0.12, 0.3)
    short = chance(rng, 0.3)
    if short:
        sleeves = arms(rng, at, rng.uniform(0.34, 0.5), 0.33, rng.uniform(0.5, 0.95), "trim")
    else:
        sleeves = arms(
            rng,
            at,
            rng.uniform(0.98, 1.18),
            rng.uniform(0.17, 0.22),
            rng.uniform(0.25, 0.65),
            "cloth",
        )
    parts = [Part((closed((-n, -0.03, 0.1), (n, -0.03), (0, drop * 1.2)),), "lining", lift=0.4)]
    parts.append(Part((closed(*_tag),), "sole"))
    body = Part((bodice(at, drop, -0.05),), lift=1.0)
    parts = [*parts, body, *sleeves] if not short and chance(rng, 0.6) else [*sleeves, *parts, body]
    over = rng.uniform(0.035, 0.05)
    placket = closed(
        (-over, drop + 0.02),
        (over, drop),
        (over, low + at["sag"] * 0.9),
        (-over, low + at["sag"] * 0.9),
    )
    parts.append(Part((placket,), "trim" if chance(rng, 0.15) else "cloth", lift=0.35))
    parts.append(Part(buttons(drop + 0.1, low - 0.05, rng.uniform(0.15, 0.2)), "stitch", lift=0.3))
    parts.append(
        Part(
            (curve((-at["shoulder"], at["slope"] + 0.09), (at["shoulder"], at["slope"] + 0.09)),),
            "shade",
            width=0.01,
            tone=0.85,
        )
    )
    if chance(rng, 0.65):
        y = at["armpit"] - 0.06
        pocket = closed((0.12, y), (0.33, y), (0.33, y + 0.2), (0.225, y + 0.25), (0.12, y + 0.2))
        parts.append(Part((pocket,) if chance(rng, 0.6) else (pocket, flipped(pocket)), lift=0.4))
    tip, wing = rng.uniform(0.1, 0.18), rng.uniform(0.7, 1.15)
    collar = closed((0.0, drop), (n * 0.97, -0.07, 0.05), (n * 1.2, 0.03), (n * wing, drop + tip))
    parts.append(
        Part(
            (closed((-n * 0.97, -0.08, 0.09), (n * 0.97, -0.08), (n, 0.0, -0.1), (-n, 0.0)),),
            lift=0.3,
            tone=0.9,
        )
    )
    parts.append(Part((collar, flipped(collar)), "cloth", lift=0.8, tone=1.05))
    return Garment(tuple(parts), hang=at["shoulder"])


def outwear(rng: Rng) -> Garment:
    """A jacket, coat, hoodie, blazer or parka: opens at the front, closed or worn open."""
    kind = str(rng.choice(["puffer", "coat", "hoodie", "bomber", "denim", "blazer", "parka"]))
    length = {"coat": (1.7, 2.15), "parka": (1.5, 1.8), "blazer": (1.25, 1.45)}.get(
        kind, (1.1, 1.4)
    )
    at = measures(rng, length=length, loose=rng.uniform(0.05, 0.13))
    n, low, hem = at["neck"] + 0.02, at["length"], at["hem"]
    deep = rng.uniform(0.5, 0.8) if kind in ("coat", "blazer") else rng.uniform(0.1, 0.2)
    parts: list[Part] = []
    if kind in ("hoodie", "parka"):
        wide, high = rng.uniform(0.27, 0.34), rng.uniform(0.26, 0.42)
        hood = closed((-wide, 0.1, 0.18), (-0.14, -high, 0.14), (0.14, -high, 0.18), (wide, 0.1))
        hole = closed(
            (-n, 0.12, 0.2), (-0.08, -high * 0.7, 0.15), (0.08, -high * 0.7, 0.2), (n, 0.12, 0.2)
        )
        rim = "sole" if kind == "parka" and chance(rng, 0.6) else "trim"
        parts += [
            Part((hood,), lift=1.0),
            Part((hole,), "lining", lift=0.2),
            Part((hole,), rim, width=0.05, lift=0.4),
        ]
    else:
        parts.append(
            Part((closed((-n, -0.03, 0.08), (n, -0.03), (0, deep * 1.1)),), "lining", lift=0.3)
        )
    if kind in ("coat", "blazer") and chance(rng, 0.5):  # worn over a light top
        parts.append(
            Part(
                (closed((-n * 0.95, 0.05, -0.2), (n * 0.95, 0.05), (0, deep * 1.1)),),
                "sole",
                lift=0.3,
            )
        )
    band = "trim" if kind in ("bomber", "hoodie") else "cloth" if kind in ("denim", "parka") else ""
    sleeves = arms(
        rng, at, rng.uniform(0.98, 1.18), rng.uniform(0.21, 0.29), rng.uniform(0.22, 0.55), band
    )
    body = bodice(at, deep, 0.0 if deep > 0.4 else -0.1)
    main = [Part((body,), lift=1.2)]
    parts += [*main, *sleeves] if chance(rng, 0.6) else [*sleeves, *main]
    gap = rng.uniform(0.04, 0.17) if chance(rng, 0.45) else 0.0
    if gap:
        parts.append(
            Part(
                (closed((0, deep - 0.03), (gap, low + 0.02), (-gap, low + 0.02)),),
                "lining",
                lift=0.0,
                tone=0.8,
            )
        )
    else:
        paint = "metal" if kind in ("puffer", "hoodie", "bomber", "parka") else "shade"
        parts.append(Part((curve((0, deep), (0, low)),), paint, width=0.025, tone=0.6))
    if kind == "puffer":
        rows = np.arange(0.2, low, rng.uniform(0.14, 0.22))
        lines = [curve((-hem - 0.1, y, -0.02), (-gap * y / low, y)) for y in rows]
        parts.append(Part((*lines, *map(flipped, lines)), "shade", width=0.035, tone=0.72))
        stand = closed((-n, -0.12, 0.06), (n, -0.12), (n * 1.1, 0.1, 0.1), (-n * 1.1, 0.1))
        parts.append(Part((stand,), lift=0.8))
    if kind in ("coat", "blazer"):
        wide = rng.uniform(0.26, 0.36)
        lapel = closed(
            (n, -0.06, 0.06),
            (n + 0.08, 0.06),
            (wide, deep * 0.45),
            (wide - 0.05, deep * 0.52),
            (0, deep + 0.02),
        )
        parts.append(Part((lapel, flipped(lapel)), lift=0.8, tone=1.04))
        x = 0.04 if kind == "blazer" else 0.13
        rows_ = buttons(deep + 0.06, min(deep + 0.6, low - 0.1), 0.19, x, 0.03)
        parts.append(
            Part(rows_ if kind == "blazer" else (*rows_, *map(flipped, rows_)), "accent", lift=0.4)
        )
    if kind in ("denim", "bomber"):
        collar = closed((0, deep), (n * 0.97, -0.08), (n * 1.25, 0.04), (n * 1.05, deep + 0.12))
        stand = closed((-n, -0.08, 0.1), (n, -0.08, 0.1), (0, deep + 0.03, 0.1))
        parts.append(
            Part((collar, flipped(collar)), lift=0.8)
            if kind == "denim"
            else Part((stand,), "trim", lift=0.6)
        )
        parts.append(
            Part(
                (mirrored((0, low - 0.1), (hem, low - 0.1), (hem, low), (0, low + at["sag"])),),
                "trim",
                lift=0.4,
            )
        )
    if kind == "denim":
        flap = closed((0.12, 0.42), (0.36, 0.42), (0.36, 0.5), (0.24, 0.55), (0.12, 0.5))
        parts.append(Part((flap, flipped(flap)), lift=0.5))
        seam = curve((0.1, 0.4), (at["shoulder"], 0.4))
        parts.append(
            Part((seam, flipped(seam), curve((0.07, 0.2), (0.07, low))), "stitch", width=0.009)
        )
        parts.append(Part(buttons(deep + 0.12, low, 0.17, 0.02), "metal", lift=0.3))
    else:
        y = low - rng.uniform(0.36, 0.46)
        pocket = closed(
            (hem - 0.1, y), (hem - 0.32, y + 0.03), (hem - 0.31, y + 0.09), (hem - 0.09, y + 0.06)
        )
        parts.append(Part((pocket, flipped(pocket)), lift=0.5, tone=0.93))
    return Garment(
        tuple(parts),
        at["shoulder"],
        fabrics={"denim": "denim denim wash", "puffer": "shiny"}.get(kind, ""),
    )
