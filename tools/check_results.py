#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares the numbers of the documentation with the files that they were taken from.

A comment before a table or a paragraph names a JSON file and says what stands below it:

    <!-- from bench/baselines/layer_bench.json benchmarks[name=step<*/real_time_median].real_time / 1000 :.1f
    | DiagonalSsm | {Scan>/10} | {Scan>/10000} |
    -->

Each {…} is a number of the file: members by name, a list's entry by its index or by fields, [work=ssm,pass=fwd], that only
one entry has; then a factor, * N or / N, if any, and after a colon a format as in Python. What stands behind the file's
name is written once for all: it is the number, with * replaced by what is in the braces. MEMBER+MEMBER and MEMBER/MEMBER are
of one entry; sum(LIST.MEMBER), least(…) and most(…) are over a list. A line that begins with "each LIST: " is one line for
each entry of the list; "each: " where the whole file is the list. Sizes, 4x256, are written 4×256.
Every line of the comment must stand below it: in a table it is a row, and the table has no other rows; in a paragraph its
words. A table that repeats a file's table needs no lines:

    <!-- copy of bench/baselines/peers_cpu.md -->

In {FILE.json: NUMBER} the number is of that file.

Every table of docs/70_results.md has one of both, and every claim of tools/claims.json is named there with its command.

usage: check_results.py [PAGE…]        fails where a number differs; default README.md, docs/*.md and docs/results/*.md
       check_results.py --fix [PAGE…]  writes the rows of tables anew
       check_results.py --self-test
"""
import functools
import json
import pathlib
import re
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"<!-- (?P<kind>from|copy of) (?P<file>\S+)(?P<pattern>[^\n]*?)(?:\n(?P<lines>.*?)\n)?\s*-->\n+"
                   r"(?P<text>(?:[^\n]+\n)*)", re.S)
NUMBER = re.compile(r"\{([^{}]+)\}")
OF_FILE = re.compile(r"(\S+\.json): (.*)")
FULL = re.compile(r"(?P<path>.*?)(?: (?P<operator>[*/]) (?P<factor>[\d.e]+))?(?: ?:(?P<format>[^:\]>]*))?$")
OVER_LIST = re.compile(r"(sum|least|most)\((.*)\.(\w+)\)$")
STEP = re.compile(r"\[([^\]]*)\]|([^.\[\]]+)")
COMPLETE = {"docs/70_results.md"}  # pages all of whose tables are checked


@functools.lru_cache
def document(path):
    return json.loads(path.read_text(encoding="utf-8"))


def entry(items, condition):
    if re.fullmatch(r"-?\d+", condition):
        return items[int(condition)]
    parts = re.split(r",(?=\w+=)", condition) if "<" not in condition else [condition]
    fields = [part.split("=", 1) for part in parts]
    found = [item for item in items if all(str(item.get(name)) == value for name, value in fields)]
    if len(found) != 1:
        raise LookupError(f"[{condition}] is {len(found)} entries")
    return found[0]


def member(data, name):
    if "+" in name:
        return sum(data[part] for part in name.split("+"))
    if "/" in name:
        above, below = name.split("/")
        return data[above] / data[below]
    return data[name]


def value(data, path):
    over = OVER_LIST.match(path)
    if over:
        numbers = [item[over[3]] for item in value(data, over[2])]
        return {"sum": sum, "least": min, "most": max}[over[1]](numbers)
    for step in STEP.finditer(path):
        if step[1] is not None:
            data = entry(data, step[1])
        else:
            data = member(data, step[2])
    return data


def written(data, expression):
    """The text of one number."""
    parts = FULL.match(expression)
    try:
        number = value(data, parts["path"].strip())
    except (LookupError, TypeError) as error:
        raise LookupError(f"{{{expression}}}: {error}") from None
    if parts["operator"]:
        factor = float(parts["factor"])
        number = number * factor if parts["operator"] == "*" else number / factor
    if isinstance(number, str):
        return re.sub(r"(?<=\d)x(?=\d)", "×", number)
    return re.sub(r"^-", "−", format(number, parts["format"] or ""))


