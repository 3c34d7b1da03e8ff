#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vcpkg itself installs the port of this tree with the components cpu and io, and a project uses them.

    vcpkg_test.py SOURCE FOLDER COMPILER      exits with 77 where vcpkg is not on the path or VCPKG_ROOT names no folder of it
"""
import os
import pathlib
import shutil
import subprocess
import sys

toolchain = pathlib.Path(os.environ.get("VCPKG_ROOT", ""), "scripts/buildsystems/vcpkg.cmake")
if shutil.which("vcpkg") is None or not toolchain.is_file():
    print("skipped: vcpkg is not installed, or VCPKG_ROOT does not say where")
    sys.exit(77)

source, folder, compiler = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
shutil.rmtree(folder, ignore_errors=True)
installed, triplet = folder / "installed", "here"


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# Not with packages that would have to be downloaded: those of the system serve, in ports without anything.
for name in ("xsimd", "nlohmann-json"):
    written(folder / f"ports/{name}/vcpkg.json", f'{{"name": "{name}", "version": "0"}}')
    written(folder / f"ports/{name}/portfile.cmake", "set(VCPKG_POLICY_EMPTY_PACKAGE enabled)\n")
written(folder / "compiler.cmake", f'set(CMAKE_SYSTEM_NAME Linux)\nset(CMAKE_CXX_COMPILER "{compiler}" CACHE FILEPATH "")\n')
written(folder / f"triplets/{triplet}.cmake", f"""set(VCPKG_TARGET_ARCHITECTURE x64)
set(VCPKG_CRT_LINKAGE dynamic)
set(VCPKG_LIBRARY_LINKAGE static)
set(VCPKG_CMAKE_SYSTEM_NAME Linux)
set(VCPKG_FIXUP_ELF_RPATH OFF)
set(VCPKG_CHAINLOAD_TOOLCHAIN_FILE "{folder}/compiler.cmake")
""")
environment = {**os.environ, "VCPKG_FORCE_SYSTEM_BINARIES": "1", "VCPKG_DISABLE_METRICS": "1"}


def run(*command):
    subprocess.run([str(word) for word in command], check=True, stdout=sys.stderr, env=environment, cwd=folder)


run("vcpkg", "install", f"ssm-cpp:{triplet}", f"--host-triplet={triplet}", f"--overlay-triplets={folder / 'triplets'}",
    f"--overlay-ports={source}/packaging/vcpkg/ports", f"--overlay-ports={folder / 'ports'}", f"--x-install-root={installed}",
    f"--x-buildtrees-root={folder / 'build'}", f"--x-packages-root={folder / 'packages'}", "--binarysource=clear", "--enforce-port-checks")
written(folder / "project/CMakeLists.txt", f"""cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES CXX)
find_package(ssm REQUIRED COMPONENTS cpu io CONFIG)
add_executable(consumer "{source}/tests/consume/cpu_backend/main.cpp")
target_link_libraries(consumer PRIVATE ssm::cpu ssm::io)
""")
run("cmake", "-S", folder / "project", "-B", folder / "consumer", f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", "-G", "Ninja",
    f"-DVCPKG_TARGET_TRIPLET={triplet}", f"-DVCPKG_INSTALLED_DIR={installed}", "-DVCPKG_MANIFEST_MODE=OFF",
    f"-DCMAKE_CXX_COMPILER={compiler}")
run("cmake", "--build", folder / "consumer")
run(folder / "consumer/consumer")
