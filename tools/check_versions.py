#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every file that names the version of the library names the same one as include/ssm/version.hpp."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLACES = {
    "include/ssm/version.hpp": r'#define SSM_VERSION_STRING "([^"]+)"',
    "CMakeLists.txt": r"project\(ssm VERSION (\S+)",
    "pyproject.toml": r'(?m)^version = "([^"]+)"',
    "packaging/vcpkg/ports/ssm-cpp/vcpkg.json": r'"version": "([^"]+)"',
}


def main():
    text = (ROOT / "include/ssm/version.hpp").read_text(encoding="utf-8")
    numbers = [re.search(rf"#define SSM_VERSION_{part} (\d+)", text)[1] for part in ("MAJOR", "MINOR", "PATCH")]
    version = ".".join(numbers)
    problems = []
    for name, pattern in PLACES.items():
        found = re.search(pattern, (ROOT / name).read_text(encoding="utf-8"))
        if found is None or found[1] != version:
            problems.append(f"{name}: {found[1] if found else 'no version'}, the macros of version.hpp say {version}")
    print("\n".join(problems) or f"{version} in {len(PLACES)} files")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
