# SPDX-License-Identifier: Apache-2.0
"""The headers of ssm as a Conan package, from the tree that this file is in.

    conan create packaging/conan
    conan create packaging/conan -o with_xsimd=False -o with_json=False     with those of the system, if it has them
"""
import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeToolchain
from conan.tools.files import copy, load, rmdir

required_conan_version = ">=2.0"


class SsmConan(ConanFile):
    name = "ssm-cpp"
    license = "Apache-2.0"
    description = "Header-only C++20 state-space models: train in parallel, infer recurrently"
    topics = ("state-space-models", "mamba", "machine-learning", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"with_xsimd": [True, False], "with_json": [True, False]}  # for components cpu and io
    default_options = {"with_xsimd": True, "with_json": True}
    no_copy_source = True

    def _tree(self):
        return os.path.join(self.recipe_folder, "..", "..")

    def set_version(self):
        text = load(self, os.path.join(self._tree(), "include", "ssm", "version.hpp"))
        self.version = re.search(r'SSM_VERSION_STRING "([^"]+)"', text)[1]

    def export_sources(self):
        for part in ("CMakeLists.txt", "LICENSE", "cmake/*", "include/*"):
            copy(self, part, self._tree(), self.export_sources_folder)

    def requirements(self):
        if self.options.with_xsimd:
            self.requires("xsimd/[>=8.1]")
        if self.options.with_json:
            self.requires("nlohmann_json/[>=3.11]")

    def validate(self):
        check_min_cppstd(self, 20)

    def package_id(self):
        self.info.clear()

    def generate(self):
        toolchain = CMakeToolchain(self)
        for part in ("TESTS", "EXAMPLES", "TOOLS", "BENCHMARKS", "API"):
            toolchain.cache_variables[f"SSM_BUILD_{part}"] = False
        toolchain.user_presets_path = False
        toolchain.generate()

    def build(self):
        CMake(self).configure()

    def package(self):
        CMake(self).install()
        rmdir(self, os.path.join(self.package_folder, "share", "doc"))
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))

    def package_info(self):
        # find_package(ssm) finds our own configuration, which knows the components.
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs = [os.path.join("share", "cmake", "ssm")]
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
