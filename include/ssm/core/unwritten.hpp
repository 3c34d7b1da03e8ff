// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ssm {

/// Tensors that count as zero although nobody has written them: what is added first may overwrite
/// them instead. A backward pass so spares setting gradients to zero and reading them again.
class UnwrittenTensors {
 public:
  struct Part {
    void* data = nullptr;
    std::size_t bytes = 0;
    std::uintptr_t begin() const { return reinterpret_cast<std::uintptr_t>(data); }
    std::uintptr_t end() const { return begin() + bytes; }
  };

  void add(void* data, std::size_t bytes) {
    if (bytes > 0) parts_.push_back({data, bytes});
  }
  bool empty() const { return parts_.empty(); }

  /// Where memory is exactly that of some of them, they are no longer here, and true is returned:
  /// the caller overwrites all of it.
  bool take(const Part& memory) {
    std::size_t inside = 0;
    for (const Part& part : parts_)
      if (memory.begin() <= part.begin() && part.end() <= memory.end()) inside += part.bytes;
    if (inside == 0 || inside != memory.bytes) return false;
    std::erase_if(parts_, [&](const Part& part) { return meet(part, memory); });
    return true;
  }
  /// Calls zero(part) for those that share memory with this, which are no longer here.
  template <class Zero>
  void settle(const Part& memory, const Zero& zero) {
    for (const Part& part : parts_)
      if (meet(part, memory)) zero(part);
    std::erase_if(parts_, [&](const Part& part) { return meet(part, memory); });
  }
  /// Likewise, for all.
  template <class Zero>
  void settle(const Zero& zero) {
    for (const Part& part : parts_) zero(part);
    parts_.clear();
  }

 private:
  static bool meet(const Part& a, const Part& b) {
    return a.begin() < b.end() && b.begin() < a.end();
  }

  std::vector<Part> parts_;
};

}  // namespace ssm
