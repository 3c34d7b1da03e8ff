// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <ssm/core/fill_random.hpp>
#include <ssm/core/tensor.hpp>

/// Images of digits, read as one pixel after the other, and which digits they show.
struct DrawnDigits {
  static constexpr ssm::Index classes = 10, side = 14, pixels = side * side;

  ssm::DynamicTensor<float, 3> images;       // [batch, pixels, 1]
  ssm::DynamicTensor<ssm::Token, 1> labels;  // [batch]

  explicit DrawnDigits(ssm::Index batch) : images({batch, pixels, 1}), labels({batch}) {}

  /// Digits of seven segments, somewhere in the image, with noise: others for each seed.
  void draw(ssm::Seed seed) {
    constexpr std::array segments{0x77, 0x24, 0x5d, 0x6d, 0x2e, 0x6b, 0x7b, 0x25, 0x7f, 0x6f};
    ssm::fill_normal(images, seed.fork("noise"), 0, 0.15);
    const ssm::Random random(seed);
    for (ssm::Index b = 0; b < images.extent(0); ++b) {
      const auto draws = random.bits(static_cast<std::uint64_t>(b));
      labels(b) = static_cast<ssm::Token>(draws[0] % classes);
      const int on = segments[static_cast<std::size_t>(labels(b))];
      const ssm::Index corner = draws[1] % 3 * side + draws[2] % 3 + 1;
      const auto line = [&](int segment, ssm::Index from, ssm::Index step) {
        for (ssm::Index i = 0; i < 5 && (on & 1 << segment) != 0; ++i)
          images(b, corner + from + i * step, 0) += 1;
      };
      line(0, 0, 1), line(3, 5 * side, 1), line(6, 10 * side, 1);  // across
      line(1, 0, side), line(2, 4, side), line(4, 5 * side, side), line(5, 5 * side + 4, side);
    }
  }
};
