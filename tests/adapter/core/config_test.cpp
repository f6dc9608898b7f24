#include "moelora/adapter/config.h"

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "moelora/io/error.h"

namespace moelora {
namespace {

using nlohmann::ordered_json;

std::string config_error(const std::function<void(MoeLoraConfig&)>& spoil) {
  MoeLoraConfig config;
  spoil(config);
  try {
    config.validate();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(MoeLoraConfig, TheDefaultsAreUsable) { EXPECT_NO_THROW(MoeLoraConfig().validate()); }

TEST(MoeLoraConfig, SurvivesJson) {
  MoeLoraConfig config;
  config.rank = 12;
  config.num_experts = 3;
  config.alpha = 0.1;
  config.dropout = 0.05;
  config.gate.top_k = 2;
  config.gate.per_linear = true;
  config.gate.task_embedding_dim = 7;
  config.gate.reserved_rows = 1;
  config.targets = {"dense", ".*\\.mlp\\..*"};
  config.seed = 0xfedcba9876543210ull;
  const auto json = config.to_json();
  EXPECT_EQ(MoeLoraConfig::from_json(ordered_json::parse(json.dump())).to_json(), json);
}

TEST(MoeLoraConfig, RoutingIsWrittenByName) {
  const auto uniform = MoeLoraConfig::from_json(ordered_json{{"routing", "uniform"}});
  EXPECT_EQ(uniform.routing, Routing::uniform);
  EXPECT_EQ(uniform.to_json()["routing"], "uniform");
  EXPECT_EQ(MoeLoraConfig().to_json()["routing"], "task");
  EXPECT_THROW(MoeLoraConfig::from_json(ordered_json{{"routing", "tokens"}}), Error);
}

TEST(MoeLoraConfig, AnUnknownKeySuggestsTheNearest) {
  try {
    MoeLoraConfig::from_json(ordered_json{{"num_expert", 4}});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("num_experts"), std::string::npos) << error.what();
  }
}

TEST(MoeLoraConfig, EveryProblemIsListedAtOnce) {
  const auto text = config_error([](MoeLoraConfig& config) {
    config.rank = 16;
    config.num_experts = 5;
    config.gate.top_k = 6;
    config.dropout = 1.0;
    config.targets.clear();
  });
  for (const auto* part :
       {"rank: expected a multiple of num_experts", "top_k: expected at most", "dropout:", "targets:"}) {
    EXPECT_NE(text.find(part), text.npos) << part << " in " << text;
  }
}

TEST(MoeLoraConfig, ValuesOutOfRangeAreErrors) {
  EXPECT_NE(config_error([](auto& config) { config.rank = 0; }).find("rank"), std::string::npos);
  EXPECT_NE(config_error([](auto& config) { config.num_experts = 0; }).find("num_experts"), std::string::npos);
  EXPECT_NE(config_error([](auto& config) { config.alpha = 0; }).find("alpha"), std::string::npos);
  EXPECT_NE(config_error([](auto& config) { config.dropout = -0.1; }).find("dropout"), std::string::npos);
  EXPECT_NE(config_error([](auto& config) { config.gate.top_k = -1; }).find("top_k"), std::string::npos);
  EXPECT_NE(config_error([](auto& config) { config.gate.task_embedding_dim = 0; }).find("task_embedding"),
            std::string::npos);
  EXPECT_NE(config_error([](auto& config) { config.targets = {"dense", "dense"}; }).find("twice"), std::string::npos);
  EXPECT_NE(config_error([](auto& config) {
              config.routing = Routing::uniform;
              config.gate.per_linear = true;
            }).find("per_linear"),
            std::string::npos);
}

}  // namespace
}  // namespace moelora
