#include "moelora/verify/verify.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <limits>
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

// Failed, or so damaged that it can't be read as what it was.
bool is_noticed(const Copied& copy) {
  try {
    return !verify_folder(copy.path, copy.options).passed();
  } catch (const Error&) {
    return true;
  }
}

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
    EXPECT_TRUE(is_noticed(copy)) << file << ": " << name << " was changed by ten times " << tolerance << " unnoticed";
  }
}

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// All floating-point tensors of a golden file at once: each then has a comparison that failed, and none that passed.
void expect_no_comparison_passes(const std::string& fixture, const std::string& file) {
  for (const double bad : {kNaN, kInfinity, -kInfinity}) {
    Copied copy(fixture);
    io::NamedTensors damaged;
    for (const auto& [name, value] : io::load_safetensors(copy.path / file)) {
      at::Tensor changed = value.clone();
      if (changed.is_floating_point()) {
        changed.view(-1)[changed.numel() / 2] = bad;
      }
      damaged.emplace_back(name, changed);
    }
    io::save_safetensors(copy.path / file, damaged);
    const VerifyReport report = verify_folder(copy.path, copy.options);
    EXPECT_FALSE(report.passed());
    for (const auto& [name, value] : damaged) {
      if (!value.is_floating_point()) {
        continue;
      }
      std::size_t failed = 0;
      for (const Comparison& one : report.comparisons) {
        if (one.name == file + ": " + name || one.name.starts_with(file + ": " + name + ",")) {
          EXPECT_FALSE(one.passed) << one.name << " passes with " << bad;
          EXPECT_NE(one.detail.find("not finite"), std::string::npos) << one.name << ": " << one.detail;
          ++failed;
        }
      }
      EXPECT_GE(failed, 1U) << file << ": " << name << " was compared with nothing";
    }
  }
}

TEST(VerifyCanFail, OnGoldensThatAreNotFinite) {
  expect_no_comparison_passes("chatglm-tiny", "golden.safetensors");
  expect_no_comparison_passes("chatglm-tiny", "rotary_dim64.safetensors");
  for (const char* file :
       {"golden.safetensors", "gradients.safetensors", "gradients_multi_gate_only.safetensors",
        "params_after_5_adamw.safetensors", "merged_layer0.safetensors", "multi_gate_golden.safetensors"}) {
    expect_no_comparison_passes("moelora-tiny", file);
  }
  expect_no_comparison_passes("lora-tiny", "golden.safetensors");
  expect_no_comparison_passes("ptuning-tiny", "golden.safetensors");
}

// A value of our side: the weights of the model, or of the adapter, that the goldens belong to.
void damage_tensor(const fs::path& file, const std::string& part_of_name, double value) {
  io::NamedTensors tensors;
  std::size_t damaged = 0;
  for (const auto& [name, tensor] : io::load_safetensors(file)) {
    at::Tensor changed = tensor.clone();
    if (name.find(part_of_name) != std::string::npos) {
      changed.view(-1)[changed.numel() - 1] = value;
      ++damaged;
    }
    tensors.emplace_back(name, changed);
  }
  ASSERT_GT(damaged, 0U);
  io::save_safetensors(file, tensors);
}

TEST(VerifyCanFail, OnResultsThatAreNotFinite) {
  for (const double bad : {kNaN, kInfinity, -kInfinity}) {
    Copied graph("chatglm-tiny");
    damage_tensor(graph.path / "model.safetensors", "layers.1.mlp.dense_h_to_4h.weight", bad);
    const VerifyReport report = verify_folder(graph.path, graph.options);
    for (const char* name :
         {"golden.safetensors: left.logits", "golden.safetensors: right.loss", "golden.safetensors: left.hidden.2"}) {
      const auto found = std::find_if(report.comparisons.begin(), report.comparisons.end(),
                                      [&](const Comparison& one) { return one.name == name; });
      ASSERT_NE(found, report.comparisons.end()) << name;
      EXPECT_FALSE(found->passed) << name << " passes with " << bad;
    }
    // Decoding, which has no answer then, is a failure that names the layer and no bad input.
    EXPECT_NE(report.to_text().find("transformer.layers.1.mlp.dense_h_to_4h.weight"), std::string::npos);

    // Golden and result agree in what they are not.
    damage_tensor(graph.path / "golden.safetensors", "left.loss", bad);
    EXPECT_FALSE(verify_folder(graph.path, graph.options).passed());

    for (const char* name : {"moelora-tiny", "lora-tiny"}) {
      Copied adapter(name);
      fs::remove(adapter.path / "adapter_model.bin");
      damage_tensor(adapter.path / "adapter_model.safetensors", "layers.0.attention.dense.lora_B", bad);
      EXPECT_TRUE(is_noticed(adapter)) << name << " passes with " << bad;
    }
  }
}

