// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "ssm/io/file.hpp"

namespace ssm::detail {

/// A value of a pickle: what Python objects are made of, and nothing that runs.
struct PickleValue;
using Pickled = std::shared_ptr<PickleValue>;

struct PickleNone {};
/// The name of a function or class: "torch._utils._rebuild_tensor_v2".
struct PickleName {
  std::string name;
};
/// A function or class and its arguments, not called; and what was to be set in the result.
struct PickleCall {
  std::string name;
  Pickled arguments;
  std::vector<std::pair<Pickled, Pickled>> items;
};
/// What lies outside the pickle, by the tuple that stands for it.
struct PickleOutside {
  Pickled id;
};
struct PickleList {
  std::vector<Pickled> items;
  bool is_tuple = false;
};
struct PickleDict {
  std::vector<std::pair<Pickled, Pickled>> items;

  /// The value of a text key; null if there is none.
  const PickleValue* find(std::string_view key) const;
};
struct PickleValue {
  std::variant<PickleNone, bool, std::int64_t, double, std::string, PickleName, PickleCall,
               PickleOutside, PickleList, PickleDict>
      value;

  template <class T>
  const T* as() const {
    return std::get_if<T>(&value);
  }
};
inline const PickleValue* PickleDict::find(std::string_view key) const {
  for (const auto& [name, value] : items) {
    const auto* text = name->as<std::string>();
    if (text != nullptr && *text == key) return value.get();
  }
  return nullptr;
}

/// Reads a pickle without doing anything that it says: calls are kept as names and arguments, and
/// only such as make data. Protocols 2 to 5, as far as data need them.
/// Cost    O(bytes); nesting takes no stack
/// Throws  CheckpointError  for a pickle that is damaged, or wants to call anything else: by its
///                          name
/// Source  Python's pickletools
class PickleReader {
 public:
  /// `bytes` are borrowed; errors name `file`.
  PickleReader(std::span<const std::byte> bytes, const std::string& file)
      : bytes_(bytes), file_(file) {}
  ~PickleReader() {
    // A long chain of values must not be freed recursively: the owners let go of one another.
    for (const Pickled& value : made_) take_apart(*value);
  }
  PickleReader(const PickleReader&) = delete;
  PickleReader& operator=(const PickleReader&) = delete;

  /// One pickle; another may follow at `position`. The value lives as long as the reader.
  Pickled read() {
    stack_.clear();
    marks_.clear();
    memo_.clear();
    while (true) {
      const auto opcode = static_cast<unsigned char>(byte());
      if (opcode == '.') return pop();
      execute(opcode);
    }
  }
  std::size_t position() const { return position_; }

 private:
  [[noreturn]] void refuse(const std::string& reason) const {
    throw CheckpointError(file_, "", "pickle at byte " + std::to_string(position_) + " " + reason);
  }

  static void take_apart(PickleValue& value) {
    if (auto* list = std::get_if<PickleList>(&value.value)) list->items.clear();
    if (auto* dict = std::get_if<PickleDict>(&value.value)) dict->items.clear();
    if (auto* call = std::get_if<PickleCall>(&value.value)) {
      call->items.clear();
      call->arguments.reset();
    }
    if (auto* outside = std::get_if<PickleOutside>(&value.value)) outside->id.reset();
  }

  // Bytes.
  std::byte byte() { return take(1)[0]; }
  std::span<const std::byte> take(std::uint64_t count) {
    if (count > bytes_.size() - position_) refuse("is cut off");
    const auto part = bytes_.subspan(position_, static_cast<std::size_t>(count));
    position_ += part.size();
    return part;
  }
  std::uint64_t number(std::size_t width) {
    const auto part = take(width);
    std::uint64_t result = 0;
    for (std::size_t i = 0; i < width; ++i)
      result |= std::to_integer<std::uint64_t>(part[i]) << (8 * i);
    return result;
  }
  std::string text(std::uint64_t size) {
    const auto part = take(size);
    return {reinterpret_cast<const char*>(part.data()), part.size()};
  }
  std::string line() {
    std::size_t end = position_;
    while (end < bytes_.size() && bytes_[end] != std::byte{'\n'}) ++end;
    if (end == bytes_.size()) refuse("is cut off");
    std::string result = text(end - position_);
    ++position_;
    return result;
  }
  /// Two's complement, little-endian; what does not fit 64 bits is kept as a name of its length.
  Pickled long_integer(std::uint64_t size) {
    const auto part = take(size);
    if (size > 8) return make(PickleName{"an integer of " + std::to_string(size) + " bytes"});
    std::uint64_t result = 0;
    for (std::size_t i = 0; i < part.size(); ++i)
      result |= std::to_integer<std::uint64_t>(part[i]) << (8 * i);
    if (size > 0 && size < 8 && (std::to_integer<unsigned>(part[part.size() - 1]) & 0x80U) != 0)
      result |= ~std::uint64_t{0} << (8 * size);
    return make(static_cast<std::int64_t>(result));
  }

