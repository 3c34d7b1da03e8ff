#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes headers of the library, and all that they include of it, into one file.

usage: amalgamate.py [--out FILE] [HEADER...]    default: ssm/ssm.hpp and ssm/backend/reference.hpp, to standard output

    tools/amalgamate.py --out ssm.hpp && g++ -std=c++20 program.cpp
    tools/amalgamate.py --out ssm.hpp ssm/ssm.hpp ssm/backend/cpu.hpp     also needs xsimd and -pthread

The file replaces the folder include/ssm: a program includes one of them.
"""
import argparse
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent / "include"
FIRST = "ssm/require_cxx20.hpp"  # says what a compiler lacks before anything else is read
OURS = re.compile(r'\s*#\s*include\s*"(ssm/[^"]+)"')
OTHERS = re.compile(r"\s*#\s*include\s*<[^>]+>")
OPENS, CLOSES = re.compile(r"\s*#\s*if"), re.compile(r"\s*#\s*endif")
LEFT_OUT = re.compile(r"\s*#\s*pragma once|// SPDX-License-Identifier:")


def amalgamate(headers):
    """The text of these headers behind all that they include, each once; what others wrote is included in the beginning."""
    done, others, parts = set(), set(), []

    def add(header):
        if header in done:
            return
        done.add(header)
        path = ROOT / header
        if not path.is_file():
            sys.exit(f"{header}: no such header in {ROOT}")
        body, depth = [], 0
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            depth += bool(OPENS.match(line)) - bool(CLOSES.match(line))
            if LEFT_OUT.match(line):
                continue
            found = OURS.match(line)
            if found and depth > 0:
                sys.exit(f"{path}:{number}: an include under a condition, which this file does not know")
            if found:
                add(found[1])
                continue
            if depth == 0 and (found := OTHERS.match(line)):
                others.add(found[0])
                continue
            body.append(line)
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(body)).strip("\n")
        if text:
            parts.append(f"// ---- {header}\n\n{text}\n")

    add(FIRST)
    for header in headers:
        add(header)
    return "\n".join([parts[0], "\n".join(sorted(others)) + "\n", *parts[1:]])


def version():
    text = (ROOT / "ssm/version.hpp").read_text(encoding="utf-8")
    return re.search(r'SSM_VERSION_STRING "([^"]+)"', text)[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("headers", nargs="*", metavar="HEADER", default=["ssm/ssm.hpp", "ssm/backend/reference.hpp"])
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE")
    arguments = parser.parse_args()
    text = (f"// SPDX-License-Identifier: Apache-2.0\n// ssm {version()} in one file: {', '.join(arguments.headers)}, "
            f"by tools/amalgamate.py.\n#pragma once\n\n{amalgamate(arguments.headers)}")
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
