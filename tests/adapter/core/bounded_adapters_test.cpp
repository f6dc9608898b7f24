// Adapters whose configurations claim more than their files hold: refused before anything of that size is made.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "adapter/tiny_base.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/foreign.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/sha256.h"
#include "support/bounded.h"

namespace moelora {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using testing::bounded;

MoeLoraConfig tiny_adapter() {
  MoeLoraConfig config;
  config.rank = 4;
  config.num_experts = 2;
  config.gate.task_embedding_dim = 6;
  return config;
}

class BoundedAdapters : public ::testing::Test {
 protected:
  void SetUp() override {
    Adapter adapter = inject(*base_, tiny_adapter(), TaskNames({"a", "b"}));
    save_adapter(*adapter, own_, "", "", {});
    export_moelora_peft(*adapter, foreign_);
    eject(adapter);
  }
  /// Changes adapter.json and gives it a right checksum again.
  ::testing::AssertionResult own(const std::function<void(ordered_json&)>& change, const std::string& part) const {
    ordered_json json = io::read_json_file(own_ / "adapter.json");
    const ordered_json before = json;
    change(json);
    json.erase("checksum");
    json["checksum"] = io::sha256_of(json.dump());
    io::write_json_file(own_ / "adapter.json", json);
    const auto result = bounded([&] { load_adapter(*base_, own_, "", ""); }, part);
    io::write_json_file(own_ / "adapter.json", before);
    return result;
  }
  ::testing::AssertionResult foreign(const std::function<void(ordered_json&)>& change, const std::string& part) const {
    const ordered_json before = io::read_json_file(foreign_ / "adapter_config.json");
    ordered_json json = before;
    change(json);
    io::write_json_file(foreign_ / "adapter_config.json", json);
    const auto result = bounded([&] { load_foreign_adapter(*base_, foreign_); }, part);
    io::write_json_file(foreign_ / "adapter_config.json", before);
    return result;
  }

