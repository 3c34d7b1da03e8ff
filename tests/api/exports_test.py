#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The library exports what its header declares and nothing else: at most 60 functions, each of this version of the interface.

    exports_test.py LIBRARY HEADER      exits with 77 where nm is not installed
"""
import pathlib
import re
import shutil
import subprocess
import sys

if shutil.which("nm") is None:
    print("skipped: nm is not installed")
    sys.exit(77)

library, header = sys.argv[1:]
text = re.sub(r"/\*.*?\*/", "", pathlib.Path(header).read_text(encoding="utf-8"), flags=re.S)
declared = set(re.findall(r"^SSM_API [^;(]*?(ssm_\w+)\(", text, flags=re.M))
version = re.search(r"#define SSM_API_VERSION (\d+)", text)[1]
lines = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
symbols = dict(line.split()[-1].partition("@@")[::2] for line in lines.splitlines() if line.split()[-2] != "A")
problems = [f"{name} is declared and not exported" for name in sorted(declared - set(symbols))]
problems += [f"{name} is exported and not declared" for name in sorted(set(symbols) - declared)]
problems += [f"{name} is of version {node}" for name, node in symbols.items() if node != f"SSM_API_{version}"]
if not 0 < len(declared) <= 60:
    problems.append(f"the header declares {len(declared)} functions")
print("\n".join(problems) or f"{len(declared)} functions")
sys.exit(1 if problems else 0)
