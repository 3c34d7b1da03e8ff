// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "ssm/core/error.hpp"
#include "ssm/core/extents.hpp"

namespace ssm {

/// Gray values of an image, row by row.
struct GrayImage {
  Index width = 0;
  Index height = 0;
  std::vector<std::uint8_t> values{};
};

/// What reads an image's file: `read_png` of long_range/png.hpp, or a program's own.
using ReadImage = std::function<GrayImage(const std::filesystem::path&)>;

/// In place of one where no library for images is linked.
/// Throws  CheckpointError  by the file's name
[[noreturn]] inline GrayImage refuse_images(const std::filesystem::path& path) {
  throw CheckpointError(path.string(), "",
                        "images are not read: this program was built without libpng");
}

}  // namespace ssm
