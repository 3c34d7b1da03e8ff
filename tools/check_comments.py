#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reports comments wider than the 100 columns of .clang-format, which leaves comments as they are.

usage: check_comments.py [FOLDER…]        reports them; default include api cuda examples tests bench
       check_comments.py --fix [FOLDER…]  rewraps prose: words that do not fit go to the next line of the same paragraph, or
                                          of the same row of a table, under its last column; what is left is reported
       check_comments.py --self-test

Formulas, examples and other lines that are indented in their comment, comments after code, and rows of tables whose last
column is a formula are never rewrapped.
"""
import pathlib
import re
import sys
import unicodedata

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ["include", "api", "cuda", "examples", "tests", "bench"]
WIDTH = 100
SOURCES = {".hpp", ".cpp", ".cu", ".cuh"}

COMMENT = re.compile(r"^(?P<prefix>\s*///?)(?P<gap> *)(?P<text>.*)$")
COLUMN = re.compile(r"(?<=\S) {2,}(?=\S)")
DIRECTIVE = re.compile(r"\[.*\]$|clang-format|NOLINT|expect:|SPDX-|IWYU|[-=*/]{4,}|#")
LIST_ITEM = re.compile(r"([-*•]|\d+[.)]) ")
FORMULA = re.compile(r"[=←≤≥≈Σ∈⊙·↦]")
OPERATOR = re.compile(r"^[=+−\-·*/⊙⊗×<>≤≥≈←→↦∈&|]+$")


def width(text):
    return sum(not unicodedata.combining(c) for c in text)


def parsed(line):
    """(prefix, gap, text) of a line that is a comment alone, or None."""
    match = COMMENT.match(line)
    return (match["prefix"], match["gap"], match["text"]) if match else None


def last_column(text):
    """Where the last column of a row of a table begins, or None: its text is not a table's row."""
    columns = list(COLUMN.finditer(text))
    return columns[-1].end() if columns else None


def units(text):
    """The words of a text; a code span, and an operator with what stands at its sides, are one."""
    result = []
    open_span = glue = False
    for word in text.split(" "):
        if result and (open_span or glue or OPERATOR.match(word)):
            result[-1] += " " + word
        else:
            result.append(word)
        if word.count("`") % 2:
            open_span = not open_span
        glue = bool(OPERATOR.match(word))
    return result


def split(lead, text):
    """The words that fit behind lead, and the rest."""
    words = units(text)
    count = len(words)
    while count > 1 and width(lead + " ".join(words[:count])) > WIDTH:
        count -= 1
    if width(lead + " ".join(words[:count])) > WIDTH:
        return text, ""
    return " ".join(words[:count]), " ".join(words[count:])


def is_prose(comment):
    return (comment is not None and comment[1] == " " and comment[2] != "" and last_column(comment[2]) is None
            and not DIRECTIVE.match(comment[2]) and not LIST_ITEM.match(comment[2]))


def rewrapped(lines):
    lines = list(lines)
    indents = {}  # of a line that continues a row: the column that it stands under
    i = 0
    while i < len(lines):
        comment = parsed(lines[i])
        if width(lines[i]) <= WIDTH or comment is None or DIRECTIVE.match(comment[2]):
            i += 1
            continue
        prefix, gap, text = comment
        column = last_column(text)
        item = LIST_ITEM.match(text)
        if is_prose(comment):
            lead, indent = prefix + " ", " "
        elif gap == " " and column is not None and not FORMULA.search(text[column:]):
            lead, indent = prefix + " " + text[:column], " " * (1 + column)
            text = text[column:]
        elif gap == " " and item and column is None:
            lead, indent = prefix + " " + text[:item.end()], " " * (1 + item.end())
            text = text[item.end():]
        elif len(gap) > 1 and column is None and follows_column(lines, i, gap):
            lead, indent = prefix + gap, gap
        else:
            i += 1
            continue
        kept, rest = split(lead, text)
        if not rest:
            i += 1
            continue
        lines[i] = (lead + kept).rstrip()
        after = parsed(lines[i + 1]) if i + 1 < len(lines) else None
        if indent == " ":
            joins = is_prose(after) and after[0] == prefix
        else:
            joins = (after is not None and after[0] == prefix and after[1] == indent and after[2] != ""
                     and last_column(after[2]) is None)
        if joins:
            lines[i + 1] = prefix + indent + rest + " " + after[2]
        else:
            lines.insert(i + 1, prefix + indent + rest)
        i += 1
    return lines


