#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Doxygen's input filter: what a header or a page of docs/ says, in the words of Doxygen.

In a docstring of a header
    ///   y[b,t,d] = Σ …          lines indented by more than one space are formulas, or C++: kept as they stand
    /// x      [B, L, D]   input   columns separated by two or more spaces are the row of a table; a line indented to the
    ///                            last column goes on with it
and the rest is prose, in which only `code spans` are marked up. A trailing comment of a member is its docstring. The functions
and concepts of a primitive (op/) are documented where its operands are, and get a sentence that says so.

In a page, links to files that are no pages lead to copies under files/ (tools/reference.sh makes them).

usage: reference_filter.py FILE             the file for Doxygen
       reference_filter.py --linked-files   what pages link to that is no page
       reference_filter.py --mend FOLDER    removes links in Doxygen's HTML to what it does not write
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOC = re.compile(r"^(\s*)///(?!/|<)(.*)$")
COLUMNS = re.compile(r"(?<=\S) {2,}(?=\S)")
TRAILING = re.compile(r"^(?P<code>.*[;,{]|\s*\w+)\s+//\s(?P<comment>[^/].*)$")
CODE_LINE = re.compile(r"[;{}]\s*(//.*)?$|^\s*(template|struct|class|using|for|if|auto|const|while) ?.*[<({]|//")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
GROUPS = {"core": "core", "op": "op", "layer": "layer", "model": "model", "train": "train", "io": "io", "family": "family",
          "laws": "laws", "backend/reference": "backend_reference", "backend/composed": "backend_reference",
          "backend/cpu": "backend_cpu", "backend/cuda": "backend_cuda"}  # docs/reference/groups.dox says what they are
CONTRACT = {  # what every layer has: docs/10_layer_contract.md
    "Parameters": "What the layer learns.", "State": "What inference carries from one call to the next.",
    "Tape": "What `forward` keeps for `backward`."}
ROW = re.compile(r"\S+(, \S+)*$")


def escaped(text):
    """Prose or a cell, of which Doxygen must read nothing but code spans as markup."""
    parts = re.split(r"(`[^`]*`)", text)
    for i in range(0, len(parts), 2):
        part = parts[i].replace("\\", "\\\\").replace("@", "\\@").replace("&", "&amp;")
        part = part.replace("<", "&lt;").replace(">", "&gt;")
        part = re.sub(r"([#%*_])", r"\\\1", part)
        parts[i] = part.replace("--", "\\--")
    return "".join(parts)


def is_row(text):
    """Whether a line at the margin is a row of a table: a short first cell, and two columns at least."""
    cells = COLUMNS.split(text)
    return len(cells) >= 2 and len(cells[0]) <= 40 and not re.search(r"[.;:] ", cells[0])


def kept(indent, lines):
    """Formulas or C++, as they stand."""
    margin = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    body = [f"{indent}/// {line[margin:]}".rstrip() for line in lines]
    code = sum(bool(CODE_LINE.search(line)) for line in lines) * 2 > len(lines)
    return [f"{indent}/// @code{{{'.cpp' if code else '.unparsed'}}}", *body, f"{indent}/// @endcode"]


def table(indent, rows):
    """Rows of cells as an HTML table; the first column is names."""
    rows = [[row[0], " ".join(row[1:])] if row[0] in ("Cost", "Throws", "Source") else row for row in rows]
    lines = [f'{indent}/// <table class="operands">']
    widest = max(len(row) for row in rows)
    for row in rows:
        cells = [f"<th>{escaped(row[0])}</th>"]
        last = len(row) - 1
        for i, cell in enumerate(row[1:], 1):
            span = f' colspan="{widest - last}"' if i == last and last + 1 < widest else ""
            cells.append(f"<td{span}>{escaped(cell)}</td>")
        lines.append(f"{indent}/// <tr>{''.join(cells)}</tr>")
    return [*lines, f"{indent}/// </table>"]


