// Adapters as people save them: wrapped keys, patterns of ranks and alphas, leftovers, several files.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "adapter/formats/foreign_copy.h"
#include "adapter/formats/pickle_file.h"
#include "moelora/adapter/adapter_file.h"

namespace moelora {
namespace {

namespace fs = std::filesystem;
using testing::expect_named;
using testing::ForeignCopy;
using testing::stderr_of;
using ForeignFile = ForeignCopy::Tensors;
using Rename = std::function<std::string(const std::string&)>;

const std::string kLinear = "transformer.layers.1.attention.query_key_value";

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  for (auto at = text.find(what); at != text.npos; at = text.find(what, at + by.size())) {
    text.replace(at, what.size(), by);
  }
  return text;
}

std::function<void(ForeignFile&)> renamed_by(const Rename& rename) {
  return [rename](ForeignFile& tensors) {
    ForeignFile renamed;
    for (const auto& [key, tensor] : tensors) {
      renamed.emplace(rename(key), tensor);
    }
    tensors = std::move(renamed);
  };
}

void expect_reads_as_clean(const std::string& fixture, const Rename& rename) {
  auto base = testing::tiny_base();
  auto clean_base = testing::tiny_base();
  const Adapter adapter = ForeignCopy(fixture).tensors(renamed_by(rename)).load(*base);
  const Adapter clean = ForeignCopy(fixture).load(*clean_base);
  const auto expected = adapter_tensors(*clean);
  const auto found = adapter_tensors(*adapter);
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].first, expected[i].first);
    EXPECT_TRUE(at::equal(found[i].second, expected[i].second)) << found[i].first;
  }
  EXPECT_EQ(adapter->config().to_json(), clean->config().to_json());
}

TEST(ForeignNames, WhatWrappersLeaveInKeysIsTakenOff) {
  const std::string own = "base_model.model.";
  const std::vector<Rename> wrappers{
      [](auto key) { return "_orig_mod." + key; },
      [](auto key) { return "module." + key; },
      [](auto key) { return "module._orig_mod." + key; },
      [](auto key) { return "_orig_mod.module.module." + key; },
      [](auto key) { return "model." + key; },
      [&](auto key) { return replaced(key, own, ""); },
      [&](auto key) { return replaced(key, own, own + own); },
      [&](auto key) { return replaced(key, own, "base_model.model.module._orig_mod."); },
      [&](auto key) { return replaced(key, own, "model."); },
      [](auto key) { return replaced(key, ".layers.1.", ".layers.1._checkpoint_wrapped_module."); },
      [](auto key) { return replaced(key, ".attention.", "._fsdp_wrapped_module.attention."); },
      [](auto key) { return replaced(replaced(key, "lora_A.", "lora_A.default."), "lora_B.", "lora_B.default."); },
      [&](auto key) {
        return "_orig_mod." +
               replaced(replaced(replaced(key, "lora_A.", "lora_A.medical."), "lora_B.", "lora_B.medical."), own, "");
      }};
  for (std::size_t i = 0; i < wrappers.size(); ++i) {
    SCOPED_TRACE(i);
    expect_reads_as_clean("lora-tiny", wrappers[i]);
  }
}

TEST(ForeignNames, MoeloraPeftKeysToo) {
  expect_reads_as_clean("moelora-tiny", [](auto key) { return "module._orig_mod." + key; });
  expect_reads_as_clean("moelora-tiny", [](auto key) {
    for (const std::string part : {"lora_A.", "lora_B.", "lora_gate.", "lora_task_embedding."}) {
      key = replaced(key, part, part + "default.");
    }
    return "base_model." + (key.starts_with("base_model.") ? key.substr(11) : key);
  });
}

