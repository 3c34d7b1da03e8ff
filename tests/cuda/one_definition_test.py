#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two types of one name in one namespace of the compiled library are one type to the linker. Checks that none are there.

Relies on clang-format: what namespaces define starts in the first column.
    one_definition_test.py CUDA_FOLDER HEADER_FOLDER
"""
import pathlib
import re
import sys

NAMESPACE = re.compile(r"(?:inline )?namespace ?([\w:]*) ?\{$")
DEFINITION = re.compile(r"(?:template <.*> )?(?:struct|class|union|enum class|enum) (?:SSM_CUDA_API )?(\w+)(?!.*;$)[^<]*$")


def definitions(text, file):
    """(namespace, name) of every type that namespaces of the text define; an unnamed namespace is the file's own."""
    scopes = []
    for line in text.splitlines():
        if found := NAMESPACE.match(line):
            scopes.append(found[1] or f"(unnamed in {file})")
        elif line.startswith("}  // namespace"):
            scopes.pop()
        elif found := DEFINITION.match(line):
            yield "::".join(scopes), found[1]


def repeated(texts):
    """Names that two files define, with the files."""
    where = {}
    for file, text in texts.items():
        for name in definitions(text, file):
            where.setdefault(name, set()).add(file)
    return {"::".join(name): sorted(files) for name, files in where.items() if len(files) > 1}


def self_test():
    one = "namespace a {\ntemplate <class T, int Rank>\nstruct Operand {\n};\nstruct Known;\n}  // namespace a\n"
    other = "namespace a {\ntemplate <int N>\nstruct Operand : Base {\n};\nstruct Known;\n}  // namespace a\n"
    hidden = "namespace a {\nnamespace {\nstruct Operand {\n};\n}  // namespace\n}  // namespace a\n"
    assert repeated({"one": one, "other": other}) == {"a::Operand": ["one", "other"]}
    assert not repeated({"one": one, "hidden": hidden})


self_test()
files = [file for folder in sys.argv[1:] for file in sorted(pathlib.Path(folder).rglob("*"))
         if file.suffix in (".cu", ".cuh", ".hpp", ".cpp")]
found = repeated({str(file): file.read_text() for file in files})
for name, places in found.items():
    print(f"{name} is defined in {' and '.join(places)}")
count = sum(len(list(definitions(file.read_text(), file))) for file in files)
print(f"{count} types in {len(files)} files")
sys.exit(bool(found) or count < 100)
