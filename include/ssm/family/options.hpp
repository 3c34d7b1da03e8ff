// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <charconv>
#include <locale>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "ssm/core/error.hpp"
#include "ssm/layer/dense_fusion.hpp"

namespace ssm {

/// Sizes and settings of a fresh model by name, as text: {"width", "128"}, {"attention-layers",
/// "1,3"}.
using ModelOptions = std::map<std::string, std::string>;

/// One setting that a family has, for help texts.
struct ModelOption {
  std::string name;  // "width"
  std::string
      form;  // what its text looks like: "N", "NUMBER", "N,…", "yes|no", or the words it may be
  std::string standard;  // the text of its value when nothing is said
  std::string help;
};

/// A setting that does not exist, does not fit, or would do nothing: a mistake of whoever asks for
/// it. Messages begin with "--name".
struct OptionError : ArgumentError {
  OptionError(std::string_view name, const std::string& what)
      : ArgumentError("--" + std::string(name) + ": " + what) {}
};

namespace detail {

[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_option(std::string_view name,
                                                                 std::string_view text,
                                                                 std::string_view why) {
  throw OptionError(name, "'" + std::string(text) + "' " + std::string(why));
}

inline void require_at_least_one(Index value, std::string_view name) {
  if (value < 1) throw OptionError(name, "must be at least 1");
}

inline void require_dropout(double value, std::string_view name) {
  if (!(value >= 0 && value < 1)) throw OptionError(name, "must be at least 0 and less than 1");
}

// How each type of setting is read from text, written as text, and described.

inline void read_option(std::string_view name, std::string_view text, Index& value) {
  constexpr Index largest = Index{1} << 30;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool is_whole = end == text.data() + text.size() && error != std::errc::invalid_argument;
  if (!is_whole) refuse_option(name, text, "is no whole number");
  if (error != std::errc() || value < 0 || value > largest)
    refuse_option(name, text, "is not between 0 and " + std::to_string(largest));
}
inline void read_option(std::string_view name, std::string_view text, double& value) {
  std::istringstream stream{std::string(text)};
  stream.imbue(std::locale::classic());
  if (!(stream >> value) || !stream.eof()) refuse_option(name, text, "is no number");
  if (!(value >= 0 && value <= 1e6)) refuse_option(name, text, "is not between 0 and 1e6");
}
inline void read_option(std::string_view name, std::string_view text, bool& value) {
  if (text != "yes" && text != "no") refuse_option(name, text, "is neither yes nor no");
  value = text == "yes";
}
inline void read_option(std::string_view name, std::string_view text, std::vector<Index>& value) {
  value.clear();
  while (!text.empty()) {
    const std::string_view entry = text.substr(0, text.find(','));
    read_option(name, entry, value.emplace_back());
    text.remove_prefix(std::min(entry.size() + 1, text.size()));
  }
}
inline std::string_view name_of(DenseFusion fusion) {
  return fusion == DenseFusion::readout ? "readout" : "carried";
}
inline void read_option(std::string_view name, std::string_view text, DenseFusion& value) {
  if (text != "readout" && text != "carried")
    refuse_option(name, text, "is neither readout nor carried");
  value = text == "readout" ? DenseFusion::readout : DenseFusion::carried;
}

inline std::string option_text(Index value) { return std::to_string(value); }
inline std::string option_text(double value) {
  std::ostringstream stream;
  stream.imbue(std::locale::classic());
  stream << value;
  return stream.str();
}
inline std::string option_text(bool value) { return value ? "yes" : "no"; }
inline std::string option_text(const std::vector<Index>& value) {
  std::string text;
  for (const Index entry : value) text += (text.empty() ? "" : ",") + std::to_string(entry);
  return text.empty() ? "none" : text;
}
inline std::string option_text(DenseFusion value) { return std::string(name_of(value)); }

inline std::string option_form(Index) { return "N"; }
inline std::string option_form(double) { return "NUMBER"; }
inline std::string option_form(bool) { return "yes|no"; }
inline std::string option_form(const std::vector<Index>&) { return "N,…"; }
inline std::string option_form(DenseFusion) { return "readout|carried"; }

}  // namespace detail

/// Changes a config by options of its family, then what follows from them.
/// Throws  OptionError  for an option that the family does not have, and for texts and sizes that
///                      do not fit
template <class Family>
typename Family::Config with_options(typename Family::Config config, const ModelOptions& given) {
  for (const auto& entry : given) {
    const std::string &name = entry.first, &text = entry.second;  // a lambda can hold these
    bool known = false;
    Family::for_each_option(config, [&](std::string_view option, auto& value, const char*) {
      if (option != name) return;
      detail::read_option(name, text, value);
      known = true;
    });
    if (!known)
      throw OptionError(
          name, "models of the family " + std::string(Family::name) + " have no such setting");
  }
  Family::derive(config, given);
  return config;
}

/// The first of some options that a config does not have already.
template <class Family>
std::optional<std::string> changed_option(const typename Family::Config& config,
                                          const ModelOptions& given) {
  const auto as_it_is = Family::write(config);
  for (const auto& option : given)
    if (Family::write(with_options<Family>(config, {option})) != as_it_is) return option.first;
  return std::nullopt;
}

/// The settings of a family, with what they are when nothing is said. 0 stands for what follows
/// from other settings.
template <class Family>
std::vector<ModelOption> options_of() {
  std::vector<ModelOption> options;
  typename Family::Config config = Family::standard();
  Family::for_each_option(config, [&](const char* name, auto& value, const char* help) {
    options.push_back({.name = name,
                       .form = detail::option_form(value),
                       .standard = detail::option_text(value),
                       .help = help});
  });
  return options;
}

}  // namespace ssm