def rendered(data, pattern, line):
    """The lines that one line of a comment stands for."""
    each = re.match(r"each ?(\S*): (.*)", line)
    if each:
        entries = value(data, each[1]) if each[1] else data
        return [text for item in entries for text in rendered(item, pattern, each[2])]

    def put(match):
        of_file = OF_FILE.match(match[1])
        if of_file:
            if not (ROOT / of_file[1]).is_file():
                raise LookupError(f"{of_file[1]} does not exist")
            return written(document(ROOT / of_file[1]), of_file[2])
        return written(data, pattern.replace("*", match[1], 1) if pattern else match[1])
    return [NUMBER.sub(put, line)]


def rows_of(text):
    """The lines of a table without its head."""
    lines = text.splitlines()
    return lines[2:] if len(lines) >= 2 and re.match(r"\|[ :|-]+\|$", lines[1]) else None


def check(page, text, fix, complete):
    """(problems, text): the page's text with its tables written anew where fix."""
    problems, checked = [], 0

    def look(match):
        nonlocal checked
        where = f"{page}:{text[:match.start()].count(chr(10)) + 1}"
        block, rows = match["text"], rows_of(match["text"])
        source = ROOT / match["file"]
        try:
            if not source.is_file():
                raise LookupError(f"{match['file']} does not exist")
            if match["kind"] == "copy of":
                wanted = rows_of(source.read_text(encoding="utf-8"))
                wanted_head = source.read_text(encoding="utf-8").splitlines()[:2]
                if rows is None or block.splitlines()[:2] != wanted_head:
                    raise LookupError(f"no table with the head of {match['file']} below")
            else:
                wanted = [text for line in (match["lines"] or "").splitlines() if line.strip()
                          for text in rendered(document(source), match["pattern"].strip(), line.strip())]
        except LookupError as error:
            problems.append(f"{where}: {error.args[0]}")
            return match[0]
        if not wanted:
            problems.append(f"{where}: says nothing about what is below")
            return match[0]
        checked += len(wanted)
        if rows is None:
            words = " ".join(block.split())
            problems.extend(f"{where}: '{line}' is not below; {match['file']} has it so"
                            for line in wanted if " ".join(line.split()) not in words)
            return match[0]
        if rows != wanted:
            if fix:
                head = block.splitlines()[:2]
                return match[0][:match.start("text") - match.start()] + "\n".join(head + wanted) + "\n"
            differ = [f"\n    {have}\n    {want}" for have, want in zip(rows, wanted) if have != want]
            count = "" if len(rows) == len(wanted) else f"; {len(rows)} rows, not {len(wanted)}"
            problems.append(f"{where}: differs from {match['file']}{count}, --fix writes it:{''.join(differ)}")
        return match[0]

    result = BLOCK.sub(look, text)
    if complete:
        covered = [(m.start("text"), m.end("text")) for m in BLOCK.finditer(text)]
        for head in re.finditer(r"^\|[ :|-]+\|\n", text, re.M):
            if not any(begin <= head.start() < end for begin, end in covered):
                problems.append(f"{page}:{text[:head.start()].count(chr(10))}: a table that names no file")
    return problems, result, checked


def check_claims(page, text):
    """What is wrong between a page and the commands that make its numbers."""
    claims = json.loads((ROOT / "tools/claims.json").read_text(encoding="utf-8"))
    problems = [f"{page}: does not name tools/reproduce.sh {claim['name']}" for claim in claims if f"tools/reproduce.sh {claim['name']}`" not in text]
    known = {claim["name"] for claim in claims}
    problems += [f"{page}: tools/claims.json has no '{name}'" for name in re.findall(r"tools/reproduce\.sh ([a-z][\w-]*)`", text) if name not in known]
    return problems + [f"tools/claims.json: {claim['name']}: {file} does not exist" for claim in claims for file in claim["stored"]
                       if not (ROOT / file).is_file()]


