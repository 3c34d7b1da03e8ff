#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every source file begins with the identifier of its license, and the two copies of the license's text are one.

usage: check_licenses.py            the check of this file
       check_licenses.py --reuse    `reuse lint`; skipped (exit status 77) where reuse is not installed
"""
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = {".hpp", ".cpp", ".c", ".cu", ".cuh", ".h", ".py", ".sh", ".cmake", ".css", ".toml"}
IDENTIFIER = "SPDX-License-" "Identifier: Apache-2.0"


def tracked():
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            capture_output=True, text=True)
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.split("\0") if name]
    return [p for p in ROOT.rglob("*") if p.is_file() and "build" not in p.relative_to(ROOT).parts]  # not a git tree


def main():
    if sys.argv[1:] == ["--reuse"]:
        if shutil.which("reuse") is None:
            print("reuse is not installed: pip install reuse")
            return 77
        return subprocess.run(["reuse", "--root", ROOT, "lint"]).returncode
    problems = []
    checked = 0
    for path in tracked():
        if not path.is_file() or (path.suffix not in SOURCES and path.name != "CMakeLists.txt"):
            continue
        if path.name == "REUSE.toml":
            continue
        checked += 1
        if not any(IDENTIFIER in line for line in path.read_text(encoding="utf-8").splitlines()[:4]):
            problems.append(f"{path.relative_to(ROOT)}:1: no license: '{IDENTIFIER}' belongs here")
    if (ROOT / "LICENSE").read_bytes() != (ROOT / "LICENSES/Apache-2.0.txt").read_bytes():
        problems.append("LICENSE:1: differs from LICENSES/Apache-2.0.txt")
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{checked} files, {len(problems)} problems")
    return 1 if problems or checked == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
