#include "moelora/experiment/config.h"

#include <gtest/gtest.h>

#include <functional>

#include "experiment/fixture.h"
#include "io/raises.h"
#include "moelora/experiment/method.h"
#include "moelora/io/json_file.h"

namespace moelora::experiment {
namespace {

using nlohmann::ordered_json;

ordered_json smallest_experiment() {
  return ordered_json::parse(
      R"({"model": {"path": "base"}, "data": {"train": "train.json"}, "evaluation": "dev.json",
          "task_prompts": "prompts.json"})");
}

TEST(ExperimentFields, EveryKeyThatIsWrittenHasAMeaning) {
  const std::function<void(const ordered_json&, const std::string&)> check = [&](const ordered_json& json,
                                                                                 const std::string& section) {
    for (const auto& entry : json.items()) {
      const std::string path = section.empty() ? entry.key() : section + "." + entry.key();
      const io::Field* field = experiment_fields().find(path);
      ASSERT_NE(field, nullptr) << path;
      EXPECT_NE(std::string(field->meaning), "") << path;
      if (entry.value().is_object()) {
        check(entry.value(), path);
      }
    }
  };
  ordered_json json = smallest_experiment();
  json["seeds_of"] = {{"moelora-d", {1, 2}}};
  check(ExperimentConfig::from_json(json).to_json(), "");
}

TEST(ExperimentFields, ThePrintedConfigurationIsTheDefaultOne) {
  testing::TemporaryFolder folder;
  std::ofstream(folder.path() / "config.json") << documented_default_experiment();
  const ordered_json printed = io::read_json_file(folder.path() / "config.json");
  const ordered_json once = ExperimentConfig::from_json(printed).to_json();
  EXPECT_EQ(once.dump(), printed.dump());
  ordered_json json = smallest_experiment();
  json["model"]["path"] = "FOLDER";
  json["data"]["train"] = json["evaluation"] = json["task_prompts"] = "FILE";
  EXPECT_EQ(ExperimentConfig::from_json(json).to_json().dump(), printed.dump());
}

TEST(ExperimentFields, SettingsOfSingleMethodsAreReadWrittenAndCheckedLikeTheCommonOnes) {
  ordered_json json = smallest_experiment();
  const std::vector<std::pair<std::string, ordered_json>> values{
      {"in_context.examples", 5}, {"composition.densities", {0.25}},
      {"lorahub.evaluations", 7}, {"sparse_top_k", 3},
      {"balance_loss", 0.5},      {"prefix_length", 9},
      {"high_rank", 32},          {"equal_parameters_to", "molora"},
      {"sweeps.rank", {4, 8}}};
  for (const auto& [key, value] : values) {
    train::apply_override(json, key + "=" + value.dump());
  }
  const ordered_json written = ExperimentConfig::from_json(json).to_json();
  for (const auto& [key, value] : values) {
    const std::string path = "/" + key;
    EXPECT_EQ(written[ordered_json::json_pointer(
                  path.substr(0, path.find('.')) +
                  (path.find('.') == std::string::npos ? "" : "/" + path.substr(path.find('.') + 1)))],
              value)
        << key;
  }
}

TEST(ExperimentFields, ValuesSetOnTheCommandLineAreReadWithTheTypesOfTheirFields) {
  for (const auto& [assignment, problem] : std::vector<std::pair<const char*, const char*>>{
           {"jobs=all", "jobs: expected an integer, found \"all\""},
           {"jobs=-1", "jobs: expected at least 0, found -1"},
           {"costs=no", "costs: expected true or false, found \"no\""},
           {"eval_batch_size=0", "eval_batch_size: expected at least 1, found 0"},
           {"eval_batchsize=3", "eval_batchsize: unknown key, did you mean \"eval_batch_size\"?"},
           {"in_context.exmples=3", "in_context.exmples: unknown key, did you mean \"examples\"?"},
           {"in_context.examples=0", "in_context.examples: expected at least 1, found 0"},
           {"prefix_length=0", "prefix_length: expected at least 1, found 0"},
           {"high_rank=0", "high_rank: expected at least 1, found 0"},
           {"equal_parameters_to=base", "expected another method that trains an adapter, found base"},
           {"equal_parameters_to=full", "expected another method that trains an adapter, found full"},
           {"equal_parameters_to=lora-equal", "expected another method that trains an adapter, found lora-equal"},
           {"equal_parameters_to=molor", "did you mean \"molora\"?"},
           {"adapter.delta=mtl-lora", "adapter.delta: differs by row"},
           {"composition.lambdas=[]", "expected at least one value in lambdas"},
           {"tuning.learning_rates=[1,1]", "tuning.learning_rates: a value is listed twice"},
           {"sweeps.ranks=[1]", "sweeps.ranks: unknown key, did you mean \"rank\"?"},
           {"seeds_of.moelora-dd=[1]", "seeds_of.moelora-dd: unknown key, did you mean \"moelora-d\"?"},
           {"seeds_of.moelora-d=[]", "expected one seed or more for moelora-d"},
           {"seeds_of.moelora-d=[1,1]", "a value is listed twice"},
           {"new_tasks.examples=3", "new_tasks.examples: expected at least 4, found 3"},
           {"training.stepps=3", "training.stepps: unknown key, did you mean \"steps\"?"}}) {
    ordered_json json = smallest_experiment();
    train::apply_override(json, assignment);
    EXPECT_TRUE(io::raises([&] { ExperimentConfig::from_json(json); }, problem)) << assignment;
  }
}

TEST(ExperimentFields, OnlyWhatNoAnswerDependsOnIsFreeOnResuming) {
  std::vector<std::string> free;
  for (const auto& [key, field] : experiment_fields().all) {
    if (key == field.key && field.on_resume == io::OnResume::free) {
      free.push_back(key);
    }
  }
  EXPECT_EQ(free, (std::vector<std::string>{"scorer", "keep_adapters", "jobs"}));
}

// What the comparison knows of single methods it learns from them: methods without roles are all alike to it.
TEST(MethodRoles, BelongToOneRowEach) {
  EXPECT_EQ(method_with(Role::base).key(), "base");
  EXPECT_EQ(method_with(Role::baseline).key(), "moelora-d");
  EXPECT_EQ(method_with(Role::single).key(), "lora-single");
  EXPECT_EQ(method_with(Role::yardstick).key(), "lora-full");
  std::map<std::string, int> swept;
  std::map<Role, int> roles;
  for (const MethodPtr& method : methods()) {
    ++roles[method->role()];
    for (const SweptNumber& number : method->swept()) {
      ++swept[number.parameter];
      MoeLoraConfig adapter;
      number.set(adapter, 4);
      EXPECT_EQ(number.value(adapter), 4) << number.parameter;
    }
    EXPECT_TRUE(method->missing().empty()) << method->key();
  }
  for (const Role role : {Role::base, Role::baseline, Role::single, Role::yardstick}) {
    EXPECT_EQ(roles[role], 1);
  }
  EXPECT_EQ(swept, (std::map<std::string, int>{{"num_experts", 1}, {"rank", 1}, {"top_k", 1}}));
}

TEST(MethodRoles, ARateSweptForTheRankKeepsTheScale) {
  for (const SweptNumber& number : method_with(Role::baseline).swept()) {
    if (number.parameter == "rank") {
      MoeLoraConfig adapter;
      const double scaling = adapter.scaling();
      number.set(adapter, 2 * adapter.rank);
      EXPECT_EQ(adapter.scaling(), scaling);
    }
  }
}

}  // namespace
}  // namespace moelora::experiment