def self_test():
    data = {"rate": 0.5, "shape": "4x256", "runs": [{"m": "a", "p": "x", "n": 1234.5, "s": 1}, {"m": "a", "p": "y", "n": -2, "s": 3}],
            "benchmarks": [{"name": "f<A, b>/10_median", "t": 1500.0}]}
    cases = [("rate :.2f", "0.50"), ("rate * 100 :.0f", "50"), ("runs[0].n :,.0f", "1,234"), ("runs[m=a,p=y].n :+.1f", "−2.0"),
             ("sum(runs.s) / 2 :.1f", "2.0"), ("most(runs.s)", "3"), ("benchmarks[name=f<A, b>/10_median].t / 1000 :.1f", "1.5"),
             ("runs[0].n+s :.1f", "1235.5"), ("runs[1].s/n :.1e", "−1.5e+00"), ("runs[0].m", "a"), ("shape", "4×256")]
    failures = [f"{expression}: {written(data, expression)}, not {want}"
                for expression, want in cases if written(data, expression) != want]
    for wrong in ("runs[m=a].n", "absent", "runs[7].n"):
        try:
            failures.append(f"{wrong} is {written(data, wrong)}")
        except LookupError:
            pass
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(data, file)
        file.flush()
        table = f"<!-- from {file.name}\n| a | {{rate :.1f}} |\n-->\n| k | v |\n| --- | --- |\n| a | 0.5 |\n"
        prose = f"<!-- from {file.name} runs[p=*].n :.0f\nhas {{y}}\n-->\nIt\nhas −2 of them.\n"
        every = f"<!-- from {file.name}\neach runs: | {{p}} | {{s}} |\n-->\n| k | v |\n| --- | --- |\n| x | 1 |\n| y | 3 |\n"
        other = f"<!-- from {file.name}\n| a | {{{file.name}: rate :.1f}} |\n-->\n| k | v |\n| --- | --- |\n| a | 0.5 |\n"
        for text, faults in ((other, 0), (other.replace(": rate", ": rat"), 1), (other.replace(".json: rate", "_not.json: rate"), 1), (every, 0), (every.replace("| y | 3 |\n", ""), 1), (table, 0), (table.replace("| a | 0.5", "| a | 0.6"), 1), (table + "| b | 1 |\n", 1),
                             (prose, 0), (prose.replace("−2", "−3"), 1), ("| k |\n| --- |\n| 1 |\n", 1),
                             (table.replace("rate", "rat"), 1), (f"<!-- from {file.name} -->\ntext\n", 1)):
            problems, _, _ = check("page", text, False, True)
            if len(problems) != faults:
                failures.append(f"{text!r}: {problems}")
        fixed = check("page", table.replace("| a | 0.5", "| a | 0.6"), True, True)[1]
        if fixed != table:
            failures.append(f"--fix wrote {fixed!r}")
    return failures


def main(arguments):
    if arguments == ["--self-test"]:
        failures = self_test()
        print("\n".join(failures) or "Numbers are found and compared as they should be.")
        return 1 if failures else 0
    fix = "--fix" in arguments
    pages = [pathlib.Path(a).resolve() for a in arguments if a != "--fix"]
    failed = total = 0
    for page in pages or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/results").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(ROOT).as_posix()
        problems, result, checked = check(name, text, fix, name in COMPLETE)
        if name in COMPLETE:
            problems += check_claims(name, text)
        if fix and result != text:
            page.write_text(result, encoding="utf-8")
        print("\n".join(problems), end="\n" if problems else "", file=sys.stderr)
        failed += len(problems)
        total += checked
    print(f"{total} rows and phrases compared with their files, {failed} problems")
    return 1 if failed or total == 0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
