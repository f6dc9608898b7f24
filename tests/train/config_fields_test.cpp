#include "train/config_fields.h"

#include <gtest/gtest.h>

#include <set>

#include "io/raises.h"
#include "moelora/train/run_identity.h"

namespace moelora::train {
namespace {

using nlohmann::ordered_json;

ordered_json default_config() {
  TrainConfig config;
  config.model.path = "base";
  config.data.train = "train.json";
  return config.to_json();
}

// One list: what is written has a meaning, is read back, is known to the hints and to the check of a resumed run.
TEST(TrainFields, EveryKeyThatIsWrittenHasAMeaning) {
  const std::function<void(const ordered_json&, const std::string&)> check = [&](const ordered_json& json,
                                                                                 const std::string& section) {
    for (const auto& [key, value] : json.items()) {
      const std::string path = section.empty() ? key : section + "." + key;
      const io::Field* field = train_fields().find(path);
      ASSERT_NE(field, nullptr) << path;
      EXPECT_NE(std::string(field->meaning), "") << path;
      if (value.is_object()) {
        check(value, path);
      }
    }
  };
  check(default_config(), "");
}

TEST(TrainFields, EveryFieldIsReadUnderTheKeyThatIsWritten) {
  std::set<std::string> names;
  for (const auto& [path, field] : train_fields().all) {
    EXPECT_TRUE(names.insert(path).second) << path << " is listed twice";
    if (path.starts_with("training.")) {
      ordered_json json = default_config();
      json["training"][field.key] = ordered_json::array();  // no field of the section has this type
      EXPECT_TRUE(io::raises([&] { TrainConfig::from_json(json); }, path + ": expected ")) << path;
      json["training"].erase(field.key);
      json["training"][field.key + "x"] = 1;
      EXPECT_TRUE(io::raises([&] { TrainConfig::from_json(json); },
                             path + "x: unknown key, did you mean \"" + field.key + "\"?"))
          << path;
    }
  }
  EXPECT_EQ(ordered_json(TrainConfig::from_json(default_config()).to_json()).dump(), default_config().dump());
}

TEST(TrainFields, EveryKeyOfTrainingIsComparedWhenARunIsResumedAsItsFieldSays) {
  const ordered_json before = TrainingOptions().to_json();
  for (const auto& [key, value] : before.items()) {
    ordered_json after = before;
    after[key] = value.is_number() ? ordered_json(value.get<double>() + 1) : ordered_json("another");
    RunIdentity then, now;
    then.options = before.dump();
    now.options = after.dump();
    const std::string path = "training." + key;
    const io::OnResume expected = train_fields().find(path)->on_resume;
    if (expected == io::OnResume::another_run) {
      EXPECT_TRUE(io::raises([&] { check_same_run(then, now, 3); }, path + ": the run began with")) << path;
    } else {
      EXPECT_EQ(check_same_run(then, now, 3).size(), expected == io::OnResume::learned ? 1u : 0u) << path;
    }
  }
}

TEST(TrainFields, ValuesSetOnTheCommandLineAreReadWithTheTypesOfTheirFields) {
  for (const auto& [assignment, problem] : std::vector<std::pair<const char*, const char*>>{
           {"training.steps=many", "training.steps: expected an integer, found \"many\""},
           {"training.steps=1.5", "training.steps: expected an integer, found 1.5"},
           {"training.learning_rate=fast", "training.learning_rate: expected a number, found \"fast\""},
           {"data.deduplicate=1", "data.deduplicate: expected true or false, found 1"},
           {"data.tasks=QIC", "data.tasks: expected a list of strings, found \"QIC\""},
           {"data.cut=nose", "data.cut: expected one of tail, head, middle, error, found \"nose\""},
           {"training.stepps=3", "training.stepps: unknown key, did you mean \"steps\"?"},
           {"trainning.steps=3", "trainning: unknown key, did you mean \"training\"?"},
           {"adapter.rnk=3", "adapter.rnk: unknown key, did you mean \"rank\"?"}}) {
    ordered_json json = default_config();
    apply_override(json, assignment);
    EXPECT_TRUE(io::raises([&] { TrainConfig::from_json(json); }, problem)) << assignment;
  }
}

}  // namespace
}  // namespace moelora::train
