"""mypy over all packages, with a ratchet: the errors that pyproject.toml allows a folder, no more.

`[tool.detco.mypy]` gives the number of errors allowed in a folder; an error counts for the longest
name that holds its file, and a folder without a number is allowed none. The packages lie at the
top of the repository but are imported as `detco.*`. mypy does not know that mapping, so it is
shown a folder of links, build/tree/detco.
"""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10; mypy brings tomli along
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
FACE = "detco"  # the top package; its modules form no package of their own
ERROR = re.compile(r"^(?P<path>[^:]+):\d+: error: ")


def main() -> int:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    allowed = settings["tool"]["detco"]["mypy"]
    tree = ROOT / "build" / "tree"
    lay_links(tree / FACE, settings["tool"]["setuptools"]["package-dir"])
    status, lines = run_mypy(tree)
    if status not in (0, 1):  # mypy itself failed
        print(*lines, sep="\n", file=sys.stderr)
        return 2
    counts = count_errors(lines, allowed)
    higher, lower = compare(counts, allowed)
    if higher:
        print(*(line for line in lines if folder_of_error(line, allowed) in higher), sep="\n")
    for folder in higher:
        print(f"{folder}: {counts[folder]} errors, allowed {allowed.get(folder, 0)}")
    for folder in lower:
        was = allowed[folder]
        print(f"{folder}: only {counts[folder]} errors of {was}: lower [tool.detco.mypy] to it")
    if not higher:
        print(f"mypy: {sum(counts.values())} errors, none more than allowed")
    return 1 if higher else 0


def lay_links(folder: Path, package_dir: Mapping[str, str]) -> None:
    """Rebuild `folder` with the package layout of an installation, as links."""
    folder.mkdir(parents=True, exist_ok=True)
    for link in folder.iterdir():
        link.unlink()
    for path in (ROOT / package_dir[FACE]).iterdir():
        if path.is_file():
            (folder / path.name).symlink_to(path)
    for package, path in package_dir.items():
        if package != FACE:
            (folder / package.removeprefix(f"{FACE}.")).symlink_to(ROOT / path)


def run_mypy(tree: Path) -> tuple[int, list[str]]:
    """mypy's exit status and its lines, with paths as they are in the repository."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(ROOT / "build" / "mypy"), "--no-error-summary", "-p", FACE]
    # In `tree`: mypy searches the working directory first.
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    return done.returncode, [
        re.sub(rf"^{FACE}/(?=\w+/)", "", line) for line in (done.stdout + done.stderr).splitlines()
    ]


def folder_of_error(line: str, allowed: Iterable[str]) -> str | None:
    """The folder that an error counts for; None for a line that is no error."""
    found = ERROR.match(line)
    if found is None:
        return None
    path = found["path"]
    holding = [folder for folder in allowed if path.startswith(f"{folder}/")]
    return max(holding, key=len, default=path.split("/")[0])


def count_errors(lines: Iterable[str], allowed: Iterable[str]) -> Counter[str]:
    folders = (folder_of_error(line, allowed) for line in lines)
    return Counter(folder for folder in folders if folder is not None)


def compare(counts: Counter[str], allowed: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """Folders with more errors than allowed, and those with fewer."""
    higher = [folder for folder in sorted(counts) if counts[folder] > allowed.get(folder, 0)]
    lower = [folder for folder, number in allowed.items() if counts[folder] < number]
    return higher, lower


if __name__ == "__main__":
    sys.exit(main())