TEST(ForeignNames, TwoAdaptersOrTwoValuesUnderOneNameAreErrors) {
  expect_named(ForeignCopy("lora-tiny")
                   .tensors(renamed_by([](auto key) {
                     const std::string name = key.find("layers.0.") == key.npos ? "a" : "b";
                     return replaced(replaced(key, "lora_A.", "lora_A." + name + "."), "lora_B.",
                                     "lora_B." + name + ".");
                   }))
                   .error(),
               {"holds the adapters a, b"});
  const std::string key = "base_model.model." + kLinear + ".lora_A.weight";
  const auto doubled = [&](double change) {
    return ForeignCopy("lora-tiny")
        .tensors([&](ForeignFile& tensors) { tensors["module." + key] = tensors.at(key) + change; })
        .error();
  };
  expect_named(doubled(1), {key, "module." + key, "values differ"});
  EXPECT_EQ(doubled(0), "no error");
}

TEST(ForeignNames, LinearsThatTheBaseLacksAreShownBesideItsOwn) {
  const std::string text = ForeignCopy("lora-tiny")
                               .tensors(renamed_by([](auto key) {
                                 return replaced(replaced(key, "transformer.layers", "transformer.encoder.layers"),
                                                 ".attention.", ".self_attention.");
                               }))
                               .error();
  expect_named(text, {"adapts 12 of 12 linears that the base does not have",
                      "found transformer.encoder.layers.0.self_attention.dense, expected "
                      "transformer.layers.0.attention.dense",
                      "(12 in all)"});
  EXPECT_EQ(text.find("layers.2"), text.npos) << "the list is not cut: " << text;
}

TEST(ForeignNames, UnknownKeysAreCutToAFewAndExplained) {
  const std::string text = ForeignCopy("lora-tiny")
                               .tensors([](ForeignFile& tensors) {
                                 for (int i = 0; i < 300; ++i) {
                                   tensors["base_model.model.transformer.part" + std::to_string(i) + ".weight"] =
                                       at::zeros({1});
                                 }
                                 tensors["base_model.model." + kLinear + ".lora_magnitude_vector"] = at::zeros({1});
                               })
                               .error();
  expect_named(text, {"300 such keys in all", "were the base's weights saved with it?", "DoRA"});
  EXPECT_LT(text.size(), 3000u);
}

TEST(ForeignNames, AnEmptyFileSaysSo) {
  const testing::TemporaryFolder folder;
  fs::copy_file(testing::fixtures() / "lora-tiny" / "adapter_config.json", folder.path() / "adapter_config.json");
  save_pickle_file(folder.path() / "adapter_model.bin", {});
  auto base = testing::tiny_base();
  try {
    load_foreign_adapter(*base, folder.path());
    FAIL() << "an empty adapter was read";
  } catch (const Error& error) {
    expect_named(error.what(), {"adapter_model.bin is empty", "save_pretrained"});
  }
}

TEST(ForeignTargets, AnEntryThatMatchesNothingWarnsAndTheRestIsLoaded) {
  auto base = testing::tiny_base();
  Adapter adapter{nullptr};
  ForeignCopy copy("lora-tiny");
  copy.config([](auto& json) { json["target_modules"].push_back("q_proj"); });
  const std::string text = stderr_of([&] { adapter = copy.load(*base); });
  expect_named(text, {"warn", "'q_proj' matches no module", "as in PEFT"});
  EXPECT_EQ(adapter->linears().size(), 12u);
  const auto& targets = adapter->config().targets;  // what is stored must match when it is loaded again
  EXPECT_EQ(std::count(targets.begin(), targets.end(), "q_proj"), 0);
  expect_named(ForeignCopy("lora-tiny")
                   .config([](auto& json) {
                     json["target_modules"] = {"q_proj", "k_proj"};
                   })
                   .error(),
               {"target_modules (q_proj, k_proj) matches no module", "query_key_value"});
}

TEST(ForeignTargets, AllLinearAndPythonsExpressionsTakeTheLinearsOfTheFile) {
  for (const char* targets : {"all-linear", "(?P<name>.*)\\.(query_key_value|dense|dense_h_to_4h|dense_4h_to_h)"}) {
    auto base = testing::tiny_base();
    const Adapter adapter =
        ForeignCopy("lora-tiny").config([&](auto& json) { json["target_modules"] = targets; }).load(*base);
    EXPECT_EQ(adapter->linears().size(), 12u) << targets;
  }
}

