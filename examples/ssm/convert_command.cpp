// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <string>

#include "command_options.hpp"
#include "commands.hpp"
#include "progress.hpp"
#include "ssm/family/conversion.hpp"
#include "status_line.hpp"

namespace ssm::cli {
namespace {

constexpr const char* examples = R"(Examples:
  ssm convert mamba-130m mamba-130m-safetensors              pytorch_model.bin, names and config.json as they are
  ssm convert mamba-130m mamba-130m-hf --names family        names and config.json that transformers reads
  ssm convert gpt2-xl small --dtype bfloat16 --shard-size 1GB
  ssm convert model.pt model.safetensors                     a file alone

Reads safetensors, .pt, .pth, .bin and .ckpt, in one file or in shards. Tensors are read and written some at a time. Integers and truth
values keep their type. Files of a tokenizer beside config.json are copied.)";

struct ConvertRequest {
  std::filesystem::path in, out;
  std::string names = "stored";
  std::string dtype = "stored";
  std::string shard_size;
  bool quiet = false;
};

/// "5GB", "500MB", "100KB" or "4096": bytes, in powers of 1000 as others count them.
std::uint64_t bytes_of(const std::string& text) {
  const std::map<std::string, double> units{{"", 1}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}};
  const std::size_t end = std::min(text.find_first_not_of("0123456789."), text.size());
  const auto unit = units.find(text.substr(end));
  const auto number = parse_number(text.substr(0, end), 0, 1e15);
  if (!number || unit == units.end() || !(number.value * unit->second >= 1))
    throw OptionError("shard-size", "'" + text + "' is no size such as 500MB or 5GB");
  return static_cast<std::uint64_t>(std::min(number.value * unit->second, 1e18));
}

void convert(const ConvertRequest& request) {
  const std::map<std::string, std::string> dtypes{
      {"stored", ""}, {"float32", "F32"}, {"bfloat16", "BF16"}, {"float16", "F16"}};
  StatusLine status(request.quiet);
  std::uint64_t written = 0;
  ConversionOptions options{.dtype = dtypes.at(request.dtype)};
  if (!request.shard_size.empty()) options.shard_bytes = bytes_of(request.shard_size);
  options.progress = [&](std::uint64_t done, std::uint64_t total) {
    written = done;
    if (status.is_due())
      status.show("converting: " + quantity_text(static_cast<double>(done)) + " of " +
                  quantity_text(static_cast<double>(total)) + " bytes");
  };
  const auto files = convert_model(
      request.in, request.out,
      request.names == "family" ? ConvertedNames::family : ConvertedNames::stored, options);
  status.say("wrote " + quantity_text(static_cast<double>(written)) +
             " bytes of weights: " + files.front().string() +
             (files.size() > 1 ? " to " + files.back().filename().string() : ""));
}

}  // namespace

void add_convert_command(CLI::App& app) {
  auto request = std::make_shared<ConvertRequest>();
  CLI::App* command = app.add_subcommand("convert", "Write weights of any format as safetensors.");
  command->footer(examples);
  command->add_option("in", request->in, "file of weights, index, or folder of a model")
      ->required()
      ->type_name("PATH");
  command->add_option("out", request->out, "folder, or a file that ends with .safetensors")
      ->required()
      ->type_name("PATH");
  add_word(*command, "--dtype", request->dtype, "of what is fractional",
           {"stored", "float32", "bfloat16", "float16"})
      ->capture_default_str();
  add_word(*command, "--names", request->names,
           "of tensors: stored; or family: those that the family has now, with its config.json",
           {"stored", "family"})
      ->capture_default_str();
  add_word(*command, "--shard-size", request->shard_size,
           "several files with an index, none larger than this: 500MB, 5GB (one file)");
  command->add_flag("--quiet", request->quiet, "nothing on standard error");
  command->callback([request] { convert(*request); });
}

}  // namespace ssm::cli
