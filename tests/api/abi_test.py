#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Programs that were compiled with an older api.h run with this library: functions, constants, structs and the library's
name are those of the stored list, tests/api/abi.txt. What is new is allowed as long as nothing else changes.

    abi_test.py LIBRARY HEADER COMPILER          compares
    abi_test.py LIBRARY HEADER COMPILER --fix    writes the list, for a new SSM_API_VERSION or what was added
exits with 77 where readelf is not installed
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

LIST = pathlib.Path(__file__).resolve().parent / "abi.txt"


def without_names(parameters):
    """`const char* path, int index` as `const char*, int`: names are not part of it."""
    types = []
    for parameter in parameters.split(","):
        parameter = " ".join(parameter.split())
        types.append(re.sub(r"(?<=[\w*] )\w+$|(?<=\*)\w+$", "", parameter).strip() if parameter != "void" else parameter)
    return ", ".join(types)


def lines_of(library, header, compiler):
    text = re.sub(r"/\*.*?\*/", "", header.read_text(encoding="utf-8"), flags=re.S)
    version = re.search(r"#define SSM_API_VERSION (\d+)", text)[1]
    lines = [f"version {version}"]
    exported = subprocess.run(["readelf", "--dyn-syms", "--dynamic", "-W", library], capture_output=True, text=True,
                              check=True).stdout
    lines.append("soname " + re.search(r"SONAME.*\[(.*)\]", exported)[1])
    if re.search(r"NEEDED.*fftw", exported):
        sys.exit("the library links FFTW, whose license is the GPL")
    exports = set(re.findall(r" (?:GLOBAL|WEAK) +DEFAULT +\d+ (ssm_\w+)@@", exported))
    for result, name, parameters in re.findall(r"SSM_API ([^;(]*?)(ssm_\w+)\(([^)]*)\);", text):
        if name in exports:
            lines.append(f"function {' '.join(result.split())} {name}({without_names(parameters)})")
    for result, name, parameters in re.findall(r"typedef ([\w*]+) \(\*(\w+)\)\(([^)]*)\);", text):
        lines.append(f"callback {result} {name}({without_names(parameters)})")

    structs = re.findall(r"typedef struct (\w+) \{(.*?)\} \w+;", text, flags=re.S)
    enums = re.findall(r"typedef enum (\w+) \{(.*?)\} \w+;", text, flags=re.S)
    program = ["#include <stddef.h>", "#include <stdio.h>", f'#include "{header}"', "int main(void) {"]
    for name, body in structs:
        program.append(f'printf("struct {name} %zu bytes\\n", sizeof(struct {name}));')
        for member in re.findall(r"(\w+);", body):
            at = f"offsetof(struct {name}, {member}), sizeof(((struct {name}*)0)->{member})"
            program.append(f'printf("member {name}.{member} at %zu, %zu bytes\\n", {at});')
    for name, body in enums:
        for constant in re.findall(r"(SSM_\w+) *=", body):
            program.append(f'printf("constant {constant} %d\\n", (int){constant});')
    program.append("return 0; }")
    with tempfile.TemporaryDirectory() as folder:
        source, binary = pathlib.Path(folder, "layout.c"), pathlib.Path(folder, "layout")
        source.write_text("\n".join(program), encoding="utf-8")
        subprocess.run([compiler, "-std=c11", source, "-o", binary], check=True)
        lines += subprocess.run([binary], capture_output=True, text=True, check=True).stdout.splitlines()
    return lines


def main():
    if shutil.which("readelf") is None:
        print("skipped: readelf is not installed")
        return 77
    library, header, compiler = sys.argv[1], pathlib.Path(sys.argv[2]).resolve(), sys.argv[3]
    now = lines_of(library, header, compiler)
    if sys.argv[4:] == ["--fix"]:
        LIST.write_text("\n".join(now) + "\n", encoding="utf-8")
    stored = LIST.read_text(encoding="utf-8").splitlines()
    gone = [line for line in stored if line not in now]
    new = [line for line in now if line not in stored]
    for line in new:
        print(f"new: {line}")
    for line in gone:
        print(f"gone or changed: {line}", file=sys.stderr)
    if gone:
        print("A program compiled before would break: change SSM_API_VERSION and the library's name, then run with --fix.",
              file=sys.stderr)
    print(f"{len(stored)} lines, {len(gone)} gone, {len(new)} new")
    return 1 if gone else 0


if __name__ == "__main__":
    sys.exit(main())