  // Values.
  template <class V>
  Pickled make(V value) {
    made_.push_back(std::make_shared<PickleValue>(PickleValue{std::move(value)}));
    return made_.back();
  }
  void push(Pickled value) { stack_.push_back(std::move(value)); }
  template <class V>
  void push_new(V value) {
    push(make(std::move(value)));
  }
  Pickled pop() {
    if (stack_.empty() || (!marks_.empty() && stack_.size() <= marks_.back()))
      refuse("takes more than it has");
    Pickled value = std::move(stack_.back());
    stack_.pop_back();
    return value;
  }
  const Pickled& top() const {
    if (stack_.empty() || (!marks_.empty() && stack_.size() <= marks_.back()))
      refuse("takes more than it has");
    return stack_.back();
  }
  std::vector<Pickled> pop_to_mark() {
    if (marks_.empty()) refuse("has no mark");
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<Pickled> items(std::make_move_iterator(begin),
                               std::make_move_iterator(stack_.end()));
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return items;
  }
  void push_tuple(std::size_t count) {
    std::vector<Pickled> items(count);
    for (std::size_t i = count; i-- > 0;) items[i] = pop();
    push_new(PickleList{std::move(items), true});
  }
  void remember(std::uint64_t place) { memo_[place] = top(); }
  void recall(std::uint64_t place) {
    const auto found = memo_.find(place);
    if (found == memo_.end()) refuse("asks for a value that it has not remembered");
    push(found->second);
  }
  void append(const std::vector<Pickled>& items) {
    PickleValue& to = *top();
    if (auto* list = std::get_if<PickleList>(&to.value); list != nullptr && !list->is_tuple)
      list->items.insert(list->items.end(), items.begin(), items.end());
    else if (!std::holds_alternative<PickleCall>(to.value))
      refuse("appends to what is no list");
  }
  void set_items(const std::vector<Pickled>& items) {
    if (items.size() % 2 != 0) refuse("sets a key without a value");
    PickleValue& to = *top();
    auto* dict = std::get_if<PickleDict>(&to.value);
    auto* call = std::get_if<PickleCall>(&to.value);
    if (dict == nullptr && call == nullptr) refuse("sets items of what is no dictionary");
    auto& target = dict != nullptr ? dict->items : call->items;
    for (std::size_t i = 0; i < items.size(); i += 2) target.emplace_back(items[i], items[i + 1]);
  }

  /// Where data come from that people save beside tensors; nothing of it is ever called. Anything
  /// else is refused by its name.
  void require_data(const std::string& name) const {
    static constexpr std::array<std::string_view, 16> packages{"torch.",
                                                               "collections.",
                                                               "numpy.",
                                                               "argparse.Namespace",
                                                               "pathlib.",
                                                               "datetime.",
                                                               "omegaconf.",
                                                               "typing.",
                                                               "lightning",
                                                               "pytorch_lightning.",
                                                               "_codecs.encode",
                                                               "builtins.set",
                                                               "builtins.frozenset",
                                                               "builtins.slice",
                                                               "__builtin__.set",
                                                               "copyreg._reconstructor"};
    for (const std::string_view package : packages)
      if (name.starts_with(package)) return;
    refuse("wants to call '" + printable(name) + "'; files are data here, and nothing is run");
  }
  const std::string& name_of(const Pickled& value) const {
    const auto* name = value->as<PickleName>();
    if (name == nullptr) refuse("calls what is no function");
    return name->name;
  }
  void call() {
    Pickled arguments = pop();
    const Pickled function = pop();
    const std::string& name = name_of(function);
    require_data(name);
    // The only calls whose result is a value of Python itself.
    if (name == "collections.OrderedDict")
      push_new(PickleDict{});
    else
      push_new(PickleCall{name, std::move(arguments), {}});
  }
  /// What `BUILD` would set is kept beside the value: nothing reads it but to find tensors.
  void build() {
    const Pickled state = pop();
    PickleValue& to = *top();
    if (auto* call = std::get_if<PickleCall>(&to.value))
      call->items.emplace_back(make(std::string("__state__")), state);
  }

