// The whole graph on a device: ours and LibTorch's kernels against the CPU's, and how many operators a block costs.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "model/chatglm/block_function.h"
#include "support/pretend_device/pretend_device.h"
#include "support/tiny_chatglm.h"

namespace moelora::model {
namespace {

namespace pretend = testing::pretend;

ChatGlm frozen_model(std::int64_t layers, at::ScalarType type) {
  ChatGlmConfig config = testing::tiny_config();
  config.num_layers = layers;
  at::manual_seed(5);
  ChatGlm model(config);
  model->to(type);
  for (at::Tensor& parameter : model->parameters()) {
    parameter.set_requires_grad(false);
  }
  return model;
}

struct Pass {
  at::Tensor losses, gradient;
  pretend::Counters counters;
};

// Losses of the last row of each segment and their gradient for the embeddings.
Pass run(ChatGlm model, const nn::Segments& segments, const at::Device& device, std::int64_t recomputed = 0) {
  model->to(device);
  const auto rows = segments.rows();
  const at::Tensor ids = (at::arange(rows, at::kLong) * 7 % 80).to(device);
  std::vector<std::int64_t> label_rows;
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    label_rows.push_back(segments.offsets[static_cast<std::size_t>(i) + 1] - 1);
  }
  const at::Tensor labels = at::arange(segments.count(), at::kLong).to(device);
  const nn::RowContext context = nn::RowContext::plain(segments, device);
  const at::Tensor positions = model->positions(segments).to(device);
  ForwardOptions options;
  options.output_rows = at::tensor(label_rows, at::kLong).to(device);
  options.recomputed_blocks = recomputed;
  options.input_embeddings = model->transformer->word_embeddings->forward(ids).detach().requires_grad_();
  if (!device.is_cpu()) {
    pretend::reset();
  }
  const at::Tensor losses = token_losses(*model, model->hidden(ids, positions, context, options), labels);
  losses.sum().backward();
  Pass pass{losses.detach(), options.input_embeddings.grad(), {}};
  if (!device.is_cpu()) {
    pass.counters = pretend::counters();
  }
  return pass;
}

nn::Segments alike(std::int64_t count) {
  const auto of = [&](std::int64_t length) {
    return std::vector<std::int64_t>(static_cast<std::size_t>(count), length);
  };
  return nn::Segments::from_lengths(of(6), of(4));
}

class BlockOnDevice : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(BlockOnDevice, EqualsTheCpu) {
  const at::Device device = pretend::install();
  const nn::Segments segments = nn::Segments::from_lengths({9, 3, 20, 4}, {6, 0, 20, 3});
  // fp16 is compared with fp32 of the same weights; what is left is the rounding of activations.
  ChatGlm exact = frozen_model(2, GetParam());
  exact->to(at::kFloat);
  const Pass expected = run(exact, segments, at::kCPU);
  const double tolerance = GetParam() == at::kFloat ? 1e-5 : 2e-2;
  for (const std::int64_t recomputed : {0, 1}) {
    const Pass found = run(frozen_model(2, GetParam()), segments, device, recomputed);
    EXPECT_EQ(found.counters.waits, 0) << found.counters.to_text();
    EXPECT_EQ(found.counters.uploads, 0) << found.counters.to_text();
    EXPECT_LE((found.losses.cpu() - expected.losses).abs().max().item<double>(), 5 * tolerance);
    EXPECT_LE((found.gradient.cpu().to(at::kFloat) - expected.gradient).abs().max().item<double>(),
              tolerance * expected.gradient.abs().max().item<double>());
  }
}

INSTANTIATE_TEST_SUITE_P(Types, BlockOnDevice, ::testing::Values(at::kFloat, at::kHalf),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

// A block by the difference of two models. 20 forward: 2 norms, 4 linears of 2 (bias, product), rotary, attention's 4,
// GELU, the residual; …
TEST(BlockOperators, AreFewWhateverTheNumberOfSegments) {
  const at::Device device = pretend::install();
  for (const std::int64_t segments : {1, 60}) {
    const auto two = run(frozen_model(2, at::kFloat), alike(segments), device).counters;
    const auto three = run(frozen_model(3, at::kFloat), alike(segments), device).counters;
    EXPECT_LE(three.operators - two.operators, 30) << three.to_text();
    EXPECT_LE(two.operators, 140) << two.to_text();
  }
}

}  // namespace
}  // namespace moelora::model
