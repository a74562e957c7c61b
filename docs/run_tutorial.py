"""Run every command of docs/tutorial.md in order, in an empty folder, on drawn clothes.

python docs/run_tutorial.py            compare what is printed with what the page shows; exit 1
where it differs python docs/run_tutorial.py --write    put what is printed, and the pictures, into
the page

The tests do the first. What counts as the same is said, with the reasons, at the top of
`tutorial_rules.py`; how a page is written in `tutorial_blocks.py`. --write needs the `test`
dependency group and Chromium or Chrome for the pictures of pages.
"""

from __future__ import annotations

import ast
import contextlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tutorial_blocks import Picture, Step, parse, rendered, steps
from tutorial_rules import differences

HERE = Path(__file__).resolve().parent
PAGE = HERE / "tutorial.md"
PICTURES = HERE / "images" / "tutorial"
LARGEST = 200_000
"""Maximum size of a picture in bytes."""
TALLEST = 950
"""Maximum height of a picture in pixels; the rest is cut off."""
PATIENCE = 300
"""Maximum seconds per command."""
SERVED = "http://127.0.0.1:8000"
"""The address of `serve` on the page; the run uses a free port."""
REVIEWED = "http://127.0.0.1:50123/?key=..."
_LEFT_OUT = re.compile(r"━|^\d+ of \d+ fits?, about |^\{\"time\": ")
"""Lines that are not shown: progress bars and the log of the service."""


class Broken(Exception):
    """A step failed."""


class Server:
    """A running `serve`, `review` or `label`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.address = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(self._at_a_terminal(line))

    def _at_a_terminal(self, line: str) -> str:
        """Return a line of the log as a terminal shows it: what it serves is not JSON there."""
        event = json.loads(line) if line.startswith("{") else {}
        return event["message"] + "\n" if event.get("event") == "serving" else line

    def wait(self) -> None:
        """Wait until it has printed its address. Raises Broken."""
        end = time.monotonic() + 60
        while not (
            found := [line.strip() for line in self.lines if line.startswith("http://127.0.0.1:")]
        ):
            if self.process.poll() is not None or time.monotonic() > end:
                raise Broken(f"it did not say where it is: {''.join(self.lines)}")
            time.sleep(0.05)
        self.address = found[0]
        time.sleep(0.2)

    def stop(self) -> int:
        """Send Ctrl-C and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait(10)
        self._reader.join(10)
        return code


