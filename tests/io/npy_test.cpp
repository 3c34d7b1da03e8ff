// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <ssm/core/compare.hpp>
#include <ssm/core/fill_random.hpp>
#include <ssm/io/npy.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/temporary_folder.hpp"
#include "support/watched_heap.hpp"

using ssm::CheckpointError;
using ssm::DynamicTensor;
using ssm::Extents;
using ssm::Float16;
using ssm::Index;
using ssm::NpyFile;
using ssm::read_npy;
using ssm::Seed;
using ssm::TemporaryFolder;
using ssm::write_npy;

namespace {

/// A file of the given version, header text and data.
std::string npy(int version, const std::string& header, std::string_view data) {
  std::string file = "\x93NUMPY";
  file += static_cast<char>(version);
  file += '\0';
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i)
    file += static_cast<char>(header.size() >> (8 * i));
  return file + header + std::string(data);
}
template <class T>
std::string_view bytes_of(const T& values) {
  return {reinterpret_cast<const char*>(values), sizeof values};
}
std::string with_shape(const std::string& shape, std::size_t bytes = 8) {
  return npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + ", }\n",
             std::string(bytes, '\0'));
}

const float six[] = {1, 2, 3, 4, 5, 6};

const char* const wrong_headers[] = {
    "",
    "not a dictionary",
    "{'descr': '<f4', 'fortran_order': False}",
    "{'descr': '<f4', 'shape': (2,)}",
    "{'fortran_order': False, 'shape': (2,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 1}",
    "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} ; import os",
    "{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}",
    "{'descr': '<f4, 'fortran_order': False, 'shape': (2,)}",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}",
    "{'descr': '\\x3cf4', 'fortran_order': False, 'shape': (2,)}",
    "{'descr': '<f4' 'fortran_order': False, 'shape': (2,)}",
};
// As the extents of 8 bytes of floats.
const char* const wrong_shapes[] = {
    "(3,)",
    "(1,)",
    "2",
    "(2)",
    "(2,",
    "(2 1)",
    "(-2,)",
    "(+2,)",
    "(2.0,)",
    "(,)",
    "(2,,1)",
    "(9223372036854775808,)",
    "(4611686018427387906,)",
    "(4611686018427387904, 4, 2)",
    "(1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2)"};

}  // namespace

TEST_CASE_TEMPLATE("arrays survive the way to a file and back", T, float, double, Float16,
                   std::int8_t, std::uint8_t, std::int16_t, std::uint16_t, std::int32_t,
                   std::uint32_t, std::int64_t, std::uint64_t) {
  const TemporaryFolder folder;
  for (const Index length : {0, 1, 2, 63, 64, 65, 1000}) {
    DynamicTensor<T, 3> x({3, length, 5});
    ssm::fill_normal(x, Seed{1}, 0, 100);
    write_npy(folder / "x.npy", x);
    CHECK(ssm::all_close(read_npy<T, 3>(folder / "x.npy"), x, 0));
    write_npy(folder / "x.npy", x.transpose(0, 2));
    CHECK(ssm::all_close(read_npy<T, 3>(folder / "x.npy"), x.transpose(0, 2), 0));
    CHECK(NpyFile(folder / "x.npy").header().dtype == ssm::npy_dtype<T>());
    CHECK(ssm::file_text(folder / "x.npy").size() % 64 ==
          static_cast<std::size_t>(x.size()) * sizeof(T) % 64);
  }
}

TEST_CASE("the bytes are those numpy writes") {
  const TemporaryFolder folder;
  DynamicTensor<float, 2> x({2, 3});
  ssm::copy(ssm::View<const float, 2>(six, {2, 3}), x);
  write_npy(folder / "x.npy", x);
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, ), }";
  header.resize(117, ' ');
  CHECK(ssm::file_text(folder / "x.npy") == npy(1, header + "\n", bytes_of(six)));
}

TEST_CASE("an array written part by part is the same file, and an incomplete one is none") {
  const TemporaryFolder folder;
  DynamicTensor<float, 2> array({3, 2});
  for (Index i = 0; i < 6; ++i) array.data()[i] = static_cast<float>(i);
  write_npy(folder / "whole.npy", array);
  constexpr std::array<Index, 2> shape{3, 2};
  ssm::NpyWriter<float> parts(folder / "parts.npy", shape);
  parts.write(array.slice(0, 0, 1));
  CHECK_THROWS_AS(parts.finish(), ssm::ArgumentError);
  parts.write(array.slice(0, 1, 3));
  CHECK_THROWS_AS(parts.write(array.slice(0, 0, 1)), ssm::ArgumentError);
  CHECK(folder.file_count() == 2);
  CHECK(!std::filesystem::exists(folder / "parts.npy"));
  parts.finish();
  CHECK(ssm::file_text(folder / "parts.npy") == ssm::file_text(folder / "whole.npy"));
  constexpr std::array<Index, 3> huge{Index{1} << 31, Index{1} << 31, Index{1} << 31};
  CHECK_THROWS_AS(ssm::NpyWriter<float>(folder / "huge.npy", huge), ssm::ArgumentError);
  CHECK(folder.file_count() == 2);
}

