// Two sides of the same numbers: logits after reading what people save equal those of the clean file, or of the update
// written out.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/foreign.h"
#include "moelora/adapter/prefix_checkpoint.h"
#include "moelora/io/json_file.h"
#include "moelora/io/safetensors.h"
#include "moelora/model/chatglm/load.h"
#include "support/shared.h"

namespace moelora::verify {
namespace {

namespace fs = std::filesystem;
using File = std::map<std::string, at::Tensor>;

at::Tensor logits_of(model::ChatGlm& model, const Adapter& adapter) {
  at::NoGradGuard no_grad;
  const nn::Segments segments = nn::Segments::from_lengths({7, 5}, {4, 3});
  const at::Tensor ids = at::arange(20, 20 + segments.rows(), at::kLong);
  const nn::RowContext context =
      adapter ? adapter->context(segments, single_tasks({0, 0})) : nn::RowContext::plain(segments);
  return model->logits(model->hidden(ids, model->positions(segments), context));
}

at::Tensor logits_with(const fs::path& folder) {
  model::ChatGlm model = model::load_chatglm(testing::fixtures() / "chatglm-tiny");
  return logits_of(model, load_foreign_adapter(*model, folder));
}

// A copy of the fixture lora-tiny with other keys or values.
struct Changed {
  Changed(const std::function<void(nlohmann::ordered_json&, File&)>& change) {
    const fs::path fixture = testing::fixtures() / "lora-tiny";
    auto json = io::read_json_file(fixture / "adapter_config.json");
    file = io::load_safetensors(fixture / "adapter_model.safetensors");
    change(json, file);
    io::write_json_file(folder.path() / "adapter_config.json", json);
    io::save_safetensors(folder.path() / "adapter_model.safetensors", {file.begin(), file.end()});
  }
  testing::TemporaryFolder folder;
  File file;
};

double largest(const at::Tensor& tensor) { return tensor.abs().max().item<double>(); }

TEST(ForeignImport, WrappedKeysGiveTheSameLogits) {
  const Changed wrapped([](auto&, File& file) {
    File renamed;
    for (const auto& [key, tensor] : file) {
      std::string name = key.substr(std::string("base_model.model.").size());
      name.insert(name.rfind(".weight"), ".default");
      renamed.emplace("module._orig_mod." + name, tensor);
    }
    file = std::move(renamed);
  });
  EXPECT_TRUE(at::equal(logits_with(wrapped.folder.path()), logits_with(testing::fixtures() / "lora-tiny")));
}

TEST(ForeignImport, PatternsOfRankAndAlphaGiveTheUpdateWrittenOut) {
  const std::string special = "transformer.layers.2.attention.query_key_value";
  const std::string prefix = foreign_prefix(special);
  const Changed changed([&](auto& json, File& file) {
    json["rank_pattern"] = {{"layers.2.attention.query_key_value", 3}};
    json["alpha_pattern"] = {{"layers.2.attention.query_key_value", 20}};
    file[prefix + "lora_A.weight"] = file.at(prefix + "lora_A.weight").narrow(0, 0, 3).contiguous();
    file[prefix + "lora_B.weight"] = file.at(prefix + "lora_B.weight").narrow(1, 0, 3).contiguous();
  });
  model::ChatGlm model = model::load_chatglm(testing::fixtures() / "chatglm-tiny");
  const at::Tensor plain = logits_of(model, nullptr);
  {
    at::NoGradGuard no_grad;
    for (const auto& parameter : model->named_parameters()) {
      const std::string name = parameter.key().substr(0, parameter.key().rfind(".weight"));
      if (changed.file.contains(foreign_prefix(name) + "lora_A.weight")) {
        const double scale = name == special ? 20.0 / 3.0 : 16.0 / 8.0;
        const at::Tensor update = changed.file.at(foreign_prefix(name) + "lora_B.weight")
                                      .mm(changed.file.at(foreign_prefix(name) + "lora_A.weight"));
        at::Tensor weight = parameter.value();
        weight.add_(update, scale);
      }
    }
  }
  const at::Tensor expected = logits_of(model, nullptr);
  const at::Tensor found = logits_with(changed.folder.path());
  EXPECT_LE(largest(found - expected), 1e-4);
  EXPECT_GT(largest(found - plain), 1e-2) << "the adapter changes nothing, so nothing was compared";
  EXPECT_GT(largest(found - logits_with(testing::fixtures() / "lora-tiny")), 1e-3) << "the pattern changes nothing";
}

TEST(ForeignImport, AWrappedCheckpointGivesTheSameLogits) {
  const fs::path fixture = testing::fixtures() / "chatglm-tiny";
  const testing::TemporaryFolder folder;
  fs::copy_file(fixture / "config.json", folder.path() / "config.json");
  io::NamedTensors wrapped;
  for (const auto& [name, tensor] : io::load_safetensors(fixture / "model.safetensors")) {
    wrapped.emplace_back("module." + name, tensor);
  }
  io::save_safetensors(folder.path() / "model.safetensors", wrapped);
  model::ChatGlm loaded = model::load_chatglm(folder.path());
  model::ChatGlm clean = model::load_chatglm(fixture);
  EXPECT_TRUE(at::equal(logits_of(loaded, nullptr), logits_of(clean, nullptr)));
}

// verify_prefix compares the same parameters with the reference's goldens.
TEST(ForeignImport, APrefixGivesTheLogitsOfAnAdapterFilledByHand) {
  for (const bool projection : {false, true}) {
    const fs::path fixture = testing::fixtures() / "ptuning-tiny" / (projection ? "projection" : "");
    const testing::TemporaryFolder folder;
    fs::copy_file(fixture / "prefix_encoder.safetensors", folder.path() / "model.safetensors");
    const auto checkpoint = read_prefix_checkpoint(folder.path());
    ASSERT_TRUE(checkpoint.has_value());
    model::ChatGlm model = model::load_chatglm(testing::fixtures() / "chatglm-tiny");
    const Adapter read = load_prefix_checkpoint(*model, *checkpoint, "test");

    model::ChatGlm other = model::load_chatglm(testing::fixtures() / "chatglm-tiny");
    MoeLoraConfig config;
    config.targets.clear();
    config.prefix = PrefixConfig{8, projection, 0.0};
    Adapter filled = inject(*other, config, TaskNames({"default"}));
    const auto file = io::load_safetensors(fixture / "prefix_encoder.safetensors");
    std::map<std::string, at::Tensor> tensors{
        {"prefix.embedding", file.at("transformer.prefix_encoder.embedding.weight")}};
    if (projection) {
      tensors["prefix.hidden.weight"] = file.at("transformer.prefix_encoder.trans.0.weight");
      tensors["prefix.hidden.bias"] = file.at("transformer.prefix_encoder.trans.0.bias");
      tensors["prefix.output.weight"] = file.at("transformer.prefix_encoder.trans.2.weight");
      tensors["prefix.output.bias"] = file.at("transformer.prefix_encoder.trans.2.bias");
    }
    fill_adapter(*filled, tensors, "test");
    EXPECT_TRUE(at::equal(logits_of(model, read), logits_of(other, filled)));
    EXPECT_GT(largest(logits_of(model, read) - logits_of(model, nullptr)), 1e-3);
  }
}

}  // namespace
}  // namespace moelora::verify
