"""Rules by which a command's output still agrees with the tutorial.

The tests run the tutorial again, on other machines and with other versions of NumPy and ONNX
Runtime. Its output may differ in seconds, speeds and single photos, but not in what a reader
relies on:

1. Every line must keep its form: the line with each number replaced by `#`, each class of the
   drawn wardrobe by CLASS, each of its pictures by PICTURE, and runs of spaces by one. A changed
   word, a missing column or an error in place of a result therefore fails.
2. Consecutive lines of the same form count as one, because tables may be sorted differently and
   may list one mistake more.
3. MAY_DIFFER lists, with the reason, changes of form that follow from different numbers.
4. OPTIONAL lists lines that are present or absent depending on the numbers.
5. Counts (files, photos, classes, fits, features: EXACT) must be equal. An accuracy may differ by
   ACCURACY percentage points: the drawn test sets are small (one photo of 52 is 2 points), while a
   broken command gives about 10%, chance among ten classes. A number below 1 alone on a line, as
   Python prints scores, may differ by as much.
"""

from __future__ import annotations

import re
from collections import defaultdict

from tailorbird.demo import CLASSES

ACCURACY = 15.0
"""Percentage points by which an accuracy may differ."""

_CLASS = re.compile(rf"(?<![\w-])(?:{'|'.join(CLASSES)})(?![\w-])")
_PICTURE = re.compile(
    rf"(?:(?:{'|'.join(CLASSES)})/)?(?:{'|'.join(CLASSES)})-\d{{4}}(?:-[0-9a-f]{{8}})?(?=\.)"
)
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")

MAY_DIFFER = (
    (r"[▇█▏▎▍▌▋▊▉]+", ""),  # bars are numbers too
    (r"(CLASS #|CLASS) CLASS \(#\)$", r"\1"),  # evaluate: a class may have been mistaken for none
    (r"(CLASS(?: #){4}) CLASS \(#\)$", r"\1"),
    (r"p (?:=|<) #", "p #"),
    (r"^(Seconds: #) \((?:\w+ #(?:, )?)+\)", r"\1 (STAGES)"),  # stages under 0.05 s are not shown
    (
        r"\b(?:cannot be told apart \(difference #|is (?:worse|better) \((?:by|the difference "
        r"is) #)",
        "VERDICT (#",
    ),
    (
        r"^No difference can be shown on # photos: # only B gets right against # only A"
        r"|^[AB] is better: # photos only [AB] gets right against # only [AB]",
        "VERDICT",
    ),
    (r"(?<=[ :])none(?= )|^none ", "# "),  # no inner layer stands among sizes of layers
    (r"^Head, # of the # averaged: ", "Head: "),  # the best head alone or an average
    (r"^(Learning rate #)e?-?#?:", r"\1:"),
    (
        r"not sure: CLASS\?|(?:not sure|none of the classes, it seems), perhaps CLASS|CLASS(?= #)",
        "CLASS",
    ),  # an answer may fall below the threshold
    (r"\((#); (?:right|wrong, it is CLASS)\)", r"(\1; MARK)"),
    (r"unsure=(?:True|False)", "unsure=BOOL"),
    (r"(?<=: )(?:true|false)(?=[,}])", "BOOL"),
    (r"\((?:#, )*#\)", "(#)"),  # inner layers and shapes: rule 5 has the shapes
)
"""Pattern on a line's form -> its replacement."""

OPTIONAL = (
    r"^Head: ",  # how many heads are averaged
    # how many are suspect; the tutorial's own wrong labels are looked for by its tests
    r"^\s*suspect-label ",
    r"^They differ on # photos|^CLASS: A ",  # which photos two models differ on
    r"^\.\.\. and # more",
)

EXACT = re.compile(
    r"(\d[\d,]*) (?:files|pictures(?! of each)|usable photos|classes|photos embedded now|fits "
    r"in|features|photos judged|judged)"
)
_SHAPE = re.compile(r"^\(\d+(?:, \d+)*,?\)$")
_PERCENT = re.compile(r"accuracy (\d+\.\d)%")
_SCORE = re.compile(r"^0\.\d+$")


def form(line: str) -> str:
    """Return a line without the parts that may differ: rules 1 and 3."""
    text = re.sub(r"\s+", " ", line.strip())
    text = _PICTURE.sub("PICTURE", text)
    text = _CLASS.sub("CLASS", text)
    text = _NUMBER.sub("#", text).replace("%", "")
    for pattern, word in MAY_DIFFER:
        text = re.sub(pattern, word, text)
    return re.sub(r"\s+", " ", text).strip()


def forms(lines: list[str]) -> list[str]:
    """Return the forms of lines that are always there, repeated ones once: rules 2 and 4."""
    found: list[str] = []
    for line in lines:
        one = form(line)
        if any(re.search(pattern, one) for pattern in OPTIONAL):
            continue
        if not found or found[-1] != one:
            found.append(one)
    return found


def differences(shown: list[str], printed: list[str]) -> list[str]:
    """Return a description of each broken rule; empty if outputs agree."""
    before, now = forms(shown), forms(printed)
    if before != now:
        gone = [f"no longer printed: {one}" for one in before if one not in now]
        new = [f"not in the tutorial: {one}" for one in now if one not in before]
        return gone + new or [f"printed in another order: {now}, in the tutorial {before}"]
    return _numbers(shown, printed)


def _numbers(shown: list[str], printed: list[str]) -> list[str]:
    """Apply rule 5 to lines whose form occurs once in both."""
    olds, news = _by_form(shown), _by_form(printed)
    found = []
    for key, lines in olds.items():
        if len(lines) != 1 or len(news.get(key, [])) != 1:
            continue
        old, new = lines[0], news[key][0]
        if EXACT.findall(old) != EXACT.findall(new) or (_SHAPE.match(old) and old != new):
            found.append(f"the tutorial says {old!r}, now it is {new!r}")
        if any(
            abs(float(a) - float(b)) > ACCURACY
            for a, b in zip(_PERCENT.findall(old), _PERCENT.findall(new), strict=False)
        ):
            found.append(f"the accuracy moved by more than {ACCURACY} points: {old!r}, now {new!r}")
        if (
            _SCORE.match(old)
            and _SCORE.match(new)
            and abs(float(old) - float(new)) > ACCURACY / 100
        ):
            found.append(f"the score moved by more than {ACCURACY / 100}: {old}, now {new}")
    return found


def _by_form(lines: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        found[form(line)].append(line.strip())
    return found
