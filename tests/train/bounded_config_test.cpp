// Numbers that would take all memory, or all threads, before the first step.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "moelora/train/config.h"
#include "support/bounded.h"

namespace moelora::train {
namespace {

TEST(BoundedTraining, HugeNumbersAreProblemsOfTheConfiguration) {
  for (const auto& [key, value] :
       {std::pair<const char*, double>{"steps", 1e18}, {"batch_size", 1e12}, {"threads", 1e9}}) {
    nlohmann::ordered_json json{{"model", {{"path", "base"}}}, {"data", {{"train", "train.json"}}}};
    json["training"] = {{key, value}};
    EXPECT_TRUE(testing::bounded([&] { TrainConfig::from_json(json); }, std::string(key) + ": expected at most"))
        << key;
  }
}

}  // namespace
}  // namespace moelora::train
