#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Assembles a corpus of English from packages of Debian's main section: manuals, books, dictionaries.

    tools/english_corpus.py --out runs/corpus
    tools/english_corpus.py --self-test

needs apt-get, dpkg-deb and the network, on any Debian or Ubuntu that has these packages. A package that is not there is
left out and named. What is finished is kept, so the command may be stopped and given again. Writes

    training.txt, held_out.txt    documents, each followed by a line <|endoftext|>
    corpus.json                   packages, versions, hashes, licences, counts, and the hashes of both texts

Text is taken from HTML, manual pages (roff), POD, reStructuredText and plain text. Of each document those paragraphs are
kept that read like English prose: at least eight words, a sixth of them among the most common ones, mostly letters. A
paragraph that has occurred before, in whatever document, is left out. A document of less than 400 characters is left out.
A document is held out if the hash of its name says so, one in fifty. Longer ones than 100,000 characters are cut into pieces of
that size, which stay in the same part; the order of all pieces is random, but the same every time.
"""
import argparse
import concurrent.futures
import gzip
import hashlib
import html
import json
import lzma
import pathlib
import re
import subprocess
import sys
import time

PACKAGES = """
debian-handbook developers-reference debian-policy debian-reference-en maint-guide debian-faq
debian-kernel-handbook installation-guide-amd64 jargon-text dict-foldoc dict-devil dict-gcide
manpages manpages-dev freebsd-manpages perl-doc python3.11-doc linux-doc-6.1 glibc-doc postgresql-doc-15 postgis-doc git-doc
bash-doc zsh-doc octave-doc maxima-doc exim4-doc-html postfix-doc bind9-doc apache2-doc sqlite3-doc
python-django-doc python-sqlalchemy-doc docutils-doc tcl8.6-doc erlang-doc cmake-doc llvm-14-doc clang-14-doc
libboost1.74-doc libstdc++-12-doc cppreference-doc-en-html ada-reference-manual-2012 rust-doc racket-doc mit-scheme-doc
qtbase5-doc-html libgtk-4-doc libglib2.0-doc gnome-user-docs gnome-devel-docs gimp-help-en wireshark-doc xorg-docs
python-scipy-doc python-pandas-doc python-sympy-doc openjdk-17-doc ghc-doc wx3.2-doc lilypond-doc-html gnucash-docs
grass-doc
""".split()

END = "<|endoftext|>"
PIECE = 100_000  # characters
COMMON = frozenset("""the of and to a in is that it for as with be on this are by or from not an which at if can will
you have may was has he his but they all when one i your there no their use used any other then we were must only""".split())
LANGUAGES = re.compile(r"[/.](ca|cs|da|de|el|es|fi|fr|gl|hr|hu|id|it|ja|ko|lt|lv|nb|nl|nn|pl|pt|pt[-_]br|ro|ru|sk|sl|sr|sv|te|th|tr|uk|vi|"
                       r"zh|zh[-_]..|bg|eu|fa|he|hi)(/|$|\.)", re.I)
DROPPED = re.compile(r"<(script|style|head|pre|nav|footer|title|svg|math)\b.*?</\1\s*>|<!--.*?-->", re.S | re.I)
BLOCKS = re.compile(r"</?(p|div|li|ul|ol|dl|dt|dd|h[1-6]|table|tr|td|th|br|section|article|blockquote|hr)\b[^>]*>", re.I)
TAG = re.compile(r"<[^>]*>")
WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")


def text_of_html(text):
    text = DROPPED.sub("\n\n", text)
    return html.unescape(TAG.sub("", BLOCKS.sub("\n\n", text)))


def text_of_roff(text):
    lines, is_code = [], False
    for line in text.splitlines():
        macro = re.match(r"[.']\s*(\w*|\\\")\s*(.*)", line)
        if macro:
            name, rest = macro.groups()
            is_code = name in ("nf", "EX", "Bd") or (is_code and name not in ("fi", "EE", "Ed"))
            if name in ("B", "I", "BR", "IR", "RB", "RI", "BI", "IB", "Nm", "Ar", "Fl", "Pa", "Xr", "Fn", "Em", "Sy", "Dv", "Va"):
                lines.append(rest.replace('" "', "").replace('"', "") if name in ("B", "I") else re.sub(r"\s+", "", rest) if '"' not in rest
                             else re.sub(r'"', "", rest))
            elif name in ("PP", "P", "LP", "Pp", "SH", "SS", "Sh", "Ss", "TP", "IP", "It", "sp", "RS", "RE"):
                lines.append("")
        elif not is_code:
            lines.append(line)
    text = "\n".join(lines)
    text = re.sub(r"\\f[BIRP1-4]|\\f\(..|\\f\[\w*\]|\\&|\\/|\\,|\\s[-+]?\d", "", text)
    text = re.sub(r"\\\(aq|\\\[aq\]", "'", text)
    text = re.sub(r"\\\([lr]q|\\\[[lr]q\]|\\\(dq", '"', text)
    text = re.sub(r"\\\(em", " - ", text)
    return re.sub(r"\\\((\w\w)|\\\[\w+\]", "", text).replace("\\-", "-").replace("\\e", "\\").replace("\\ ", " ")


def text_of_pod(text):
    text = re.sub(r"^=\w+.*$", "", text, flags=re.M)
    text = re.sub(r"^[ \t]+.*$", "", text, flags=re.M)  # code
    for _ in range(3):
        text = re.sub(r"\b[BCFILSX]<([^<>|]*\|)?([^<>]*)>", r"\2", text)
    return re.sub(r"E<(\w+)>", lambda m: {"lt": "<", "gt": ">"}.get(m[1], ""), text)


def text_of_rest(text):
    text = re.sub(r":[\w:]+:`([^`<]*)(<[^`]*>)?`", r"\1", text)
    return re.sub(r"``?([^`]*)``?_?_?", r"\1", text)


def reader_of(name):
    """What makes text of a file, by its name, or None for what is no documentation."""
    name = re.sub(r"\.(gz|xz|dz)$", "", name)
    if re.search(r"changelog|copyright|/(license|copying|gpl|authors|contributors|genindex|search|index-)", name, re.I) or LANGUAGES.search(name):
        return None
    if name.endswith((".html", ".htm", ".xhtml", ".html.en", ".page", ".docbook")):
        return text_of_html
    if re.search(r"/man\d\w*/[^/]+\.\d\w*$", name):
        return text_of_roff
    if name.endswith(".pod"):
        return text_of_pod
    if name.endswith((".rst", ".rst.txt", ".md")):
        return text_of_rest
    if name.endswith((".txt", ".info", ".dict", ".text", ".adoc")) or re.search(r"\.info-\d+$", name):
        return str
    return None


def is_prose(paragraph):
    words = WORD.findall(paragraph)
    if len(words) < 8 or sum(map(len, words)) < 0.7 * len(paragraph.replace(" ", "")):
        return False
    return 6 * sum(word.lower() in COMMON for word in words) >= len(words)


def paragraphs(text):
    for block in re.split(r"\n\s*\n", text):
        paragraph = " ".join(block.split())
        if is_prose(paragraph):
            yield paragraph


def read(path):
    data = path.read_bytes()
    if path.suffix in (".gz", ".dz"):
        data = gzip.decompress(data)
    elif path.suffix == ".xz":
        data = lzma.decompress(data)
    return data.decode("utf-8", "replace").replace("\r\n", "\n")


def fetch(package, folder):
    """The package's file, from the folder or the distribution."""
    pattern = f"{package}_*.deb"
    found = sorted(folder.glob(pattern))
    if not found:
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True, capture_output=True)
        found = sorted(folder.glob(pattern))
    return found[-1]