// W + s · Σ w_i B_i A_i from the files alone.
at::Tensor merged_weight(const fs::path& moelora, std::int64_t task, const std::string& linear) {
  const auto base = io::load_safetensors(testing::fixtures() / "chatglm-tiny" / "model.safetensors");
  const auto adapter = io::load_safetensors(moelora / "adapter_model.safetensors");
  const at::Tensor omega = io::load_safetensors(moelora / "golden.safetensors").at("gate_weights")[task];
  at::Tensor weight = base.at("transformer." + linear + ".weight").clone();
  for (std::int64_t i = 0; i < omega.size(0); ++i) {
    const std::string prefix = "base_model.model.transformer." + linear + ".lora_";
    const std::string expert = "." + std::to_string(i) + ".weight";
    weight += 4.0 * omega[i] * at::mm(adapter.at(prefix + "B.loraB" + expert), adapter.at(prefix + "A.loraA" + expert));
  }
  return weight;
}

TEST(Verify, MergedTasksAndLayersAreThoseThatTheFileNames) {
  Copied copy("moelora-tiny");
  const auto entry = [&](std::int64_t task, const std::string& linear) {
    return std::pair<std::string, at::Tensor>("task" + std::to_string(task) + "." + linear + ".weight",
                                              merged_weight(copy.path, task, linear));
  };
  fs::remove(copy.path / "merged_layer0.safetensors");
  const io::NamedTensors merged{entry(3, "layers.2.mlp.dense_4h_to_h"), entry(5, "layers.1.attention.dense"),
                                entry(2, "layers.0.attention.query_key_value")};
  io::save_safetensors(copy.path / "merged_layers.safetensors", merged);
  const VerifyReport report = verify_folder(copy.path, copy.options);
  EXPECT_TRUE(report.passed()) << report.to_text();
  for (const auto& entry : merged) {
    EXPECT_TRUE(std::any_of(report.comparisons.begin(), report.comparisons.end(), [&](const Comparison& one) {
      return one.name == "merged_layers.safetensors: " + entry.first && one.values == entry.second.numel();
    })) << entry.first;
    damage_tensor(copy.path / "merged_layers.safetensors", entry.first, 9.0);
    EXPECT_FALSE(verify_folder(copy.path, copy.options).passed()) << entry.first;
    io::save_safetensors(copy.path / "merged_layers.safetensors", merged);
  }
  io::save_safetensors(copy.path / "merged_layers.safetensors",
                       {{"task9.layers.0.attention.dense.weight", merged.front().second},
                        {"task1.layers.7.attention.dense.weight", merged.front().second}});
  EXPECT_EQ(verify_folder(copy.path, copy.options).not_compared.size(), 2U) << "no such task, no such layer";
}

TEST(VerifyCanFail, WhereNothingIsCompared) {
  {
    Copied copy("chatglm-tiny");
    io::save_safetensors(copy.path / "golden.safetensors", {});
    EXPECT_TRUE(is_noticed(copy)) << "a golden file without tensors";
  }
  {
    Copied copy("lora-tiny");
    io::save_safetensors(copy.path / "more_golden.safetensors", {{"left.logits", at::ones({2})}});
    const VerifyReport report = verify_folder(copy.path, copy.options);
    EXPECT_EQ(report.not_compared, std::vector<std::string>{"more_golden.safetensors"});
  }
  {
    Copied copy("lora-tiny");
    auto json = io::read_json_file(copy.path / "golden.json");
    json["losses_before_each_of_5_adamw_steps"] = nlohmann::ordered_json::array();
    io::write_json_file(copy.path / "golden.json", json);
    EXPECT_FALSE(verify_folder(copy.path, copy.options).passed()) << "a list of no losses";
  }
  for (const char* name : {"pairs.json", "decode.json", "process_response.json", "build_inputs.json"}) {
    Copied copy("tokenizer");
    auto json = io::read_json_file(copy.path / name);
    (json.is_object() ? json["pairs"] : json) = nlohmann::ordered_json::array();
    io::write_json_file(copy.path / name, json);
    EXPECT_FALSE(verify_folder(copy.path, copy.options).passed()) << name << " without cases";
  }
}

TEST(Verify, AToleranceFactorThatIsNoPositiveNumberIsAnError) {
  for (const double factor : {kNaN, kInfinity, 0.0, -1.0}) {
    VerifyOptions options;
    options.tolerance_factor = factor;
    EXPECT_THROW(verify_folder(testing::fixtures() / "chatglm-tiny", options), Error) << factor;
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

}  // namespace
}  // namespace moelora::verify
