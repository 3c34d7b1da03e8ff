// SPDX-License-Identifier: Apache-2.0
#include "run_folder.hpp"

#include <charconv>
#include <nlohmann/json.hpp>
#include <span>

#include "report.hpp"
#include "ssm/core/error.hpp"
#include "ssm/io/json_file.hpp"
#include "ssm/io/safetensors.hpp"

namespace synthetics {
namespace {

std::size_t epochs_behind(const std::filesystem::path& state) {
  if (!std::filesystem::exists(state)) return 0;
  const std::string text = ssm::SafetensorsFile(state).metadata().at(epochs_of_state);
  std::size_t epochs = 0;
  std::from_chars(text.data(), text.data() + text.size(), epochs);
  return epochs;
}

}  // namespace

RunFolder::RunFolder(const std::filesystem::path& folder, const Run& run)
    : folder_(folder /
              (run.model + "-" + std::to_string(run.width) + "-" + std::to_string(run.seed))) {}

void RunFolder::write(const Settings& settings, const Run& run) const {
  std::filesystem::create_directories(folder_);
  nlohmann::ordered_json root{{"settings", settings_json(settings)}, {"seconds", run.seconds}};
  for (const Epoch& epoch : run.epochs) {
    root["accuracy"].push_back(epoch.accuracy);
    root["loss"].push_back(epoch.loss);
  }
  ssm::write_text_file(curve(), root.dump() + "\n");
}

void RunFolder::finish(const Settings& settings, const Run& run) const {
  write(settings, run);
  std::filesystem::remove(state());
}

void resume(const Settings& settings, const RunFolder& folder, Run& run) {
  if (!std::filesystem::exists(folder.curve())) return;
  const ssm::JsonObject curve = ssm::read_json(folder.curve());
  if (curve.json().at("settings") != nlohmann::json(settings_json(settings)))
    throw ssm::Error(folder.curve().string() +
                     " was made with other settings; give another folder with --out");
  const nlohmann::json &accuracies = curve.json().at("accuracy"), &losses = curve.json().at("loss");
  for (std::size_t i = 0; i < accuracies.size(); ++i)
    run.epochs.push_back(
        {.loss = losses.at(i).get<double>(), .accuracy = accuracies[i].get<double>()});
  if (!run.is_finished(settings)) {
    const std::size_t behind = epochs_behind(folder.state());
    run.epochs.resize(behind <= run.epochs.size() ? behind : 0);
  }
  run.seconds = curve.json().at("seconds").get<double>();
}

}  // namespace synthetics
