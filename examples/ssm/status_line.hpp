// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <iostream>
#include <string>

#include "ssm/platform.hpp"

namespace ssm::cli {

/// What goes on, on standard error: one line that is rewritten on a terminal, now and then a line
/// of its own elsewhere.
class StatusLine {
  using Clock = std::chrono::steady_clock;

 public:
  explicit StatusLine(bool quiet) : quiet_(quiet), is_terminal_(platform::is_terminal(2)) {}
  ~StatusLine() { clear(); }
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;

  /// True when enough time has passed for `show` to be worth calling.
  bool is_due() const {
    return !quiet_ && Clock::now() - shown_ >= (is_terminal_ ? std::chrono::milliseconds(200)
                                                             : std::chrono::milliseconds(10000));
  }
  void show(const std::string& text) {
    shown_ = Clock::now();
    if (quiet_) return;
    std::cerr << (is_terminal_ ? "\r" + text + "\x1b[K" : text + "\n") << std::flush;
    has_line_ = is_terminal_;
  }
  /// What is shown on a terminal alone, where it goes away.
  void hint(const std::string& text) {
    if (is_terminal_) show(text);
  }
  /// A line that stays.
  void say(const std::string& text) {
    clear();
    if (!quiet_) std::cerr << text << std::endl;
  }

 private:
  void clear() {
    if (has_line_) std::cerr << "\r\x1b[K" << std::flush;
    has_line_ = false;
  }

  bool quiet_;
  bool is_terminal_;
  bool has_line_ = false;
  Clock::time_point shown_ = Clock::now();
};

}  // namespace ssm::cli
