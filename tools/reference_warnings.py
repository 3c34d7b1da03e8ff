#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Judges what Doxygen complained of: everything is an error but members of classes without a docstring of their own, which the
docstring of their class may explain; how many those are is said.

usage: reference_warnings.py WARNINGS
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MEMBER = re.compile(r"Member .* of (class|struct|union) .* is not documented")


def main(path):
    errors, members = [], 0
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        if MEMBER.search(line):
            members += 1
        elif line.strip():
            errors.append(line.replace(f"{ROOT}/", "").replace("warning: ", ""))
    print("\n".join(errors), end="\n" if errors else "", file=sys.stderr)
    print(f"{len(errors)} complaints of Doxygen; {members} members are explained by their class alone")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
