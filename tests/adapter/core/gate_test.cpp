#include "moelora/adapter/gate.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include "moelora/io/error.h"

namespace moelora {
namespace {

TaskGate random_gate(const MoeLoraConfig& config, std::int64_t tasks) {
  TaskGate gate(config.gate, config.num_experts, tasks);
  gate->reset_parameters(at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{4}));
  return gate;
}

TEST(TaskGate, WeightsSumToOneAndTopKKeepsTheLargest) {
  MoeLoraConfig config;
  const at::Tensor dense = random_gate(config, 5)->forward(single_tasks({0, 1, 2, 3, 4}));
  EXPECT_TRUE(at::allclose(dense.sum(1), at::ones({5})));
  EXPECT_GT(dense.min().item<float>(), 0.0f);
  config.gate.top_k = 3;
  const at::Tensor sparse = random_gate(config, 5)->forward(single_tasks({0, 1, 2, 3, 4}));
  EXPECT_TRUE(at::allclose(sparse.sum(1), at::ones({5})));
  EXPECT_TRUE(at::equal(sparse.ne(0).sum(1), at::full({5}, 3, at::kLong)));
  for (std::int64_t task = 0; task < 5; ++task) {
    const at::Tensor kept = std::get<1>(dense[task].topk(3));
    const at::Tensor expected = dense[task].index_select(0, kept) / dense[task].index_select(0, kept).sum();
    EXPECT_TRUE(at::allclose(sparse[task].index_select(0, kept), expected)) << task;
  }
}

TEST(TaskGate, AMultiHotSampleUsesTheMeanEmbedding) {
  MoeLoraConfig config;
  TaskGate gate = random_gate(config, 4);
  at::NoGradGuard guard;
  const at::Tensor mean = gate->task_embedding.index_select(0, at::tensor({1, 3}, at::kLong)).mean(0, true);
  const at::Tensor expected = at::softmax(at::linear(mean, gate->weight), 1);
  EXPECT_TRUE(at::allclose(gate->forward({{1, 3}}), expected));
  EXPECT_THROW(gate->forward({{4}}), Error);
  EXPECT_THROW(gate->forward({{}}), Error);
}

}  // namespace
}  // namespace moelora
