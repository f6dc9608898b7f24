#include "moelora/adapter/prefix_checkpoint.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "adapter/formats/foreign_copy.h"

namespace moelora {
namespace {

namespace fs = std::filesystem;
using testing::expect_named;

TEST(PrefixCheckpoints, AreReadWithWhatTheirShapesSay) {
  for (const bool projection : {false, true}) {
    const testing::TemporaryFolder folder;
    const fs::path fixture = testing::fixtures() / "ptuning-tiny" / (projection ? "projection" : "");
    auto tensors = io::load_safetensors(fixture / "prefix_encoder.safetensors");
    fs::copy_file(fixture / "prefix_encoder.safetensors", folder.path() / "model.safetensors");
    const auto checkpoint = read_prefix_checkpoint(folder.path());
    ASSERT_TRUE(checkpoint.has_value());
    EXPECT_EQ(checkpoint->config.length, 8);
    EXPECT_EQ(checkpoint->config.projection, projection);
    EXPECT_EQ(checkpoint->others, 0u);
    EXPECT_EQ(checkpoint->shape.layers, projection ? 3 : 1);
    EXPECT_EQ(checkpoint->shape.width(), 384);
    EXPECT_TRUE(at::equal(checkpoint->tensors.at("prefix.embedding"),
                          tensors.at("transformer.prefix_encoder.embedding.weight")));
    EXPECT_EQ(checkpoint->tensors.size(), projection ? 5u : 1u);

    // Wrapped, and beside the base's weights: the same prefix.
    io::NamedTensors beside{{"module.transformer.final_layernorm.bias", at::zeros({64})}};
    for (const auto& [name, tensor] : tensors) {
      beside.emplace_back("module." + name, tensor);
    }
    io::save_safetensors(folder.path() / "model.safetensors", beside);
    const auto again = read_prefix_checkpoint(folder.path());
    ASSERT_TRUE(again.has_value());
    EXPECT_EQ(again->others, 1u);
    EXPECT_EQ(again->tensors.size(), checkpoint->tensors.size());

    io::write_json_file(folder.path() / "config.json", {{"pre_seq_len", 16}, {"hidden_size", 64}, {"num_layers", 3}});
    try {
      read_prefix_checkpoint(folder.path());
      ADD_FAILURE() << "another length went through";
    } catch (const Error& error) {
      expect_named(error.what(), {"pre_seq_len: expected 16", "found 8"});
    }
  }
}

TEST(PrefixCheckpoints, DamageIsNamed) {
  const testing::TemporaryFolder folder;
  EXPECT_FALSE(read_prefix_checkpoint(folder.path()).has_value());
  const auto error_with = [&](const io::NamedTensors& tensors) -> std::string {
    io::save_safetensors(folder.path() / "model.safetensors", tensors);
    try {
      read_prefix_checkpoint(folder.path());
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  const std::string encoder = "transformer.prefix_encoder.";
  expect_named(error_with({{encoder + "trans.0.weight", at::zeros({4, 4})}}),
               {"missing: prefix_encoder.embedding.weight", "missing: prefix_encoder.trans.2.bias"});
  expect_named(error_with({{encoder + "embedding.weight", at::zeros({4, 8})}, {encoder + "extra", at::zeros({1})}}),
               {"unknown: transformer.prefix_encoder.extra"});
  expect_named(error_with({{encoder + "embedding.weight", at::zeros({4})}}), {"matrices", "[4]"});
  expect_named(error_with({{encoder + "embedding.weight", at::zeros({4, 7})}}), {"multiple", "found 7"});
  EXPECT_EQ(error_with({{"transformer.word_embeddings.weight", at::zeros({4, 7})}}), "no error");
}

}  // namespace
}  // namespace moelora
