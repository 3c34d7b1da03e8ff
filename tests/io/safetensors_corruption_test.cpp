// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstdint>
#include <ssm/io/safetensors.hpp>
#include <string>
#include <string_view>

#include "support/temporary_folder.hpp"
#include "support/watched_heap.hpp"

using ssm::CheckpointError;
using ssm::SafetensorsFile;
using ssm::TemporaryFolder;

namespace {

std::string with_length(std::uint64_t length, std::string_view rest) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(length >> (8 * i));
  return file + std::string(rest);
}
std::string with_header(std::string_view header, std::size_t data_bytes = 8) {
  return with_length(header.size(), std::string(header) + std::string(data_bytes, '\1'));
}
/// A file with one tensor, 'a', of the given fields, and 8 bytes of data.
std::string tensor(const std::string& fields) { return with_header("{\"a\":{" + fields + "}}"); }
std::string offsets(const std::string& a, const std::string& b) {
  return with_header("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":" + a +
                     "},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":" + b + "}}");
}

const std::string good = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";

struct Corruption {
  const char* what;
  std::string file;
  const char* reason;  // a part of the message
};

const Corruption corruptions[] = {
    {"no bytes at all", "", "too short"},
    {"fewer bytes than the length takes", "1234567", "too short"},
    {"a length and nothing else", with_length(8, ""), "does not fit"},
    {"a length of all ones", with_length(~std::uint64_t{0}, good), "does not fit"},
    {"a length that wraps around with its prefix", with_length(~std::uint64_t{7}, good),
     "does not fit"},
    {"a length one beyond the file", with_length(3, "{}"), "does not fit"},
    {"a header of no bytes", with_length(0, ""), "not JSON"},
    {"a header cut in the middle", with_header("{\"a\":{\"dtype\":\"F3"), "not JSON"},
    {"bytes that are not JSON", with_header("\xff\xfe\x01\x02"), "not JSON"},
    {"text that is not UTF-8", with_header("{\"\xc3\x28\":{" + good + "}}"), "not JSON"},
    {"zeros for padding", with_header(std::string("{}\0\0", 4), 0), "zero byte"},
    {"two headers", with_header("{}{}", 0), "not JSON"},
    {"an array for a header", with_header("[]", 0), "an array"},
    {"a number for a header", with_header("7", 0), "a number"},
    {"a hundred thousand open brackets", with_header(std::string(100'000, '['), 0), "an array"},
    {"a hundred thousand open tensors", with_header([] {
       std::string nested;
       for (int i = 0; i < 100'000; ++i) nested += "{\"a\":";
       return nested;
     }()),
     "'a' is unknown"},
    {"a tensor that is null", with_header("{\"a\":null}"), "null"},
    {"a tensor that is a list", with_header("{\"a\":[1,2]}"), "an array"},
    {"a name twice", with_header("{\"a\":{" + good + "},\"a\":{" + good + "}}"), "occurs twice"},
    {"a field twice", tensor("\"dtype\":\"F32\"," + good), "occurs twice"},
    {"an unknown field", tensor(good + ",\"device\":\"cpu\""), "'device' is unknown"},
    {"no dtype", tensor(R"("shape":[2],"data_offsets":[0,8])"), "missing"},
    {"no shape", tensor(R"("dtype":"F32","data_offsets":[0,8])"), "missing"},
    {"no offsets", tensor(R"("dtype":"F32","shape":[2])"), "missing"},
    {"a number for a dtype", tensor(R"("dtype":32,"shape":[2],"data_offsets":[0,8])"), "a number"},
    {"a negative extent", tensor(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), "negative"},
    {"a fraction for an extent", tensor(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"),
     "a fraction"},
    {"an extent beyond 64 bits",
     tensor(R"("dtype":"F32","shape":[36893488147419103232],"data_offsets":[0,8])"), "a fraction"},
    {"an extent beyond an index",
     tensor(R"("dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8])"), "a number"},
    {"extents whose product wraps around to the right size",
     tensor(R"("dtype":"F32","shape":[4611686018427387904,4,2],"data_offsets":[0,8])"),
     "does not take"},
    {"extents whose bytes wrap around to the right size",
     tensor(R"("dtype":"F32","shape":[4611686018427387906],"data_offsets":[0,8])"),
     "does not take"},
    {"extents whose product wraps around beside a zero",
     with_header(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4,0],"data_offsets":[0,0]}})",
                 0),
     "does not take"},
    {"a hundred axes",
     tensor("\"dtype\":\"F32\",\"shape\":[1" +
            [] {
              std::string ones;
              for (int i = 0; i < 99; ++i) ones += ",1";
              return ones;
            }() +
            "],\"data_offsets\":[0,4]"),
     "a number"},
    {"a nested shape", tensor(R"("dtype":"F32","shape":[[2]],"data_offsets":[0,8])"), "an array"},
    {"one offset", tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), "two numbers"},
    {"three offsets", tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4,8])"), "a number"},
    {"offsets that run backwards", tensor(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"),
     "outside"},
    {"an offset beyond the file", tensor(R"("dtype":"F32","shape":[3],"data_offsets":[0,12])"),
     "outside"},
    {"an offset of all ones",
     tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615])"), "outside"},
    {"fewer bytes than the extents take",
     tensor(R"("dtype":"F64","shape":[2],"data_offsets":[0,8])"), "does not take"},
    {"a gap before the data", tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"),
     "begins at 4"},
    {"a gap between tensors", offsets("[0,2]", "[4,8]"), "does not take"},
    {"tensors that overlap", offsets("[0,4]", "[2,6]"), "begins at 2"},
    {"two tensors in one place", offsets("[0,4]", "[0,4]"), "begins at 0"},
    {"bytes after the last tensor", with_header("{\"a\":{" + good + "}}", 9), "9 bytes of data"},
    {"a byte of the last tensor missing", with_header("{\"a\":{" + good + "}}", 7), "outside"},
    {"data and no tensors", with_header("{}", 8), "8 bytes of data"},
    {"metadata that is not text", with_header(R"({"__metadata__":{"step":3}})", 0), "a number"},
    {"metadata within metadata", with_header(R"({"__metadata__":{"a":{"b":"c"}}})", 0),
     "an object"},
    {"metadata that is a text", with_header(R"({"__metadata__":"x"})", 0), "a string"},
    {"a metadata key twice", with_header(R"({"__metadata__":{"a":"1","a":"2"}})", 0),
     "occurs twice"},
};

}  // namespace

