"""Compare one network of every family of timm, with random weights, with PyTorch.

    python benchmarks/timm_families.py [FAMILY ...] [--size 96] [--seconds 300] [--results FILE]

A family is a module of timm (timm.list_modules()); of each, the network with the fewest weights is
built at a small input size, exported to a backbone file, and compared. Prints a line per family:
the largest difference from PyTorch relative to the largest feature (at most 1e-3 is allowed),
whether there is a feature map, whether the weights read back from the file are equal bit by bit,
and the seconds; or why the family is refused. Batch normalisation gets random statistics. Each
family runs in a process of its own, which is stopped after --seconds. With --results, a line of
JSON per family is added to a file, and families that it has are not run again: a run that was
stopped is continued. Needs the extra `torch`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import queue
import time
from pathlib import Path
from typing import Any

from tailorbird.engines.torch import backend, description, networks
from tailorbird.engines.torch.exporting import export, verify
from tailorbird.errors import TailorbirdError
from tailorbird.rendering.probes import probe_images

SMALL = ("test_", "atto", "femto", "pico", "xxs", "nano", "tiny", "_s0", "_xs", "small", "18", "_s")
"""Parts of the names of small networks, which are tried first."""

TRIED = 12
"""Networks of a family whose weights are counted, names of small ones first; some have hundreds."""

SIZES = (96, 64, 128, 160, 192, 224, 256, 384)


def smallest(module: str, most_millions: float) -> str | None:
    """Return the network with the fewest weights of some of a family; None if it is too large."""
    torch, timm = backend.load()
    best: tuple[int, str] | None = None
    names = timm.list_models(module=module)
    names.sort(key=lambda name: (not any(word in name for word in SMALL), len(name), name))
    for name in names[:TRIED]:
        try:
            with torch.device("meta"):
                model = timm.create_model(name, num_classes=0)
        except Exception:  # some cannot be built without memory
            continue
        count = sum(value.numel() for value in model.parameters())
        if best is None or count < best[0]:
            best = (count, name)
    return best[1] if best is not None and best[0] <= most_millions * 1e6 else None


def shake(model: Any) -> None:
    """Give random values to weights that start as ones or zeros."""
    torch, _ = backend.load()
    torch.manual_seed(0)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point() and value.ndim == 1:
                value.normal_(float(key.endswith("weight")), 0.1)


def build(name: str, sizes: tuple[int, ...]) -> tuple[Any, networks.Architecture, int]:
    """Return a network at the first of the sizes that it accepts."""
    torch, _ = backend.load()
    architecture = networks.find(name)
    problem: Exception | None = None
    for size in (*sizes, architecture.size):
        try:
            model = networks.build(architecture, size)
            with torch.no_grad():
                model(torch.zeros(2, 3, size, size))
            return model, architecture, size
        except Exception as found:  # every network refuses in its own way
            problem = found
    raise TailorbirdError(f"no size of {sizes} runs: {str(problem).splitlines()[0][:150]}")


def check(module: str, size: int, most_millions: float) -> dict[str, Any]:
    """Return what was found of one family."""
    torch, _ = backend.load()
    start = time.perf_counter()
    name = smallest(module, most_millions)
    if name is None:
        return {"refused": f"no network with at most {most_millions:g} million weights"}
    found: dict[str, Any] = {"name": name}
    try:
        model, architecture, side = build(name, tuple(s for s in SIZES if s >= size))
        shake(model)
        proto = export(model, architecture, side, {"name": name})
        gap = verify(proto, model, architecture, probe_images(side, 3))
        again, _ = description.rebuild(proto, side)
        _, unused = description.read(proto)
        state = model.state_dict()
        equal = all(
            bool(torch.equal(value, state[key]))
            for key, value in again.state_dict().items()
            if key not in unused  # features do not depend on them, so the file has none
        )
        maps = any(value.name == "feature_map" for value in proto.graph.output)
        found |= {"size": side, "gap": gap, "map": maps, "equal": equal}
    except Exception as problem:  # a result of the benchmark
        lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
        found["refused"] = f"{type(problem).__name__}: {(lines or [''])[0][:260]}"
    return {**found, "seconds": time.perf_counter() - start}


def earlier(file: Path | None) -> dict[str, dict[str, Any]]:
    """Return what a results file has, by family."""
    if file is None or not file.exists():
        return {}
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {row.pop("family"): row for row in rows if row["versions"] == backend.versions()}


def show(family: str, found: dict[str, Any]) -> None:
    """Print the line of a family."""
    name = found.get("name", "")
    if "refused" in found:
        print(f"{family:<22} {name:<32} refused: {found['refused']}", flush=True)
        return
    print(
        f"{family:<22} {name:<32} {found['size']:>4} {found['gap']:>10.1e} "
        f"{'yes' if found['map'] else 'no':>4} {'equal' if found['equal'] else 'CHANGED':>7} "
        f"{found['seconds']:>7.1f}",
        flush=True,
    )


def checked(results: Any, family: str, size: int, most_millions: float) -> None:
    """Put what was found of a family into a queue; the target of a process."""
    results.put(check(family, size, most_millions))


def check_within(family: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Check a family in a process of its own, and stop that after some time."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(
        target=checked, args=(results, family, chosen.size, chosen.most_millions), daemon=True
    )
    process.start()
    try:
        found: dict[str, Any] = results.get(timeout=chosen.seconds)
    except queue.Empty:
        process.kill()
        found = {"refused": f"not finished after {chosen.seconds:g} seconds"}
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--most-millions", type=float, default=100)
    parser.add_argument("--results", type=Path, help="JSON lines, to continue from")
    chosen = parser.parse_args()
    torch, timm = backend.load()
    torch.set_num_threads(1)  # so that the processes can be forked
    families = chosen.families or timm.list_modules()
    print(f"{backend.versions()}, at least {chosen.size} px")
    print(f"{'family':<22} {'network':<32} {'px':>4} {'difference':>10} {'map':>4} weights seconds")
    kept, rows = earlier(chosen.results), []
    for family in families:
        found = kept.get(family) or check_within(family, chosen)
        if chosen.results and family not in kept:
            with chosen.results.open("a") as file:
                row = {"family": family, "versions": backend.versions(), **found}
                file.write(json.dumps(row) + "\n")
        show(family, found)
        rows.append(found)
    good = [one for one in rows if "refused" not in one]
    print(
        f"{len(good)} of {len(families)} families; largest difference "
        f"{max((one['gap'] for one in good), default=0):.1e}; "
        f"{sum(one['map'] for one in good)} with a feature map; "
        f"{sum(one['equal'] for one in good)} read back bit for bit"
    )


if __name__ == "__main__":
    main()
