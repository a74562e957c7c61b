"""The cut of every class: outlines with random proportions, before fabric, pose and light.

Outlines are tables of knots: x, y, and the bow of the edge to the next knot.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tailorbird.demo.outline import (
    MIRROR,
    Array,
    Garment,
    Part,
    Rng,
    band,
    box,
    chance,
    closed,
    curve,
    mirrored,
    oval,
    rotation,
)

# fmt: off


def _upper(
    rng: Rng, g: Garment, length: float, *, arm: float, neck: tuple[float, float], rim: str = "",
    loose: float = 0.0, narrow: float = 1.0,
) -> tuple[float, float]:
    """Add a body with two sleeves and the lining behind its neck.

    Args:
        rng: Source of the remaining proportions.
        g: The garment to add to.
        length: From the neck to the hem.
        arm: Length of the sleeves; 0 for a sleeveless top.
        neck: Depth and bow of the neckline.
        rim: Paint of the cuffs; empty for none.
        loose: Width added to the chest.
        narrow: Width of the waist over that of the chest.

    Returns:
        Half-widths of the neck and the hem.
    """
    n, slope, chest = rng.uniform(0.15, 0.22), rng.uniform(0.06, 0.14), rng.uniform(0.4, 0.5)
    chest += loose
    shoulder = chest + rng.uniform(-0.03, 0.06) if arm else n + rng.uniform(0.1, 0.18)
    chest = chest if arm else min(chest, shoulder + 0.08)
    pit, waist = rng.uniform(0.38, 0.48) + loose / 2, chest * rng.uniform(0.86, 1.02) * narrow
    hem = waist * rng.uniform(0.98, 1.12)
    drop, bow = neck
    body = mirrored(
        (0, drop, bow), (n, 0, 0.02), (shoulder, slope, -0.09), (chest, pit, -0.02),
        (waist, length * 0.6, -0.01), (hem, length), (0, length + 0.02))
    inside = closed((-n, -0.01, 0.07), (n, -0.01, -bow), (0, drop * 1.15, -bow))
    parts = [Part((inside,), "lining", lift=0.3), Part((body,), lift=1.0)]
    long, top = arm > 0.6, np.array([shoulder - 0.015, slope - 0.008])
    angle, cuff = (rng.uniform(0.25, 0.7), 0.2) if long else (rng.uniform(0.55, 0.95), 0.3)
    cuff += rng.uniform(-0.03, 0.04) + loose / 2
    x, y = (np.array([chest - 0.05, pit]) - top) @ rotation(angle)
    bend = rng.uniform(-0.03, 0.07) if long else 0.03
    sleeve = closed((0, 0, bend), (0, arm), (-cuff, arm, -bend), (x, max(y, 0.2)))
    pieces = [(sleeve, "cloth", 0.9)] if arm else []
    pieces += [(box(-cuff / 2, arm - 0.1, cuff + 0.02, 0.1), rim, 0.35)] if rim else []
    sleeves = [
        Part(((line @ rotation(-angle) + top) * (side, 1),), paint, lift=lift, turn=-angle * side)
        for side in (1, -1) for line, paint, lift in pieces]
    g.parts += [*parts, *sleeves] if long and chance(rng, 0.6) else [*sleeves, *parts]
    return n, hem


def _neck(rng: Rng) -> tuple[float, float]:
    """Return the depth and bow of a V or a round neckline."""
    return (rng.uniform(0.2, 0.35), 0.0) if chance(rng, 0.25) else (rng.uniform(0.1, 0.26), -0.26)


def _collar(g: Garment, n: float, neck: tuple[float, float], width: float = 0.045) -> None:
    g.stroke(curve((-n, 0, neck[1]), (0, neck[0], neck[1]), (n, 0)), paint="trim", width=width)


def _print(rng: Rng, g: Garment) -> None:
    """Add a print to the chest, a pocket, or nothing."""
    kind, y = rng.integers(0, 4), rng.uniform(0.42, 0.55)
    if kind == 0:
        g.add(oval(0, y + 0.08, 0.19, 0.19), paint="accent")
    elif kind == 1:
        g.add(*(box(0, y + 0.1 * k, rng.uniform(0.2, 0.5), 0.05) for k in range(3)), paint="accent")
    elif kind == 2:
        g.add(box(0.2, y - 0.12, 0.2, 0.22), lift=0.35)


def tshirt(rng: Rng, g: Garment) -> None:
    """Cut short sleeves and a round or V neck, often with a print."""
    neck, rim = _neck(rng), str(rng.choice(["", "", "trim"]))
    length, arm, loose = rng.uniform(1.12, 1.5), rng.uniform(0.26, 0.5), rng.uniform(0, 0.08)
    n, _ = _upper(rng, g, length, arm=arm, neck=neck, rim=rim, loose=loose)
    _print(rng, g)
    _collar(g, n, neck, rng.uniform(0.03, 0.06))


def longsleeve(rng: Rng, g: Garment) -> None:
    """Cut long sleeves; plain, striped or knitted, sometimes with a roll neck."""
    knit, roll, length = chance(rng, 0.4), chance(rng, 0.16), rng.uniform(1.1, 1.45)
    neck = (0.05, -0.1) if roll else _neck(rng)
    arm, rim = rng.uniform(0.8, 1.2), "trim" * knit
    n, hem = _upper(rng, g, length, arm=arm, neck=neck, rim=rim, loose=rng.uniform(0, 0.06))
    if knit:
        g.fabrics = "knit knit rib melange"
        g.add(band(hem, length - 0.1, length), paint="trim", lift=0.3)
    elif chance(rng, 0.4):
        _print(rng, g)
    if roll:
        g.add(band(n, -0.14, 0.06, 0.06), lift=0.7)
    else:
        _collar(g, n, neck)


def _buttons(top: float, low: float, gap: float, x: float = 0.0) -> list[Array]:
    return [oval(x, y, 0.025, 0.025) for y in np.arange(top, low, gap)]


def shirt(rng: Rng, g: Garment) -> None:
    """Cut a collar, a row of buttons, long or short sleeves."""
    length, drop, short = rng.uniform(1.25, 1.55), rng.uniform(0.12, 0.3), chance(rng, 0.3)
    arm = rng.uniform(0.34, 0.5) if short else rng.uniform(0.98, 1.18)
    n, _ = _upper(rng, g, length, arm=arm, neck=(drop, -0.05), rim="trim" if short else "cloth")
    g.add(box(0, drop, rng.uniform(0.07, 0.1), length - drop), lift=0.35)
    g.add(*_buttons(drop + 0.1, length - 0.05, rng.uniform(0.15, 0.2)), paint="stitch", lift=0.3)
    if chance(rng, 0.65):
        pocket = closed((0.12, 0.37), (0.33, 0.37), (0.33, 0.57), (0.225, 0.62), (0.12, 0.57))
        g.add(pocket, pocket * ((1, 1) if chance(rng, 0.6) else MIRROR), lift=0.4)
    tip, wing = drop + rng.uniform(0.1, 0.18), n * rng.uniform(0.7, 1.15)
    collar = closed((0, drop), (n * 0.97, -0.07, 0.05), (n * 1.2, 0.03), (wing, tip))
    g.add(collar, collar * MIRROR, lift=0.8, tone=1.05)


def outwear(rng: Rng, g: Garment) -> None:
    """Cut a puffer, a hooded jacket or a coat, closed or worn open."""
    kind = str(rng.choice(["puffer", "coat", "hooded"]))
    low = rng.uniform(1.1, 1.4) if kind == "puffer" else rng.uniform(1.25, 2.1)
    deep, bow = (rng.uniform(0.5, 0.8), 0.0) if kind == "coat" else (rng.uniform(0.1, 0.2), -0.1)
    if kind == "hooded":
        x, y = rng.uniform(0.27, 0.34), -rng.uniform(0.26, 0.42)
        hood = closed((-x, 0.1, 0.18), (-0.14, y, 0.14), (0.14, y, 0.18), (x, 0.1))
        g.add(hood, lift=1.0)
        g.add(hood * 0.75, paint="lining", lift=0.2)
        g.stroke(hood * 0.75, paint=str(rng.choice(["white", "trim"])), width=0.05)
    arm, rim, loose = rng.uniform(0.98, 1.18), "trim" * (kind == "hooded"), rng.uniform(0.05, 0.13)
    n, hem = _upper(rng, g, low, arm=arm, neck=(deep, bow), rim=rim, loose=loose)
    if chance(rng, 0.45):
        gap = rng.uniform(0.04, 0.17)
        g.add(closed((0, deep - 0.03), (gap, low), (-gap, low)), paint="lining", tone=0.8)
    else:
        g.stroke(curve((0, deep), (0, low)), paint="metal", width=0.025)
    if kind == "puffer":
        rows = np.arange(0.2, low, rng.uniform(0.14, 0.22))
        g.stroke(*(curve((-hem - 0.1, y), (-0.02, y)) for y in rows), width=0.035, both=True)
        g.add(band(n, -0.12, 0.1, 0.06), lift=0.8)
        g.fabrics = "shiny"
    elif kind == "coat":
        x, y = rng.uniform(0.26, 0.36), deep * 0.45
        lapel = closed((n, -0.06, 0.06), (n + 0.08, 0.06), (x, y), (x - 0.05, y + 0.05), (0, deep))
        g.add(lapel, lapel * MIRROR, lift=0.8, tone=1.04)
        g.add(*_buttons(deep + 0.06, min(deep + 0.6, low), 0.19, 0.06), paint="accent", lift=0.4)
    y = low - rng.uniform(0.36, 0.46)
    g.stroke(curve((hem - 0.1, y), (hem - 0.32, y + 0.05)), width=0.03, both=True)


def _legs(rng: Rng, g: Garment, length: float, *, short: bool) -> None:
    """Cut jeans, chinos, joggers or wide trousers of that length; `short` widens the legs."""
    kind = str(rng.choice(["jeans", "chino", "jogger", "wide"]))
    waist, rise = rng.uniform(0.34, 0.44), rng.uniform(0.5, 0.62)
    hip, inner = waist + rng.uniform(0.05, 0.12), 0.02 + rng.uniform(0.0, 0.16) + 0.03 * short
    cuff = rng.uniform(0.28, 0.4) if kind == "wide" else rng.uniform(0.2, 0.26)
    outer = inner + (max(0.3, hip + rng.uniform(-0.1, 0.02)) if short else cuff)
    g.add(band(waist, -0.05, 0.07), paint="lining", lift=0.3)
    g.add(mirrored((0, 0.02), (waist, 0, 0.05), (hip, rise * 0.7), (outer, length),
                   (inner, length, -0.02), (0, rise)), lift=1.1)
    g.stroke(curve((0, 0.1), (0, rise)))
    elastic = kind == "jogger" or (short and chance(rng, 0.35))
    g.add(band(waist, -0.05, 0.06), paint="trim" if elastic else "cloth", lift=0.5)
    seams = "stitch" if kind == "jeans" else "shade"
    g.stroke(curve((waist - 0.14, 0.07, -0.1), (hip - 0.01, 0.3)), paint=seams, both=True)
    if elastic:
        g.stroke(curve((-0.02, 0.03, 0.1), (-0.06, 0.3)), paint="white", width=0.02, both=True)
    else:
        g.stroke(curve((0.09, 0.06), (0.09, rise * 0.6, 0.3), (0, rise * 0.85)), paint=seams)
        g.add(oval(0, 0.015, 0.028, 0.028), paint="metal", lift=0.4)
    g.stroke(curve((inner, length - 0.06), (outer, length - 0.06)), both=True)
    g.fabrics = "denim" if kind == "jeans" else ""


def pants(rng: Rng, g: Garment) -> None:
    """Cut long legs, sometimes cropped."""
    _legs(rng, g, rng.uniform(1.65, 2.15) - 0.5 * chance(rng, 0.1), short=False)


def shorts(rng: Rng, g: Garment) -> None:
    """Cut short legs, sometimes down to the knee."""
    _legs(rng, g, rng.uniform(0.72, 1.02) + 0.2 * chance(rng, 0.12), short=True)


def _lower(rng: Rng, g: Garment, top: float, waist: float, length: float, full: float) -> None:
    """Add a skirt from half-width `waist` at y = `top` to `full` times that at the hem."""
    hem, low, x = waist * full, top + length, np.linspace(1, 0, 40)
    waves = 0.018 * np.sin(x * np.pi * 2 * int(rng.integers(2, 5))) * (full > 1.5)
    edge = np.stack([x * hem, low + rng.uniform(0.02, 0.07) * (1 - x**2) * length + waves], axis=1)
    hip = waist + (hem - waist) * 0.4 + 0.05
    side = curve((0, top), (waist, top, 0.04), (hip, top + length * 0.35, -0.02), edge[0])
    half = np.vstack([side, edge])
    pleats = rng.uniform(7, 14) if full > 1.5 else rng.uniform(0, 3)
    g.parts.append(Part((np.vstack([half, half[::-1] * MIRROR]),), lift=1.1, pleats=pleats))
    style = rng.integers(0, 5)
    if style == 0 and full > 1.4:
        fan = np.linspace(-0.9, 0.9, int(rng.integers(7, 13)))
        g.stroke(*(curve((waist * f, top + 0.05), (hem * f, low)) for f in fan), width=0.022)
    elif style == 1:
        for f in (0.38, 0.7):
            wide = waist + (hem - waist) * f + 0.04 * (1 - f)
            g.stroke(curve((-wide, top + length * f, -0.03), (wide, top + length * f)), width=0.03)
    elif style == 2:
        g.stroke(edge - (0, 0.03), paint="trim", width=0.05, both=True)


def skirt(rng: Rng, g: Garment) -> None:
    """Cut a narrow or wide skirt; plain, pleated or tiered."""
    waist, length = rng.uniform(0.28, 0.42), rng.uniform(0.6, 1.0) + 0.4 * chance(rng, 0.4)
    full = rng.uniform(1.0, 1.35) if chance(rng, 0.35) else rng.uniform(1.5, 2.4)
    g.add(oval(0, 0, waist * 0.97, 0.045), paint="lining", lift=0.2)
    _lower(rng, g, 0.0, waist, length, full)
    g.add(band(waist, -0.03, 0.09, 0.05), paint=str(rng.choice(["trim", "cloth"])), lift=0.5)


def dress(rng: Rng, g: Garment) -> None:
    """Cut a bodice with straps, with sleeves or without, on a skirt."""
    top, neck, skirt_parts = rng.uniform(0.73, 0.93), _neck(rng), Garment()
    if chance(rng, 0.36):
        chest = rng.uniform(0.3, 0.38)
        waist = chest * rng.uniform(0.84, 1.0)
        strap = curve((chest * 0.6, 0.33, 0.04), (chest * 0.45, -0.02))
        g.stroke(strap, paint="cloth", width=rng.uniform(0.02, 0.07), both=True)
        heart = ((0, 0.37, -0.1), (chest * 0.55, 0.3, 0.05), (chest, 0.46, -0.04), (waist, top))
        g.add(mirrored(*heart, (0, top)), lift=1.0)
    else:
        arm = float(rng.choice([0.0, 0.0, 0.35, 0.95]))
        n, waist = _upper(rng, g, top, arm=arm, neck=neck, loose=-0.03, narrow=0.82)
        _collar(g, n, neck, 0.03)
    full = rng.uniform(1.15, 2.5)
    _lower(rng, skirt_parts, top - 0.02, waist, rng.uniform(0.75, 1.45), full)
    g.parts = skirt_parts.parts + g.parts
    if chance(rng, 0.55):
        paint = str(rng.choice(["trim", "accent"]))
        g.add(band(waist, top - 0.05, top + 0.05, 0.02), paint=paint, lift=0.5)


def shoes(rng: Rng, g: Garment) -> None:
    """Cut a sneaker or a boot from the side, single or as a pair."""
    g.stands, sneaker = True, chance(rng, 0.55)
    g.fabrics = "plain melange denim" if sneaker else "leather leather suede"
    (_sneaker if sneaker else _boot)(rng, g)
    if chance(rng, 0.7):
        side = -1.0 if chance(rng, 0.25) else 1.0
        g.parts[:0] = g.moved(side, rng.uniform(0.12, 0.4), rng.uniform(-0.34, -0.16))


def _sneaker(rng: Rng, g: Garment) -> None:
    h, low = rng.uniform(-0.55, -0.2), rng.uniform(0.42, 0.5)
    g.add(closed(
        (-0.67, h - 0.02, -0.15), (-0.3, h + 0.04), (-0.2, h - 0.12), (-0.26, h - 0.16, 0.1),
        (-0.6, h - 0.08)), paint="lining", lift=0.2)
    g.add(closed(
        (-0.74, h), (-0.66, h - 0.04, -0.16), (-0.3, h + 0.03, -0.05), (-0.17, h - 0.14, 0.15),
        (0, h, 0.02), (0.38, 0, 0.12), (0.8, 0.16, 0.22), (0.83, 0.34), (-0.76, 0.34)), lift=1.0)
    toe = closed((0.46, 0.07, 0.14), (0.8, 0.17, 0.22), (0.83, 0.34), (0.52, 0.34, 0.2))
    g.add(toe, paint=str(rng.choice(["trim", "accent", "white"])), lift=0.3)
    g.add(closed((-0.45, 0.1, -0.2), (0.35, 0, 0.25), (-0.3, 0.27, 0.2)), paint="accent", lift=0.2)
    holes = [(0.42 * k - 0.1, h * (1 - k)) for k in np.linspace(0.05, 0.9, 5)]
    laces = [curve((x, y, 0.1), (x - 0.12, y + 0.1)) for x, y in holes]
    g.stroke(*laces, paint="stitch", width=0.035)
    g.add(closed(
        (-0.78, 0.27), (0, 0.29), (0.8, 0.22, 0.15), (0.87, 0.28, 0.12), (0.74, low),
        (-0.73, low, 0.15), (-0.79, 0.37, 0.15)), paint="white", lift=0.5)


def _boot(rng: Rng, g: Garment) -> None:
    high, wide, y = rng.uniform(-1.15, -0.5), rng.uniform(-0.22, -0.14), rng.uniform(0.48, 0.6)
    g.add(oval((wide - 0.72) / 2, high, (wide + 0.72) / 2, 0.05), paint="lining", lift=0.2)
    g.add(closed(
        (-0.72, high, 0.03), (wide, high - 0.02), (wide + 0.02, -0.22, -0.16), (0.3, 0.04, 0.1),
        (0.72, 0.2, 0.25), (0.76, 0.36), (-0.66, 0.36, 0.04), (-0.64, -0.1, 0.02)), lift=1.1)
    laces = [curve((wide, y), (wide - 0.15, y + 0.05)) for y in (high + 0.1, -0.3, -0.2, -0.1)]
    g.stroke(*laces, paint="stitch", width=0.03)
    sole = closed(
        (-0.68, 0.3), (0.72, 0.3, 0.05), (0.79, 0.4, 0.1), (-0.2, 0.42), (-0.24, y), (-0.68, y))
    g.add(sole, paint=str(rng.choice(["lining", "wood", "white"])), lift=0.5)


def hat(rng: Rng, g: Garment) -> None:
    """Cut a cap, a beanie, or a hat with a brim."""
    kind = str(rng.choice(["cap", "beanie", "brim"]))
    g.stands, paint = True, str(rng.choice(["lining", "accent", "trim"]))
    if kind == "cap":
        y, x = -rng.uniform(0.42, 0.56), rng.uniform(0.9, 1.08)
        g.add(closed(
            (0.3, 0.06, 0.05), (0.52, 0.04, 0.07), (x, 0.2, 0.3), (x - 0.08, 0.26, -0.08),
            (0.22, 0.16)), paint=paint, lift=0.8)
        g.add(closed(
            (-0.5, 0.12, 0.12), (-0.42, -0.18, 0.18), (0, y, 0.2), (0.44, -0.1, 0.06),
            (0.5, 0.1, 0.06), (0, 0.16, 0.02)), lift=1.2)
        g.stroke(curve((0, y, 0.12), (0.22, 0.12)), curve((0, y, -0.12), (-0.26, 0.13)))
        g.add(oval(0.3, -0.12, 0.09, 0.11), paint="accent", lift=0.4)
    elif kind == "beanie":
        y, x = -rng.uniform(0.5, 0.78), rng.uniform(0.44, 0.52)
        if chance(rng, 0.4):
            g.add(oval(0, y - 0.07, 0.17, 0.17), paint="accent", lift=1.0)
        dome = mirrored((0, y, 0.16), (x * 0.8, y * 0.55, 0.12), (x, 0.14), (0, 0.14))
        g.parts.append(Part((dome,), lift=1.2, pleats=6))
        g.add(band(x + 0.03, 0, rng.uniform(0.18, 0.3)), lift=0.8)
        g.fabrics = "knit rib melange"
    else:
        y, x, dip = -rng.uniform(0.45, 0.62), rng.uniform(0.72, 0.92), rng.uniform(-0.1, 0.2)
        g.add(mirrored(
            (0, -0.08, 0.02), (x * 0.6, -0.06, -0.04), (x, dip, 0.2), (x * 0.94, dip + 0.06, 0.06),
            (0, 0.3)), lift=1.0)
        g.add(mirrored(
            (0, y + 0.05, 0.06), (0.2, y, 0.1), (0.36, y + 0.12, 0.06), (0.44, 0.06, 0.06),
            (0, 0.12)), lift=1.2)
        ribbon = mirrored((0, -0.06, -0.02), (0.41, -0.1), (0.44, 0.06, 0.05), (0, 0.12))
        g.add(ribbon, paint=paint, lift=0.4)
        g.fabrics = "suede straw straw plain"
    if chance(rng, 0.5):
        g.parts = g.moved(-1.0)


CUTS: dict[str, Callable[[Rng, Garment], None]] = {
    "dress": dress, "hat": hat, "longsleeve": longsleeve, "outwear": outwear, "pants": pants,
    "shirt": shirt, "shoes": shoes, "shorts": shorts, "skirt": skirt, "t-shirt": tshirt,
}