def follows_column(lines, i, gap):
    """Whether line i continues the last column of a row of a table, or an item of a list, above it."""
    for above in reversed(lines[:i]):
        comment = parsed(above)
        if comment is None:
            return False
        if comment[1] == gap and last_column(comment[2]) is None:
            continue
        item = LIST_ITEM.match(comment[2])
        start = last_column(comment[2]) or (item and item.end())
        return comment[1] == " " and start is not None and 1 + start == len(gap)
    return False


def too_wide(lines):
    for number, line in enumerate(lines, 1):
        if width(line) > WIDTH and (parsed(line) or re.search(r"[;{}),] *//", line)) and not line.endswith("\\"):
            yield number, width(line)


def self_test():
    word = "word " * 30
    cases = [
        # prose flows into the next line of its paragraph, and not into a table, a formula or a blank line
        (["/// " + word.strip(), "/// next."], lambda out: len(out) == 2 and out[1].endswith("word next.")),
        (["/// " + word.strip(), "///", "/// next."], lambda out: len(out) == 4 and out[3] == "/// next."),
        (["/// " + word.strip(), "///   y = x"], lambda out: len(out) == 3 and out[2] == "///   y = x"),
        (["/// " + word.strip(), "/// x   [B, L, D]"], lambda out: len(out) == 3 and out[2] == "/// x   [B, L, D]"),
        # a row of a table goes on under its last column
        (["/// Throws  ShapeError  if " + word.strip()], lambda out: out[1].startswith("///" + " " * 21 + "word")),
        (["/// x     scratch of " + word.strip(), "///       next"],
         lambda out: len(out) == 2 and out[1].startswith("///       word") and out[1].endswith("next")),
        # a list's item goes on under its words
        (["// - item " + word.strip()], lambda out: out[1].startswith("//   word")),
        # what must stay
        (["///   y = " + "x + " * 40 + "x"], None),
        (["/// y     " + "a·b + " * 40], None),
        (["  int x;  // " + word.strip()], None),
        (["/// " + "x" * 120], None),
        (["// [" + word.strip() + "]"], None),
    ]
    failures = []
    for lines, holds in cases:
        out = rewrapped(lines)
        same_words = " ".join(l.strip(" /") for l in out).split() == " ".join(l.strip(" /") for l in lines).split()
        if holds is None and out != lines or holds is not None and not (holds(out) and not list(too_wide(out))):
            failures.append(f"{lines} became {out}")
        elif not same_words:
            failures.append(f"{lines} lost words: {out}")
        elif rewrapped(out) != out:
            failures.append(f"{lines} is not stable")
    together = units("a · b and `x y` c")
    if together != ["a · b", "and", "`x y`", "c"]:
        failures.append(f"units: {together}")
    if width("x̂") != 1 or not list(too_wide(["/// " + "x " * 60])):
        failures.append("width")
    return failures


def main(arguments):
    if arguments == ["--self-test"]:
        failures = self_test()
        print("\n".join(failures) or "Comments are rewrapped as they should be.")
        return 1 if failures else 0
    fix = "--fix" in arguments
    folders = [a for a in arguments if a != "--fix"] or [ROOT / folder for folder in FOLDERS]
    found = 0
    for folder in folders:
        for path in sorted(p for p in pathlib.Path(folder).rglob("*") if p.suffix in SOURCES):
            text = path.read_text(encoding="utf-8")
            lines = text.split("\n")
            if fix:
                lines = rewrapped(lines)
                if "\n".join(lines) != text:
                    path.write_text("\n".join(lines), encoding="utf-8")
            for number, columns in too_wide(lines):
                found += 1
                print(f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}:{number}: "
                      f"a comment of {columns} columns; {WIDTH} at most")
    print(f"{found} comments are too wide" if found else "No comment is too wide.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
