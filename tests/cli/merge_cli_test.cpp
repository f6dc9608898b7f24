// Merging and exporting as a user meets them: what fails, what it says, and what a written folder holds.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/program.h"
#include "support/shared.h"

namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;
using moelora::testing::fixtures;
using moelora::testing::Run;
using moelora::testing::run;
using moelora::testing::TemporaryFolder;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

std::string content(const fs::path& file) {
  std::stringstream text;
  text << std::ifstream(file, std::ios::binary).rdbuf();
  return text.str();
}

ordered_json json_of(const fs::path& file) { return ordered_json::parse(content(file)); }

// Overwrites one fp32 value of a safetensors file.
void poison(const fs::path& file, const std::string& tensor, std::size_t index, float value) {
  std::string bytes = content(file);
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  const auto entry = ordered_json::parse(bytes.substr(8, header)).at(tensor);
  ASSERT_EQ(entry.at("dtype"), "F32");
  std::memcpy(bytes.data() + 8 + header + entry.at("data_offsets")[0].get<std::size_t>() + index * sizeof value, &value,
              sizeof value);
  std::ofstream(file, std::ios::binary) << bytes;
}

// chatglm-tiny and the imported adapter moelora-tiny (tasks task1 … task8), to damage; records of task1 and task2.
struct MergeCli {
  MergeCli() {
    fs::create_directory(base);
    for (const char* name : {"config.json", "ice_text.model", "model.safetensors"}) {
      fs::copy_file(fixtures() / "chatglm-tiny" / name, base / name);
    }
    fs::create_directory(foreign);
    for (const char* name : {"adapter_config.json", "adapter_model.safetensors"}) {
      fs::copy_file(fixtures() / "moelora-tiny" / name, foreign / name);
    }
    std::ofstream out(records);
    for (int i = 0; i < 4; ++i) {
      out << ordered_json{{"input", "患者" + std::to_string(i)},
                          {"target", "是"},
                          {"task_dataset", i % 2 == 0 ? "task1" : "task2"},
                          {"sample_id", std::to_string(i)}}
                 .dump()
          << "\n";
    }
  }
  Run import() { return run("import --adapter " + foreign.string() + " --output " + adapter.string()); }
  std::string session(bool with_adapter = true) const {
    return " --model " + base.string() + (with_adapter ? " --adapter " + adapter.string() : "") +
           " --device cpu --threads 1 ";
  }
  Run merge(const std::string& arguments) { return run("merge" + session() + arguments); }
  std::string to_output() const { return " --output " + output.string(); }

  TemporaryFolder folder;
  fs::path base = folder.path() / "base";
  fs::path foreign = folder.path() / "foreign";
  fs::path adapter = folder.path() / "adapter";
  fs::path records = folder.path() / "records.json";
  fs::path output = folder.path() / "out";
};

TEST(MergeProgram, LogitsThatAreNotFiniteAreAnErrorNamingTheLayer) {
  for (const float bad : {kNaN, std::numeric_limits<float>::infinity()}) {
    MergeCli cli;
    ASSERT_EQ(cli.import().code, 0);
    poison(cli.base / "model.safetensors", "transformer.layers.1.attention.dense.weight", 5, bad);
    for (const std::string adapter : {"", " --task task1"}) {
      const auto generated =
          run("generate" + cli.session(!adapter.empty()) + adapter + " --prompt 患者 --max-new-tokens 3");
      EXPECT_EQ(generated.code, 2) << generated.text;
      EXPECT_TRUE(generated.has("transformer.layers.1.attention.dense.weight")) << generated.text;
    }
    const auto evaluated =
        run("eval" + cli.session() + "--data " + cli.records.string() + cli.to_output() + " --max-new-tokens 3");
    EXPECT_EQ(evaluated.code, 2) << evaluated.text;
    EXPECT_TRUE(evaluated.has("transformer.layers.1.attention.dense.weight")) << evaluated.text;
    const fs::path merged = cli.folder.path() / "merged";
    for (const std::string& arguments :
         {std::string("--task task1"), "--task task1 --check " + cli.records.string(), std::string("--all-tasks")}) {
      const auto failed = cli.merge(arguments + " --output " + merged.string());
      EXPECT_EQ(failed.code, 1) << failed.text;
      EXPECT_TRUE(failed.has("transformer.layers.1.attention.dense.weight")) << failed.text;
      EXPECT_FALSE(failed.has("largest logit difference")) << failed.text;
      EXPECT_FALSE(fs::exists(merged));
    }
  }
}