class Run:
    """Run the steps of a page in their own folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._server: Server | None = None
        self._names: dict[str, Any] = {"__name__": "tutorial"}
        tools = folder.parent / "tools"
        tools.mkdir()
        # The program of this environment under the name by which people call it, whether or not it
        # is on their PATH here: printed commands then begin with that name.
        program = Path(sys.executable).with_name("tailorbird")
        if not program.is_file():
            raise SystemExit(f"{program} does not exist; install tailorbird into this environment")
        (tools / "tailorbird").symlink_to(program)
        self._environment = {
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "TAILORBIRD_CACHE": str(folder.parent / "cache"),
            "TAILORBIRD_PORT": "0",
            "COLUMNS": "100",
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
            "PYTHONIOENCODING": "utf-8",
            "LC_ALL": "C.UTF-8",
        }

    def close(self) -> None:
        """Stop a server that still runs."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def do(self, step: Step) -> list[str]:
        """Run a step and return its output as the page shows it. Raises Broken."""
        try:
            if step.kind == "console":
                text = self._command(step)
            elif step.kind == "pycon":
                text = self._python(step)
            elif step.kind == "interrupt":
                text = self._interrupt()
            else:
                if step.kind == "review":
                    self._decide()
                elif step.kind == "label":
                    self._label(int(step.command.split()[-2]))
                text = ""
        except Broken as error:
            raise Broken(f"line {step.line}: {step.command}: {error}") from None
        if str(self.folder.parent) in text:
            raise Broken(
                f"line {step.line}: {step.command}: a path of this machine is printed: {text}"
            )
        lines = [line.rstrip() for line in text.replace("\r", "").splitlines()]
        return _without_blank_ends([line for line in lines if not _LEFT_OUT.search(line)])

    def _command(self, step: Step) -> str:
        command = step.command.replace("\\\n", " ")
        if re.match(r"tailorbird (serve|review|label)\b", command):
            return self._serve(command)
        done = subprocess.run(
            ["sh", "-c", self._localised(command)],
            cwd=self.folder,
            env={**os.environ, **self._environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
            encoding="utf-8",
        )
        if done.returncode != step.exit_code:
            raise Broken(
                f"it exited {done.returncode} rather than {step.exit_code}:\n{done.stdout}"
            )
        return self._shown(done.stdout)

    def _serve(self, command: str) -> str:
        if self._server is not None:
            raise Broken("another server is running; end it with ^C first")
        process = subprocess.Popen(
            ["sh", "-c", f"exec {command}"],
            cwd=self.folder,
            env={**os.environ, **self._environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        self._server = Server(process)
        self._server.wait()
        self._told = len(self._server.lines)
        return self._shown("".join(self._server.lines))

    def _interrupt(self) -> str:
        if self._server is None:
            raise Broken("nothing is running")
        server = self._server
        code = server.stop()
        text = self._shown("".join(server.lines[self._told :]))
        self._server = None
        if code:
            raise Broken(f"it exited {code} after Ctrl-C: {text}")
        return text

    def _localised(self, text: str) -> str:
        """Replace the page's address of the server by the real one."""
        return text.replace(SERVED, self._server.address) if self._server else text

    def _shown(self, text: str) -> str:
        """Replace the server's real address by the one on the page."""
        if self._server is None or not self._server.address:
            return text
        return text.replace(
            self._server.address, REVIEWED if "?key=" in self._server.address else SERVED
        )

    def _python(self, step: Step) -> str:
        out = io.StringIO()
        tree = ast.parse(self._localised(step.command), mode="exec")
        kind = "single"  # as at the prompt: an expression's value is printed
        with self.inside(), contextlib.redirect_stdout(out):
            try:
                for node in tree.body:
                    exec(compile(ast.Interactive([node]), "<tutorial>", kind), self._names)
            except Exception:
                raise Broken(traceback.format_exc(limit=-2)) from None
        return self._shown(out.getvalue())

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Run the block in the folder and with the cache of the page's commands."""
        before = {name: os.environ.get(name) for name in self._environment}
        hook = sys.displayhook
        os.environ.update(
            {name: value for name, value in self._environment.items() if name != "PATH"}
        )
        sys.displayhook = sys.__displayhook__  # pytest and notebooks have their own
        try:
            with contextlib.chdir(self.folder):
                yield
        finally:
            sys.displayhook = hook
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def _asker(self) -> Callable[..., Any]:
        """Open the page of the running `review` or `label`; return a function that calls its API,
        with a path and for a POST a body.
        """
        if self._server is None:
            raise Broken("no review and no labelling is running")
        host, _, key = self._server.address.removeprefix("http://").partition("/")
        cookie = {"Host": host}

        def ask(path: str, body: object = None) -> Any:
            connection = http.client.HTTPConnection(host, timeout=20)
            sent = None if body is None else json.dumps(body).encode()
            connection.request(
                "POST" if sent else "GET",
                path,
                sent,
                {**cookie, "Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            said = answer.read()
            if answer.status != 200:
                raise Broken(f"it answered {answer.status} to {path}: {said[:300]!r}")
            if set_cookie := answer.getheader("set-cookie"):
                cookie["Cookie"] = set_cookie.partition(";")[0]
            return (
                json.loads(said)
                if answer.getheader("content-type", "").startswith("application/json")
                else None
            )

        ask(f"/{key}")
        return ask

    def _decide(self) -> None:
        """Answer the review over the API of its page: a file's name says what it shows, and of
        copies the rightly labelled stays.
        """
        ask = self._asker()
        for number in range(len(ask("/api/review")["items"])):
            photos = ask(f"/api/items/{number}")["photos"]
            choices = []
            for photo in photos:
                file = Path(photo["name"]).name
                if file.startswith(photo["label"]):
                    choices.append({"photo": photo["photo"], "decision": "keep"})
                elif len(photos) > 1:
                    choices.append({"photo": photo["photo"], "decision": "exclude"})
                else:
                    choices.append(
                        {
                            "photo": photo["photo"],
                            "decision": "relabel",
                            "label": photo["suggested"],
                        }
                    )
            ask("/api/decisions", {"item": number, "decisions": choices})

    def _label(self, labels: int) -> None:
        """Answer the labelling until there are so many labels: a file's name says what it shows."""
        ask = self._asker()
        state = ask("/api/state")
        while not state["reading"]["finished"]:  # so that the same photos are asked about each time
            time.sleep(0.2)
            state = ask("/api/state")
        known = set()
        while state["answers"]["label"] < labels:
            screen = ask("/api/screen", {"window": "tutorial"})
            answers = []
            for photo in screen["photos"]:
                label = photo["name"].rpartition("-")[0]
                if label not in known:
                    known.add(ask("/api/classes", {"name": label})["label"])
                said = {"photo": photo["photo"], "kind": "label", "label": label}
                answers.append({**said, "seen": photo["seen"]})
            state = ask("/api/answers", {"answers": answers})["state"]

    def check(self, picture: Picture) -> None:
        """Raise Broken if the content of the picture no longer exists."""
        name = picture.command
        kept = PICTURES / name
        if not kept.is_file() or kept.stat().st_size > LARGEST:
            raise Broken(
                f"line {picture.line}: {kept} is missing, or larger than {LARGEST:,} bytes; run "
                "with --write"
            )
        if picture.page is None:
            made = self.folder / name
            if not made.is_file():
                raise Broken(f"line {picture.line}: no command wrote {name}")
            if not 0.5 < _area(made) / _area(kept) < 2:
                raise Broken(
                    f"line {picture.line}: {name} is now of another size: {_area(made)} and "
                    f"{_area(kept)}"
                )
        elif picture.page.startswith("http"):
            if self._server is None:
                raise Broken(
                    f"line {picture.line}: {picture.page} is not served when its picture is taken"
                )
        else:
            text = (self.folder / picture.page).read_text(encoding="utf-8")
            anchor = (picture.selector or "").partition(" ")[0]
            if anchor.startswith("#") and f'id="{anchor[1:]}"' not in text:
                raise Broken(f"line {picture.line}: {picture.page} has no element {anchor}")

    def take(self, picture: Picture) -> None:
        """Write the picture to the place that the page links to."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        target = PICTURES / picture.command
        if picture.page is None:
            made = self.folder / picture.command
            if not made.is_file():
                raise Broken(f"line {picture.line}: no command wrote {picture.command}")
            if made.suffix == ".png":
                _small(made.read_bytes(), target)
            else:
                shutil.copy(made, target)
        else:
            _small(self._photograph(picture), target)
        if target.stat().st_size > LARGEST:
            raise Broken(
                f"{target} is {target.stat().st_size:,} bytes; at most {LARGEST:,} are wanted"
            )

    def _photograph(self, picture: Picture) -> bytes:
        sys.path.insert(0, str(HERE.parent / "tests"))
        from support.browser import opened

        assert picture.page is not None
        if picture.page.startswith("http"):
            assert self._server is not None
            address = self._server.address
        else:
            address = (self.folder / picture.page).as_uri()
        with opened() as browser:
            tab = browser.new_page(viewport={"width": 1100, "height": 800}, color_scheme="light")
            tab.goto(address)
            selector = picture.selector
            if selector and selector.startswith("upload "):
                files = [str(self.folder / name) for name in selector.split()[1:]]
                tab.set_input_files("input[type=file][multiple]", files)
                selector = None
                tab.wait_for_timeout(3000)
            tab.wait_for_timeout(700)
            shot: bytes = tab.locator(selector).first.screenshot() if selector else tab.screenshot()
        return shot


def _small(data: bytes, target: Path) -> None:
    """A PNG of at most LARGEST bytes and TALLEST pixels: as wide as 1,100 pixels, with as many
    colours as fit, then narrower.
    """
    from PIL import Image

    whole = Image.open(io.BytesIO(data)).convert("RGB")
    whole = whole.crop((0, 0, whole.width, min(whole.height, TALLEST)))
    for width in (1100, 900, 700):
        image = whole.copy()
        image.thumbnail((width, 2000))
        for colours in (None, 256, 128, 64):
            (image if colours is None else image.quantize(palette=image.quantize(colours))).save(
                target, optimize=True
            )
            if target.stat().st_size <= LARGEST:
                return


def _area(path: Path) -> float:
    """Return the area of a PNG in pixels, or of an SVG in its own units."""
    if path.suffix == ".svg":
        found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', path.read_text(encoding="utf-8"))
        assert found, f"{path} has no viewBox"
        return float(found[1]) * float(found[2])
    from PIL import Image

    with Image.open(path) as image:
        return float(image.width * image.height)


def _without_blank_ends(lines: list[str]) -> list[str]:
    while lines and not lines[-1]:
        lines.pop()
    while lines and not lines[0]:
        lines.pop(0)
    return lines


@contextlib.contextmanager
def running() -> Iterator[Run]:
    """Yield a run in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="tutorial-") as name:
        folder = Path(name).resolve() / "work"
        folder.mkdir()
        run = Run(folder)
        try:
            yield run
        finally:
            run.close()


def compare(text: str) -> tuple[list[str], dict[str, list[str]]]:
    """Run a page: every difference from what it shows, in words, and what each command printed.

    A step that breaks is the last one, as the steps after it build on it.
    """
    found: list[str] = []
    said: dict[str, list[str]] = {}
    with running() as run:
        for step in steps(parse(text)):
            try:
                said[step.command] = printed = run.do(step)
                if isinstance(step, Picture):
                    run.check(step)
            except (Broken, OSError, subprocess.TimeoutExpired) as error:
                return [*found, str(error)], said
            found += [
                f"line {step.line}: {step.command}: {one}"
                for one in differences(step.printed, printed)
            ]
    return found, said


def write(page: Path) -> None:
    """Write current outputs and pictures to the page. Raises Broken."""
    parts = parse(page.read_text(encoding="utf-8"))
    with running() as run:
        for step in steps(parts):
            begin = time.perf_counter()
            step.printed = run.do(step)
            if isinstance(step, Picture):
                run.take(step)
            print(
                f"{time.perf_counter() - begin:6.1f} s  {step.command.splitlines()[0]}", flush=True
            )
    page.write_text(rendered(parts), encoding="utf-8")


def main() -> int:
    """Run the command line and return the exit code."""
    if "--write" in sys.argv[1:]:
        write(PAGE)
        return 0
    found, _ = compare(PAGE.read_text(encoding="utf-8"))
    print("\n".join(found) or "the tutorial shows what is printed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