  void execute(unsigned char opcode) {
    switch (opcode) {
      case 0x80: {  // PROTO
        const std::uint64_t protocol = number(1);
        if (protocol < 2 || protocol > 5)
          refuse("is of protocol " + std::to_string(protocol) + ", known are 2 to 5");
        return;
      }
      case 0x95:  // FRAME
        number(8);
        return;
      case '(':
        marks_.push_back(stack_.size());
        return;
      case '0':
        pop();
        return;
      case '1':
        pop_to_mark();
        return;
      case '2':
        push(top());
        return;
      case 'N':
        return push_new(PickleNone{});
      case 0x88:
        return push_new(true);
      case 0x89:
        return push_new(false);
      case 'J':
        return push_new(std::int64_t{static_cast<std::int32_t>(number(4))});
      case 'K':
        return push_new(static_cast<std::int64_t>(number(1)));
      case 'M':
        return push_new(static_cast<std::int64_t>(number(2)));
      case 0x8a:
        return push(long_integer(number(1)));
      case 0x8b:
        return push(long_integer(number(4)));
      case 'G': {  // BINFLOAT, big-endian
        const auto part = take(8);
        std::uint64_t bits = 0;
        for (const std::byte b : part) bits = bits << 8 | std::to_integer<std::uint64_t>(b);
        return push_new(std::bit_cast<double>(bits));
      }
      case 0x8c:
      case 'U':
      case 'C':
        return push_new(text(number(1)));
      case 'X':
      case 'T':
      case 'B':
        return push_new(text(number(4)));
      case 0x8d:
      case 0x8e:
      case 0x96:
        return push_new(text(number(8)));
      case ']':
        return push_new(PickleList{});
      case '}':
        return push_new(PickleDict{});
      case 0x8f:  // EMPTY_SET
        return push_new(PickleList{});
      case ')':
        return push_new(PickleList{{}, true});
      case 't':
        return push_new(PickleList{pop_to_mark(), true});
      case 0x85:
        return push_tuple(1);
      case 0x86:
        return push_tuple(2);
      case 0x87:
        return push_tuple(3);
      case 'l':
      case 0x91:  // LIST, FROZENSET
        return push_new(PickleList{pop_to_mark()});
      case 'd': {  // DICT
        const auto items = pop_to_mark();
        push_new(PickleDict{});
        return set_items(items);
      }
      case 'a': {
        const std::vector<Pickled> items{pop()};
        return append(items);
      }
      case 'e':
      case 0x90: {  // APPENDS, ADDITEMS
        const auto items = pop_to_mark();
        return append(items);
      }
      case 's': {
        Pickled value = pop(), key = pop();
        return set_items({std::move(key), std::move(value)});
      }
      case 'u': {
        const auto items = pop_to_mark();
        return set_items(items);
      }
      case 'q':
        return remember(number(1));
      case 'r':
        return remember(number(4));
      case 0x94:  // MEMOIZE
        return remember(memo_.size());
      case 'h':
        return recall(number(1));
      case 'j':
        return recall(number(4));
      case 'c': {  // GLOBAL
        const std::string module = line();
        return push_new(PickleName{module + "." + line()});
      }
      case 0x93: {  // STACK_GLOBAL
        const Pickled name = pop(), module = pop();
        const auto* n = name->as<std::string>();
        const auto* m = module->as<std::string>();
        if (n == nullptr || m == nullptr) refuse("names a function by what is no text");
        return push_new(PickleName{*m + "." + *n});
      }
      case 'R':   // REDUCE
      case 0x81:  // NEWOBJ
        return call();
      case 0x92: {  // NEWOBJ_EX
        pop();      // arguments by name
        return call();
      }
      case 'b':
        return build();
      case 'Q':
        return push_new(PickleOutside{pop()});
      default:
        refuse("has the operation " + std::to_string(opcode) + ", which data do not need");
    }
  }

  std::span<const std::byte> bytes_;
  const std::string& file_;
  std::size_t position_ = 0;
  std::vector<Pickled> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint64_t, Pickled> memo_;
  std::vector<Pickled> made_;
};

}  // namespace ssm::detail