TEST_CASE("all three versions are read, in both orders, with any spacing and quotes") {
  const TemporaryFolder folder;
  const char* headers[] = {
      "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }          \n",
      "{\"shape\":(2,3),\"fortran_order\":False,\"descr\":\"<f4\"}",
      "  { 'fortran_order' : False , 'descr' : '<f4' , 'shape' : ( 2L , 3L , ) }\n",
  };
  for (int version = 1; version <= 3; ++version) {
    for (const char* header : headers) {
      ssm::write_text(folder / "x.npy", npy(version, header, bytes_of(six)));
      const auto x = read_npy<double, 2>(folder / "x.npy");
      CHECK(x(0, 2) == 3);
      CHECK(x(1, 0) == 4);
    }
  }
  ssm::write_text(
      folder / "x.npy",
      npy(1, "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", bytes_of(six)));
  const auto columns = read_npy<float, 2>(folder / "x.npy");
  CHECK(columns(1, 0) == 2);
  CHECK(columns(0, 2) == 5);
  DynamicTensor<float, 2> turned({3, 2});
  NpyFile(folder / "x.npy").read(turned.transpose(0, 1));
  CHECK(turned(2, 0) == 5);
}

TEST_CASE("scalars and arrays without elements are legal") {
  const TemporaryFolder folder;
  DynamicTensor<double, 0> scalar{Extents<>()};
  scalar() = 7;
  write_npy(folder / "x.npy", scalar);
  CHECK(read_npy<float, 0>(folder / "x.npy")() == 7);
  write_npy(folder / "x.npy", DynamicTensor<float, 2>({0, 3}));
  CHECK(read_npy<float, 2>(folder / "x.npy").extent(1) == 3);
}

