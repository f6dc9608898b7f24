// Exports for engines as a user makes them: every task at once, ranks that an engine takes, what is refused.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "cli/program.h"
#include "support/shared.h"

namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;
using moelora::testing::fixtures;
using moelora::testing::run;
using moelora::testing::TemporaryFolder;

ordered_json json_of(const fs::path& file) { return ordered_json::parse(std::ifstream(file)); }

class ExportCli : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto imported =
        run("import --adapter " + (fixtures() / "moelora-tiny").string() + " --output " + adapter_.string());
    ASSERT_EQ(imported.code, 0) << imported.text;
  }
  moelora::testing::Run exported(const std::string& arguments, bool with_model = false) const {
    const std::string model = " --model " + (fixtures() / "chatglm-tiny").string() + " --threads 1";
    return run("export --adapter " + adapter_.string() + (with_model ? model : "") + " --output " + output_.string() +
               " " + arguments);
  }

  TemporaryFolder folder_;
  fs::path adapter_ = folder_.path() / "adapter";
  fs::path output_ = folder_.path() / "out";
};

TEST_F(ExportCli, AllTasksAreAFolderEachWithAProbeEach) {
  const auto all = exported("--all-tasks --probe --rank-pad 64,32,16", /*with_model=*/true);
  ASSERT_EQ(all.code, 0) << all.text;
  EXPECT_TRUE(all.has("rank 8 padded to 16")) << all.text;
  std::set<double> changes;
  for (int task = 1; task <= 8; ++task) {
    const std::string name = "task" + std::to_string(task);
    const ordered_json config = json_of(output_ / name / "adapter_config.json");
    EXPECT_EQ(config.at("r"), 16);
    EXPECT_EQ(config.at("lora_alpha"), 64) << "32 / 8 is 64 / 16";
    EXPECT_EQ(config.at("base_model_name_or_path"), (fixtures() / "chatglm-tiny").lexically_normal().string());
    const ordered_json probe = json_of(output_ / name / "probe.json").at("tasks");
    ASSERT_EQ(probe.size(), 1U);
    EXPECT_EQ(probe[0].at("task"), name);
    changes.insert(probe[0].at("largest_change").get<double>());
  }
  EXPECT_EQ(changes.size(), 8U) << "tasks change logits differently";
  EXPECT_GT(*changes.begin(), 0.01);
  EXPECT_EQ(std::distance(fs::directory_iterator(output_), {}), 8) << "no lock stays";
  EXPECT_EQ(exported("--all-tasks").code, 2) << "the folder is not empty";
}

TEST_F(ExportCli, WhatCanNotBeExportedSoIsRefusedAndNothingIsWritten) {
  const auto refused = [&](const std::string& arguments, const std::string& part, bool with_model = false) {
    const auto result = exported(arguments, with_model);
    EXPECT_EQ(result.code, 2) << arguments << ": " << result.text;
    EXPECT_TRUE(result.has(part)) << arguments << ": expected \"" << part << "\" in: " << result.text;
    EXPECT_FALSE(fs::exists(output_)) << arguments;
  };
  refused("", "--task or --all-tasks is needed");
  refused("--task task1 --all-tasks", "not both");
  refused("--task task9", "'task9'");
  refused("--all-tasks --rank-pad 4", "more than the largest of the ranks to pad to (4)");
  refused("--task task1 --rank-pad 0", "--rank-pad");
  refused("--format moelora-peft --all-tasks", "keeps all tasks");
  refused("--format moelora-peft --rank-pad 16", "--rank-pad goes with");
  refused("--format gguf", "expected peft, gguf-lora or moelora-peft, found 'gguf'");
  refused("--format gguf-lora --task task1", "needs --model");
  refused("--format gguf-lora --task task1 --base-name x", "--base-name goes with the other formats", true);
  output_ = adapter_ / "peft";
  refused("--task task1", "is an adapter's folder, which holds its own files alone");
  output_ = adapter_ / "peft" / "";
  refused("--task task1", "is an adapter's folder");
  output_ = adapter_ / "task1.gguf";
  refused("--format gguf-lora --task task1", "is an adapter's folder", true);
  output_ = folder_.path() / "out";
  refused("--format gguf-lora --task task1", "llama.cpp has no architecture that computes", true);
}

}  // namespace
