// moelora import and model folders as people save them, as a user meets them.

#include <gtest/gtest.h>

#include <functional>

#include "cli/program.h"
#include "cli/safetensors_bytes.h"
#include "support/shared.h"

namespace {

namespace fs = std::filesystem;
using moelora::testing::fixtures;
using moelora::testing::read_stored;
using moelora::testing::run;
using moelora::testing::StoredFile;
using moelora::testing::TemporaryFolder;
using moelora::testing::write_stored;
using nlohmann::ordered_json;

// A copy of the fixture lora-tiny with changes, imported.
struct Imported {
  explicit Imported(const std::function<void(ordered_json&, StoredFile&)>& change) {
    std::ifstream stream(fixtures() / "lora-tiny" / "adapter_config.json");
    ordered_json json = ordered_json::parse(stream);
    StoredFile file = read_stored(fixtures() / "lora-tiny" / "adapter_model.safetensors");
    change(json, file);
    fs::create_directories(folder.path() / "foreign");
    std::ofstream(folder.path() / "foreign" / "adapter_config.json") << json.dump();
    write_stored(folder.path() / "foreign" / "adapter_model.safetensors", file);
    outcome =
        run("import --adapter '" + (folder.path() / "foreign").string() + "' --output '" + output().string() + "'");
  }
  fs::path output() const { return folder.path() / "own"; }
  TemporaryFolder folder;
  moelora::testing::Run outcome;
};

StoredFile renamed(const StoredFile& file, const std::function<std::string(std::string)>& rename) {
  StoredFile result;
  for (const auto& [name, stored] : file) {
    result[rename(name)] = stored;
  }
  return result;
}

std::string with_name(std::string key) { return key.insert(key.rfind(".weight"), ".default"); }

std::string bytes_of(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

TEST(ImportProgram, WrappedKeysGiveTheSameFile) {
  const Imported clean([](auto&, auto&) {});
  ASSERT_EQ(clean.outcome.code, 0) << clean.outcome.text;
  const std::vector<std::function<std::string(std::string)>> wrappers{
      with_name, [](std::string key) { return "_orig_mod." + key; }, [](std::string key) { return "module." + key; },
      [](std::string key) { return "module._orig_mod." + with_name(key).substr(17); },
      [](std::string key) { return "model." + key.substr(17); }};
  for (std::size_t i = 0; i < wrappers.size(); ++i) {
    const Imported imported([&](auto&, StoredFile& file) { file = renamed(file, wrappers[i]); });
    EXPECT_EQ(imported.outcome.code, 0) << imported.outcome.text;
    EXPECT_TRUE(bytes_of(imported.output() / "adapter.safetensors") == bytes_of(clean.output() / "adapter.safetensors"))
        << i;
  }
}

TEST(ImportProgram, AnEntryOfTargetModulesThatMatchesNothingIsAWarning) {
  const Imported imported([](ordered_json& json, auto&) { json["target_modules"].push_back("q_proj"); });
  EXPECT_EQ(imported.outcome.code, 0) << imported.outcome.text;
  EXPECT_TRUE(imported.outcome.has("'q_proj' matches no module and is left out")) << imported.outcome.text;
  EXPECT_TRUE(imported.outcome.has("12 linears")) << imported.outcome.text;
  // What was written is loaded on the base.
  const auto used = run("generate --model '" + (fixtures() / "chatglm-tiny").string() + "' --adapter '" +
                        imported.output().string() + "' --prompt x --max-new-tokens 2 --threads 1");
  EXPECT_EQ(used.code, 0) << used.text;
}

TEST(ImportProgram, TensorsThatAreLostAreNamedWithoutABase) {
  const Imported imported([](auto&, StoredFile& file) {
    std::erase_if(file, [](const auto& entry) { return entry.first.find("layers.1.mlp") != std::string::npos; });
  });
  EXPECT_EQ(imported.outcome.code, 2);
  EXPECT_TRUE(imported.outcome.has("missing: linears.transformer.layers.1.mlp.dense_4h_to_h.A"))
      << imported.outcome.text;
}

TEST(ImportProgram, AnUpdateOfZeroIsAWarning) {
  const Imported imported([](auto&, StoredFile& file) {
    for (auto& [name, stored] : file) {
      if (name.find("lora_B") != std::string::npos) {
        stored.bytes.assign(stored.bytes.size(), '\0');
      }
    }
  });
  EXPECT_EQ(imported.outcome.code, 0) << imported.outcome.text;
  EXPECT_TRUE(imported.outcome.has("changes nothing")) << imported.outcome.text;
}

TEST(ImportProgram, AnAdapterOfAnotherModelIsNamedAsWhatItIs) {
  const std::vector<std::pair<std::function<std::string(std::string)>, std::string>> others{
      {[](std::string key) { return key.replace(key.find(".layers."), 8, ".encoder.layers."); },
       "ChatGLM2-6B, ChatGLM3-6B or GLM-4-9B"},
      {[](std::string key) {
         const auto layer = key.substr(key.find(".layers."), 9);
         const bool a = key.find("lora_A") != std::string::npos;
         return "base_model.model.model" + layer + ".attention.wqkv." + (a ? "lora_A" : "lora_B") + ".weight";
       },
       "InternLM2"}};
  for (const auto& [rename, name] : others) {
    const Imported imported([&rename = rename](auto&, StoredFile& file) { file = renamed(file, rename); });
    EXPECT_EQ(imported.outcome.code, 2);
    EXPECT_TRUE(imported.outcome.has(name) && imported.outcome.has("first generation")) << imported.outcome.text;
    EXPECT_FALSE(fs::exists(imported.output()));
  }
}

TEST(ImportProgram, AnUnknownNameInFrontIsShownBesideTheExpectedOne) {
  const Imported imported([](auto&, StoredFile& file) {
    file = renamed(file, [](std::string key) { return "student.net." + key.substr(17); });
  });
  EXPECT_EQ(imported.outcome.code, 2);
  EXPECT_TRUE(
      imported.outcome.has("expected transformer.layers.0.attention.dense, found "
                           "student.net.transformer.layers.0.attention.dense"))
      << imported.outcome.text;
  const Imported own([](ordered_json& json, StoredFile& file) {
    file = renamed(file, [](std::string key) { return key.replace(key.find("transformer."), 12, "encoder.my."); });
    json["target_modules"] = "all-linear";
  });
  EXPECT_EQ(own.outcome.code, 0) << own.outcome.text;
  EXPECT_TRUE(own.outcome.has("not named as ChatGLM-6B's")) << own.outcome.text;
}

// The same text wherever an adapter on the head is asked for.
TEST(ImportProgram, AnAdapterOnTheHeadIsRefusedAlike) {
  const std::string reason = "matches lm_head, which takes no adapter (the head runs on single rows";
  const Imported imported([](ordered_json& json, StoredFile& file) {
    json["target_modules"].push_back("lm_head");
    file["base_model.model.lm_head.lora_A.weight"] = {"F32", {8, 64}, std::string(8 * 64 * 4, '\0')};
    file["base_model.model.lm_head.lora_B.weight"] = {"F32", {512, 8}, std::string(512 * 8 * 4, '\0')};
  });
  EXPECT_EQ(imported.outcome.code, 2);
  EXPECT_TRUE(imported.outcome.has("target 'lm_head' " + reason)) << imported.outcome.text;
  EXPECT_FALSE(fs::exists(imported.output()));

  const TemporaryFolder folder;
  const std::string records = (folder.path() / "records.json").string();
  {
    std::ofstream out(records);
    for (int i = 0; i < 12; ++i) {
      out << ordered_json{{"input", "患者" + std::to_string(i)},
                          {"target", "是"},
                          {"answer_choices", {"是", "否"}},
                          {"task_type", "cls"},
                          {"task_dataset", "one"},
                          {"sample_id", std::to_string(i)}}
                 .dump()
          << "\n";
    }
  }
  for (const std::string target : {"lm_head", ".*"}) {
    const std::string config = (folder.path() / "config.json").string();
    std::ofstream(config) << ordered_json{
        {"mode", "adapter"},
        {"model", {{"path", (fixtures() / "chatglm-tiny").string()}}},
        {"adapter", {{"rank", 4}, {"num_experts", 2}, {"task_embedding_dim", 8}, {"targets", {target}}}},
        {"data", {{"train", records}, {"validation_size", 2}}},
        {"training", {{"steps", 2}, {"batch_size", 2}, {"threads", 1}}}};
    for (const std::string& command :
         {"train --config '" + config + "' --output '" + (folder.path() / "run").string() + "'",
          "inspect '" + config + "'", "inspect --plan '" + config + "'"}) {
      const auto outcome = run(command);
      EXPECT_EQ(outcome.code, 2) << command;
      EXPECT_TRUE(outcome.has("target '" + target + "' " + reason)) << outcome.text;
      EXPECT_TRUE(outcome.has("transformer.layers.*.attention.query_key_value")) << outcome.text;
    }
  }
}

TEST(ImportProgram, APrefixCheckpointIsNamedAsAModelAndReadAsAnAdapter) {
  for (const std::string form : {"", "projection"}) {
    const TemporaryFolder folder;
    const fs::path checkpoint = folder.path() / "checkpoint";
    fs::create_directories(checkpoint);
    std::ifstream stream(fixtures() / "chatglm-tiny" / "config.json");
    ordered_json json = ordered_json::parse(stream);
    json["pre_seq_len"] = 8;
    json["prefix_projection"] = !form.empty();
    std::ofstream(checkpoint / "config.json") << json.dump();
    fs::copy_file(fixtures() / "chatglm-tiny" / "ice_text.model", checkpoint / "ice_text.model");
    fs::copy_file(fixtures() / "ptuning-tiny" / form / "prefix_encoder.safetensors", checkpoint / "model.safetensors");

    for (const std::string& command :
         {"inspect '" + checkpoint.string() + "'", "generate --prompt x --model '" + checkpoint.string() + "'"}) {
      const auto as_model = run(command);
      EXPECT_EQ(as_model.code, 2);
      EXPECT_TRUE(as_model.has("P-Tuning v2 prefix alone") && as_model.has("moelora import --adapter"))
          << as_model.text;
    }
    const std::string own = (folder.path() / "own").string();
    const auto imported = run("import --adapter '" + checkpoint.string() + "' --output '" + own + "'");
    EXPECT_EQ(imported.code, 0) << imported.text;
    EXPECT_TRUE(imported.has("a prefix of 8 positions")) << imported.text;
    const auto used = run("generate --model '" + (fixtures() / "chatglm-tiny").string() + "' --adapter '" + own +
                          "' --prompt x --max-new-tokens 2 --threads 1");
    EXPECT_EQ(used.code, 0) << used.text;
  }
}

TEST(ImportProgram, AWrappedModelFolderIsReadAndLeftoversAreNamed) {
  const TemporaryFolder folder;
  const fs::path fixture = fixtures() / "chatglm-tiny";
  for (const char* name : {"config.json", "ice_text.model"}) {
    fs::copy_file(fixture / name, folder.path() / name);
  }
  const StoredFile clean = read_stored(fixture / "model.safetensors");
  const auto inspected = [&](const StoredFile& file) {
    write_stored(folder.path() / "model.safetensors", file);
    return run("inspect '" + folder.path().string() + "'");
  };
  const auto wrapped = inspected(renamed(clean, [](std::string name) { return "module." + name; }));
  EXPECT_EQ(wrapped.code, 0) << wrapped.text;
  StoredFile with_prefix = clean;
  with_prefix["transformer.prefix_encoder.embedding.weight"] = {"F32", {8, 384}, std::string(8 * 384 * 4, '\0')};
  const auto leftovers = inspected(with_prefix);
  EXPECT_EQ(leftovers.code, 2);
  EXPECT_TRUE(leftovers.has("left over from P-Tuning v2: transformer.prefix_encoder.embedding.weight"))
      << leftovers.text;
  const auto empty = inspected({});
  EXPECT_EQ(empty.code, 2);
  EXPECT_TRUE(empty.has("holds no tensors")) << empty.text;
}

}  // namespace