TEST_CASE(
    "every damage to a file is a CheckpointError that names the file, and costs little memory") {
  std::vector<std::string> wrong_files;
  for (const char* header : wrong_headers) wrong_files.push_back(npy(1, header, "12345678"));
  for (const char* shape : wrong_shapes) wrong_files.push_back(with_shape(shape));
  const std::string good = with_shape("(2,)");
  for (const std::size_t length : {0U, 6U, 9U, 20U}) wrong_files.push_back(good.substr(0, length));
  wrong_files.push_back(good.substr(0, good.size() - 1));
  wrong_files.push_back(good + "x");
  wrong_files.push_back("PK\x03\x04" + good);
  wrong_files.push_back(
      npy(4, "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", "12345678"));
  wrong_files.push_back(npy(2, std::string(1 << 21, ' '), ""));
  wrong_files.push_back(with_shape("(4611686018427387904, 4, 0)", 0));
  wrong_files.push_back(with_shape(std::string(60'000, '(')));
  const TemporaryFolder folder;
  const std::string path = (folder / "x.npy").string();
  for (const std::string& wrong : wrong_files) {
    CAPTURE(wrong.substr(0, 120));
    ssm::write_text(path, wrong);
    std::string message;
    ssm::largest_allocation = 0;
    try {
      const NpyFile file(path);
    } catch (const CheckpointError& error) {
      message = error.what();
    }
    CHECK(ssm::largest_allocation < std::size_t{1} << 20);
    CHECK_MESSAGE(message.starts_with(path + ": "), message);
    CHECK(message.find('\n') == std::string::npos);
  }
  ssm::write_text(path, good);
  CHECK(read_npy<float, 1>(path).size() == 2);
}

TEST_CASE("types that cannot be read are refused when read, with their name") {
  const TemporaryFolder folder;
  const std::string path = (folder / "x.npy").string();
  for (const std::string dtype : {"|b1", ">f4", "<c8", "<U3", "|O", "<f16"}) {
    ssm::write_text(
        path,
        npy(1, "{'descr': '" + dtype + "', 'fortran_order': False, 'shape': (2,)}", "12345678"));
    CHECK(NpyFile(path).shape() == std::vector<Index>{2});
    CHECK_THROWS_WITH_AS(
        (read_npy<float, 1>(path)),
        (path + ": is of type " + dtype +
         ", which is not one of <f4, <f8, <f2, <i8, <i4, <i2, |i1, <u8, <u4, <u2, |u1")
            .c_str(),
        CheckpointError);
  }
}

TEST_CASE_TEMPLATE("whole numbers of any width are read as another where they fit", T, std::int8_t,
                   std::uint8_t, std::int16_t, std::uint16_t, std::uint32_t, std::int64_t,
                   std::uint64_t) {
  const TemporaryFolder folder;
  DynamicTensor<T, 1> x({2});
  x(0) = 7;
  x(1) = std::numeric_limits<T>::max();
  write_npy(folder / "x.npy", x);
  const NpyFile file(folder / "x.npy");
  DynamicTensor<std::int32_t, 1> one({1});
  file.read_from(0, one);
  CHECK(one(0) == 7);
  const std::string largest = std::to_string(x(1));
  if (std::in_range<std::int32_t>(x(1))) {
    CHECK(file.read<std::int32_t, 1>()(1) == static_cast<std::int32_t>(x(1)));
  } else {
    CHECK_THROWS_WITH_AS(
        (file.read<std::int32_t, 1>()),
        (file.name() + ": holds " + largest + ", beyond the integers asked for").c_str(),
        CheckpointError);
  }
}

TEST_CASE("a part of a file is read from any element on, and none outside") {
  const TemporaryFolder folder;
  DynamicTensor<std::uint16_t, 2> x({3, 4});
  for (Index i = 0; i < 12; ++i) x.data()[i] = static_cast<std::uint16_t>(i);
  write_npy(folder / "x.npy", x);
  const NpyFile file(folder / "x.npy");
  DynamicTensor<double, 1> part({5});
  file.read_from(7, part);
  CHECK(part(0) == 7);
  CHECK(part(4) == 11);
  for (const Index begin : {Index{-1}, Index{8}, std::numeric_limits<Index>::max()})
    CHECK_THROWS_AS(file.read_from(begin, part), ssm::ArgumentError);
}

TEST_CASE("other extents, and floats for integers, are refused") {
  const TemporaryFolder folder;
  DynamicTensor<float, 2> x({2, 3});
  write_npy(folder / "x.npy", x);
  const std::string path = (folder / "x.npy").string();
  CHECK_THROWS_WITH_AS((read_npy<float, 1>(path)),
                       (path + ": is [2, 3] in the file, asked for 1 axes").c_str(),
                       CheckpointError);
  const std::string integers =
      path + ": is of type <f4, asked for integers: <i8, <i4, <i2, |i1, <u8, <u4, <u2, |u1";
  CHECK_THROWS_WITH_AS((read_npy<std::int32_t, 2>(path)), integers.c_str(), CheckpointError);
  DynamicTensor<std::int32_t, 2> whole({2, 3});
  CHECK_THROWS_WITH_AS(NpyFile(path).read(whole), integers.c_str(), CheckpointError);
  DynamicTensor<float, 2> y({3, 2});
  CHECK_THROWS_AS(NpyFile(path).read(y), CheckpointError);
  CHECK_THROWS_AS(NpyFile(folder / "missing.npy"), CheckpointError);
}

TEST_CASE("numpy reads the same array") {
  if (std::system("python3 -c 'import numpy' 2>/dev/null") != 0) {
    MESSAGE("skipped: python3 has no package numpy");
    return;
  }
  const TemporaryFolder folder;
  DynamicTensor<Float16, 3> x({2, 3, 4});
  x(1, 2, 3) = Float16(1.5F);
  write_npy(folder / "x.npy", x);
  ssm::write_text(folder / "check.py",
                  "import numpy, sys\n"
                  "x = numpy.load(sys.argv[1])\n"
                  "assert x.shape == (2, 3, 4) and x.dtype == numpy.float16 and x[1, 2, 3] == 1.5\n"
                  "numpy.save(sys.argv[2], numpy.asfortranarray(x.astype('<f8')))\n");
  const std::string command = "python3 '" + (folder / "check.py").string() + "' '" +
                              (folder / "x.npy").string() + "' '" + (folder / "y.npy").string() +
                              "'";
  REQUIRE(std::system(command.c_str()) == 0);
  CHECK(NpyFile(folder / "y.npy").header().fortran_order);
  CHECK(ssm::all_close(read_npy<double, 3>(folder / "y.npy"), x, 0));
}