TEST(MergeProgram, AnUpdateThatOverflowsTheTypeFailsAndLeavesNothing) {
  MergeCli cli;
  const std::string b = "base_model.model.transformer.layers.2.mlp.dense_h_to_4h.lora_B.loraB.0.";
  for (const char* alias : {"weight", "mlp.weight"}) {
    poison(cli.foreign / "adapter_model.safetensors", b + alias, 0, 1e8F);
  }
  ASSERT_EQ(cli.import().code, 0);
  const auto failed = cli.merge("--task task3 --dtype float16" + cli.to_output());
  EXPECT_EQ(failed.code, 1) << failed.text;
  EXPECT_TRUE(failed.has("not finite") || failed.has("leaves the range of float16")) << failed.text;
  EXPECT_TRUE(failed.has("transformer.layers.2")) << failed.text;
  EXPECT_FALSE(fs::exists(cli.output));
}

TEST(MergeProgram, AnAdapterThatIsNotFiniteIsNotImported) {
  for (const float bad : {kNaN, -std::numeric_limits<float>::infinity()}) {
    MergeCli cli;
    const std::string a = "base_model.model.transformer.layers.0.attention.dense.lora_A.loraA.3.";
    for (const char* alias : {"weight", "mlp.weight"}) {
      poison(cli.foreign / "adapter_model.safetensors", a + alias, 1, bad);
    }
    const auto imported = cli.import();
    EXPECT_EQ(imported.code, 2) << imported.text;
    EXPECT_TRUE(imported.has("transformer.layers.0.attention.dense")) << imported.text;
    EXPECT_FALSE(fs::exists(cli.adapter));
  }
}

TEST(MergeProgram, ACheckThatWouldCompareNothingIsAnError) {
  MergeCli cli;
  ASSERT_EQ(cli.import().code, 0);
  const std::string check = " --check " + cli.records.string() + " --max-new-tokens 3";
  const auto one = cli.merge("--task task5" + check + cli.to_output());
  EXPECT_EQ(one.code, 2) << one.text;
  EXPECT_TRUE(one.has("has no record of task5") && one.has("task1 (2), task2 (2)")) << one.text;
  const auto all = cli.merge("--all-tasks" + check + cli.to_output());
  EXPECT_EQ(all.code, 2) << all.text;
  EXPECT_TRUE(all.has("has no record of task3, task4, task5, task6, task7, task8")) << all.text;
  EXPECT_FALSE(fs::exists(cli.output));
  const auto good = cli.merge("--task task2" + check + cli.to_output());
  EXPECT_EQ(good.code, 0) << good.text;
  EXPECT_EQ(json_of(cli.output / "merge_certificate.json")["greedy_check"]["prompts"], 2);
}

TEST(MergeProgram, AMixtureOfOneTaskIsThatTask) {
  MergeCli cli;
  ASSERT_EQ(cli.import().code, 0);
  const auto mixed = cli.merge("--mix task1=1" + cli.to_output());
  EXPECT_EQ(mixed.code, 0) << mixed.text;
  const auto checked = cli.merge("--mix task1=1.0 --check " + cli.records.string() + " --max-new-tokens 3");
  EXPECT_EQ(checked.code, 0) << checked.text;
  EXPECT_TRUE(checked.has("2 of 2 answers")) << checked.text;
  const auto single = cli.merge("--task task1 --output " + (cli.folder.path() / "single").string());
  EXPECT_EQ(single.code, 0) << single.text;
  EXPECT_EQ(content(cli.output / "model.safetensors"), content(cli.folder.path() / "single" / "model.safetensors"));
  const std::pair<const char*, const char*> bad[] = {
      {"task1=1,task1=2", "comes twice"}, {"task1=one", "no number"},   {"task1=nan", "not finite"},
      {"task1=inf", "not finite"},        {"task1", "TASK=WEIGHT"},     {"task1=1,", "empty part"},
      {"task1=1e999", "out of range"},    {"nobody=1", "unknown task"}, {"task1=0.5,nobody=0.5", "unknown task"}};
  for (const auto& [mixture, why] : bad) {
    const fs::path never = cli.folder.path() / "never";
    const auto refused = cli.merge("--mix " + std::string(mixture) + " --output " + never.string());
    EXPECT_EQ(refused.code, 2) << refused.text;
    EXPECT_TRUE(refused.has(why)) << refused.text;
    EXPECT_FALSE(fs::exists(never));
  }
}

TEST(MergeProgram, OptionsOfSamplingAreNotOffered) {
  MergeCli cli;
  ASSERT_EQ(cli.import().code, 0);
  for (const char* option : {"--sample", "--temperature 0.5", "--top-k 3", "--top-p 0.5", "--seed 1"}) {
    const auto refused = cli.merge("--task task1 --check " + cli.records.string() + " " + option);
    EXPECT_EQ(refused.code, 2) << option << refused.text;
  }
  EXPECT_FALSE(run("merge --help").has("--sample"));
  EXPECT_EQ(cli.merge("--task task1 --max-new-tokens 3" + cli.to_output()).code, 2) << "an option of --check alone";
}

