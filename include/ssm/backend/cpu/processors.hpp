// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace ssm::cpu {

namespace detail {

/// Processors' worth of time that a control group of Linux and those around it may use; infinite without a limit.
///   root    where control groups are mounted, /sys/fs/cgroup
///   path    the group's, as in /proc/self/cgroup: "/", "/a/b"
/// Version 2 has the limit and its period in `cpu.max`, version 1 in two files.
inline double control_group_limit(const std::string& root, std::string path) {
  constexpr double unlimited = std::numeric_limits<double>::infinity();
  const auto limit_at = [&](const std::string& folder) {
    double quota = 0, period = 0;
    if (std::ifstream file(folder + "/cpu.max"); file >> quota >> period) {
    } else if (std::ifstream v1_quota(folder + "/cpu.cfs_quota_us"),
               v1_period(folder + "/cpu.cfs_period_us");
               !(v1_quota >> quota && v1_period >> period)) {
      return unlimited;
    }
    return quota > 0 && period > 0 ? quota / period : unlimited;
  };
  double limit = unlimited;
  for (;;) {
    while (path.ends_with('/')) path.pop_back();
    limit = std::min(limit, limit_at(root + path));
    if (path.empty()) return limit;
    path.erase(path.rfind('/'));
  }
}

/// The limit of the group this process is in, whichever version the system has.
inline double control_group_limit() {
  double limit = std::numeric_limits<double>::infinity();
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // "0::/path" or "4:cpu,cpuacct:/path"
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos || line.compare(second + 1, 1, "/") != 0) continue;
    const std::string path = line.substr(second + 1);
    std::string_view controllers(line.data() + first + 1, second - first - 1);
    if (controllers.empty()) limit = std::min(limit, control_group_limit("/sys/fs/cgroup", path));
    while (!controllers.empty()) {
      const std::string_view controller = controllers.substr(0, controllers.find(','));
      if (controller == "cpu")
        limit = std::min(limit, control_group_limit("/sys/fs/cgroup/cpu", path));
      controllers.remove_prefix(std::min(controllers.size(), controller.size() + 1));
    }
  }
  return limit;
}

/// The first number of OMP_NUM_THREADS ("4", "4,2"); 0 where it is not set or is not a number.
inline int wanted_threads(const char* variable) {
  int count = 0;
  if (variable == nullptr) return 0;
  const std::string_view text(variable);
  std::from_chars(text.data(), text.data() + text.size(), count);
  return std::max(count, 0);
}

}  // namespace detail

/// Threads a context starts with: as many as there are processors that this process may run on (its affinity) and has time on
/// (its control group's limit, rounded up), and no more than OMP_NUM_THREADS says. At least one.
inline int default_thread_count() {
  int count = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
#if defined(__linux__)
  cpu_set_t allowed;  // fails beyond 1024 processors, where the standard library's answer serves
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) count = CPU_COUNT(&allowed);
  const double limit = detail::control_group_limit();
  if (limit < count) count = static_cast<int>(std::ceil(limit));
#endif
  if (const int wanted = detail::wanted_threads(std::getenv("OMP_NUM_THREADS")); wanted > 0)
    count = std::min(count, wanted);
  return std::max(count, 1);
}

}  // namespace ssm::cpu