  testing::TemporaryFolder folder_;
  fs::path own_ = folder_.path() / "own";
  fs::path foreign_ = folder_.path() / "foreign";
  std::shared_ptr<torch::nn::Module> base_ = testing::tiny_base(1, 8);
};

TEST_F(BoundedAdapters, OwnFilesBackWhatTheirConfigurationClaims) {
  const std::string fit = "does not fit the adapter's configuration";
  EXPECT_TRUE(own([](auto& json) { json["config"]["rank"] = 16000000; }, fit));
  EXPECT_TRUE(own([](auto& json) { json["config"]["rank"] = 1000000000; }, "rank: expected at most"));
  EXPECT_TRUE(own([](auto& json) { json["config"]["rank"] = json["config"]["num_experts"] = 16000000; }, fit));
  EXPECT_TRUE(own([](auto& json) { json["config"]["task_embedding_dim"] = 16000000; }, fit));
  EXPECT_TRUE(own([](auto& json) { json["config"]["task_embedding_dim"] = 1e18; }, "task_embedding_dim: expected"));
  EXPECT_TRUE(own([](auto& json) { json["config"]["reserved_rows"] = 16000000; }, fit));
  EXPECT_TRUE(own([](auto& json) { json["config"]["reserved_rows"] = INT64_MAX; }, "reserved_rows: expected at most"));
  EXPECT_TRUE(own([](auto& json) { json["config"]["prefix"] = {{"length", 16000000}}; }, "prefix"));
  EXPECT_TRUE(own(
      [](auto& json) {
        json["config"]["routing"] = "table";
        json["config"]["table"] = std::vector<std::vector<double>>(100000, {1.0});
      },
      "more"));
  EXPECT_TRUE(own([](auto& json) { json["config"]["prefix"] = {{"length", INT64_MAX}}; }, "prefix.length: expected"));
  const auto many_tasks = [](auto& json) {
    json["tasks"] = ordered_json::array();
    for (int i = 0; i < 100000; ++i) {
      json["tasks"].push_back("task" + std::to_string(i));
    }
  };
  EXPECT_TRUE(own(many_tasks, fit));
  EXPECT_TRUE(own(
      [&](auto& json) {
        many_tasks(json);
        json["config"]["routing"] = "single";
        json["config"]["rank"] = json["config"]["num_experts"] = 100000;
      },
      "num_experts: expected at most 4096"));
}

TEST_F(BoundedAdapters, TargetsFromAFileEndSoon) {
  const auto target = [](const std::string& text) {
    return [text](ordered_json& json) { json["config"]["targets"] = {text}; };
  };
  EXPECT_TRUE(own(target("(.*)*(.*)*(.*)*(.*)*X"), "matches no module"));
  EXPECT_TRUE(own(target("((a|[a-z._0-9])*)*X"), "matches no module"));
  EXPECT_TRUE(own(target(std::string(1000000, '(')), "has more than 2000 bytes"));
  EXPECT_TRUE(own(target(std::string(1000, '(') + std::string(1000, ')')), "nest deeper than 50"));
  EXPECT_TRUE(own(target("((a{900}){900}){900}"), "repeats more than 1000 times"));
  EXPECT_TRUE(own(target("(a)\\1"), "valid regular expression"));
  EXPECT_TRUE(own(
      [](auto& json) {
        json["config"]["targets"] = ordered_json::array();
        for (int i = 0; i < 100000; ++i) {
          json["config"]["targets"].push_back("t" + std::to_string(i));
        }
      },
      "targets: expected at most 10000, found 100000"));
  // What people write still matches.
  EXPECT_TRUE(own(target(R"(transformer\.layers\.[0-9]{1,3}\.(attention|mlp)\..*)"), ""));
}

TEST_F(BoundedAdapters, ForeignFilesBackWhatTheirConfigurationClaims) {
  for (const char* key : {"r", "expert_num", "task_num", "task_embedding_dim"}) {
    EXPECT_TRUE(foreign([&](auto& json) { json[key] = 1000000000; },
                        std::string(key) + ": expected a positive integer (up to a million), found 1000000000"));
  }
  EXPECT_TRUE(foreign([](auto& json) { json["r"] = json["expert_num"] = 1000000; }, "fewer than the 1000000 experts"));
  EXPECT_TRUE(foreign([](auto& json) { json["task_num"] = 1000000; }, "no task embedding of the 1000000 tasks"));
  EXPECT_TRUE(foreign([](auto& json) { json["r"] = 1000000; }, "does not fit its adapter_config.json"));
  EXPECT_TRUE(foreign([](auto& json) { json["task_embedding_dim"] = 1000000; }, "does not fit"));
  EXPECT_TRUE(foreign([](auto& json) { json["target_modules"] = "(.*)*(.*)*(.*)*X"; }, "matches no module"));
  EXPECT_TRUE(foreign([](auto& json) { json["target_modules"] = std::string(100000, '('); }, ""));
  EXPECT_TRUE(foreign([](auto& json) { json["strange"] = std::string(1000000, 'x'); }, "strange"));
}

TEST_F(BoundedAdapters, AnAdapterThatNoMemoryHoldsIsRefusedBeforeItIsMade) {
  auto base = testing::tiny_base(40, 64);
  MoeLoraConfig config = tiny_adapter();
  config.rank = 1 << 24;  // 2.7 TB
  EXPECT_TRUE(bounded([&] { inject(*base, config, TaskNames({"a"})); }, "GB of memory are available"));
}

TEST_F(BoundedAdapters, ManyTaskNamesTakeLinearTime) {
  std::vector<std::string> names;
  for (int i = 0; i < 300000; ++i) {
    names.push_back("task" + std::to_string(i));
  }
  EXPECT_TRUE(bounded([&] { TaskNames{names}; }, ""));
  names.push_back("task7");
  EXPECT_TRUE(bounded([&] { TaskNames{names}; }, "tasks 7 and 300000 are both named 'task7'"));
}

}  // namespace
}  // namespace moelora