TEST_CASE(
    "every damage to a file is a CheckpointError that names the file and the reason, and costs "
    "little memory") {
  const TemporaryFolder folder;
  const std::string path = (folder / "x.safetensors").string();
  for (const Corruption& corruption : corruptions) {
    CAPTURE(std::string(corruption.what));
    ssm::write_text(path, corruption.file);
    std::string message;
    ssm::largest_allocation = 0;
    try {
      const SafetensorsFile file(path);
    } catch (const CheckpointError& error) {
      message = error.what();
    }
    CHECK(ssm::largest_allocation < (std::size_t{1} << 20) + corruption.file.size());
    CHECK_MESSAGE(message.starts_with(path + ": "), message);
    CHECK_MESSAGE(message.find(corruption.reason) != std::string::npos, message);
    CHECK(message.find('\n') == std::string::npos);
  }
}

TEST_CASE("the undamaged file of the table is read") {
  const TemporaryFolder folder;
  ssm::write_text(folder / "x", tensor(good));
  CHECK(SafetensorsFile(folder / "x").read<float, 1>("a").size() == 2);
  ssm::write_text(folder / "x", offsets("[4,8]", "[0,4]"));
  CHECK(SafetensorsFile(folder / "x").names() == std::vector<std::string>{"b", "a"});
  ssm::write_text(folder / "x", with_header("  {\"a\":{" + good + "}}  \n"));
  CHECK(SafetensorsFile(folder / "x").contains("a"));
}

TEST_CASE(
    "types that cannot be read are listed, give their bytes, and are refused only when read") {
  const TemporaryFolder folder;
  ssm::write_text(folder / "x", tensor(R"("dtype":"U8","shape":[2,4],"data_offsets":[0,8])"));
  const SafetensorsFile file(folder / "x");
  CHECK(file.dtype("a") == "U8");
  CHECK(file.bytes("a").size() == 8);
  CHECK_THROWS_AS((file.read<float, 2>("a")), CheckpointError);
  ssm::write_text(folder / "x", tensor(R"("dtype":"F4\n","shape":[16],"data_offsets":[0,8])"));
  CHECK_THROWS_WITH_AS(
      (SafetensorsFile(folder / "x").read<float, 1>("a")),
      ((folder / "x").string() + ": tensor 'a': is of type F4?, which is not supported").c_str(),
      CheckpointError);
}

TEST_CASE("long and unprintable names are cut and cleaned in messages") {
  const TemporaryFolder folder;
  const std::string name = std::string(100'000, 'n');
  ssm::write_text(folder / "x", with_header("{\"\\u001b[2J" + name + "\":{}}"));
  try {
    const SafetensorsFile file(folder / "x");
    FAIL("opened");
  } catch (const CheckpointError& error) {
    const std::string message = error.what();
    CHECK(message.size() < 400);
    CHECK(message.find('\x1b') == std::string::npos);
  }
}

TEST_CASE("a file that is cut after it was opened is an error when read, not a crash") {
  const TemporaryFolder folder;
  ssm::write_text(folder / "x", tensor(good));
  const SafetensorsFile file(folder / "x");
  std::filesystem::resize_file(folder / "x", 20);
  CHECK_THROWS_AS((file.read<float, 1>("a")), CheckpointError);
  CHECK_THROWS_AS(file.require_unchanged_size(), CheckpointError);
}

TEST_CASE("folders, devices and files that are not there are refused") {
  const TemporaryFolder folder;
  CHECK_THROWS_AS(SafetensorsFile(folder.path()), CheckpointError);
  CHECK_THROWS_AS(SafetensorsFile("/dev/zero"), CheckpointError);
  CHECK_THROWS_AS(SafetensorsFile(folder / "missing"), CheckpointError);
}
