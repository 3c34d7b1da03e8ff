#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Relative links lead to what exists: files, and headings or other anchors in them. Links to other hosts are not followed.

usage: check_links.py            the Markdown of the project
       check_links.py FOLDER     the HTML below a folder
       check_links.py --self-test
"""
import functools
import html.parser
import pathlib
import re
import sys
import tempfile
import unicodedata
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
ELSEWHERE = re.compile(r"[a-z][a-z+.-]*:|//")  # another scheme or host
FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.M | re.S)
COMMENT = re.compile(r"<!--.*?-->", re.S)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)")
HEADING = re.compile(r"^#{1,6} +(.*?)(?: *\{#([\w-]+)\})? *#* *$", re.M)


def slug(heading):
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
    kept = [c for c in text if c in " -_" or unicodedata.category(c)[0] in "LN"]
    return "".join(kept).replace(" ", "-")


@functools.lru_cache(maxsize=None)
def markdown_anchors(path):
    anchors = {}
    for match in HEADING.finditer(FENCE.sub("", path.read_text(encoding="utf-8"))):
        name = slug(match[1])
        count = anchors[name] = anchors.get(name, -1) + 1
        if count:
            anchors[f"{name}-{count}"] = 0
        if match[2]:
            anchors[match[2]] = 0
    return set(anchors)


def markdown_links(path):
    def blank(match):
        return re.sub(r"[^\n]", " ", match[0])
    text = path.read_text(encoding="utf-8")
    for pattern in (COMMENT, FENCE, CODE):
        text = pattern.sub(blank, text)
    return [(text.count("\n", 0, match.start()) + 1, match[1]) for match in LINK.finditer(text)]


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.links, self.anchors = [], set()

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if value and (name == "id" or (name == "name" and tag == "a")):
                self.anchors.add(value)
            elif value and name in ("href", "src"):
                self.links.append((self.getpos()[0], value))

    handle_startendtag = handle_starttag


@functools.lru_cache(maxsize=None)
def page(path):
    parsed = Page()
    parsed.feed(path.read_text(encoding="utf-8"))
    return parsed


def links_of(path):
    return markdown_links(path) if path.suffix == ".md" else page(path).links


def anchors_of(path):
    return markdown_anchors(path) if path.suffix == ".md" else page(path).anchors


def check(files, root):
    """(how many links, complaints)."""
    count, complaints = 0, []
    for path in files:
        for line, link in links_of(path):
            if ELSEWHERE.match(link):
                continue
            count += 1
            where = f"{path.relative_to(root)}:{line}"
            target, _, anchor = urllib.parse.unquote(link).partition("#")
            target = target.partition("?")[0]
            file = (path.parent / target).resolve() if target else path
            if not file.exists():
                complaints.append(f"{where}: {link}: there is no {target}")
            elif not file.is_relative_to(root):
                complaints.append(f"{where}: {link}: leads out of the folder")
            elif anchor and file.suffix in (".md", ".html") and anchor not in anchors_of(file):
                complaints.append(f"{where}: {link}: {file.name} has no #{anchor}")
    return count, complaints


def self_test():
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder).resolve()
        (root / "a.md").write_text("# Über `x`: a–b\n[b](b.md#two-words) [self](#über-x-ab)\n[no](c.md) [no](b.md#absent)\n"
                                   "```\n[code](absent.md)\n```\n`[code](absent.md)` <!-- [c](absent.md) --> [h](https://x.y/z)\n")
        (root / "b.md").write_text("## Two words\n")
        (root / "a.html").write_text('<a href="b.html#here">b</a><img src="no.png"/><a href="b.html#gone">b</a>')
        (root / "b.html").write_text('<p id="here">')
        count, complaints = check(sorted(root.iterdir()), root)
    wanted = ["a.html:1: no.png", "a.html:1: b.html#gone", "a.md:3: c.md", "a.md:3: b.md#absent"]
    good = count == 7 and len(complaints) == 4 and all(c.startswith(w) for c, w in zip(complaints, wanted))
    return [] if good else [f"{count} links: {complaints}"]


def main(arguments):
    if arguments == ["--self-test"]:
        failures = self_test()
        print("\n".join(failures) or "Broken links are found.")
        return 1 if failures else 0
    if arguments:
        root = pathlib.Path(arguments[0]).resolve()
        files = sorted(root.rglob("*.html"))
    else:
        root = ROOT
        files = sorted(p for p in ROOT.rglob("*.md") if not any(part.startswith(".") or part in ("build", "runs")
                                                                for part in p.relative_to(ROOT).parts))
    count, complaints = check(files, root)
    print("\n".join(complaints), end="\n" if complaints else "", file=sys.stderr)
    print(f"{count} links in {len(files)} files, {len(complaints)} lead nowhere")
    return 1 if complaints or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
