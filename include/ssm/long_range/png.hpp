// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <png.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "ssm/io/input.hpp"
#include "ssm/long_range/gray_image.hpp"

namespace ssm {
namespace detail {

/// libpng's image, freed whatever happens.
struct OpenPng {
  png_image image{};

  OpenPng() { image.version = PNG_IMAGE_VERSION; }
  OpenPng(const OpenPng&) = delete;
  OpenPng& operator=(const OpenPng&) = delete;
  ~OpenPng() { png_image_free(&image); }
  [[noreturn]] void refuse() const {
    throw ArgumentError(std::string("PNG: ") + static_cast<const char*>(image.message));
  }
};

/// An image from the bytes of its file.
/// Throws  ArgumentError
inline GrayImage decode_png(std::span<const std::uint8_t> bytes) {
  OpenPng png;
  if (png_image_begin_read_from_memory(&png.image, bytes.data(), bytes.size()) == 0) png.refuse();
  if (png.image.width > 4096 || png.image.height > 4096)
    throw ArgumentError("PNG: the image has more than 4096 pixels in a row or a column");
  const bool is_colored = (png.image.format & PNG_FORMAT_FLAG_COLOR) != 0;
  // Transparency is read and left out; without a place for it libpng would paint on a background.
  png.image.format = is_colored ? PNG_FORMAT_RGBA : PNG_FORMAT_GA;
  std::vector<std::uint8_t> pixels(PNG_IMAGE_SIZE(png.image));
  if (png_image_finish_read(&png.image, nullptr, pixels.data(), 0, nullptr) == 0) png.refuse();
  GrayImage result{.width = png.image.width, .height = png.image.height};
  const std::size_t channels = is_colored ? 4 : 2;
  result.values.reserve(pixels.size() / channels);
  for (std::size_t at = 0; at < pixels.size(); at += channels)
    result.values.push_back(
        is_colored
            ? static_cast<std::uint8_t>(
                  (299 * pixels[at] + 587 * pixels[at + 1] + 114 * pixels[at + 2] + 500) / 1000)
            : pixels[at]);
  return result;
}

}  // namespace detail

/// Reads a PNG as gray values of 8 bits, by libpng; transparency is not looked at.
/// Throws  CheckpointError  by the file's name, for what is no such image
inline GrayImage read_png(const std::filesystem::path& path) {
  const std::string text = read_text(path, std::uint64_t{1} << 26);
  try {
    return detail::decode_png({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  } catch (const ArgumentError& error) {
    throw CheckpointError(path.string(), "", error.what());
  }
}

}  // namespace ssm
