// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <filesystem>
#include <string>
#include <type_traits>
#include <utility>

#include "ssm/core/transfer.hpp"
#include "ssm/io/checkpoint.hpp"

namespace ssm {

/// Saves what an AdamW optimizer remembers, so that training continues bit for bit, and a loss
/// scale that changes.
/// Throws  CheckpointError
template <class Optimizer>
void save_optimizer(const std::filesystem::path& path, const Optimizer& optimizer) {
  SafetensorsWriter writer(path);
  writer.metadata("format", "ssm-adamw-1");
  writer.metadata("step", std::to_string(optimizer.step()));
  const auto& scale = optimizer.loss_scale();
  if (scale.is_dynamic()) {
    writer.metadata("loss_scale", std::to_string(static_cast<Index>(scale.value())));
    writer.metadata("loss_scale_age", std::to_string(scale.age()));
  }
  save_parameters(writer, optimizer.first_moment(), "first_moment.");
  save_parameters(writer, optimizer.second_moment(), "second_moment.");
  writer.finish();
}

/// Throws  CheckpointError  if the file is damaged or of another model
template <class Optimizer>
void load_optimizer(const std::filesystem::path& path, Optimizer& optimizer) {
  const SafetensorsFile file(path);
  const auto field = [&](const char* name) {
    const auto found = file.metadata().find(name);
    return found == file.metadata().end() ? std::string() : found->second;
  };
  if (field("format") != "ssm-adamw-1")
    throw CheckpointError(path.string(), "", "is not the state of an AdamW optimizer");
  const auto count = [&](const char* name) -> Index {
    const std::string text = field(name);
    Index number = -1;
    std::from_chars(text.data(), text.data() + text.size(), number);
    return std::to_string(number) == text ? number : -1;
  };
  const Index step = count("step");
  if (step < 0) throw CheckpointError(path.string(), "", "has no valid number of steps");
  auto& scale = optimizer.loss_scale();
  if (scale.is_dynamic()) {
    const Index value = count("loss_scale"), age = count("loss_scale_age");
    if (value < 1 || static_cast<double>(value) > scale.largest || age < 0)
      throw CheckpointError(path.string(), "", "has no valid loss scale");
    scale.restore(static_cast<double>(value), age);
  }
  load_parameters(file, optimizer.first_moment(), "first_moment.");
  load_parameters(file, optimizer.second_moment(), "second_moment.");
  optimizer.set_step(step);
}

namespace detail {

/// What files are written from and read into, where the optimizer lives on a device or ranks share
/// its moments.
template <class Optimizer>
class OptimizerOnHost {
  using P = std::remove_cvref_t<decltype(std::declval<Optimizer&>().first_moment())>;
  using L = typename P::Layer;
  using Scale = std::remove_cvref_t<decltype(std::declval<Optimizer&>().loss_scale())>;

 public:
  using HostParameters = typename L::template Parameters<typename P::Scalar>;
  /// Moments that are shared are zero at first.
  OptimizerOnHost(const L& layer, const Optimizer& optimizer)
      : step_(optimizer.step()), scale_(optimizer.loss_scale()) {
    const Context<HostMemory> host;
    if (optimizer.shard()) {
      first_ = layer.template zero_parameters<typename P::Scalar>(host);
      second_ = layer.template zero_parameters<typename P::Scalar>(host);
    } else {
      first_ = copy_to(host, layer, optimizer.first_moment());
      second_ = copy_to(host, layer, optimizer.second_moment());
    }
  }

  HostParameters& first_moment() { return first_; }
  HostParameters& second_moment() { return second_; }
  const HostParameters& first_moment() const { return first_; }
  const HostParameters& second_moment() const { return second_; }
  Index step() const { return step_; }
  void set_step(Index step) { step_ = step; }
  Scale& loss_scale() { return scale_; }
  const Scale& loss_scale() const { return scale_; }

 private:
  HostParameters first_, second_;
  Index step_;
  Scale scale_;
};

template <class Optimizer>
inline constexpr bool is_optimizer_on_host =
    std::remove_cvref_t<decltype(std::declval<Optimizer&>().first_moment())>::Space::host_readable;

}  // namespace detail

/// The same for an optimizer in any memory, of parameters of this layer. Where ranks share its
/// moments all of them call it, and the first one alone writes.
template <class L, class Optimizer>
void save_optimizer(const std::filesystem::path& path, const L& layer, const Optimizer& optimizer) {
  if (const auto& shard = optimizer.shard()) {
    using Whole = detail::OptimizerOnHost<Optimizer>;
    if (!shard->is_first())
      return shard->template gather<typename Whole::HostParameters>(nullptr, nullptr);
    Whole whole(layer, optimizer);
    shard->gather(&whole.first_moment(), &whole.second_moment());
    save_optimizer(path, whole);
  } else if constexpr (detail::is_optimizer_on_host<Optimizer>) {
    save_optimizer(path, optimizer);
  } else {
    save_optimizer(path, detail::OptimizerOnHost<Optimizer>(layer, optimizer));
  }
}
template <class L, class Optimizer>
void load_optimizer(const std::filesystem::path& path, const L& layer, Optimizer& optimizer) {
  const auto through_host = [&](const auto& take) {
    detail::OptimizerOnHost<Optimizer> copy(layer, optimizer);
    load_optimizer(path, copy);
    take(copy);
    optimizer.set_step(copy.step());
    optimizer.loss_scale() = copy.loss_scale();
  };
  if (auto& shard = optimizer.shard())
    through_host([&](const auto& copy) { shard->take(copy.first_moment(), copy.second_moment()); });
  else if constexpr (detail::is_optimizer_on_host<Optimizer>)
    load_optimizer(path, optimizer);
  else
    through_host([&](const auto& copy) {
      copy_parameters(copy.first_moment(), optimizer.first_moment());
      copy_parameters(copy.second_moment(), optimizer.second_moment());
    });
}

}  // namespace ssm