// ΔW = scale · B · A of every linear as PEFT computes it from the file.
void expect_updates(const AdapterImpl& adapter, const ForeignFile& file,
                    const std::function<double(const std::string&)>& scale_of) {
  for (const auto& linear : adapter.linears()) {
    const std::string prefix = foreign_prefix(linear.name);
    const at::Tensor expected =
        scale_of(linear.name) *
        file.at(prefix + "lora_B.weight").to(at::kDouble).mm(file.at(prefix + "lora_A.weight").to(at::kDouble));
    const at::Tensor found = adapter.config().scaling() *
                             linear.delta->tensor("B").to(at::kDouble).mm(linear.delta->tensor("A").to(at::kDouble));
    EXPECT_LE((found - expected).abs().max().item<double>(), 1e-7 * expected.abs().max().item<double>()) << linear.name;
  }
}

// Every linear of layer 1 gets the rank `rank`: the first rows of A, the first columns of B.
std::function<void(ForeignFile&)> rank_of_layer_1(std::int64_t rank) {
  return [rank](ForeignFile& tensors) {
    for (auto& [key, tensor] : tensors) {
      if (key.find("layers.1.") == key.npos) {
        continue;
      }
      const std::int64_t axis = key.find("lora_A") == key.npos ? 1 : 0;
      tensor = rank <= tensor.size(axis) ? tensor.narrow(axis, 0, rank).contiguous()
                                         : at::cat({tensor, tensor * 0.5}, axis).narrow(axis, 0, rank).contiguous();
    }
  };
}

TEST(ForeignPatterns, RanksArePaddedAndAlphasFoldIntoB) {
  for (const std::int64_t rank : {4, 3, 12}) {
    for (const bool stabilised : {false, true}) {
      ForeignCopy copy("lora-tiny");
      copy.config([&](auto& json) {
        json["rank_pattern"] = {{"layers.1.(attention|mlp).[a-z_0-9]+", rank}};
        json["alpha_pattern"] = {{"^transformer.layers.1.attention.query_key_value", 32},
                                 {"layers.2.mlp.dense_4h_to_h", 5.5}};
        json["use_rslora"] = stabilised;
      });
      copy.tensors(rank_of_layer_1(rank));
      auto base = testing::tiny_base();
      const Adapter adapter = copy.load(*base);
      EXPECT_EQ(adapter->config().rank, std::max<std::int64_t>(8, rank));
      expect_updates(*adapter, copy.tensors(), [&](const std::string& name) {
        const double r = name.find("layers.1.") == name.npos ? 8.0 : static_cast<double>(rank);
        const double alpha = name == kLinear ? 32.0 : name == "transformer.layers.2.mlp.dense_4h_to_h" ? 5.5 : 16.0;
        return alpha / (stabilised ? std::sqrt(r) : r);
      });
    }
  }
}

TEST(ForeignPatterns, LinearsWithoutPatternKeepTheirBytes) {
  ForeignCopy copy("lora-tiny");
  copy.config([](auto& json) {
    json["rank_pattern"] = {{"layers.1.attention.query_key_value", 4}};
    json["alpha_pattern"] = {{"layers.1.attention.query_key_value", 32}};
  });
  copy.tensors([](ForeignFile& tensors) {
    const std::string prefix = foreign_prefix(kLinear);
    tensors[prefix + "lora_A.weight"] = tensors[prefix + "lora_A.weight"].narrow(0, 0, 4).contiguous();
    tensors[prefix + "lora_B.weight"] = tensors[prefix + "lora_B.weight"].narrow(1, 0, 4).contiguous();
  });
  auto base = testing::tiny_base();
  const Adapter adapter = copy.load(*base);
  EXPECT_DOUBLE_EQ(adapter->config().alpha, 16.0);
  for (const auto& linear : adapter->linears()) {
    const at::Tensor stored = copy.tensors().at(foreign_prefix(linear.name) + "lora_B.weight");
    if (linear.name != kLinear) {
      EXPECT_TRUE(at::equal(linear.delta->tensor("B"), stored)) << linear.name;
      continue;
    }
    // 32 / 4 over 16 / 8: B grows by 4, which is exact, and the rest is zero.
    EXPECT_TRUE(at::equal(linear.delta->tensor("B").narrow(1, 0, 4), stored * 4));
    EXPECT_EQ(linear.delta->tensor("A").narrow(0, 4, 4).abs().max().item<float>(), 0.0f);
    EXPECT_EQ(linear.delta->tensor("B").narrow(1, 4, 4).abs().max().item<float>(), 0.0f);
  }
}

