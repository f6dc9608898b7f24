// A block's written-out forward and backward against the same block by plain operations, with an adapter on it.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <optional>

#include "moelora/adapter/adapter.h"
#include "moelora/model/chatglm/chatglm.h"
#include "moelora/model/chatglm/rotary.h"
#include "support/tiny_chatglm.h"

namespace moelora {
namespace {

model::ChatGlmConfig small_config() {
  model::ChatGlmConfig config = testing::tiny_config();
  config.num_layers = 1;
  config.inner_hidden_size = 72;  // no multiple of a register's width
  return config;
}

struct Variant {
  const char* name;
  std::int64_t experts;
  bool per_linear;
  double dropout;
  bool some_rows;
  bool recompute;
  at::ScalarType dtype;
  std::vector<std::string> targets;
  std::optional<PrefixConfig> prefix = {};
};

const std::vector<std::string> kAll{"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"};

class BlockByHand : public ::testing::TestWithParam<Variant> {
 protected:
  BlockByHand() : model_(small_config(), model::random_tensors(3, GetParam().dtype)) {
    at::manual_seed(4);
    at::NoGradGuard no_grad;
    for (at::Tensor& parameter : model_->parameters()) {
      parameter.add_(at::randn_like(parameter), 0.1);  // biases and norms that are not 0 and 1
    }
    MoeLoraConfig config;
    config.rank = 8;
    config.num_experts = GetParam().experts;
    config.gate.per_linear = GetParam().per_linear;
    config.dropout = GetParam().dropout;
    config.targets = GetParam().targets;
    config.prefix = GetParam().prefix;
    adapter_ = inject(*model_, config, TaskNames({"a", "b", "c"}));
    for (const auto& linear : adapter_->linears()) {
      linear.delta->tensor("A").normal_(0.0, 0.3);
      linear.delta->tensor("B").normal_(0.0, 0.3);
    }
  }

  struct Run {
    at::Tensor y;
    std::vector<at::Tensor> gradients;
  };

  Run run(bool by_hand, const at::Tensor& x, bool need_dx) {
    // More rows than one chunk of queries and one block of low-rank rows hold.
    const nn::Segments segments = nn::Segments::from_lengths({90, 3, 41}, {37, 3, 0});
    const nn::RowContext context = adapter_->context(segments, single_tasks({2, 0, 1}), {9, {5, 6, 7}});
    const nn::Rotary rotary =
        model::chatglm_rotary(model_->positions(segments), small_config().head_dim(), GetParam().dtype);
    model::LayerInput input{rotary, context, 0, nullptr, {}, {}, GetParam().recompute};
    if (GetParam().some_rows) {
      input.output_rows = at::tensor({36, 37, 38, 89, 91, 92, 93, 133}, at::kLong);
      input.output_context = context.select(input.output_rows);
    }
    const at::Tensor start = x.detach().clone().set_requires_grad(need_dx);
    auto& block = *model_->transformer->layers[0]->as<model::ChatGlmBlock>();
    Run result;
    result.y = by_hand ? block.forward(start, input) : block.forward_reference(start, input);
    at::manual_seed(8);
    std::vector<at::Tensor> inputs = adapter_->parameters();
    if (need_dx) {
      inputs.push_back(start);
    }
    const at::Tensor probe = at::randn(result.y.sizes()).to(GetParam().dtype);
    result.gradients = torch::autograd::grad({(result.y * probe).sum()}, inputs);
    return result;
  }

  model::ChatGlm model_;
  Adapter adapter_{nullptr};
};

TEST_P(BlockByHand, EqualsPlainOperations) {
  const double tolerance = GetParam().dtype == at::kFloat ? 2e-5 : 3e-2;
  const at::Tensor x = at::randn({134, 32}).to(GetParam().dtype);
  for (const bool need_dx : {true, false}) {
    const Run fast = run(true, x, need_dx);
    const Run plain = run(false, x, need_dx);
    ASSERT_EQ(fast.y.sizes(), plain.y.sizes());
    EXPECT_LE((fast.y - plain.y).abs().max().item<double>(), tolerance * plain.y.abs().max().item<double>());
    for (std::size_t i = 0; i < plain.gradients.size(); ++i) {
      const double scale = plain.gradients[i].abs().max().item<double>();
      EXPECT_GT(scale, 0.0) << "gradient " << i;
      EXPECT_LE((fast.gradients[i] - plain.gradients[i]).abs().max().item<double>(), tolerance * scale)
          << "gradient " << i << (need_dx ? "" : " without dx");
    }
  }
}

TEST_P(BlockByHand, IsTheSameWithoutRecordingGradients) {
  const at::Tensor x = at::randn({134, 32}).to(GetParam().dtype);
  const at::Tensor recorded = run(true, x, true).y.detach();
  const nn::Segments segments = nn::Segments::from_lengths({90, 3, 41}, {37, 3, 0});
  at::NoGradGuard no_grad;
  const nn::RowContext context = adapter_->context(segments, single_tasks({2, 0, 1}), {9, {5, 6, 7}});
  const nn::Rotary rotary =
      model::chatglm_rotary(model_->positions(segments), small_config().head_dim(), GetParam().dtype);
  const model::LayerInput input{rotary, context, 0, nullptr, {}, {}, false};
  at::Tensor silent = model_->transformer->layers[0]->as<model::ChatGlmBlock>()->forward(x, input);
  if (GetParam().some_rows) {
    silent = silent.index_select(0, at::tensor({36, 37, 38, 89, 91, 92, 93, 133}, at::kLong));
  }
  const double tolerance = GetParam().dtype == at::kFloat ? 1e-5 : 1e-2;
  EXPECT_LE((recorded - silent).abs().max().item<double>(), tolerance * silent.abs().max().item<double>());
}

INSTANTIATE_TEST_SUITE_P(
    All, BlockByHand,
    ::testing::Values(
        Variant{"Dense", 4, false, 0.0, false, false, at::kFloat, kAll},
        Variant{"Dropout", 4, false, 0.3, false, false, at::kFloat, kAll},
        Variant{"SomeRows", 4, false, 0.3, true, false, at::kFloat, kAll},
        Variant{"Recomputed", 4, false, 0.3, true, true, at::kFloat, kAll},
        Variant{"PerLinearGates", 2, true, 0.3, true, false, at::kFloat, kAll},
        Variant{"OneExpert", 1, false, 0.3, false, false, at::kFloat, kAll},
        Variant{"SomeLinears", 4, false, 0.3, true, false, at::kFloat, {"query_key_value", "dense_4h_to_h"}},
        Variant{"Bfloat16", 4, false, 0.3, true, false, at::kBFloat16, kAll},
        Variant{"Bfloat16Recomputed", 4, false, 0.0, false, true, at::kBFloat16, kAll},
        Variant{"Prefix", 4, false, 0.3, false, false, at::kFloat, kAll, PrefixConfig{5}},
        Variant{"PrefixSomeRows", 4, false, 0.3, true, true, at::kFloat, kAll, PrefixConfig{5, true, 0.3}},
        Variant{"PrefixOneExpert", 1, false, 0.0, true, false, at::kFloat, {"dense"}, PrefixConfig{5, false, 0.3}},
        Variant{"PrefixAlone", 4, false, 0.3, true, true, at::kFloat, {}, PrefixConfig{5, false, 0.3}},
        Variant{"PrefixBfloat16", 4, false, 0.3, true, false, at::kBFloat16, kAll, PrefixConfig{5}}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace moelora
