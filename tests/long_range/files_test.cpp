// SPDX-License-Identifier: Apache-2.0
#include "ssm/long_range/files.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "support/temporary_folder.hpp"

namespace ssm {
namespace {

void check_refusal(const std::function<void()>& read, std::string_view sentence) {
  std::string said;
  try {
    read();
  } catch (const CheckpointError& error) {
    said = error.what();
  }
  CAPTURE(said);
  CHECK(said.ends_with(sentence));
}

TEST_CASE("ListOps: trees of pairs and plain expressions are the same, values are checked") {
  const TemporaryFolder folder;
  write_text(folder / "basic_train.tsv",
             "Source\tTarget\r\n( ( ( [MAX 2 ) 9 ) ] )\t9\r\n[MIN 4 [SM 9 3 ] ]\t2\r\n");
  write_text(folder / "basic_test.tsv", "Source\tTarget\n5\t5\n");
  const ClassificationData data = read_list_ops(folder.path());
  REQUIRE(data.training.count() == 2);
  CHECK(list_ops::text(data.training[0]) == "[MAX 2 9 ]");
  CHECK(data.training.labels[1] == 2);
  CHECK(data.test.labels[0] == 5);
  const auto check = [&](std::string_view line, std::string_view sentence) {
    write_text(folder / "basic_test.tsv", "Source\tTarget\n" + std::string(line) + "\n");
    check_refusal([&] { read_list_ops(folder.path()); }, sentence);
  };
  check("[MAX 2 9 ]", "line 2: is not an expression, a tab, a digit");
  check("[MAX 2 9 ]\t8", "line 2: the value is 9, not '8'");
  check("[TOP 2 9 ]\t9", "line 2: '[TOP' is no symbol of ListOps");
  check("[MAX 2 9\t9", "line 2: ListOps: a bracket is not closed");
  std::filesystem::remove(folder / "basic_test.tsv");
  CHECK_THROWS_AS(read_list_ops(folder.path()), CheckpointError);
}

TEST_CASE("reviews: bytes of the texts in four folders") {
  const TemporaryFolder folder;
  for (const char* part : {"train/pos", "train/neg", "test/pos", "test/neg"})
    std::filesystem::create_directories(folder / part);
  check_refusal([&] { read_reviews(folder / "elsewhere"); },
                "cannot be read: No such file or directory");
  write_text(folder / "train/pos/0_9.txt", "good, \xff good");
  write_text(folder / "train/neg/0_1.txt", "bad");
  write_text(folder / "train/neg/notes.html", "<p>");
  write_text(folder / "test/neg/1_1.txt", "worse");
  const ClassificationData data = read_reviews(folder.path(), 7);
  REQUIRE(data.training.count() == 2);
  CHECK(data.training.labels == std::vector<Token>{0, 1});
  CHECK(data.training[1].size() == 7);
  CHECK(data.training[1][6] == 0xff);
  CHECK(data.test.count() == 1);
  write_text(folder / "test/pos/1_8.txt", "");
  check_refusal([&] { read_reviews(folder.path()); }, "1_8.txt: is empty");
}

TEST_CASE("pairs of documents: both texts, cut, with a zero between them") {
  const TemporaryFolder folder;
  write_text(folder / "new_aan_pairs.train.tsv", "1.0\tA1\tB2\tlong text\tother\n0\tA\tB\tx\ty\n");
  write_text(folder / "new_aan_pairs.test.tsv", "0.0\tA1\tB2\tabc\tde\n");
  const ClassificationData data = read_document_pairs(folder.path(), 4);
  REQUIRE(data.training.count() == 2);
  const auto first = data.training[0];
  CHECK(std::string(first.begin(), first.end()) == std::string("long\0othe", 9));
  CHECK(data.training.labels == std::vector<Token>{1, 0});
  write_text(folder / "new_aan_pairs.test.tsv", "2\tA1\tB2\tabc\tde\n");
  check_refusal([&] { read_document_pairs(folder.path()); }, "line 1: '2' is no label, 0 or 1");
  write_text(folder / "new_aan_pairs.test.tsv", "1\tA1\tB2\tabc\n");
  check_refusal([&] { read_document_pairs(folder.path()); },
                "line 1: has not the five columns label, id, id, text, text");
}

TEST_CASE("CIFAR: gray values of colored pixels") {
  const TemporaryFolder folder;
  std::string image(3073, '\0');
  image[0] = 7;
  image[1] = image[1 + 1024] = image[1 + 2048] = '\xff';  // white
  image[2] = '\xc8';                                      // red 200
  for (int i = 1; i <= 5; ++i)
    write_text(folder / ("data_batch_" + std::to_string(i) + ".bin"), image);
  write_text(folder / "test_batch.bin", image + image);
  const ClassificationData data = read_cifar(folder.path());
  CHECK(data.training.count() == 5);
  CHECK(data.test.count() == 2);
  CHECK(data.test.labels[1] == 7);
  CHECK(data.test[1][0] == 255);
  CHECK(data.test[1][1] == 60);  // 0.299 · 200
  CHECK(data.test[1][2] == 0);
  write_text(folder / "test_batch.bin", image.substr(1));
  check_refusal([&] { read_cifar(folder.path()); },
                "is not a whole number of images of 3073 bytes");
  image[0] = 10;
  write_text(folder / "test_batch.bin", image);
  check_refusal([&] { read_cifar(folder.path()); }, "image 0 is of class 10, there are ten");
}

TEST_CASE("Pathfinder: images by the lines of the metadata") {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder / "metadata");
  std::filesystem::create_directories(folder / "imgs/0");
  write_text(folder / "imgs/0/a.png", "an image");
  const ReadImage read_image = [](const std::filesystem::path& path) {
    const std::string text = read_text(path);
    CHECK(text == "an image");
    return GrayImage{.width = 2, .height = 2, .values = {0, 85, 170, 255}};
  };
  std::string lines;
  for (int i = 0; i < 11; ++i) lines += "imgs/0 a.png 17 " + std::to_string(i % 2) + " 1.8 6 2\n";
  write_text(folder / "metadata/0.npy", lines);
  const ClassificationData data = read_pathfinder(folder.path(), 2, read_image);
  CHECK(data.training.count() == 10);
  REQUIRE(data.test.count() == 1);
  CHECK(data.test.labels[0] == 1);
  const auto image = data.test[0];
  CHECK(std::vector<std::uint8_t>(image.begin(), image.end()) ==
        std::vector<std::uint8_t>{0, 85, 170, 255});
  check_refusal([&] { read_pathfinder(folder.path(), 32, read_image); },
                "a.png: is of 2 × 2 pixels, not 32 × 32");
  check_refusal([&] { read_pathfinder(folder.path(), 2, refuse_images); },
                "a.png: images are not read: this program was built without libpng");
  const auto check = [&](std::string_view line, std::string_view sentence) {
    write_text(folder / "metadata/0.npy", line);
    check_refusal([&] { read_pathfinder(folder.path(), 2, read_image); }, sentence);
  };
  check("imgs/0 a.png 17 2\n", "line 1: names no folder, image and class");
  check("imgs/0 a.png\n", "line 1: names no folder, image and class");
  check("../.. a.png 17 1\n", "line 1: names an image outside the folder");
  check("/etc passwd 17 1\n", "line 1: names an image outside the folder");
  check("imgs/0 b.png 17 1\n", "b.png: cannot be opened: No such file or directory");
}

}  // namespace
}  // namespace ssm
