// SPDX-License-Identifier: Apache-2.0
// A text is read as the number it is, to the bit, or is refused: never as another number.
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <ssm/io/number.hpp>
#include <string_view>

namespace {

/// The library's own reader as the oracle, which takes no plus sign.
template <class T>
void compare(std::string_view text) {
  const auto parsed = ssm::parse_whole_number<T>(text);
  std::string_view rest = text;
  if (rest.starts_with('+') && !rest.starts_with("+-")) rest.remove_prefix(1);
  T value{};
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
  const bool is_zero = rest.starts_with('-') && rest.find_first_not_of('0', 1) == rest.npos &&
                       rest.size() > 1;  // −0, which it does not read as an unsigned number
  const bool is_number =
      is_zero || (error == std::errc() && end == rest.data() + rest.size() && !rest.empty());
  if (bool{parsed} != is_number || (is_number && parsed.value != value)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  compare<std::uint64_t>(text);
  compare<std::int64_t>(text);
  compare<std::int8_t>(text);
  compare<std::uint16_t>(text);
  const auto number = ssm::parse_number(text, -1, 1e300);
  if (number && !(number.value >= -1 && number.value <= 1e300)) std::abort();
  return 0;
}
