// SPDX-License-Identifier: Apache-2.0
#pragma once

// Connections between processes: the calls of POSIX for them.
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace ssm::detail {

/// A connection, or a place where others connect to; closes it.
class Socket {
 public:
  using Time = std::chrono::milliseconds;

  Socket() = default;
  explicit Socket(int number) : number_(number) {}
  Socket(Socket&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Socket() {
    if (number_ >= 0) ::close(number_);
  }

  explicit operator bool() const { return number_ >= 0; }
  int number() const { return number_; }

  /// How long one call waits.
  void limit(Time time) const {
    const ::timeval value{.tv_sec = static_cast<::time_t>(time.count() / 1000),
                          .tv_usec = static_cast<::suseconds_t>(time.count() % 1000 * 1000)};
    ::setsockopt(number_, SOL_SOCKET, SO_RCVTIMEO, &value, sizeof(value));
    ::setsockopt(number_, SOL_SOCKET, SO_SNDTIMEO, &value, sizeof(value));
  }
  /// All of it, or false.
  bool send(std::span<const std::byte> bytes) const {
    while (!bytes.empty()) {
      const auto count = ::send(number_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return false;
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
    return true;
  }
  bool receive(std::span<std::byte> bytes) const {
    while (!bytes.empty()) {
      const auto count = ::recv(number_, bytes.data(), bytes.size(), 0);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return false;
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
    return true;
  }
  /// The next connection; none within that time.
  Socket accept(Time time) const {
    if (!is_ready(time)) return {};
    return Socket(::accept(number_, nullptr, nullptr));
  }
  /// Whether there is something to receive, or the other end has gone, within that time.
  bool is_ready(Time time) const {
    ::pollfd wanted{.fd = number_, .events = POLLIN, .revents = 0};
    return ::poll(&wanted, 1, static_cast<int>(time.count())) > 0;
  }

  /// Connects, or has others connect; none where it fails, and errno says why. A host with a name
  /// that is not this machine's is listened for on all its addresses.
  static Socket connect(const std::string& host, int port, Time time) {
    return open(host, port, [&](const Socket& socket, const ::addrinfo& address) {
      socket.limit(time);
      return ::connect(socket.number(), address.ai_addr, address.ai_addrlen) == 0;
    });
  }
  static Socket listen(const std::string& host, int port) {
    const auto begin = [](const Socket& socket, const ::addrinfo& address) {
      const int yes = 1;
      ::setsockopt(socket.number(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
      return ::bind(socket.number(), address.ai_addr, address.ai_addrlen) == 0 &&
             ::listen(socket.number(), SOMAXCONN) == 0;
    };
    Socket socket = open(host, port, begin);
    if (!socket && errno == EADDRNOTAVAIL) socket = open({}, port, begin);
    return socket;
  }

 private:
  template <class Begin>
  static Socket open(const std::string& host, int port, const Begin& begin) {
    ::addrinfo wanted{};
    wanted.ai_family = AF_UNSPEC;
    wanted.ai_socktype = SOCK_STREAM;
    wanted.ai_flags = host.empty() ? AI_PASSIVE | AI_NUMERICSERV : AI_NUMERICSERV;
    ::addrinfo* found = nullptr;
    const std::string service = std::to_string(port);
    if (::getaddrinfo(host.empty() ? nullptr : host.c_str(), service.c_str(), &wanted, &found) !=
        0) {
      errno = EHOSTUNREACH;
      return {};
    }
    const std::unique_ptr<::addrinfo, decltype(&::freeaddrinfo)> all(found, &::freeaddrinfo);
    for (const ::addrinfo* address = found; address != nullptr; address = address->ai_next) {
      Socket socket(
          ::socket(address->ai_family, address->ai_socktype | SOCK_CLOEXEC, address->ai_protocol));
      if (socket && begin(socket, *address)) return socket;
    }
    return {};
  }

  int number_ = -1;
};

}  // namespace ssm::detail
