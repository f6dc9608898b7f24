#include "moelora/train/config.h"

#include <gtest/gtest.h>

#include "moelora/io/error.h"

namespace moelora::train {
namespace {

nlohmann::ordered_json smallest_config() {
  return nlohmann::ordered_json::parse(R"({"model": {"path": "base"}, "data": {"train": "train.json"}})");
}

std::string problems_of_config(const nlohmann::ordered_json& json) {
  try {
    TrainConfig::from_json(json);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

TEST(TrainConfig, HasDefaultsForAllButModelAndData) {
  const TrainConfig config = TrainConfig::from_json(smallest_config());
  EXPECT_EQ(config.mode, Mode::adapter);
  EXPECT_EQ(config.model.tokenizer_path(), "base");
  EXPECT_EQ(config.training.batch_size, 64);
  EXPECT_EQ(config.training.learning_rate, 2e-4);
  EXPECT_EQ(config.training.schedule, Schedule::linear);
  EXPECT_EQ(config.data.validation_size, -1);
  EXPECT_EQ(config.data.encode.max_target_length, 196);
  EXPECT_EQ(config.data.encode.cut, data::Cut::tail);
  EXPECT_EQ(config.data.task_prompts, "");
  EXPECT_TRUE(config.data.deduplicate);
}

TEST(TrainConfig, SurvivesTheWayToJsonAndBack) {
  nlohmann::ordered_json json = smallest_config();
  json["adapter"] = {{"rank", 4}, {"num_experts", 2}, {"dropout", 0.1}};
  json["data"]["part"] = {{"index", 1}, {"of", 2}};
  json["data"]["validation"] = nullptr;
  json["data"]["source_prefix"] = "任务：";
  json["data"]["cut"] = "middle";
  json["data"]["task_prompts"] = "prompts.json";
  json["training"] = {{"steps", 8e3}, {"schedule", "cosine"}, {"batching", "by_task"}, {"seed", 7}};
  const nlohmann::ordered_json once = TrainConfig::from_json(json).to_json();
  EXPECT_EQ(once["training"]["steps"], 8000);
  EXPECT_EQ(once["training"]["schedule"], "cosine");
  EXPECT_EQ(once["training"]["batching"], "by_task");
  EXPECT_EQ(once["data"]["part"]["of"], 2);
  EXPECT_EQ(once["data"]["cut"], "middle");
  EXPECT_EQ(once["data"]["task_prompts"], "prompts.json");
  EXPECT_EQ(once["adapter"]["num_experts"], 2);
  EXPECT_EQ(TrainConfig::from_json(once).to_json(), once);
  const auto full = nlohmann::ordered_json::parse(
      R"({"mode": "full", "model": {"init": {"hidden_size": 64}, "tokenizer": "t", "seed": 1},
          "data": {"train": "a", "validation": "b"}})");
  EXPECT_EQ(TrainConfig::from_json(TrainConfig::from_json(full).to_json()).to_json(),
            TrainConfig::from_json(full).to_json());
}

TEST(TrainConfig, ListsEveryProblemAtOnce) {
  const auto json = nlohmann::ordered_json::parse(R"({
      "mod": "full",
      "model": {"path": "base", "init": {}, "dtype": "float8"},
      "adapter": {"rank": 7, "num_experts": 2},
      "data": {"part": {"index": 2, "of": 2}, "validation": "v", "validation_size": 3, "max_target_length": 2},
      "training": {"learning_rat": 1, "steps": 0, "warmup_steps": "ten", "beta1": 1.0, "schedule": "stairs"}})");
  const std::string text = problems_of_config(json);
  for (const char* part :
       {"mod: unknown key, did you mean \"mode\"?", "model: expected either \"path\"",
        "model.dtype: expected one of auto, float32, float16, bfloat16, found \"float8\"", "multiple of num_experts",
        "data.train: the file of training records is missing", "data.part: expected 0 <= index < of",
        "data.validation_size: a validation file is given", "data.max_target_length: expected at least 3, found 2",
        "training.learning_rat: unknown key, did you mean \"learning_rate\"?",
        "training.steps: expected at least 1, found 0", "training.warmup_steps: expected an integer, found \"ten\"",
        "training.beta1: expected 0 or more and below 1, found 1",
        "training.schedule: expected one of linear, cosine, constant, found \"stairs\""}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\nin\n" << text;
  }
}

TEST(TrainConfig, OfANewTaskNamesATrainedAdapterAndSurvivesTheWayToJsonAndBack) {
  const auto json = nlohmann::ordered_json::parse(R"({
      "mode": "new_task", "adapter_from": "out/run/adapter", "model": {"path": "base"},
      "data": {"train": "train.json", "tasks": ["QIC"], "max_records": 16}})");
  const TrainConfig config = TrainConfig::from_json(json);
  EXPECT_EQ(config.mode, Mode::new_task);
  EXPECT_EQ(config.adapter_from, "out/run/adapter");
  EXPECT_EQ(config.data.tasks, std::vector<std::string>{"QIC"});
  EXPECT_EQ(config.data.max_records, 16);
  const nlohmann::ordered_json once = config.to_json();
  EXPECT_EQ(once["mode"], "new_task");
  EXPECT_FALSE(once.contains("adapter"));
  EXPECT_EQ(TrainConfig::from_json(once).to_json(), once);
}

TEST(TrainConfig, BeginsWithATrainedAdapterAndKeepsWhatIsSaidOfIt) {
  nlohmann::ordered_json json = smallest_config();
  json["adapter_from"] = "out/run/adapter";
  EXPECT_FALSE(TrainConfig::from_json(json).to_json().contains("adapter"));
  json["adapter"] = {{"rank", 4}};  // no configuration by itself: 8 experts are the default
  const TrainConfig config = TrainConfig::from_json(json);
  EXPECT_EQ(config.adapter_from, "out/run/adapter");
  EXPECT_EQ(config.to_json()["adapter"].dump(), R"({"rank":4})");
  EXPECT_EQ(TrainConfig::from_json(config.to_json()).to_json(), config.to_json());
  json["adapter"] = 3;
  EXPECT_NE(problems_of_config(json).find("adapter: expected an object, found number"), std::string::npos);
}

TEST(TrainConfig, PointsFromOtherProgramsKeysToItsOwn) {
  nlohmann::ordered_json json = smallest_config();
  json["training"] = {{"epochs", 3}, {"lr", 1e-4}, {"per_device_train_batch_size", 4}, {"warmup_ratio", 0.1}};
  json["lr"] = 1e-4;
  json["num_train_epochs"] = 3;
  json["steps"] = 100;
  json["bf16"] = true;
  const std::string text = problems_of_config(json);
  for (const char* part :
       {"training.epochs: unknown key; a run is counted in optimizer steps: set training.steps to epochs",
        "training.lr: unknown key; use training.learning_rate",
        "training.per_device_train_batch_size: unknown key; use ",
        "training.warmup_ratio: unknown key; use training.warmup_steps",
        "\nlr: unknown key; use training.learning_rate", "\nnum_train_epochs: unknown key; a run is counted",
        "\nbf16: unknown key; use model.dtype",
        "\nsteps: unknown key; it belongs into the section \"training\" (training.steps)"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\nin\n" << text;
  }
  nlohmann::ordered_json training = {{"lr", 1e-4}};
  EXPECT_THROW(TrainingOptions::from_json(training), Error);
}

TEST(TrainConfig, OfANewTaskRefusesWhatWouldChangeTheOthers) {
  nlohmann::ordered_json json = smallest_config();
  json["mode"] = "full";
  json["adapter_from"] = "out/run/adapter";
  EXPECT_NE(problems_of_config(json).find("adapter_from: mode \"full\" trains no adapter"), std::string::npos);
  json.erase("adapter_from");
  json["mode"] = "new_task";
  json["adapter"] = {{"rank", 4}};
  json["training"] = {{"weight_decay", 0.1}};
  json["data"] = {{"train", "a"}, {"tasks", {"A"}}, {"without_tasks", {"B"}}, {"max_records", -1}};
  const std::string text = problems_of_config(json);
  for (const char* part :
       {"adapter_from: mode \"new_task\" needs the folder", "adapter: mode \"new_task\" takes the adapter in",
        "training.weight_decay: mode \"new_task\" must leave", "data.without_tasks: \"tasks\" names the tasks already",
        "data.max_records: expected 0 (all) or more, found -1"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\nin\n" << text;
  }
}

TEST(TrainConfig, RefusesAnAdapterInFullModeAndHalfPrecisionThere) {
  nlohmann::ordered_json json = smallest_config();
  json["mode"] = "full";
  json["adapter"] = {{"rank", 4}};
  json["model"]["dtype"] = "float16";
  const std::string text = problems_of_config(json);
  EXPECT_NE(text.find("adapter: mode \"full\" trains no adapter"), std::string::npos) << text;
  EXPECT_NE(text.find("model.dtype: all parameters cannot be trained in float16"), std::string::npos) << text;
}

TEST(Overrides, SetValuesOfAnyTypeAndMakeSections) {
  nlohmann::ordered_json json = smallest_config();
  apply_override(json, "training.steps=100");
  apply_override(json, "training.schedule=cosine");
  apply_override(json, "adapter.targets=[\"dense\"]");
  apply_override(json, "data.source_prefix=a=b");
  apply_override(json, "model.path=\"1\"");
  EXPECT_EQ(json["training"]["steps"], 100);
  EXPECT_EQ(json["training"]["schedule"], "cosine");
  EXPECT_EQ(json["adapter"]["targets"][0], "dense");
  EXPECT_EQ(json["data"]["source_prefix"], "a=b");
  EXPECT_EQ(json["model"]["path"], "1");
  EXPECT_THROW(apply_override(json, "training.steps"), Error);
  EXPECT_THROW(apply_override(json, "=3"), Error);
  EXPECT_THROW(apply_override(json, "training.steps.more=3"), Error);
}

}  // namespace
}  // namespace moelora::train