TEST(ForeignPatterns, AKeyIsTheEndOfANameAfterADotAndTheFirstThatFitsCounts) {
  const auto alphas = [](const nlohmann::ordered_json& pattern) {
    ForeignCopy copy("lora-tiny");
    copy.config([&](auto& json) { json["alpha_pattern"] = pattern; });
    auto base = testing::tiny_base();
    const Adapter adapter = copy.load(*base);
    std::map<std::string, double> found;
    for (const auto& linear : adapter->linears()) {
      const at::Tensor stored = copy.tensors().at(foreign_prefix(linear.name) + "lora_B.weight");
      const double factor = (linear.delta->tensor("B").norm() / stored.norm()).item<double>();
      found[linear.name] = adapter->config().scaling() * 8 * factor;
    }
    return found;
  };
  auto found = alphas({{"attention.dense", 4}, {"dense", 8}, {"ense_h_to_4h", 2}});
  EXPECT_NEAR(found.at("transformer.layers.0.attention.dense"), 4, 1e-5);
  EXPECT_NEAR(found.at("transformer.layers.0.mlp.dense_h_to_4h"), 16, 1e-5) << "a key is no part of a component";
  found = alphas({{"dense", 8}, {"attention.dense", 4}});
  EXPECT_NEAR(found.at("transformer.layers.0.attention.dense"), 8, 1e-5);
  found = alphas({{"query_key_value|dense_4h_to_h", 8}});
  EXPECT_NEAR(found.at("transformer.layers.2.mlp.dense_4h_to_h"), 8, 1e-5);
  EXPECT_NEAR(found.at(kLinear), 8, 1e-5);
}

TEST(ForeignPatterns, WhatDoesNotFitIsNamed) {
  const auto with_ranks = [](const nlohmann::ordered_json& pattern) {
    return ForeignCopy("lora-tiny").config([&](auto& json) { json["rank_pattern"] = pattern; }).error();
  };
  expect_named(with_ranks({{"dense", 4}}), {"attention.dense.lora_A: expected a matrix with 4 rows", "[8, 64]"});
  expect_named(with_ranks({{"dense", "4"}}), {"rank_pattern.dense: expected a positive integer, found \"4\""});
  expect_named(with_ranks({{"(?<=x)dense", 4}}), {"rank_pattern.(?<=x)dense: expected a name"});
  auto base = testing::tiny_base();
  ForeignCopy copy("lora-tiny");
  copy.config([](auto& json) { json["alpha_pattern"] = {{"no_such_linear", 4}}; });
  expect_named(stderr_of([&] { copy.load(*base); }), {"alpha_pattern: 'no_such_linear' matches no adapted linear"});
}

TEST(ForeignPatterns, HostileOnesCostNoTime) {
  auto base = testing::tiny_base();
  ForeignCopy copy("lora-tiny");
  copy.config([](auto& json) {
    json["alpha_pattern"] = {{"(((.*)*)*)*x", 4}, {"(a|b|ab|.)*(.*.*.*.*.*.*)*y", 4}};
    json["target_modules"] = "(((.*)*)*)*(query_key_value|dense|dense_h_to_4h|dense_4h_to_h)";
  });
  EXPECT_EQ(copy.load(*base)->linears().size(), 12u);
  expect_named(ForeignCopy("lora-tiny")
                   .config([](auto& json) {
                     json["alpha_pattern"] = {{std::string(200000, '('), 4}};
                   })
                   .error(),
               {"alpha_pattern.(((", "expected a name"});
  expect_named(ForeignCopy("lora-tiny")
                   .tensors([](ForeignFile& tensors) { tensors[std::string(200000, 'a')] = at::zeros({1}); })
                   .error(),
               {"found one of 200000 characters"});
}

