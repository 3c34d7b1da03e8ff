// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/io/input.hpp"
#include "ssm/long_range/inflate.hpp"

namespace ssm {

/// Gray values of an image, row by row.
struct GrayImage {
  Index width = 0;
  Index height = 0;
  std::vector<std::uint8_t> values{};
};

namespace detail {

/// Undoes the filter of one row of bytes.
/// previous   the row above, zeros for the first
inline void unfilter_row(std::uint8_t filter, std::span<const std::uint8_t> previous,
                         std::span<std::uint8_t> row, std::size_t pixel) {
  for (std::size_t i = 0; i < row.size(); ++i) {
    const int left = i >= pixel ? row[i - pixel] : 0;
    const int up = previous[i];
    const int corner = i >= pixel ? previous[i - pixel] : 0;
    int predicted = 0;
    if (filter == 1) predicted = left;
    if (filter == 2) predicted = up;
    if (filter == 3) predicted = (left + up) / 2;
    if (filter == 4) {
      const int p = left + up - corner;
      const int a = std::abs(p - left), b = std::abs(p - up), c = std::abs(p - corner);
      predicted = a <= b && a <= c ? left : b <= c ? up : corner;
    }
    row[i] = static_cast<std::uint8_t>(row[i] + predicted);
  }
}

/// An image from the bytes of its file.
/// Throws  ArgumentError
inline GrayImage decode_png(std::span<const std::uint8_t> bytes) {
  static constexpr std::string_view signature = "\x89PNG\r\n\x1a\n";
  const auto refuse = [](const char* why) { throw ArgumentError(std::string("PNG: ") + why); };
  if (bytes.size() < 8 ||
      std::string_view(reinterpret_cast<const char*>(bytes.data()), 8) != signature)
    refuse("the file is none");
  std::size_t at = 8;
  const auto number = [&](std::size_t place) {
    return std::uint32_t{bytes[place]} << 24 | std::uint32_t{bytes[place + 1]} << 16 |
           std::uint32_t{bytes[place + 2]} << 8 | bytes[place + 3];
  };
  GrayImage image;
  std::size_t channels = 0;
  std::vector<std::uint8_t> compressed;
  for (;;) {
    if (bytes.size() - at < 12) refuse("the file ends too early");
    const std::size_t size = number(at);
    const std::string_view kind(reinterpret_cast<const char*>(bytes.data()) + at + 4, 4);
    if (size > bytes.size() - at - 12) refuse("the file ends too early");
    const std::size_t data = at + 8;
    if (kind == "IHDR") {
      if (size != 13) refuse("a damaged head");
      image.width = static_cast<Index>(number(data));
      image.height = static_cast<Index>(number(data + 4));
      if (image.width < 1 || image.height < 1 || image.width > 4096 || image.height > 4096)
        refuse("the image has no pixels, or more than 4096 in a row or a column");
      const unsigned color = bytes[data + 9];
      channels = color == 0 ? 1 : color == 2 ? 3 : color == 4 ? 2 : color == 6 ? 4 : 0;
      if (bytes[data + 8] != 8 || channels == 0 || bytes[data + 12] != 0)
        refuse("only images of 8 bits a channel, without a palette and not interlaced, are read");
    } else if (kind == "IDAT") {
      compressed.insert(compressed.end(), bytes.begin() + static_cast<std::ptrdiff_t>(data),
                        bytes.begin() + static_cast<std::ptrdiff_t>(data + size));
    } else if (kind == "IEND") {
      break;
    }
    at += 12 + size;
  }
  if (channels == 0) refuse("the file has no head");
  const std::size_t row = static_cast<std::size_t>(image.width) * channels;
  const auto height = static_cast<std::size_t>(image.height);
  std::vector<std::uint8_t> rows = inflate(compressed, height * (row + 1));
  if (rows.size() != height * (row + 1)) refuse("rows are missing");
  std::vector<std::uint8_t> before(row);
  for (std::size_t y = 0; y < height; ++y) {
    const std::uint8_t filter = rows[y * (row + 1)];
    if (filter > 4) refuse("a row with a filter that is none");
    const std::span<std::uint8_t> current = std::span(rows).subspan(y * (row + 1) + 1, row);
    unfilter_row(filter, before, current, channels);
    before.assign(current.begin(), current.end());
    for (std::size_t x = 0; x < row; x += channels)
      image.values.push_back(
          channels < 3
              ? current[x]
              : static_cast<std::uint8_t>(
                    (299 * current[x] + 587 * current[x + 1] + 114 * current[x + 2] + 500) / 1000));
  }
  return image;
}

}  // namespace detail

/// Reads a PNG as gray values: 8 bits a channel, gray or colored, with or without transparency,
/// which is not looked at.
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
