// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <span>
#include <utility>

#include "ssm/core/token_view.hpp"
#include "ssm/io/input.hpp"
#include "ssm/io/npy.hpp"

namespace ssm {

/// A .npy file of whole numbers as one text of tokens. They are read where they are asked for, so a
/// text may be larger than the memory.
///   const NpyTokens text("tokens.npy");  // a pipe or "-" as well, see open_input
///   const TextLoss loss = text_loss(ctx, model.layer, model.parameters, text);
/// Throws  CheckpointError  as NpyFile, for any other shape than [N] or [1, N], for numbers that
///                          are not whole, and where they are read for one that is negative or too
///                          large to be a token
class NpyTokens : public TokenSource {
 public:
  explicit NpyTokens(const std::filesystem::path& path) : NpyTokens(open_input(path)) {}
  explicit NpyTokens(FileReader file) : file_(std::move(file)) {
    const std::vector<Index>& shape = file_.shape();
    if (shape.size() != 1 && !(shape.size() == 2 && shape[0] == 1))
      throw CheckpointError(file_.name(), "", "is " + shape_text(shape) + ", a text is [N]");
    file_.require_integers();
    size_ = shape.back();
  }

  const NpyFile& file() const { return file_; }
  Index size() const override { return size_; }

  void read(Index begin, std::span<Token> out) const override {
    require_inside(begin, out.size(), size_);
    file_.read_from(begin, View<Token, 1>(out.data(), {static_cast<Index>(out.size())}));
    for (std::size_t i = 0; i < out.size(); ++i)
      if (out[i] < 0)
        throw CheckpointError(file_.name(), "",
                              "has " + std::to_string(out[i]) + " at " +
                                  std::to_string(begin + static_cast<Index>(i)) +
                                  ", a token is not negative");
  }

 private:
  NpyFile file_;
  Index size_ = 0;
};

}  // namespace ssm
