// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the library asks of the operating system beyond the standard library: files at positions, in
// memory and locked, and threads that survive fork(). Every call of POSIX is in this header, and
// whoever brings the library to another system writes it anew. Layers on the Reference backend do
// without it. In plain C on purpose: other headers would take longer to compile than all else of a
// context.
#if !defined(__unix__) && !defined(__APPLE__)
#error The Cpu backend and ssm/io/ need POSIX; ssm/ssm.hpp and the Reference backend do not
#include "The Cpu backend and ssm/io/ need POSIX; ssm/ssm.hpp and the Reference backend do not"
#endif

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

/// Functions that fail leave the reason in errno. None is interrupted by a signal.
namespace ssm::platform {

/// An open file or folder; closes it. Children made by exec do not have it.
class File {
 public:
  File() = default;
  explicit File(int number) : number_(number) {}
  File(File&& other) noexcept : number_(other.number_) { other.number_ = -1; }
  File& operator=(File&& other) noexcept {
    const int number = number_;
    number_ = other.number_;
    other.number_ = number;
    return *this;
  }
  ~File() { close(); }

  int number() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }
  bool close() {
    const int number = number_;
    number_ = -1;
    return number < 0 || ::close(number) == 0;
  }

 private:
  int number_ = -1;
};

/// What a path leads to.
enum class FileKind { regular, folder, pipe, socket, null_device, other };
/// A kind, and the size in bytes of a regular file.
struct FileStatus {
  FileKind kind = FileKind::other;
  std::uint64_t size = 0;
};

namespace detail {
inline FileStatus status_of(const struct stat& status) {
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (S_ISREG(status.st_mode)) return {FileKind::regular, size};
  if (S_ISDIR(status.st_mode)) return {FileKind::folder, size};
  if (S_ISFIFO(status.st_mode)) return {FileKind::pipe, size};
  if (S_ISSOCK(status.st_mode)) return {FileKind::socket, size};
  struct stat null {};
  const bool is_null =
      S_ISCHR(status.st_mode) && ::stat("/dev/null", &null) == 0 && null.st_rdev == status.st_rdev;
  return {is_null ? FileKind::null_device : FileKind::other, size};
}
/// Calls until a signal does not interrupt it.
template <class Call>
auto uninterrupted(Call&& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}
}  // namespace detail

/// What an open file is.
inline bool examine(const File& file, FileStatus& result) {
  struct stat status {};
  if (::fstat(file.number(), &status) != 0) return false;
  result = detail::status_of(status);
  return true;
}
/// What a path leads to.
inline bool examine(const char* path, FileStatus& result) {
  struct stat status {};
  if (::stat(path, &status) != 0) return false;
  result = detail::status_of(status);
  return true;
}

