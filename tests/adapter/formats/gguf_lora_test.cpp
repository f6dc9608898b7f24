#include "moelora/adapter/gguf_lora.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "adapter/formats/foreign_copy.h"
#include "adapter/tiny_base.h"
#include "moelora/adapter/merge.h"
#include "moelora/io/finite.h"
#include "moelora/io/gguf.h"
#include "support/shared.h"

namespace moelora {
namespace {

using testing::expect_named;

/// One block; the rows of dense are swapped in pairs, as an architecture that orders rotary pairs otherwise has them.
io::GgufLayout layout_of_one_block(std::int64_t hidden) {
  io::GgufLayout layout{"toy", {}};
  const std::string block = "transformer.layers.0.";
  layout.linears[block + "attention.query_key_value"] = {"blk.0.attn_qkv.weight", {}};
  layout.linears[block + "mlp.dense_h_to_4h"] = {"blk.0.ffn_up.weight", {}};
  layout.linears[block + "mlp.dense_4h_to_h"] = {"blk.0.ffn_down.weight", {}};
  io::GgufLinear& dense = layout.linears[block + "attention.dense"];
  dense.tensor = "blk.0.attn_output.weight";
  for (std::int64_t row = 0; row < hidden; ++row) {
    dense.rows.push_back((row * 3) % hidden);
  }
  return layout;
}

class GgufLora : public ::testing::Test {
 protected:
  GgufLora() {
    at::NoGradGuard no_grad;
    MoeLoraConfig config;
    config.rank = 12;
    config.num_experts = 4;
    config.alpha = 20.0;  // its scale, 5/3, has no end in binary
    adapter_ = inject(*base_, config, TaskNames({"a", "b"}));
    auto generator = at::make_generator<at::CPUGeneratorImpl>(7);
    for (const auto& linear : adapter_->linears()) {
      linear.delta->tensor("B").normal_(0.0, 0.5, generator);
    }
  }
  std::filesystem::path file() const { return folder_.path() / "a.gguf"; }
  nn::LowRank update_of(const Adapter& adapter, std::size_t linear, std::int64_t task) const {
    const at::Tensor omega = adapter->expert_weights(single_tasks({task}));
    return adapter->linears()[linear].delta->low_rank(omega.select(1, 0)).update();
  }

