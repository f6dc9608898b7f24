#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/safetensors.h"
#include "moelora/model/registry.h"
#include "moelora/verify/verify.h"
#include "nlohmann/json.hpp"
#include "support/shared.h"

namespace moelora::verify {
namespace {

namespace fs = std::filesystem;

/// A folder of the fixtures whose files may be changed.
void copy_to_change(const char* name, const fs::path& to) {
  fs::copy(testing::fixtures() / name, to, fs::copy_options::recursive | fs::copy_options::overwrite_existing);
  for (const auto& entry : fs::recursive_directory_iterator(to)) {
    fs::permissions(entry.path(), fs::perms::owner_write, fs::perm_options::add);
  }
}

TEST(VerifySequences, DecodersEqualTheReference) {
  for (const char* name : {"qwen2-tiny", "qwen3-tiny", "llama3-tiny", "glm-tiny"}) {
    const VerifyReport report = verify_folder(testing::fixtures() / name);
    EXPECT_TRUE(report.passed()) << name << "\n" << report.to_text();
    EXPECT_GT(report.comparisons.size(), 80u) << name;
  }
}

TEST(VerifySequences, OtherVariantsOfTheGraphEqualTheReference) {
  std::size_t variants = 0;
  for (const auto& entry : fs::directory_iterator(testing::fixtures() / "decoder-variants")) {
    if (entry.is_directory()) {
      const VerifyReport report = verify_folder(entry.path());
      EXPECT_TRUE(report.passed()) << entry.path() << "\n" << report.to_text();
      ++variants;
    }
  }
  EXPECT_EQ(variants, 6u);
}

class ChangedSequences : public ::testing::Test {
 protected:
  ChangedSequences() { copy_to_change("glm-tiny", folder_.path()); }
  /// Writes a safetensors file again, its tensors changed.
  template <typename Change>
  void rewrite(const std::string& file, const Change& change) {
    io::NamedTensors tensors;
    for (const auto& [name, tensor] : io::load_safetensors(folder_.path() / file)) {
      tensors.emplace_back(name, tensor.clone());
    }
    change(tensors);
    io::save_safetensors(folder_.path() / file, tensors);
  }
  std::string failures() const {
    std::string text;
    const VerifyReport report = verify_folder(folder_.path());
    for (const Comparison& one : report.comparisons) {
      text += one.passed ? "" : one.name + "\n";
    }
    for (const std::string& name : report.not_compared) {
      text += "not compared: " + name + "\n";
    }
    return text;
  }
  testing::TemporaryFolder folder_;
};

TEST_F(ChangedSequences, AreNoticedInEveryFile) {
  rewrite("moelora.safetensors", [](io::NamedTensors& tensors) { tensors[3].second.mul_(2.0); });
  EXPECT_NE(failures().find("moelora.task0.0.logits"), std::string::npos) << failures();
  rewrite("peft_lora/adapter_model.safetensors", [](io::NamedTensors& tensors) { tensors[0].second.mul_(2.0); });
  EXPECT_NE(failures().find("lora.0.logits"), std::string::npos) << failures();
  nlohmann::ordered_json json = io::read_json_file(folder_.path() / "golden.json");
  json["greedy_new_ids"][3] = 7;
  json["base.loss"] = 1.0;
  io::write_json_file(folder_.path() / "golden.json", json);
  EXPECT_NE(failures().find("greedy_new_ids"), std::string::npos);
  EXPECT_NE(failures().find("base.loss"), std::string::npos);
}

TEST(VerifyTexts, DifferencesInAnyScriptAreReported) {
  testing::TemporaryFolder folder;
  copy_to_change("llama3-tiny", folder.path() / "x");
  nlohmann::ordered_json json = io::read_json_file(folder.path() / "x" / "tokenizer_golden.json");
  std::string text;
  for (int i = 0; i < 100; ++i) {
    text += "咳";
  }
  json["chats"][1]["text"] = text;
  io::write_json_file(folder.path() / "x" / "tokenizer_golden.json", json);
  const VerifyReport report = verify_folder(folder.path() / "x");
  EXPECT_FALSE(report.passed());
  EXPECT_NO_THROW(report.to_json().dump());
}

TEST(VerifyTexts, ConversationsThatPromptsCanNotHaveAreComparedAsTexts) {
  testing::TemporaryFolder folder;
  copy_to_change("llama3-tiny", folder.path() / "x");
  const std::string form = "{{ messages[-1].content }}<|eot_id|>";
  std::ofstream(folder.path() / "x" / "chat_template.jinja") << form;
  const auto tokenizer = model::load_tokenizer(folder.path() / "x");
  nlohmann::ordered_json json = io::read_json_file(folder.path() / "x" / "tokenizer_golden.json");
  json["chats"] = nlohmann::ordered_json::array();
  for (const std::string question : {"q", "q<|eot_id|>"}) {
    const std::string text = question + "<|eot_id|>";
    json["chats"].push_back(
        {{"messages", {{{"role", "system"}, {"content", "left out"}}, {{"role", "user"}, {"content", question}}}},
         {"text", text},
         {"ids", tokenizer->encode(text)}});
  }
  json["chats"][1]["messages"].erase(0);
  io::write_json_file(folder.path() / "x" / "tokenizer_golden.json", json);
  const VerifyReport report = verify_folder(folder.path() / "x");
  EXPECT_TRUE(report.passed()) << report.to_text();
  EXPECT_NE(
      report.to_text().find("chats[0]: the prompt of this conversation: the template leaves out what system says"),
      std::string::npos)
      << report.to_text();
  EXPECT_NE(report.to_text().find("chats[1]: the prompt of this conversation: a token that user writes is text"),
            std::string::npos)
      << report.to_text();
}

TEST_F(ChangedSequences, GoldensThatNothingReadsAreNamed) {
  rewrite("golden.safetensors",
          [](io::NamedTensors& tensors) { tensors.emplace_back("base.0.attention", at::ones({2})); });
  EXPECT_NE(failures().find("not compared: golden.safetensors: base.0.attention"), std::string::npos) << failures();
}

TEST_F(ChangedSequences, WithoutLengthsAreAnError) {
  io::write_json_file(folder_.path() / "golden.json", {{"family", "x"}});
  EXPECT_THROW(verify_folder(folder_.path()), Error);
}

/// The folder of a pretrained model that a script of the shared material makes; tests skip where it is absent.
fs::path pretrained(const char* variable, const char* name) {
  const char* set = std::getenv(variable);
  return set != nullptr ? fs::path(set) : testing::shared() / ".." / name;
}

TEST(VerifyRecordedTexts, APretrainedModelEqualsTheReference) {
  const fs::path golden = testing::shared() / "bases" / "smollm2-golden";
  const fs::path base = pretrained("MOELORA_SMOLLM2_DIR", "smollm2");
  if (!fs::exists(golden / "golden.json") || !fs::exists(base / "model.safetensors")) {
    GTEST_SKIP() << "no goldens in " << golden << " (MOELORA_SHARED_DIR) or no model in " << base
                 << " (MOELORA_SMOLLM2_DIR)";
  }
  VerifyOptions options;
  options.base = base;
  const VerifyReport report = verify_folder(golden, options);
  EXPECT_TRUE(report.passed()) << report.to_text();
  EXPECT_GE(report.comparisons.size(), 40u);
}

TEST(VerifyRecordedTexts, NeedTheModelThatTheyAreOf) {
  testing::TemporaryFolder folder;
  io::write_json_file(folder.path() / "golden.json",
                      {{"prompts", nlohmann::ordered_json::array()}, {"texts", nlohmann::ordered_json::array()}});
  io::save_safetensors(folder.path() / "golden.safetensors", {{"logits.x", at::ones({2})}});
  try {
    verify_folder(folder.path());
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("--base"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace moelora::verify