def licences_of(tree):
    """Names in the machine-readable copyright file, or 'see FILE'."""
    names = set()
    for path in tree.glob("usr/share/doc/*/copyright"):
        found = re.findall(r"^License:[ \t]*(\S.*)$", path.read_text("utf-8", "replace"), re.M)
        names |= {" ".join(name.split()) for name in found} or {f"see {path.relative_to(tree)}"}
    return sorted(names) or ["see the package it belongs to"]


def extract(package, out):
    """Takes a package apart; its paragraphs go into parts/PACKAGE.jsonl, a document a line. Returns what corpus.json says of it."""
    facts_file, part = out / f"parts/{package}.json", out / f"parts/{package}.jsonl"
    if facts_file.exists() and part.exists():
        return json.loads(facts_file.read_text())
    deb = fetch(package, out / "debs")
    tree = out / "trees" / package
    tree.mkdir(parents=True, exist_ok=True)
    subprocess.run(["dpkg-deb", "-x", deb, tree], check=True)
    documents = 0
    with open(part.with_suffix(".new"), "w", encoding="utf-8") as file:
        for path in sorted(tree.rglob("*")):
            name = path.relative_to(tree).as_posix()
            reader = reader_of("/" + name)
            if reader is None or path.is_symlink() or not path.is_file():
                continue
            try:
                found = list(paragraphs(reader(read(path))))
            except (OSError, EOFError, lzma.LZMAError) as error:
                print(f"{package}: {name}: {error}", file=sys.stderr)
                continue
            if found:
                documents += 1
                file.write(json.dumps({"name": f"{package}/{name}", "paragraphs": found}) + "\n")
    version = subprocess.run(["dpkg-deb", "-f", deb, "Version"], check=True, capture_output=True, text=True).stdout.strip()
    facts = {"package": package, "version": version, "sha256": hashlib.sha256(deb.read_bytes()).hexdigest(), "licences": licences_of(tree)}
    subprocess.run(["rm", "-rf", tree], check=True)
    part.with_suffix(".new").rename(part)
    facts_file.write_text(json.dumps(facts))
    return facts


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def pieces(paragraphs):
    """Texts of at least PIECE characters each, but the last."""
    piece, size = [], 0
    for paragraph in paragraphs:
        piece.append(paragraph)
        size += len(paragraph)
        if size >= PIECE:
            yield "\n\n".join(piece)
            piece, size = [], 0
    if piece:
        yield "\n\n".join(piece)


