#include "moelora/train/step.h"

#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <map>

#include "moelora/adapter/adapter_file.h"
#include "moelora/data/balance.h"
#include "train/fixture.h"

namespace moelora::train {
namespace {

using Gradients = std::map<std::string, at::Tensor>;

Gradients take_gradients(const Adapter& adapter) {
  Gradients gradients;
  for (auto& [name, parameter] : adapter_tensors(*adapter)) {
    gradients[name] = parameter.grad().defined() ? parameter.grad().clone() : at::zeros_like(parameter);
    parameter.mutable_grad() = at::Tensor();
  }
  return gradients;
}

void expect_close(const Gradients& found, const Gradients& expected, double relative) {
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [name, gradient] : expected) {
    const double largest = gradient.abs().max().item<double>();
    EXPECT_GT(largest, 0.0) << name;
    EXPECT_LE((found.at(name) - gradient).abs().max().item<double>(), relative * largest) << name;
  }
}

TEST(Packing, ChangesNeitherLossesNorGradientsWithDropoutOn) {
  model::ChatGlm model = fixture::tiny_model();
  Adapter adapter = fixture::tiny_adapter(model, 0.3);
  fixture::fill_b(adapter);
  const auto examples = fixture::toy_examples(7);
  StepSamples samples;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    samples.examples.push_back(&examples[i]);
    samples.draws.push_back(static_cast<std::int64_t>(100 + 3 * i));
  }
  const SampleLosses packed = accumulate_gradients(*model, adapter.get(), samples, 9, 1 << 20);
  const Gradients packed_gradients = take_gradients(adapter);
  Gradients alone_gradients;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    // The loss of one sample is a mean over its labels; all samples here have the same number of them.
    const SampleLosses alone =
        accumulate_gradients(*model, adapter.get(), {{&examples[i]}, {samples.draws[i]}}, 9, 1 << 20);
    EXPECT_NEAR(alone.sums[0], packed.sums[i], 1e-5 * packed.sums[i]) << i;
    for (auto& [name, gradient] : take_gradients(adapter)) {
      at::Tensor& sum = alone_gradients[name];
      const at::Tensor share = gradient / static_cast<double>(examples.size());
      sum = sum.defined() ? sum + share : share;
    }
  }
  expect_close(packed_gradients, alone_gradients, 1e-5);
  const SampleLosses other_seed = accumulate_gradients(*model, adapter.get(), samples, 10, 1 << 20);
  EXPECT_NE(other_seed.sum(), packed.sum());
}

TEST(Accumulation, WeighsLabelsAsOneBigBatchDoes) {
  model::ChatGlm model = fixture::tiny_model();
  Adapter adapter = fixture::tiny_adapter(model, 0.1);
  fixture::fill_b(adapter);
  auto examples = fixture::toy_examples(9);
  for (int extra = 0; extra < 12; ++extra) {  // one sample with many labels
    examples[4].ids.insert(examples[4].ids.end() - 1, 70 + extra);
  }
  StepSamples samples;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    samples.examples.push_back(&examples[i]);
    samples.draws.push_back(static_cast<std::int64_t>(i));
  }
  const SampleLosses whole = accumulate_gradients(*model, adapter.get(), samples, 1, 1 << 20);
  const Gradients whole_gradients = take_gradients(adapter);
  const SampleLosses parts = accumulate_gradients(*model, adapter.get(), samples, 1, 24);
  expect_close(take_gradients(adapter), whole_gradients, 1e-5);
  EXPECT_NEAR(parts.mean(), whole.mean(), 1e-6);
  EXPECT_EQ(whole.labels[4], 16);
  EXPECT_EQ(whole.label_count(), 8 * 4 + 16);
  // The scale multiplies the gradients and nothing else.
  const SampleLosses scaled = accumulate_gradients(*model, adapter.get(), samples, 1, 1 << 20, 1024.0);
  EXPECT_EQ(scaled.sum(), whole.sum());
  Gradients unscaled = take_gradients(adapter);
  for (auto& [name, gradient] : unscaled) {
    gradient = gradient / 1024.0;
  }
  expect_close(unscaled, whole_gradients, 1e-6);
}

// What the ranks' exchange adds up: parts of a step, each weighed by the labels of the whole step.
TEST(Accumulation, OverAnyNumberOfRanksAddsUpToTheWholeStep) {
  model::ChatGlm model = fixture::tiny_model();
  Adapter adapter = fixture::tiny_adapter(model, 0.3);
  fixture::fill_b(adapter);
  auto examples = fixture::toy_examples(9);
  for (int extra = 0; extra < 12; ++extra) {
    examples[4].ids.insert(examples[4].ids.end() - 1, 70 + extra);
  }
  StepSamples samples;
  std::vector<std::int64_t> lengths;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    samples.examples.push_back(&examples[i]);
    samples.draws.push_back(static_cast<std::int64_t>(40 + i));
    lengths.push_back(examples[i].length());
  }
  const SampleLosses whole = accumulate_gradients(*model, adapter.get(), samples, 1, 1 << 20);
  const Gradients whole_gradients = take_gradients(adapter);
  for (const std::int64_t ranks : {2, 3, 4, 12}) {
    for (const std::vector<std::int64_t>& mine : data::balance(lengths, ranks)) {
      StepSamples part;
      for (const std::int64_t sample : mine) {
        part.examples.push_back(samples.examples[sample]);
        part.draws.push_back(samples.draws[sample]);
      }
      const SampleLosses losses =
          accumulate_gradients(*model, adapter.get(), part, 1, 40, 1.0, label_count(samples.examples));
      for (std::size_t i = 0; i < mine.size(); ++i) {
        EXPECT_NEAR(losses.sums[i], whole.sums[mine[i]], 1e-5 * whole.sums[mine[i]]) << ranks;
      }
    }
    expect_close(take_gradients(adapter), whole_gradients, 1e-5);
  }
}

TEST(Evaluation, LeavesGradientsAndDropoutOut) {
  model::ChatGlm model = fixture::tiny_model();
  Adapter adapter = fixture::tiny_adapter(model, 0.5);
  fixture::fill_b(adapter);
  const auto examples = fixture::toy_examples(5);
  const std::vector<std::string> tasks{"sum", "echo", "rest"};
  const ValidationLoss once = validation_loss(*model, adapter.get(), examples, tasks, 64);
  const ValidationLoss twice = validation_loss(*model, adapter.get(), examples, tasks, 20);
  EXPECT_NEAR(once.loss, twice.loss, 1e-6);
  ASSERT_EQ(once.by_task.size(), 3u);
  for (const auto& parameter : adapter->parameters()) {
    EXPECT_FALSE(parameter.grad().defined());
  }
}

}  // namespace
}  // namespace moelora::train
