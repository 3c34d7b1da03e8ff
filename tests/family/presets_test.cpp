// SPDX-License-Identifier: Apache-2.0
#include "ssm/family/presets.hpp"

#include <doctest/doctest.h>

#include <map>
#include <string>
#include <string_view>

namespace ssm {
namespace {

TEST_CASE("published models have the number of parameters that their files have") {
  const std::map<std::string, Index> published{
      {"h3-125m", 126387456},
      {"h3-355m", 361058304},
      {"h3-1.3b", 1326096384},
      {"h3-2.7b", 2670307840},
      {"h3-2.7b-rotary", 2671134720},
      {"mamba-130m", 129135360},
      {"mamba-370m", 371516416},
      {"mamba-790m", 793204224},
      {"mamba-1.4b", 1372178432},
      {"mamba-2.8b", 2768345600},
      {"mamba2-130m", 128989632},
      {"mamba2-370m", 368346624},
      {"mamba2-780m", 780161280},
      {"mamba2-1.3b", 1343757312},
      {"mamba2-2.7b", 2702599680},
      {"dense-retnet-350m", 367965696},
      {"dense-retnet-1.3b", 1334018560},
      {"dense-retnet-350m-hf", 373277184},
      {"dense-retnet-1.3b-hf", 1387783680},
      {"dense-mamba-360m", 371048448},
      {"dense-mamba-1.3b", 1407287296},
      {"retnet-1.3b", 1351714816},
      {"gpt2", 124439808},
      {"gpt2-medium", 354823168},
      {"gpt2-large", 774030080},
      {"gpt2-xl", 1557611200},
  };
  std::size_t count = 0;
  for_each_preset([&]<class F>(std::string_view name, const typename F::Config& config) {
    CAPTURE(name);
    ++count;
    REQUIRE(published.contains(std::string(name)));
    CHECK(parameter_count_of<F>(config) == published.at(std::string(name)));
  });
  CHECK(count == published.size());
}

TEST_CASE("a preset's config.json says the same sizes") {
  for_each_preset([]<class F>(std::string_view name, const typename F::Config& config) {
    CAPTURE(name);
    const auto written = F::write(config);
    const auto again = F::read(JsonObject("config.json", nlohmann::json::parse(written.dump())));
    CHECK(F::write(again) == written);
  });
}

TEST_CASE("an unknown name is answered with those that there are") {
  CHECK_THROWS_WITH_AS(with_preset("h3", []<class F>(const auto&) {}),
                       ("no published model is named 'h3'; there are " + preset_names()).c_str(),
                       ArgumentError);
}

}  // namespace
}  // namespace ssm
