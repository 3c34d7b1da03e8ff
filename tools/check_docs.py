#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every C++, C and Python block of README.md and docs/ is a marked region of a program in examples/, so that it compiles
and runs.

A block follows a line  <!-- examples/FILE [region] -->  and repeats what stands between the comments
// [region]  and  // [/region]  there, in Python  # [region]  and  # [/region],  less the indentation.
  tools/check_docs.py         fails where a block differs or names nothing
  tools/check_docs.py --fix   writes the blocks anew
"""
import pathlib
import re
import sys
import textwrap

ROOT = pathlib.Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?:<!-- (?P<file>\S+) \[(?P<region>[^\]]+)\] -->\n)?"
                   r"```(?P<language>cpp|c|python)\n(?P<code>.*?)```", re.S)


def region(file, name):
    path = ROOT / file
    if not path.is_file():
        raise LookupError(f"{file} does not exist")
    lines = path.read_text().splitlines()
    marks = {f"{sign} [{end}{name}]" for sign in ("//", "#") for end in ("", "/")}
    markers = [i for i, line in enumerate(lines) if line.strip() in marks]
    if len(markers) != 2:
        raise LookupError(f"{file} has no region [{name}]")
    return textwrap.dedent("\n".join(lines[markers[0] + 1 : markers[1]])) + "\n"


def main():
    fix = "--fix" in sys.argv[1:]
    problems = []
    blocks = 0
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text()

        def check(match):
            nonlocal blocks
            blocks += 1
            where = f"{page.relative_to(ROOT)}:{text[: match.start()].count(chr(10)) + 1}"
            if match["file"] is None:
                problems.append(f"{where}: a block of code without <!-- examples/FILE [region] -->")
                return match[0]
            try:
                code = region(match["file"], match["region"])
            except LookupError as error:
                problems.append(f"{where}: {error}")
                return match[0]
            if code != match["code"] and not fix:
                problems.append(f"{where}: differs from {match['file']} [{match['region']}]; run tools/check_docs.py --fix")
            return f"<!-- {match['file']} [{match['region']}] -->\n```{match['language']}\n{code}```"

        written = BLOCK.sub(check, text)
        if fix and written != text:
            page.write_text(written)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{blocks} blocks, {len(problems)} problems")
    return 1 if problems or blocks == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
