// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "ssm/platform.hpp"

// Plain C on purpose: streams and strings would take longer to compile than all else of a context.
namespace ssm::cpu {

namespace detail {

inline constexpr std::size_t path_size = 4096;

/// The two numbers in a file, or in one file each, divided; infinite without both.
[[gnu::cold]] inline double ratio_in_files(const char* folder, const char* first,
                                           const char* second = nullptr) {
  double numbers[2] = {0, 0};
  int count = 0;
  for (const char* name : {first, second}) {
    if (name == nullptr) continue;
    char path[path_size];
    std::snprintf(path, sizeof(path), "%s/%s", folder, name);
    std::FILE* const file = std::fopen(path, "r");
    if (file == nullptr) continue;
    while (count < 2 && std::fscanf(file, "%lf", &numbers[count]) == 1) ++count;
    std::fclose(file);
  }
  return count == 2 && numbers[0] > 0 && numbers[1] > 0 ? numbers[0] / numbers[1] : HUGE_VAL;
}

/// Processors' worth of time that a control group of Linux and those around it may use; infinite
/// without a limit.
///   root    where control groups are mounted, /sys/fs/cgroup
///   path    the group's, as in /proc/self/cgroup: "/", "/a/b"
/// Version 2 has the limit and its period in `cpu.max`, version 1 in two files.
[[gnu::cold]] inline double control_group_limit(const char* root, const char* path) {
  char folder[path_size];
  std::snprintf(folder, sizeof(folder), "%s%s", root, path);
  const std::size_t shortest = std::strlen(root);
  double limit = HUGE_VAL;
  for (std::size_t length = std::strlen(folder);; --length) {
    while (length > shortest && folder[length - 1] == '/') --length;
    folder[length] = '\0';
    limit = std::min({limit, ratio_in_files(folder, "cpu.max"),
                      ratio_in_files(folder, "cpu.cfs_quota_us", "cpu.cfs_period_us")});
    while (length > shortest && folder[length - 1] != '/') --length;
    if (length <= shortest) return limit;
  }
}

/// The limit of the group this process is in, whichever version the system has.
[[gnu::cold]] inline double control_group_limit() {
  double limit = HUGE_VAL;
  std::FILE* const groups = std::fopen("/proc/self/cgroup", "r");
  if (groups == nullptr) return limit;
  char line[path_size];
  while (std::fgets(line, sizeof(line), groups) != nullptr) {  // "0::/path", "4:cpu,cpuacct:/path"
    line[std::strcspn(line, "\n")] = '\0';
    char* const controllers = std::strchr(line, ':');
    char* const path = controllers == nullptr ? nullptr : std::strchr(controllers + 1, ':');
    if (path == nullptr || path[1] != '/') continue;
    *path = ',';  // so that each controller is between a mark and a comma
    *controllers = ',';
    if (path == controllers + 1)
      limit = std::min(limit, control_group_limit("/sys/fs/cgroup", path + 1));
    else if (const char* cpu = std::strstr(controllers, ",cpu,"); cpu != nullptr && cpu < path)
      limit = std::min(limit, control_group_limit("/sys/fs/cgroup/cpu", path + 1));
  }
  std::fclose(groups);
  return limit;
}

/// The first number of OMP_NUM_THREADS ("4", "4,2"); 0 where it is not set or is not a number.
[[gnu::cold]] inline int wanted_threads(const char* variable) {
  if (variable == nullptr || *variable < '0' || *variable > '9') return 0;
  const long count = std::strtol(variable, nullptr, 10);
  return count <= INT_MAX ? static_cast<int>(count) : 0;
}

}  // namespace detail

/// Threads a context starts with: as many as there are processors that this process may run on (its
/// affinity) and has time on (its control group's limit, rounded up), and no more than
/// OMP_NUM_THREADS says. At least one.
[[gnu::cold]] inline int default_thread_count() {
  int count = std::max(1, platform::processors());
  const double limit = detail::control_group_limit();  // none where Linux does not have its files
  if (limit < count) count = static_cast<int>(std::ceil(limit));
  if (const int wanted = detail::wanted_threads(std::getenv("OMP_NUM_THREADS")); wanted > 0)
    count = std::min(count, wanted);
  return std::max(count, 1);
}

}  // namespace ssm::cpu