/// For reading. Does not wait for the writer of a pipe.
inline File open_to_read(const char* path) {
  return File(::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
}
/// For reading. Waits for the writer of a pipe.
inline File open_and_wait(const char* path) {
  return File(detail::uninterrupted([&] { return ::open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY); }));
}
/// Standard input once more, for reading.
inline File open_standard_input() { return File(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0)); }
/// For writing; EEXIST where something is there.
inline File create(const char* path) {
  return File(::open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
}
/// For writing behind what is there.
inline File open_to_append(const char* path) {
  return File(::open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
}
/// A folder, to be flushed.
inline File open_folder(const char* path) {
  return File(::open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}
/// For reading and writing. `path` ends in XXXXXX, which a free name replaces; the file loses it at
/// once, and is gone when it is closed.
inline File create_unnamed(char* path) {
  File file(::mkstemp(path));
  if (file) {
    ::unlink(path);
    ::fcntl(file.number(), F_SETFD, FD_CLOEXEC);
  }
  return file;
}
/// Makes the file if it is not there. `is_taken`: another process has opened it in this way and
/// still has it, or had when it ended.
inline File open_locked(const char* path, bool& is_taken) {
  File file(::open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  is_taken = file && ::flock(file.number(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  return file;
}

/// How many bytes there were, 0 at the end, −1 after an error. Waits for a pipe.
inline std::ptrdiff_t read(const File& file, void* to, std::size_t bytes) {
  for (;;) {
    const auto count = detail::uninterrupted([&] { return ::read(file.number(), to, bytes); });
    if (count >= 0 || errno != EAGAIN) return count;
    struct pollfd wanted {
      file.number(), POLLIN, 0
    };
    ::poll(&wanted, 1, -1);
  }
}
/// The same from a byte on, wherever the file has been read to.
inline std::ptrdiff_t read_at(const File& file, std::uint64_t offset, void* to, std::size_t bytes) {
  return detail::uninterrupted(
      [&] { return ::pread(file.number(), to, bytes, static_cast<::off_t>(offset)); });
}
/// How many bytes were written, behind those before.
inline std::ptrdiff_t write(const File& file, const void* from, std::size_t bytes) {
  return detail::uninterrupted([&] { return ::write(file.number(), from, bytes); });
}
/// The same from a byte on.
inline std::ptrdiff_t write_at(const File& file, std::uint64_t offset, const void* from,
                               std::size_t bytes) {
  return detail::uninterrupted(
      [&] { return ::pwrite(file.number(), from, bytes, static_cast<::off_t>(offset)); });
}
/// Whether nothing has been read of it so far.
inline bool is_at_begin(const File& file) { return ::lseek(file.number(), 0, SEEK_CUR) == 0; }
/// What was written is on the disk when this returns.
inline bool flush(const File& file) { return ::fsync(file.number()) == 0; }
/// Names in a folder likewise. Some file systems have nothing to flush for one and say EINVAL.
inline bool flush_folder(const File& folder) { return flush(folder) || errno == EINVAL; }
/// Puts a file in the place of another in one step.
inline bool rename(const char* from, const char* to) { return ::rename(from, to) == 0; }
/// Removes the name of a file.
inline void remove(const char* path) { ::unlink(path); }

/// A file in memory, page by page as it is read; what is written stays in this process. nullptr
/// where it cannot be.
inline void* map(const File& file, std::size_t bytes) {
  void* const begin =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.number(), 0);
  return begin == MAP_FAILED ? nullptr : begin;
}
/// Gives back what `map` returned.
inline void unmap(void* begin, std::size_t bytes) { ::munmap(begin, bytes); }

/// Whether a person is there; 0 is standard input, 2 where errors are written to.
inline bool is_terminal(int number) { return ::isatty(number) == 1; }
/// The number of this process.
inline long process() { return ::getpid(); }

/// Nanoseconds since some moment; <chrono> takes long to compile.
inline std::int64_t now() {
  ::timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}
/// Processors that this process may run on.
[[gnu::cold]] inline int processors() {
#if defined(__linux__)
  ::cpu_set_t allowed;  // fails beyond 1024 processors, where the system's count serves
  if (::sched_getaffinity(0, sizeof(allowed), &allowed) == 0) return CPU_COUNT(&allowed);
#endif
  return static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
}
/// Offers the processor to other threads.
inline void yield() { ::sched_yield(); }

/// One thread has it at a time; <mutex> takes long to compile.
class Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;
  void lock() { ::pthread_mutex_lock(&mutex_); }
  void unlock() { ::pthread_mutex_unlock(&mutex_); }

 protected:
  ::pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
};
/// Has a mutex as long as it lives.
class Locked {
 public:
  explicit Locked(Mutex& mutex) : mutex_(mutex) { mutex_.lock(); }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;
  ~Locked() { mutex_.unlock(); }

 private:
  Mutex& mutex_;
};

/// One thread waits until another signals.
class Signal : public Mutex {
 public:
  void wait() { ::pthread_cond_wait(&woken_, &mutex_); }  // locked before and after
  void wake() { ::pthread_cond_signal(&woken_); }

 private:
  ::pthread_cond_t woken_ = PTHREAD_COND_INITIALIZER;
};

/// A thread that somebody joins.
class Thread {
 public:
  bool start(void* (*run)(void*), void* with) {
    return ::pthread_create(&thread_, nullptr, run, with) == 0;
  }
  void join() { ::pthread_join(thread_, nullptr); }

 private:
  ::pthread_t thread_{};
};

/// Threads that are started while this is there leave signals to those that were there before.
class WithoutSignals {
 public:
  WithoutSignals() {
    ::sigset_t all;
    sigfillset(&all);  // a macro on macOS
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  WithoutSignals(const WithoutSignals&) = delete;
  WithoutSignals& operator=(const WithoutSignals&) = delete;
  ~WithoutSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  ::sigset_t before_;
};

}  // namespace ssm::platform