TEST(MergeProgram, ASecondWriterOfTheFolderIsRefusedByName) {
  MergeCli cli;
  ASSERT_EQ(cli.import().code, 0);
  fs::create_directory(cli.output);
  const std::string lock = cli.output / ".lock";
  const int held = open(lock.c_str(), O_RDWR | O_CREAT, 0666);
  ASSERT_EQ(flock(held, LOCK_EX), 0);
  ASSERT_EQ(write(held, "moelora merge (process 17)", 26), 26);
  for (const char* what : {"--task task1", "--all-tasks"}) {
    const auto refused = cli.merge(what + cli.to_output());
    EXPECT_EQ(refused.code, 2) << refused.text;
    EXPECT_TRUE(refused.has("in use by moelora merge (process 17)")) << refused.text;
  }
  close(held);
  // What a killed program left behind locks nothing.
  const auto merged = cli.merge("--task task1" + cli.to_output());
  EXPECT_EQ(merged.code, 0) << merged.text;
  EXPECT_TRUE(fs::exists(cli.output / "merge_certificate.json"));
  EXPECT_FALSE(fs::exists(lock));
}

TEST(MergeProgram, AMergedFolderIsComplete) {
  MergeCli cli;
  ASSERT_EQ(cli.import().code, 0);
  std::ofstream(cli.base / "modeling_chatglm.py") << "from .quantization import quantize\n\xff";
  std::ofstream(cli.base / "quantization.py") << "pass\n";
  std::ofstream(cli.base / "tokenization_own.py") << "pass\n";
  std::ofstream(cli.base / "generation_config.json") << "{\"do_sample\": false}";
  std::ofstream(cli.base / "tokenizer_config.json")
      << ordered_json{{"num_image_tokens", 0}, {"auto_map", {{"AutoTokenizer", {"tokenization_own.Own", nullptr}}}}};
  const auto merged = cli.merge("--all-tasks" + cli.to_output());
  EXPECT_EQ(merged.code, 0) << merged.text;
  EXPECT_TRUE(merged.has("configuration_chatglm.py")) << "a missing file is named: " << merged.text;
  for (const char* task : {"task1", "task8"}) {
    for (const char* name : {"modeling_chatglm.py", "quantization.py", "tokenization_own.py", "generation_config.json",
                             "tokenizer_config.json", "ice_text.model"}) {
      EXPECT_EQ(content(cli.output / task / name), content(cli.base / name)) << task << "/" << name;
    }
    EXPECT_EQ(json_of(cli.output / task / "config.json")["auto_map"], json_of(cli.base / "config.json")["auto_map"]);
    EXPECT_EQ(json_of(cli.output / task / "config.json")["transformers_version"], "4.28.1");
  }
  std::ofstream(cli.base / "configuration_chatglm.py") << "pass\n";
  const auto quiet = cli.merge("--task task1 --output " + (cli.folder.path() / "whole").string());
  EXPECT_FALSE(quiet.has("configuration_chatglm.py")) << quiet.text;
}

TEST(FullTrainingProgram, AWholeModelIsSavedCompleteAndWithItsOwnTokenizer) {
  MergeCli cli;
  std::ofstream(cli.base / "generation_config.json") << "{}";
  std::ofstream(cli.base / "modeling_chatglm.py") << "pass\n";
  const fs::path tokenizer = cli.folder.path() / "tokenizer";
  fs::create_directory(tokenizer);
  fs::copy_file(cli.base / "ice_text.model", tokenizer / "ice_text.model");
  std::ofstream(tokenizer / "tokenizer_config.json") << R"({"num_image_tokens": 0, "remove_space": true})";
  const fs::path config = cli.folder.path() / "config.json";
  std::ofstream(config) << ordered_json{
      {"mode", "full"},
      {"model", {{"path", cli.base.string()}, {"tokenizer", tokenizer.string()}, {"device", "cpu"}}},
      {"data", {{"train", cli.records.string()}, {"validation_size", 0}}},
      {"training", {{"steps", 1}, {"batch_size", 2}}}};
  const auto trained = run("train --config " + config.string() + cli.to_output());
  ASSERT_EQ(trained.code, 0) << trained.text;
  EXPECT_TRUE(trained.has("configuration_chatglm.py")) << "a missing file is named: " << trained.text;
  const fs::path model = cli.output / "model";
  for (const char* name : {"generation_config.json", "modeling_chatglm.py", "ice_text.model"}) {
    EXPECT_EQ(content(model / name), content(cli.base / name)) << name;
  }
  EXPECT_EQ(content(model / "tokenizer_config.json"), content(tokenizer / "tokenizer_config.json"));
  EXPECT_EQ(json_of(model / "config.json")["transformers_version"], "4.28.1");
}