def join(out, packages):
    """Both texts from the parts, without paragraphs that have occurred; counts by package and part."""
    seen, documents, counts = set(), [], {}
    for package in packages:
        kept = total = 0
        with open(out / f"parts/{package}.jsonl", encoding="utf-8") as file:
            for line in file:
                document = json.loads(line)
                fresh = []
                for paragraph in document["paragraphs"]:
                    mark = hashlib.blake2b(re.sub(r"\W+", " ", paragraph.lower()).encode(), digest_size=8).digest()
                    if mark not in seen:
                        seen.add(mark)
                        fresh.append(paragraph)
                if sum(map(len, fresh)) >= 400:
                    is_held_out = int(digest(document["name"])[-8:], 16) % 50 == 0
                    for number, text in enumerate(pieces(fresh)):
                        documents.append((digest(f"{document['name']}#{number}"), is_held_out, text))
                        total += len(text.encode())
                    kept += 1
        counts[package] = {"documents": kept, "bytes": total}
    documents.sort()
    result = {}
    for part, wanted in (("training", False), ("held_out", True)):
        chosen = [text for _, is_held_out, text in documents if is_held_out == wanted]
        data = "".join(f"{text}\n{END}\n" for text in chosen).encode()
        (out / f"{part}.txt").write_bytes(data)
        result[part] = {"pieces": len(chosen), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return result, counts


def self_test():
    prose = "This is the way in which the words of a sentence are told from the names in a table."
    bold = prose.replace("the words", r"\fBthe words\fR")
    texts = [(text_of_html(f"<p>{prose}</p><pre>int x;</pre>"), [prose]),
             (text_of_html(f"<ul><li>{prose.replace('way', '<b>way</b>')}</ul><script>the of and</script>"), [prose]),
             (text_of_roff(f".TH X 1\n.SH NAME\n{bold}\n.nf\n{prose} code\n.fi"), [prose]),
             (text_of_roff(prose.replace("the words", "\n.B the words\n")), [prose]),
             (text_of_pod(f"=head1 NAME\n\n{prose.replace('way', 'B<way>')}\n\n    {prose} code\n"), [prose]),
             (text_of_rest(prose.replace("words", ":ref:`words <x>`")), [prose]),
             ("one two\n\n" + "x = 1; " * 20, [])]
    failures = [f"{found!r} gave {list(paragraphs(found))}, not {wanted}" for found, wanted in texts if list(paragraphs(found)) != wanted]
    names = {"/usr/share/man/man1/ls.1.gz": text_of_roff, "/usr/share/man/de/man1/ls.1.gz": None, "/usr/share/doc/a/changelog.gz": None,
             "/usr/share/doc/a/b.html": text_of_html, "/usr/share/doc/a/b.html.fr": None, "/usr/bin/ls": None, "/a/b.pod": text_of_pod}
    failures += [f"{name} is read by {reader_of(name)}" for name, wanted in names.items() if reader_of(name) is not wanted]
    long = [prose] * (3 * PIECE // len(prose))
    cut = list(pieces(long))
    if "\n\n".join(cut).split("\n\n") != long or not 2 <= len(cut) <= 4:
        failures.append(f"a long text is cut into {len(cut)} pieces")
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default="runs/corpus")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--packages", nargs="+", default=PACKAGES, metavar="NAME")
    parser.add_argument("--jobs", type=int, default=2, help="packages at a time")
    options = parser.parse_args()
    if options.self_test:
        failures = self_test()
        print("\n".join(failures) or "text is found and told from code")
        sys.exit(bool(failures))
    for folder in ("debs", "parts", "trees"):
        (options.out / folder).mkdir(parents=True, exist_ok=True)
    facts, missing, start = {}, [], time.monotonic()
    with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool:
        futures = {pool.submit(extract, package, options.out): package for package in options.packages}
        for done, future in enumerate(concurrent.futures.as_completed(futures), 1):
            package = futures[future]
            try:
                facts[package] = future.result()
            except subprocess.CalledProcessError as error:
                missing.append(package)
                print(f"{package}: left out: {(error.stderr or b'').decode().strip().splitlines()[-1:]}", file=sys.stderr)
            left = (time.monotonic() - start) / done * (len(futures) - done)
            print(f"{done}/{len(futures)}  {package}  ETA {left / 60:.1f} min", file=sys.stderr)
    packages = [package for package in options.packages if package in facts]
    texts, counts = join(options.out, packages)
    result = texts | {"packages": [facts[package] | counts[package] for package in packages], "missing": sorted(missing)}
    (options.out / "corpus.json").write_text(json.dumps(result, indent=1) + "\n")
    for part in ("training", "held_out"):
        print(f"{part}: {texts[part]['pieces']} pieces, {texts[part]['bytes'] / 1e6:.1f} MB, sha256 {texts[part]['sha256']}")


if __name__ == "__main__":
    main()
