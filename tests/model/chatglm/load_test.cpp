#include "moelora/model/chatglm/load.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/tensor_folder.h"
#include "support/shared.h"
#include "support/tiny_chatglm.h"

namespace moelora::model {
namespace {

namespace fs = std::filesystem;

std::string error_of_loading(const fs::path& folder) {
  try {
    load_chatglm(folder);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// A saved tiny model whose tensors a test changes before it is loaded again.
struct SavedModel {
  SavedModel() : model(testing::tiny_config()) {
    save_chatglm(*model, folder.path());
    tensors = base_tensors(*model);
  }
  void rewrite() { io::save_tensor_folder(folder.path(), tensors); }
  testing::TemporaryFolder folder;
  ChatGlm model;
  io::NamedTensors tensors;
};

TEST(LoadChatGlm, ComesBackBitForBitFromShards) {
  SavedModel saved;
  testing::TemporaryFolder sharded;
  SaveOptions shards;
  shards.max_shard_bytes = 20000;
  save_chatglm(*saved.model, sharded.path(), shards);
  EXPECT_TRUE(fs::exists(sharded.path() / "model.safetensors.index.json"));
  const ChatGlm loaded = load_chatglm(sharded.path());
  const auto parameters = loaded->named_parameters();
  for (const auto& [name, tensor] : saved.tensors) {
    EXPECT_TRUE(at::equal(parameters[name], tensor)) << name;
  }
  EXPECT_EQ(base_fingerprint(*loaded), base_fingerprint(*saved.model));
}

TEST(LoadChatGlm, AllFormsOfTheSameWeightsHaveOneFingerprint) {
  const fs::path fixture = testing::fixtures() / "chatglm-tiny";
  testing::TemporaryFolder bins;
  for (const char* name : {"config.json", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin",
                           "pytorch_model-00002-of-00002.bin"}) {
    fs::copy_file(fixture / name, bins.path() / name);
  }
  const ChatGlm single = load_chatglm(fixture);
  const ChatGlm half = load_chatglm(bins.path(), {at::kHalf, at::kCPU});
  EXPECT_EQ(half->dtype(), at::kHalf);
  EXPECT_EQ(base_fingerprint(*single), base_fingerprint(*half));
}

TEST(LoadChatGlm, NamesEveryProblemAtOnce) {
  SavedModel saved;
  std::erase_if(saved.tensors, [](const auto& entry) { return entry.first.ends_with("final_layernorm.bias"); });
  for (auto& [name, tensor] : saved.tensors) {
    if (name.ends_with("layers.0.mlp.dense_h_to_4h.weight")) {
      tensor = at::zeros({3, 3});
    } else if (name.ends_with("layers.1.attention.dense.bias")) {
      tensor = at::zeros({32}, at::kLong);
    }
  }
  saved.tensors.emplace_back("transformer.layers.7.unexpected", at::zeros({1}));
  saved.rewrite();
  const std::string text = error_of_loading(saved.folder.path());
  for (const char* part : {"missing: transformer.final_layernorm.bias", "unexpected: transformer.layers.7.unexpected",
                           "shape of transformer.layers.0.mlp.dense_h_to_4h.weight: expected [64, 32], found [3, 3]",
                           "type of transformer.layers.1.attention.dense.bias"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " is not in: " << text;
  }
}

void expect_parts(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " is not in: " << text;
  }
}

io::NamedTensors renamed(const io::NamedTensors& tensors, const std::function<std::string(std::string)>& rename) {
  io::NamedTensors result;
  for (const auto& [name, tensor] : tensors) {
    result.emplace_back(rename(name), tensor);
  }
  return result;
}

TEST(LoadChatGlm, ReadsWhatWrappersSaved) {
  SavedModel saved;
  const io::NamedTensors clean = saved.tensors;
  for (const std::string before :
       {"module.", "_orig_mod.", "_orig_mod.module.", "base_model.model.", "model.", "model.model.", "module.model."}) {
    saved.tensors = renamed(clean, [&](const std::string& name) { return before + name; });
    saved.rewrite();
    const ChatGlm loaded = load_chatglm(saved.folder.path());
    EXPECT_EQ(base_fingerprint(*loaded), base_fingerprint(*saved.model)) << before;
  }
}

TEST(LoadChatGlm, ShowsUnknownNamesBesideTheExpectedOnesAndCutsItsLists) {
  SavedModel saved;
  saved.tensors = renamed(saved.tensors, [](const std::string& name) { return "student.net." + name; });
  saved.rewrite();
  const std::string text = error_of_loading(saved.folder.path());
  expect_parts(text,
               {"missing: transformer.word_embeddings.weight", "unexpected: student.net.",
                "expected transformer.word_embeddings.weight, found student.net.transformer.word_embeddings.weight",
                "more, 28 in all"});
  EXPECT_LT(std::count(text.begin(), text.end(), '\n'), 25) << text;
}

TEST(LoadChatGlm, NamesWhatItIsWhenItIsNoBase) {
  const auto error_with = [](const std::function<void(io::NamedTensors&)>& change) {
    SavedModel saved;
    change(saved.tensors);
    saved.rewrite();
    return error_of_loading(saved.folder.path());
  };
  expect_parts(error_with([](io::NamedTensors& tensors) {
                 tensors = renamed(tensors, [](std::string name) {
                   const auto at = name.find("transformer.layers.");
                   return at == 0 ? "transformer.encoder.layers." + name.substr(19) : name;
                 });
                 tensors.emplace_back("transformer.encoder.layers.0.self_attention.dense.weight", at::zeros({1}));
               }),
               {"weights of ChatGLM2-6B, ChatGLM3-6B or GLM-4-9B", "first generation"});
  expect_parts(error_with([](io::NamedTensors& tensors) {
                 tensors.emplace_back("transformer.layers.0.mlp.dense_h_to_4h.lora_A.default.weight", at::zeros({1}));
               }),
               {"1 tensors of a LoRA that is not merged", "merge_and_unload"});
  expect_parts(error_with([](io::NamedTensors& tensors) {
                 tensors.emplace_back("transformer.prefix_encoder.embedding.weight", at::zeros({4, 128}));
               }),
               {"left over from P-Tuning v2: transformer.prefix_encoder.embedding.weight", "remove", "moelora import"});
  expect_parts(error_with([](io::NamedTensors& tensors) {
                 tensors = {{"transformer.prefix_encoder.embedding.weight", at::zeros({4, 128})}};
               }),
               {"P-Tuning v2 prefix alone", "not a model", "moelora import --adapter"});
  expect_parts(error_with([](io::NamedTensors& tensors) { tensors.clear(); }), {"holds no tensors"});
}

TEST(LoadChatGlm, APrefixAloneIsNamedAlsoWhereTheConfigurationHasIt) {
  SavedModel saved;
  auto json = io::read_json_file(saved.folder.path() / "config.json");
  json["pre_seq_len"] = 4;
  io::write_json_file(saved.folder.path() / "config.json", json);
  expect_parts(error_of_loading(saved.folder.path()), {"pre_seq_len is 4", "take pre_seq_len", "moelora import"});
  saved.tensors = {{"module.transformer.prefix_encoder.embedding.weight", at::zeros({4, 128})}};
  saved.rewrite();
  expect_parts(error_of_loading(saved.folder.path()), {"P-Tuning v2 prefix alone", "moelora import --adapter"});
}

TEST(LoadChatGlm, SaysWhichOfTwoFormsItReadAndWhereTheyDiffer) {
  const fs::path fixture = testing::fixtures() / "chatglm-tiny";
  testing::TemporaryFolder folder;
  for (const char* name : {"config.json", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin",
                           "pytorch_model-00002-of-00002.bin", "model.safetensors"}) {
    fs::copy_file(fixture / name, folder.path() / name);
  }
  const auto said = [&] {
    ::testing::internal::CaptureStderr();
    load_chatglm(folder.path());
    return ::testing::internal::GetCapturedStderr();
  };
  expect_parts(said(), {"read model.safetensors", "pytorch_model.bin.index.json beside it holds the same weights"});
  auto tensors = io::load_safetensors(folder.path() / "model.safetensors");
  tensors.at("transformer.layers.1.mlp.dense_4h_to_h.bias") += 1;
  io::save_safetensors(folder.path() / "model.safetensors", {tensors.begin(), tensors.end()});
  expect_parts(said(),
               {"warn", "holds other weights: 1 tensors differ", "transformer.layers.1.mlp.dense_4h_to_h.bias"});
  fs::remove(folder.path() / "pytorch_model-00002-of-00002.bin");
  expect_parts(said(), {"warn", "was not read, and can't be", "pytorch_model-00002-of-00002.bin"});
}

TEST(LoadChatGlm, ItsHeadTakesNoAdapterHoweverItIsMade) {
  SavedModel saved;
  ChatGlm loaded = load_chatglm(saved.folder.path());
  EXPECT_NE(loaded->lm_head->refusal(), "");
  loaded->tie_head();
  EXPECT_NE(loaded->lm_head->refusal(), "");
  EXPECT_EQ(loaded->transformer->layers[0]->as<ChatGlmBlock>()->attention->dense->refusal(), "");
  EXPECT_THROW(loaded->lm_head->attach("a", nullptr), Error);
}

TEST(LoadChatGlm, AHeadEqualToTheEmbeddingBecomesOneTensor) {
  SavedModel saved;
  for (auto& [name, tensor] : saved.tensors) {
    if (name == "lm_head.weight") {
      tensor = saved.model->transformer->word_embeddings->weight.detach().clone();
    }
  }
  saved.rewrite();
  EXPECT_TRUE(load_chatglm(saved.folder.path())->head_is_tied());
  std::erase_if(saved.tensors, [](const auto& entry) { return entry.first == "lm_head.weight"; });
  saved.rewrite();
  EXPECT_TRUE(load_chatglm(saved.folder.path())->head_is_tied());
}

TEST(SaveChatGlm, WhatItCameFromIsKeptBesideTheWeights) {
  SavedModel base;
  const fs::path from = base.folder.path();
  auto json = io::read_json_file(from / "config.json");
  json["auto_map"] = {{"AutoModel", "modeling_own.OwnModel"}};
  json["transformers_version"] = "4.28.1";
  json["torch_dtype"] = "float16";
  io::write_json_file(from / "config.json", json);
  for (const char* name : {"modeling_own.py", "generation_config.json", "ice_text.model", "special_tokens_map.json"}) {
    std::ofstream(from / name) << name;
  }
  testing::TemporaryFolder saved;
  save_chatglm(*base.model, saved.path(), {from});
  for (const char* name : {"modeling_own.py", "generation_config.json", "ice_text.model", "special_tokens_map.json"}) {
    EXPECT_EQ(io::read_text_file(saved.path() / name), name);
  }
  const auto written = io::read_json_file(saved.path() / "config.json");
  EXPECT_EQ(written["auto_map"], json["auto_map"]);
  EXPECT_EQ(written["transformers_version"], "4.28.1");
  EXPECT_EQ(written["torch_dtype"], "float32") << "the type of the saved weights";
  EXPECT_EQ(base_fingerprint(*load_chatglm(saved.path())), base_fingerprint(*base.model));
  // A tokenizer's folder with another model's configuration lends its files, not its configuration.
  json["num_layers"] = 7;
  io::write_json_file(from / "config.json", json);
  testing::TemporaryFolder other;
  save_chatglm(*base.model, other.path(), {from / "ice_text.model"});
  EXPECT_EQ(io::read_json_file(other.path() / "config.json")["num_layers"], base.model->config().num_layers);
  EXPECT_TRUE(fs::exists(other.path() / "ice_text.model"));
}

TEST(LoadChatGlm, BadFoldersAndConfigurationsAreErrors) {
  testing::TemporaryFolder empty;
  EXPECT_NE(error_of_loading(empty.path() / "absent").find("no model folder"), std::string::npos);
  EXPECT_NE(error_of_loading(empty.path()).find("config.json"), std::string::npos);
  SavedModel saved;
  auto json = io::read_json_file(saved.folder.path() / "config.json");
  json["hidden_size"] = 33;
  json["position_encoding_2d"] = false;
  json["vocab_size"] = "many";
  io::write_json_file(saved.folder.path() / "config.json", json);
  const std::string text = error_of_loading(saved.folder.path());
  for (const char* part : {"position_encoding_2d", "vocab_size has the wrong type"}) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  }
  std::ofstream(saved.folder.path() / "config.json") << "{ broken";
  EXPECT_NE(error_of_loading(saved.folder.path()).find("config.json"), std::string::npos);
}

TEST(ChatGlmConfig, NamesTheOtherGenerations) {
  const auto error_of = [](const nlohmann::ordered_json& json) -> std::string {
    try {
      ChatGlmConfig::from_json(json);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  // As published: the type and the architecture's name are the first generation's.
  const nlohmann::ordered_json second{{"architectures", {"ChatGLMModel"}},
                                      {"model_type", "chatglm"},
                                      {"num_layers", 28},
                                      {"hidden_size", 4096},
                                      {"ffn_hidden_size", 13696},
                                      {"multi_query_attention", true},
                                      {"padded_vocab_size", 65024},
                                      {"eos_token_id", 2}};
  expect_parts(error_of(second), {"configuration of ChatGLM2-6B or ChatGLM3-6B", "first generation"});
  auto fourth = second;
  fourth["padded_vocab_size"] = 151552;
  expect_parts(error_of(fourth), {"configuration of GLM-4-9B"});
  expect_parts(error_of({{"model_type", "glm4"}, {"vocab_size", 151552}}), {"GLM-4"});
  expect_parts(error_of({{"model_type", "llama"}}), {"model_type is \"llama\""});
}

TEST(ChatGlmConfig, ReadsBothPublishedRevisions) {
  nlohmann::ordered_json first{{"model_type", "chatglm"}, {"vocab_size", 150528},      {"hidden_size", 4096},
                               {"num_layers", 28},        {"num_attention_heads", 32}, {"inner_hidden_size", 16384},
                               {"bos_token_id", 150004},  {"eos_token_id", 150005},    {"max_sequence_length", 2048}};
  const ChatGlmConfig old = ChatGlmConfig::from_json(first);
  EXPECT_EQ(old.gmask_token_id, 150001);
  EXPECT_EQ(old.mask_token_id, 150000);
  const ChatGlmConfig current = ChatGlmConfig::from_json(ChatGlmConfig{}.to_json());
  EXPECT_EQ(current.vocab_size, 130528);
  EXPECT_EQ(current.gmask_token_id, 130001);
  EXPECT_THROW(ChatGlmConfig::from_json({{"model_type", "llama"}}), Error);
}

}  // namespace
}  // namespace moelora::model
