#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The Conan recipe packages this tree, and a project uses the package.

    conan_test.py SOURCE FOLDER COMPILER      exits with 77 where conan is not installed
"""
import os
import pathlib
import shutil
import subprocess
import sys

if shutil.which("conan") is None:
    print("skipped: conan is not installed: pip install conan")
    sys.exit(77)

source, folder, compiler = sys.argv[1:]
shutil.rmtree(folder, ignore_errors=True)
home = pathlib.Path(folder, "home")
os.environ["CONAN_HOME"] = str(home)
os.environ["CXX"] = compiler
os.environ["CC"] = str(compiler).replace("clang++", "clang").replace("g++", "gcc")


def conan(*arguments):
    subprocess.run(["conan", *arguments], check=True, stdout=sys.stderr)


conan("profile", "detect")
# Not with packages that would have to be downloaded: those of the system serve.
conan("create", str(pathlib.Path(source, "packaging/conan")), "-s", "compiler.cppstd=20", "-o", "&:with_xsimd=False",
      "-o", "&:with_json=False", "-tf", str(pathlib.Path(source, "packaging/conan/test_package")),
      "-c", f"tools.cmake.cmake_layout:test_folder={folder}/test")
packages = [path for path in home.glob("p/**/share/cmake/ssm/ssmConfig.cmake")]
if not packages:
    sys.exit("the package has no ssmConfig.cmake")
for path in packages:
    package = path.parents[3]
    if not (package / "include/ssm/ssm.hpp").is_file() or not (package / "licenses/LICENSE").is_file():
        sys.exit(f"{package} has no headers or no license")
