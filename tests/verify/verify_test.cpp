#include "moelora/verify/verify.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "moelora/eval/segmenter.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/safetensors.h"
#include "nlohmann/json.hpp"
#include "support/shared.h"

namespace moelora::verify {
namespace {

namespace fs = std::filesystem;

TEST(Verify, GraphEqualsTheReference) {
  const VerifyReport report = verify_folder(testing::fixtures() / "chatglm-tiny");
  EXPECT_TRUE(report.passed()) << report.to_text();
  EXPECT_GT(report.comparisons.size(), 70u);
}

TEST(Verify, MoeLoraEqualsTheReference) {
  const VerifyReport report = verify_folder(testing::fixtures() / "moelora-tiny");
  EXPECT_TRUE(report.passed()) << report.to_text();
  EXPECT_GT(report.comparisons.size(), 400u);
}

TEST(Verify, LoraEqualsPeft) {
  const VerifyReport report = verify_folder(testing::fixtures() / "lora-tiny");
  EXPECT_TRUE(report.passed()) << report.to_text();
}

TEST(Verify, PrefixEqualsTheReference) {
  for (const char* name : {"ptuning-tiny", "ptuning-tiny/projection"}) {
    const VerifyReport report = verify_folder(testing::fixtures() / name);
    EXPECT_TRUE(report.passed()) << report.to_text();
    EXPECT_GE(report.comparisons.size(), 13u);
  }
}

TEST(Verify, TokenizerEqualsTheReference) {
  const VerifyReport report = verify_folder(testing::fixtures() / "tokenizer");
  EXPECT_TRUE(report.passed()) << report.to_text();
}

TEST(Verify, TokenizerAndProcessorEqualTheReferenceOnRealRecords) {
  if (!fs::exists(testing::shared() / "fixtures" / "tokenizer" / "processor_full.json")) {
    GTEST_SKIP() << "no processor_*.json below " << testing::shared() << " (set MOELORA_SHARED_DIR)";
  }
  const VerifyReport report = verify_folder(testing::shared() / "fixtures" / "tokenizer");
  EXPECT_TRUE(report.passed()) << report.to_text();
}

TEST(Verify, ScorersEqualTheReferencesOnRealRecordsWithNothingSkipped) {
  const fs::path folder = testing::shared() / "fixtures" / "promptcblue-metrics";
  if (!fs::exists(folder)) {
    GTEST_SKIP() << "no promptcblue-metrics below " << testing::shared() << " (set MOELORA_SHARED_DIR)";
  }
  const VerifyReport report = verify_folder(folder);
  EXPECT_TRUE(report.passed()) << report.to_text();
  EXPECT_GT(report.comparisons.size(), 800u);
  if (eval::default_segmenter().name() != "jieba") {
    GTEST_SKIP() << "scores of words were not compared: jieba's tables are absent (cmake/setup.sh fetches them)";
  }
  EXPECT_TRUE(report.skipped.empty()) << report.to_text();
}

TEST(VerifyCanFail, OnScoresWordsAndRouge) {
  const fs::path folder = testing::shared() / "fixtures" / "promptcblue-metrics";
  if (!fs::exists(folder)) {
    GTEST_SKIP() << "no promptcblue-metrics below " << testing::shared() << " (set MOELORA_SHARED_DIR)";
  }
  using Pointer = nlohmann::ordered_json::json_pointer;
  const auto expect_noticed = [&](const char* file, const char* place, const nlohmann::ordered_json& value) {
    testing::TemporaryFolder copy;
    fs::copy(folder, copy.path() / "copy", fs::copy_options::recursive);
    fs::permissions(copy.path() / "copy" / file, fs::perms::owner_write, fs::perm_options::add);
    fs::permissions(copy.path() / "copy", fs::perms::owner_write, fs::perm_options::add);
    auto json = io::read_json_file(copy.path() / "copy" / file);
    ASSERT_TRUE(json.contains(Pointer(place))) << place;
    json[Pointer(place)] = value;
    io::write_json_file(copy.path() / "copy" / file, json);
    EXPECT_FALSE(verify_folder(copy.path() / "copy").passed()) << file << place;
  };
  expect_noticed("expected_metrics.json", "/promptcblue_evaluation/MedDG/rouge1", 0.680155);
  expect_noticed("expected_metrics.json", "/promptcblue_evaluation/CMeIE-V2/f1", 0.53);
  expect_noticed("expected_metrics.json", "/promptcblue_evaluation/KUAKE-QQR/precision", 0.8999);
  expect_noticed("rouge_pairs.json", "/3/rouge_chinese_basic/rouge-l/f", 0.5);
  expect_noticed("rouge_pairs.json", "/3/basic_tokens_prediction", "x");
  expect_noticed("expected_structured_truth_promptcblue.json", "/CMeIE-V2/0/answer", nlohmann::ordered_json::array());
  if (eval::default_segmenter().name() != "jieba") GTEST_SKIP() << "jieba's tables are absent: words are not compared";
  expect_noticed("expected_metrics.json", "/moelora_evaluation/MedDG/predictions/f1", 0.64);
  expect_noticed("rouge_pairs.json", "/3/jieba_reference", "x");
}

// A copy of a golden folder beside its base, to damage.
struct Copied {
  Copied(const std::string& name) {
    fs::create_directories((folder.path() / name).parent_path());
    fs::copy(testing::fixtures() / name, folder.path() / name, fs::copy_options::recursive);
    path = folder.path() / name;
    options.base = testing::fixtures() / "chatglm-tiny";
  }
  testing::TemporaryFolder folder;
  fs::path path;
  VerifyOptions options;
};

// Each floating-point tensor of a golden file in turn: one value moved by ten times its tolerance must be noticed.
void expect_every_corruption_noticed(const std::string& fixture, const std::string& file, std::size_t stride) {
  Copied copy(fixture);
  const auto tensors = io::load_safetensors(copy.path / file);
  const VerifyReport clean = verify_folder(copy.path, copy.options);
  ASSERT_TRUE(clean.passed()) << clean.to_text();
  std::mt19937 random(5);
  std::size_t index = 0;
  for (const auto& [name, tensor] : tensors) {
    if (index++ % stride != 0) {
      continue;
    }
    double tolerance = 0;
    for (const Comparison& one : clean.comparisons) {
      if (one.name == file + ": " + name) {
        tolerance = one.tolerance;
      }
    }
    io::NamedTensors damaged;
    for (const auto& [other, value] : tensors) {
      at::Tensor changed = value.clone();
      if (other == name) {
        // The last row of the last sequence of a left-padded batch, and of everything else, is no pad row.
        at::Tensor flat = changed.view(-1);
        const std::int64_t place = name.starts_with("right.") && changed.dim() > 1 ? 0 : flat.size(0) - 1;
        if (changed.is_floating_point()) {
          // Where the tolerance is 0, a few units in the last place of the tensor's type.
          const double place_value = flat[place].item<double>();
          const double unit = changed.scalar_type() == at::kHalf ? 4e-3 : 1e-6;
          flat[place] = place_value + std::max(10 * tolerance, unit * std::max(1.0, std::abs(place_value)));
        } else {
          flat[place] = flat[place].item<std::int64_t>() == 0 ? 1 : 0;
        }
      }
      damaged.emplace_back(other, changed);
    }
    io::save_safetensors(copy.path / file, damaged);
    bool noticed = false;
    try {
      noticed = !verify_folder(copy.path, copy.options).passed();
    } catch (const Error&) {
      noticed = true;  // so damaged that it can't be read as what it was
    }
    EXPECT_TRUE(noticed) << file << ": " << name << " was changed by ten times " << tolerance << " unnoticed";
  }
}

TEST(VerifyCanFail, OnEveryTensorOfTheGraphsGoldens) {
  expect_every_corruption_noticed("chatglm-tiny", "golden.safetensors", 1);
}

TEST(VerifyCanFail, OnRotaryTables) { expect_every_corruption_noticed("chatglm-tiny", "rotary_dim64.safetensors", 1); }

TEST(VerifyCanFail, OnEveryTensorOfTheAdaptersGoldens) {
  expect_every_corruption_noticed("moelora-tiny", "golden.safetensors", 1);
}

TEST(VerifyCanFail, OnGradientsParametersAndMergedWeights) {
  expect_every_corruption_noticed("moelora-tiny", "gradients.safetensors", 12);
  expect_every_corruption_noticed("moelora-tiny", "gradients_multi_gate_only.safetensors", 1);
  expect_every_corruption_noticed("moelora-tiny", "params_after_5_adamw.safetensors", 15);
  expect_every_corruption_noticed("moelora-tiny", "merged_layer0.safetensors", 2);
  expect_every_corruption_noticed("moelora-tiny", "multi_gate_golden.safetensors", 6);
}

TEST(VerifyCanFail, OnPeftLora) { expect_every_corruption_noticed("lora-tiny", "golden.safetensors", 4); }

TEST(VerifyCanFail, OnPrefixes) {
  for (const char* name : {"ptuning-tiny", "ptuning-tiny/projection"}) {
    expect_every_corruption_noticed(name, "golden.safetensors", 1);
    expect_every_corruption_noticed(name, "prefix_encoder.safetensors", 1);
    Copied copy(name);
    auto json = io::read_json_file(copy.path / "golden.json");
    json["greedy_new_ids"][2][11] = 7;
    io::write_json_file(copy.path / "golden.json", json);
    EXPECT_FALSE(verify_folder(copy.path, copy.options).passed());
  }
}

TEST(VerifyCanFail, OnNumbersInGoldenJson) {
  Copied copy("lora-tiny");
  auto json = io::read_json_file(copy.path / "golden.json");
  json["losses_before_each_of_5_adamw_steps"][4] = 7.61;
  io::write_json_file(copy.path / "golden.json", json);
  EXPECT_FALSE(verify_folder(copy.path, copy.options).passed());
}

TEST(VerifyCanFail, OnTokenizerCases) {
  Copied copy("tokenizer");
  auto json = io::read_json_file(copy.path / "pairs.json");
  json["pairs"][7]["ids"][0] = json["pairs"][7]["ids"][0].get<int>() + 1;
  io::write_json_file(copy.path / "pairs.json", json);
  EXPECT_FALSE(verify_folder(copy.path, copy.options).passed());
}

TEST(VerifyCanFail, OnAGoldenTensorThatNothingIsComparedWith) {
  Copied copy("lora-tiny");
  auto tensors = io::load_safetensors(copy.path / "golden.safetensors");
  tensors["extra"] = at::ones({2});
  io::save_safetensors(copy.path / "golden.safetensors", {tensors.begin(), tensors.end()});
  const VerifyReport report = verify_folder(copy.path, copy.options);
  EXPECT_FALSE(report.passed());
  EXPECT_EQ(report.not_compared, std::vector<std::string>{"golden.safetensors: extra"});
}

TEST(Verify, TheBaseOfAnAdapterIsFoundAmongOtherModels) {
  Copied copy("lora-tiny");
  fs::copy(testing::fixtures() / "chatglm-tiny", copy.folder.path() / "chatglm-tiny");
  const auto add = [&](const char* name, const char* key, const nlohmann::ordered_json& value) {
    fs::create_directories(copy.folder.path() / name);
    std::ofstream(copy.folder.path() / name / "golden.safetensors");
    nlohmann::ordered_json config{{"model_type", "chatglm"}};
    config[key] = value;
    io::write_json_file(copy.folder.path() / name / "config.json", config);
  };
  add("quantised", "quantization_bit", 4);
  add("another", "model_type", "qwen2");
  const VerifyReport report = verify_folder(copy.path);
  EXPECT_TRUE(report.passed()) << report.to_text();
}

TEST(Verify, AFolderWithNothingToCompareIsAnError) {
  testing::TemporaryFolder empty;
  EXPECT_THROW(verify_folder(empty.path()), Error);
  EXPECT_THROW(verify_folder(empty.path() / "absent"), Error);
}

}  // namespace
}  // namespace moelora::verify