  testing::TemporaryFolder folder_;
  std::shared_ptr<torch::nn::Module> base_ = testing::tiny_base(1, 8);
  Adapter adapter_{nullptr};
  io::GgufLayout layout_ = layout_of_one_block(8);
};

TEST_F(GgufLora, WritesLlamaCppsKeysNamesAndShapes) {
  export_gguf_lora(*adapter_, "b", file(), layout_);
  const io::GgufFile read(file());
  EXPECT_EQ(read.text("general.architecture"), "toy");
  EXPECT_EQ(read.text("general.type"), "adapter");
  EXPECT_EQ(read.text("adapter.type"), "lora");
  EXPECT_EQ(read.number("adapter.lora.alpha"), 20.0F);
  EXPECT_EQ(read.entries().size(), 8U);
  const at::Tensor omega = adapter_->expert_weights(single_tasks({1})).select(1, 0);
  for (const auto& linear : adapter_->linears()) {
    const io::GgufLinear& place = layout_.linears.at(linear.name);
    const nn::LowRankForm form = linear.delta->low_rank(omega);
    EXPECT_TRUE(at::equal(read.tensor(place.tensor + ".lora_a"), form.A)) << place.tensor;
    const at::Tensor B = read.tensor(place.tensor + ".lora_b");
    const at::Tensor expected = form.weighted_B();
    ASSERT_EQ(B.sizes(), expected.sizes());
    for (std::int64_t row = 0; row < B.size(0); ++row) {
      const std::int64_t from = place.rows.empty() ? row : place.rows[static_cast<std::size_t>(row)];
      EXPECT_TRUE(at::equal(B[row], expected[from])) << place.tensor << " row " << row;
    }
  }
}

TEST_F(GgufLora, ReadsBackTheTasksUpdates) {
  for (const std::int64_t padded : {0, 16, 64}) {
    export_gguf_lora(*adapter_, "a", file(), layout_, padded);
    const auto other = testing::tiny_base(1, 8);
    const Adapter read = load_gguf_lora(*other, file(), layout_, "a");
    EXPECT_EQ(read->config().rank, padded == 0 ? 12 : padded);
    EXPECT_EQ(read->tasks().names(), std::vector<std::string>{"a"});
    ASSERT_EQ(read->linears().size(), adapter_->linears().size());
    for (std::size_t i = 0; i < read->linears().size(); ++i) {
      ASSERT_EQ(read->linears()[i].name, adapter_->linears()[i].name);
      const at::Tensor expected = update_of(adapter_, i, 0).dense();
      const at::Tensor found = update_of(read, i, 0).dense();
      EXPECT_LE((expected - found).abs().max().item<double>(), 1e-6 * expected.abs().max().item<double>()) << i;
    }
  }
}

TEST_F(GgufLora, PaddingAddsZerosOnly) {
  export_gguf_lora(*adapter_, "a", file(), layout_);
  const auto padded_file = folder_.path() / "padded.gguf";
  export_gguf_lora(*adapter_, "a", padded_file, layout_, 16);
  const io::GgufFile plain(file());
  const io::GgufFile padded(padded_file);
  EXPECT_EQ(padded.number("adapter.lora.alpha") / 16.0F, static_cast<float>(20.0 / 12.0));
  for (const auto& [name, info] : plain.entries()) {
    const std::int64_t axis = name.ends_with(".lora_a") ? 0 : 1;
    const at::Tensor all = padded.tensor(name);
    ASSERT_EQ(all.size(axis), 16) << name;
    EXPECT_TRUE(at::equal(all.narrow(axis, 0, 12), plain.tensor(name))) << name;
    EXPECT_TRUE(at::equal(all.narrow(axis, 12, 4), at::zeros_like(all.narrow(axis, 12, 4)))) << name;
  }
}

TEST_F(GgufLora, WhatCanNotBeWrittenIsAnErrorAndLeavesNoFile) {
  const auto error = [&](const std::function<void()>& run) -> std::string {
    try {
      run();
    } catch (const Error& problem) {
      return problem.what();
    }
    return "no error";
  };
  expect_named(error([&] { export_gguf_lora(*adapter_, "c", file(), layout_); }), {"'c'"});
  expect_named(error([&] { export_gguf_lora(*adapter_, "a", file(), layout_, 8); }), {"rank is 12", "8"});
  io::GgufLayout damaged = layout_;
  damaged.linears.erase("transformer.layers.0.mlp.dense_4h_to_h");
  expect_named(error([&] { export_gguf_lora(*adapter_, "a", file(), damaged); }),
               {"toy", "transformer.layers.0.mlp.dense_4h_to_h", "PEFT"});
  damaged = layout_;
  damaged.linears["transformer.layers.0.attention.dense"].rows[1] = 0;
  expect_named(error([&] { export_gguf_lora(*adapter_, "a", file(), damaged); }), {"blk.0.attn_output", "twice"});
  damaged.linears["transformer.layers.0.attention.dense"].rows = {0, 1};
  expect_named(error([&] { export_gguf_lora(*adapter_, "a", file(), damaged); }), {"order of 8 rows, found 2"});
  {
    at::NoGradGuard no_grad;
    adapter_->linears()[1].delta->tensor("A")[0][0] = std::numeric_limits<float>::infinity();
  }
  EXPECT_THROW(export_gguf_lora(*adapter_, "a", file(), layout_), io::NotFinite);
  EXPECT_FALSE(std::filesystem::exists(file()));
}

TEST_F(GgufLora, TokenRoutingHasNoLora) {
  const auto base = testing::tiny_base(1, 8);
  MoeLoraConfig config;
  config.rank = 4;
  config.num_experts = 2;
  config.routing = Routing::token;
  const Adapter adapter = inject(*base, config, TaskNames({"a"}));
  EXPECT_THROW(export_gguf_lora(*adapter, "a", file(), layout_), NotMergeable);
}

TEST_F(GgufLora, ReadingNamesWhatDoesNotFit) {
  export_gguf_lora(*adapter_, "a", file(), layout_);
  const auto error = [&](const io::GgufLayout& layout) -> std::string {
    const auto other = testing::tiny_base(1, 8);
    try {
      load_gguf_lora(*other, file(), layout);
    } catch (const Error& problem) {
      return problem.what();
    }
    return "no error";
  };
  EXPECT_EQ(error(layout_), "no error");
  io::GgufLayout other = layout_;
  other.architecture = "another";
  expect_named(error(other), {"general.architecture", "\"another\"", "\"toy\""});
  other = layout_;
  other.linears.erase("transformer.layers.0.mlp.dense_h_to_4h");
  expect_named(error(other), {"unexpected: blk.0.ffn_up.weight.lora_a"});

  const auto rewritten = [&](const std::function<void(io::GgufMetadata&, io::NamedTensors&)>& change) {
    export_gguf_lora(*adapter_, "a", file(), layout_);
    io::GgufMetadata metadata;
    io::NamedTensors tensors;
    {
      const io::GgufFile read(file());
      metadata.assign(read.metadata().begin(), read.metadata().end());
      for (const auto& [name, info] : read.entries()) {
        tensors.emplace_back(name, read.tensor(name));
      }
    }
    change(metadata, tensors);
    io::save_gguf(file(), metadata, tensors);
    return error(layout_);
  };
  expect_named(rewritten([](auto&, auto& tensors) { tensors.erase(tensors.begin()); }), {"missing: blk.0.", ".lora_a"});
  expect_named(rewritten([](auto&, auto& tensors) { tensors[2].second = at::zeros({3, 8}); }), {"expected rank 12"});
  expect_named(rewritten([](auto& metadata, auto&) { metadata.erase(metadata.begin()); }), {"adapter.lora.alpha"});
  EXPECT_THROW(
      {
        export_gguf_lora(*adapter_, "a", file(), layout_);
        io::NamedTensors tensors;
        {
          const io::GgufFile read(file());
          for (const auto& [name, info] : read.entries()) {
            tensors.emplace_back(name, read.tensor(name));
          }
        }
        io::save_gguf(file(), {{"general.type", std::string("model")}}, tensors);
        load_gguf_lora(*testing::tiny_base(1, 8), file(), layout_);
      },
      Error);
}

}  // namespace
}  // namespace moelora
