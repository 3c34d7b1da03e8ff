// SPDX-License-Identifier: Apache-2.0
#include "ssm/laws/layer_laws.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <vector>

#include "ssm/laws/check.hpp"
#include "ssm/laws/layer_on.hpp"
#include "ssm/laws/ranks_law.hpp"
#include "ssm/parallel/primitives_across_ranks.hpp"
#include "support/faulty_layer.hpp"

namespace {

using namespace ssm::laws;

/// "2 6" if a OnePole with this fault breaks the second law and the sixth, on a backend that is not
/// the oracle's.
template <Naming Names = Naming::honest>
std::string broken_laws(Fault wrong) {
  const OnePole<Names> layer(3, wrong);
  LayerOn<OnePole<Names>, There, double> subject(layer, "there");
  LayerOn<OnePole<Names>, Here, double> reference(layer, "here");
  const std::vector<Report> reports = every_law(subject, reference);
  REQUIRE(reports.size() == 11);
  std::string broken;
  for (std::size_t i = 0; i < reports.size(); ++i)
    if (!reports[i].holds) broken += (broken.empty() ? "" : " ") + std::to_string(i + 1);
  return broken;
}

TEST_CASE("an honest layer obeys every law in double and in float") {
  CHECK(broken_laws(Fault::none) == "");
  const OnePole<> layer(3);
  LayerOn<OnePole<>, There, float> subject(layer, "there");
  LayerOn<OnePole<>, Here, double> reference(layer, "here");
  const std::vector<Report> reports = every_law(subject, reference);
  CHECK(reports.size() == 10);  // differences say nothing in float
  for (const Report& report : reports)
    CHECK_MESSAGE(report.holds, describe(report, subject.name()));
}

TEST_CASE("a layer that loops over positions itself cannot have sequences across ranks") {
  LayerOn<OnePole<>, There, double> subject(OnePole<>(3), "there");
  CHECK(!sequences_lie_across_ranks(subject, ssm::PrimitivesAcrossRanks()).holds);
}

TEST_CASE("one wrong element of a gradient breaks law 1, and backends that both have it agree") {
  CHECK(broken_laws(Fault::wrong_parameter_gradient) == "1 9");  // added once per call
  CHECK(broken_laws(Fault::wrong_input_gradient) == "1 9");      // position 1 of the row
}

TEST_CASE("a final state whose gradient goes nowhere breaks law 1") {
  CHECK(broken_laws(Fault::forgotten_final_gradient) == "1");
}

TEST_CASE("overwriting the gradient of a parameter breaks law 1") {
  CHECK(broken_laws(Fault::overwritten_gradient) == "1");
}

TEST_CASE("a step that forgets its state breaks law 2") {
  CHECK(broken_laws(Fault::forgetful_step) == "2");
}

TEST_CASE("a prefill that starts from zero breaks law 3") {
  CHECK(broken_laws(Fault::resetting_prefill) == "3");
}

TEST_CASE("a layer that sees one position ahead breaks law 4, and the laws of its other forms") {
  CHECK(broken_laws(Fault::peeking) == "2 3 4");
}

TEST_CASE("a result that depends on the backend breaks law 5") {
  CHECK(broken_laws(Fault::backend_dependent) == "5");
}

TEST_CASE("reading an output before writing it breaks law 6") {
  CHECK(broken_laws(Fault::reads_output) == "6");
}

TEST_CASE("reading scratch memory that was never written breaks law 6") {
  // What is in such memory may break other laws too.
  CHECK(broken_laws(Fault::reads_workspace).find('6') != std::string::npos);
}

TEST_CASE("two parameters of one name break law 7") {
  CHECK(broken_laws<Naming::duplicate>(Fault::none) == "7");
}

TEST_CASE("a parameter that is not visited breaks law 7") {
  CHECK(broken_laws<Naming::incomplete>(Fault::none) == "7");
}

TEST_CASE("a step that allocates breaks law 8") {
  CHECK(broken_laws(Fault::allocating_step) == "8");
}

TEST_CASE("a state that runs on into the next packed sequence breaks law 9") {
  CHECK(broken_laws(Fault::ignores_segments) == "9");
}

TEST_CASE(
    "a result that depends on how often it was called breaks law 10 and the other laws about "
    "bits") {
  CHECK(broken_laws(Fault::counter_in_the_result) == "6 7 10");
}

TEST_CASE("strides that are not looked at break law 11, and law 2 where step reads a slice") {
  CHECK(broken_laws(Fault::ignored_strides) == "2 11");
  CHECK(broken_laws(Fault::forgotten_strides) == "11");
}

TEST_CASE(
    "a write beside a strided output breaks law 11, and the laws of step, which writes a slice") {
  CHECK(broken_laws(Fault::writes_beside) == "2 6 11");
}

TEST_CASE("a report says which law is broken, by how much, and where") {
  const OnePole<> layer(3, Fault::resetting_prefill);
  LayerOn<OnePole<>, There, float> subject(layer, "there");
  const Report report = prefill_splits_anywhere(subject);
  CHECK_FALSE(report.holds);
  CHECK(report.largest_error > report.tolerance);
  CHECK(report.tolerance == ssm::tolerance<float>.value);
  const std::string text = describe(report, subject.name());
  CAPTURE(text);
  CHECK(text.find("prefill splits anywhere on there float: ") == 0);
  CHECK(text.find(", batch ") != std::string::npos);
  CHECK(text.find(", cut at ") != std::string::npos);
}

TEST_CASE("findings name the law, the backend and the scalar") {
  const OnePole<> layer(3, Fault::backend_dependent);
  const std::vector<Finding> findings = every_law_against<Here, Here, There>(layer);
  CHECK(findings.size() == 2 * 10 + 2 * 11);  // differences say nothing in float
  std::vector<std::string> broken;
  for (const Finding& finding : findings)
    if (!finding.holds) broken.push_back(finding.text);
  REQUIRE(broken.size() == 2);
  CAPTURE(broken[0]);
  const std::string there = backend_name<There>();
  CHECK(there.ends_with("There"));
  CHECK(broken[0].starts_with("every backend equals Reference on " + there + " float: "));
  CHECK(broken[1].starts_with("every backend equals Reference on " + there + " double: "));
}

TEST_CASE("allocations are counted in this program") { CHECK(allocations_are_counted()); }

TEST_CASE("states that grew to different lengths are joined with zeros behind the shorter") {
  const Bundle one{{"cache", {1, 1, 2}, {1, 2}}, {"position", {1}, {1}, true}};
  const Bundle two{{"cache", {2, 1, 2}, {3, 4, 5, 6}}, {"position", {1}, {2}, true}};
  const Bundle joined = join_states({one, two}, {1, 0});
  CHECK(joined[0].extents == std::vector<ssm::Index>{2, 2, 2});
  CHECK(joined[0].values == std::vector<double>{1, 2, 3, 4, 0, 0, 5, 6});
  CHECK(joined[1].values == std::vector<double>{1, 2});
  CHECK(joined[1].counts);
  const Bundle second = state_of(joined, 1, {1, 0});
  CHECK(second[0].extents == std::vector<ssm::Index>{2, 1, 2});
  CHECK(second[0].values == two[0].values);
}

TEST_CASE("the axis of the sequences is found") {
  LayerOn<OnePole<>, Here, double> subject(OnePole<>(3), "here");
  CHECK(sequence_axes(subject) == std::vector<std::size_t>{0});
}

TEST_CASE("a report never accepts a NaN, other extents or a missing tensor") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const NamedTensor zero{"zero", {1}, {0.0}};
  const NamedTensor bad{"bad", {1}, {nan}};
  const NamedTensor longer{"longer", {2}, {0.0, 0.0}};
  const auto close = [](const Bundle& x, const Bundle& y) {
    Report report;
    report.require_close(x, y, 1.0, "here");
    return report.holds;
  };
  const auto same = [](const Bundle& x, const Bundle& y) {
    Report report;
    report.require_same_bits(x, y, "here");
    return report.holds;
  };
  CHECK(close({zero}, {zero}));
  CHECK(same({zero}, {zero}));
  CHECK_FALSE(close({bad}, {zero}));
  CHECK_FALSE(close({zero}, {bad}));
  CHECK_FALSE(same({bad}, {bad}));
  CHECK_FALSE(same({{"negative zero", {1}, {-0.0}}}, {zero}));
  CHECK_FALSE(close({longer}, {zero}));
  CHECK_FALSE(same({longer}, {zero}));
  CHECK_FALSE(close({}, {zero}));
  CHECK_FALSE(same({zero}, {}));
}

}  // namespace
