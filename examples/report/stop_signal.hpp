// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <csignal>
#include <cstddef>

namespace ssm::cli {

/// While it lives, the first SIGINT, SIGTERM or SIGHUP only asks to stop; the second one ends the
/// process.
class StopSignal {
 public:
  StopSignal() {
    received_ = 0;
    struct sigaction action {};
    action.sa_handler = [](int number) { received_ = number; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    for (std::size_t i = 0; i < count; ++i) {
      ::sigaction(numbers[i], &action, &before_[i]);
      // What is ignored stays ignored: nohup.
      if (before_[i].sa_handler == SIG_IGN) ::sigaction(numbers[i], &before_[i], nullptr);
    }
  }
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;
  ~StopSignal() {
    for (std::size_t i = 0; i < count; ++i) ::sigaction(numbers[i], &before_[i], nullptr);
  }

  bool is_received() const { return received_ != 0; }

 private:
  static constexpr std::size_t count = 3;
  static constexpr int numbers[count] = {SIGINT, SIGTERM, SIGHUP};
  static inline volatile std::sig_atomic_t received_ = 0;
  struct sigaction before_[count];
};

}  // namespace ssm::cli