TEST(ForeignValues, AnUpdateThatIsZeroIsAWarning) {
  const auto said = [](const std::function<void(ForeignFile&)>& change, const std::string& fixture = "lora-tiny") {
    auto base = testing::tiny_base();
    ForeignCopy copy(fixture);
    copy.tensors(change);
    return stderr_of([&] { copy.load(*base); });
  };
  const auto zero_every = [](const std::string& part) {
    return [part](ForeignFile& tensors) {
      for (auto& [key, tensor] : tensors) {
        if (key.find(part) != key.npos) {
          tensor.zero_();
        }
      }
    };
  };
  for (const char* part : {"lora_A", "lora_B"}) {
    for (const char* fixture : {"lora-tiny", "moelora-tiny"}) {
      expect_named(said(zero_every(part), fixture),
                   {"warn", "changes nothing: the update B · A of every linear is zero"});
    }
  }
  // Neither factor is zero, but their product is.
  expect_named(said([](ForeignFile& tensors) {
                 for (auto& [key, tensor] : tensors) {
                   const bool a = key.find("lora_A") != key.npos;
                   tensor.narrow(a ? 0 : 1, a ? 0 : 4, 4).zero_();
                 }
               }),
               {"changes nothing: the update"});
  expect_named(said(zero_every("layers.1.mlp.dense_4h_to_h.lora_B")), {"changes nothing in 1 of its 12 linears"});
  EXPECT_EQ(said([](ForeignFile&) {}), "");
}

TEST(ForeignValues, NumbersThatAreNotFiniteAreNamed) {
  const std::string key = "base_model.model." + kLinear + ".lora_B.weight";
  expect_named(
      ForeignCopy("lora-tiny").tensors([&](ForeignFile& tensors) { tensors.at(key)[3][2] = std::nan(""); }).error(),
      {key, "NaN"});
}

TEST(ForeignFiles, OfTwoFormsItIsSaidWhichWasReadAndWhereTheyDiffer) {
  ForeignCopy copy("lora-tiny");
  const fs::path& folder = copy.write();
  const auto said = [&] {
    auto base = testing::tiny_base();
    return stderr_of([&] { load_foreign_adapter(*base, folder); });
  };
  EXPECT_EQ(said(), "");
  // A pickle saved by hand, with the adapter's name in its keys.
  const auto save_beside = [&](const std::function<void(ForeignFile&)>& change) {
    ForeignFile tensors = ForeignCopy("lora-tiny").tensors();
    change(tensors);
    renamed_by([](auto key) {
      return replaced(replaced(key, "lora_A.", "lora_A.default."), "lora_B.", "lora_B.default.");
    })(tensors);
    save_pickle_file(folder / "adapter_model.bin", {tensors.begin(), tensors.end()});
  };
  save_beside([](ForeignFile&) {});
  expect_named(said(), {"read adapter_model.safetensors", "adapter_model.bin beside it holds the same tensors"});
  const std::string key = "base_model.model." + kLinear + ".lora_B.weight";
  save_beside([&](ForeignFile& tensors) {
    tensors[key] = tensors.at(key) + 1;
    tensors.erase("base_model.model." + kLinear + ".lora_A.weight");
  });
  expect_named(said(), {"warn", "read adapter_model.safetensors", "adapter_model.bin beside it was not read",
                        "2 tensors differ", key, "lora_A.weight (missing there)"});
  std::ofstream(folder / "adapter_model.bin") << "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
  expect_named(said(), {"warn", "was not read, and can't be", "LFS"});
}

}  // namespace
}  // namespace moelora