TEST(ExportProgram, NamesTheBaseAndMeasuresWhatLoadingTheFileChanges) {
  MergeCli cli;
  ASSERT_EQ(cli.import().code, 0);
  const std::string exported = "export --adapter " + cli.adapter.string() + " --threads 1 ";
  const auto base_name = [&](const fs::path& folder) {
    return json_of(folder / "adapter_config.json")["base_model_name_or_path"];
  };
  const fs::path named = cli.folder.path() / "named";
  const auto first = run(exported + "--task task2 --base-name THUDM/chatglm-6b --output " + named.string());
  EXPECT_EQ(first.code, 0) << first.text;
  EXPECT_EQ(base_name(named), "THUDM/chatglm-6b");
  const fs::path nameless = cli.folder.path() / "nameless";
  const auto second = run(exported + "--task task2 --output " + nameless.string());
  EXPECT_TRUE(second.code == 0 && second.has("--base-name")) << second.text;

  const std::string with_model = exported + "--model " + cli.base.string() + " --probe ";
  const auto probed = run(with_model + "--task task2" + cli.to_output());
  EXPECT_EQ(probed.code, 0) << probed.text;
  EXPECT_EQ(base_name(cli.output), cli.base.string());
  const ordered_json probe = json_of(cli.output / "probe.json").at("tasks")[0];
  EXPECT_EQ(probe.at("task"), "task2");
  EXPECT_GT(probe.at("largest_change").get<double>(), 0.1);
  double largest = 0;
  for (const auto& prompt : probe.at("prompts")) {
    largest = std::max(largest, prompt.at("largest_change").get<double>());
    const auto& next = prompt.at("next_token");
    const double change = next.at("logit_with").get<double>() - next.at("logit_without").get<double>();
    EXPECT_GT(std::abs(change), 0.0);
    EXPECT_LE(std::abs(change), prompt.at("largest_change").get<double>() + 1e-6);
  }
  EXPECT_DOUBLE_EQ(largest, probe.at("largest_change").get<double>());
  const fs::path all = cli.folder.path() / "all";
  const auto every = run(with_model + "--format moelora-peft --output " + all.string());
  EXPECT_EQ(every.code, 0) << every.text;
  EXPECT_EQ(json_of(all / "probe.json").at("tasks").size(), 8U);
  EXPECT_NEAR(json_of(all / "probe.json").at("tasks")[1]["largest_change"].get<double>(),
              probe.at("largest_change").get<double>(), 1e-4)
      << "both files hold task2";
  EXPECT_EQ(run(exported + "--probe --task task2 --output " + (cli.folder.path() / "x").string()).code, 2)
      << "--probe needs --model";
}

TEST(ExportProgram, SaysThatAnUpdateIsZero) {
  MergeCli cli;
  const fs::path file = cli.foreign / "adapter_model.safetensors";
  std::string bytes = content(file);
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  const ordered_json entries = ordered_json::parse(bytes.substr(8, header));
  for (const auto& [name, entry] : entries.items()) {
    if (name.find("lora_B") != std::string::npos) {
      const auto begin = entry.at("data_offsets")[0].get<std::size_t>();
      std::memset(bytes.data() + 8 + header + begin, 0, entry.at("data_offsets")[1].get<std::size_t>() - begin);
    }
  }
  std::ofstream(file, std::ios::binary) << bytes;
  ASSERT_EQ(cli.import().code, 0);
  const auto exported = run("export" + cli.session() + "--probe --task task1" + cli.to_output());
  EXPECT_EQ(exported.code, 0) << exported.text;
  EXPECT_TRUE(exported.has("the update of task task1 is zero") && exported.has("NOTHING changes")) << exported.text;
  EXPECT_EQ(json_of(cli.output / "probe.json").at("tasks")[0]["largest_change"], 0.0);
  const auto merged = cli.merge("--task task1 --output " + (cli.folder.path() / "merged").string());
  EXPECT_TRUE(merged.code == 0 && merged.has("the update is zero")) << merged.text;
}

TEST(VerifyProgram, AToleranceThatAcceptsEverythingIsRefused) {
  for (const char* factor : {"inf", "nan", "0", "-1"}) {
    const auto refused =
        run("verify " + (fixtures() / "chatglm-tiny").string() + " --tolerance-factor " + std::string(factor));
    EXPECT_EQ(refused.code, 2) << factor << refused.text;
  }
}

}  // namespace