def docstring(indent, texts):
    """One docstring for Doxygen; texts: its lines without the slashes."""
    result, i = [], 0
    while i < len(texts):
        text = texts[i]
        margin = len(text) - len(text.lstrip())
        if not text.strip():
            result.append(f"{indent}///")
            i += 1
        elif margin > 1:
            block = []
            while i < len(texts) and texts[i].strip() and len(texts[i]) - len(texts[i].lstrip()) > 1:
                block.append(texts[i])
                i += 1
            result += [f"{indent}///", *kept(indent, block), f"{indent}///"]
        elif is_row(text.strip()):
            rows = []
            while i < len(texts) and texts[i].strip():
                line = texts[i][1:]
                inner = len(line) - len(line.lstrip())
                if inner == 0 and is_row(line):
                    rows.append(COLUMNS.split(line.strip()))
                elif inner > 1 and rows:
                    rows[-1][-1] += " " + " ".join(COLUMNS.split(line.strip()))
                elif inner == 0 and ROW.match(line.strip()) and len(line.split()) == 1:
                    rows.append([line.strip(), ""])  # "Throws  ShapeError" without a reason has two cells; this has none
                else:
                    break
                i += 1
            result += [f"{indent}///", *table(indent, rows), f"{indent}///"]
        else:
            result.append(f"{indent}/// {escaped(text.strip())}")
            i += 1
    return result


def without_template(statement):
    """A declaration without its template<…> heads and its requires clause's parentheses."""
    statement = statement.strip()
    while statement.startswith("template"):
        depth, end = 0, 0
        for end, c in enumerate(statement):
            depth += (c == "<") - (c == ">" and statement[end - 1] != "-")
            if c == ">" and depth == 0:
                break
        statement = statement[end + 1:].strip()
    return statement


def code_of(line):
    """A line without strings and comments, for counting braces."""
    return re.sub(r'"(\\.|[^"\\])*"|\'(\\.|[^\'\\])+\'', '""', line).split("//")[0]


def group_of(path):
    """The group of the entities of a header, or None."""
    if not path.is_relative_to(ROOT / "include/ssm"):
        return None
    parts = path.relative_to(ROOT / "include/ssm").with_suffix("").parts
    return GROUPS.get("/".join(parts[:2])) or GROUPS.get(parts[0])


def header(path, text):
    group = group_of(path)
    lines, result, i = text.split("\n"), [], 0
    scopes, statement, has_doc, named = [], "", False, set()  # named: functions that have a docstring
    heads = []  # the docstring that the declarations up to the next blank line share
    while i < len(lines):
        match = DOC.match(lines[i])
        at_namespace = bool(scopes) and scopes[-1] == "namespace" and not statement.strip()
        if match:
            texts = []
            while i < len(lines) and (m := DOC.match(lines[i])):
                texts.append(m[2])
                i += 1
            if "code" in scopes:
                result += lines[i - len(texts):i]
            else:
                said = docstring(match[1], texts)
                if at_namespace and group:
                    said.append(f"{match[1]}/// @ingroup {group}")
                if at_namespace:
                    heads = said
                result += said
            has_doc = True
            continue
        line = lines[i]
        if not line.strip():
            heads = []
        trailing = TRAILING.match(line)
        if trailing and scopes and scopes[-1] == "type" and "(" not in line.split("//")[0]:
            line = f"{trailing['code']}  ///< {escaped(trailing['comment'])}"
        if line.strip() and not has_doc and scopes and not statement.strip():
            said = understood(lines, i, scopes[-1], group)
            if not said and at_namespace and heads and re.match(r"[\w\[]", line):
                result += heads
                named.add(function_name(lines, i))
            elif not said and scopes[-1] == "namespace" and function_name(lines, i) in named:
                said = "@overload"
            if said:
                indent = re.match(r" *", lines[i])[0]
                result.append(f"{indent}/// {said}")
                if at_namespace and group:
                    result.append(f"{indent}/// @ingroup {group}")
        if has_doc and scopes and scopes[-1] == "namespace" and not statement.strip():
            named.add(function_name(lines, i))
        if line.strip() and not line.strip().startswith("//"):
            has_doc = False
        result.append(line)
        for c in code_of(lines[i]) + " ":
            if c == "{":
                head = without_template(statement)
                kind = re.match(r"(?:inline )?(namespace|struct|class|union|enum)\b(?!.*[=(])", head)
                if not kind:
                    scopes.append("code")
                elif kind[1] == "namespace":
                    scopes.append("detail" if "detail" in head else "namespace")
                else:
                    scopes.append("type")
                statement = ""
            elif c == "}":
                if scopes:
                    scopes.pop()
                statement = ""
            elif c == ";":
                statement = ""
            elif not lines[i].lstrip().startswith("#"):
                statement += c
        if re.match(r"\s*(public|private|protected):", lines[i]):
            statement = ""
        i += 1
    return "\n".join(result)


