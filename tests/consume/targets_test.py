#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The headers compile for other systems and processors: with the compiler of the Python package ziglang, which brings the
headers of their C and C++ libraries. Nothing is run.

    targets_test.py INCLUDE [TARGET...]     exits with 77 where it is not installed
"""
import pathlib
import subprocess
import sys
import tempfile

# What needs nothing but the standard library, everywhere; the rest where there is POSIX.
EVERYWHERE = ["ssm/ssm.hpp", "ssm/backend/reference.hpp"]
WITH_THREADS = EVERYWHERE + ["ssm/backend/cuda.hpp"]
WITH_POSIX = WITH_THREADS + ["ssm/backend/cpu/thread_pool.hpp", "ssm/backend/cpu/processors.hpp", "ssm/io/npy.hpp",
                             "ssm/io/input.hpp", "ssm/io/checkpoint_folder.hpp"]
WITH_OTHERS = {"xsimd": ["ssm/backend/cpu.hpp"], "nlohmann": ["ssm/io/checkpoint.hpp", "ssm/io/model_file.hpp"]}
TARGETS = {
    "x86_64-windows-gnu": WITH_THREADS,
    "aarch64-windows-gnu": WITH_THREADS,
    "aarch64-macos": WITH_POSIX,
    "aarch64-linux-musl": WITH_POSIX,
    "riscv64-linux-gnu": WITH_POSIX,
    "wasm32-wasi": EVERYWHERE,
}


def main():
    include = sys.argv[1]
    wanted = sys.argv[2:] or list(TARGETS)
    compiler = [sys.executable, "-m", "ziglang", "c++"]
    if subprocess.run(compiler + ["--version"], capture_output=True).returncode != 0:
        print("skipped: ziglang is not installed: pip install ziglang")
        return 77
    failed = []
    for target in wanted:
        with tempfile.TemporaryDirectory() as folder:
            source, headers = pathlib.Path(folder, "all.cpp"), list(TARGETS[target])
            if "macos" in target:  # with libraries that are headers too, where they are installed here
                for name, more in WITH_OTHERS.items():
                    if (there := pathlib.Path("/usr/include", name)).is_dir():
                        pathlib.Path(folder, name).symlink_to(there)
                        headers += more
            source.write_text("".join(f"#include <{header}>\n" for header in headers) +
                              "auto made(const ssm::Context<ssm::Reference>& ctx) {\n"
                              "  return ssm::S4D<ssm::S4DConfig{.channels = 2, .state = 4}>().zero_parameters<float>(ctx);\n}\n",
                              encoding="utf-8")
            done = subprocess.run([*compiler, "-target", target, "-std=c++20", "-c", "-o", f"{folder}/all.o", "-Wall", "-Wextra", "-Werror",
                                   "-fexceptions", "-isystem", folder, "-I", include, source], capture_output=True, text=True)
        print(f"{target}: {'compiles' if done.returncode == 0 else 'FAILED'}")
        if done.returncode != 0:
            failed.append(target)
            print(done.stderr[:3000])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