def function_name(lines, i):
    """The name of the function or class whose declaration begins at line i, or None."""
    declaration = without_template(" ".join(line.strip() for line in lines[i:i + 6]))
    match = re.match(r"(?:requires *\(.*?\) )?(?:struct|class) (\w+)|[^;{}=]*?(\w+|operator\W+)\(", declaration)
    return match and (match[1] or match[2])


def understood(lines, i, scope, group):
    """The docstring of what begins at line i and has none, where its name says it all; or None."""
    declaration = without_template(" ".join(line.strip() for line in lines[i:i + 6]))
    if scope == "type":
        part = re.match(r"struct (\w+)\b", declaration)
        return CONTRACT.get(part[1]) if part and group in ("layer", "model") else None
    if scope != "namespace":
        return None
    config = re.match(r"struct (\w+)Config \{", declaration)
    if config:
        return f"The sizes and choices of a {config[1]}."
    if group == "op":
        return primitive(lines, i)
    part = re.match(r"struct (?:Basic)?(\w+)", declaration)
    if group == "backend_cuda" and part and "namespace primitive {" in lines:
        return f"The Cuda backend's part for {part[1]}."
    return None


def primitive(lines, i):
    """What is said of a primitive's concept or function that begins at line i without a docstring, or None."""
    declaration = " ".join(lines[i:i + 6])
    concept = re.match(r"template <class B>\s+concept Has(\w+)", declaration)
    if concept:
        return f"Backends that have the primitive {concept[1]}."
    function = re.match(r"template <Has\w+ B.*?>\s+[\w<>: ]+? (\w+)\(Context<B>& ctx,\s+const (\w+)[<&]", declaration)
    if function:
        return f"Computes {function[2]}: its docstring has the formula, the shapes, the cost and what is thrown."
    return None


def page(path, text):
    """A page with its links to files that are no pages led to files/."""
    def led(match):
        mark, words, target = match.groups()
        file = (path.parent / target.split("#")[0]).resolve()
        if file in PAGES and "#" in target and not target.startswith("#"):
            return f"[{words}]({target.split('#')[0]})"  # Doxygen 1.9 does not find a heading of another page
        if re.match(r"[a-z]+:|#", target) or file in PAGES or not file.is_relative_to(ROOT):
            return match[0]
        if mark:  # an image: Doxygen copies it, and wants its name alone
            return f"![{words}]({file.name})"
        return f'<a href="files/{file.relative_to(ROOT).as_posix()}">{words}</a>'
    pieces = re.split(r"(^```.*?^```[^\n]*$|`[^`\n]+`(?!\])|<!--.*?-->)", text, flags=re.M | re.S)
    for i in range(0, len(pieces), 2):
        pieces[i] = LINK.sub(led, pieces[i])
    return "".join(piece for i, piece in enumerate(pieces) if not piece.startswith("<!--"))


def linked_files():
    """The files that pages link to and that are no pages, relative to the root."""
    for path in PAGES:
        for match in LINK.finditer(path.read_text(encoding="utf-8")):
            file = (path.parent / match[3].split("#")[0]).resolve()
            if not match[1] and not re.match(r"[a-z]+:|#", match[3]) and file not in PAGES and file.is_file():
                yield file.relative_to(ROOT).as_posix()


def mend(folder):
    """Doxygen 1.9 links to a section that it leaves out where all nested classes are private, and to pages of private ones."""
    for path in pathlib.Path(folder).glob("*.html"):
        text = path.read_text(encoding="utf-8")
        mended = text
        if 'name="nested-classes"' not in text:
            mended = re.sub(r'<a href="#nested-classes">[^<]*</a>(?: &#124;\s*)?', "", mended)
        if path.name.endswith("-members.html"):
            mended = re.sub(r'<a class="el" href="([^"#]+\.html)[^"]*">([^<]*)</a>',
                            lambda m: m[0] if (path.parent / m[1]).exists() else m[2], mended)
        if mended != text:
            path.write_text(mended, encoding="utf-8")


def main(arguments):
    if arguments[0] == "--mend":
        mend(arguments[1])
        return
    if arguments == ["--linked-files"]:
        print("\n".join(sorted(set(linked_files()))))
        return
    path = pathlib.Path(arguments[0]).resolve()
    text = path.read_text(encoding="utf-8")
    print((page if path.suffix == ".md" else header)(path, text))


if __name__ == "__main__":
    main(sys.argv[1:])
