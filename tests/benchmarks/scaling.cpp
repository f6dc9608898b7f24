// Time per token must not depend on how long samples are (but for attention's own quadratic term), nor on how many
// tasks the adapter knows.

#include <ATen/ATen.h>

#include "cases.h"
#include "model_s.h"
#include "moelora/nn/attention.h"
#include "moelora/nn/rotary.h"

namespace moelora::bench {
namespace {

constexpr std::int64_t kRows = 2048;

std::vector<data::Example> examples_of(std::int64_t length) {
  std::vector<data::Example> examples;
  for (std::int64_t i = 0; i < kRows / length; ++i) {
    examples.push_back(random_example(length, length / 2, i % 4, static_cast<std::uint64_t>(i)));
  }
  return examples;
}

// All layers' attention alone, forward and backward, on random values.
double attention_seconds(std::int64_t length) {
  const model::ChatGlmConfig config = config_s();
  const std::vector<std::int64_t> lengths(static_cast<std::size_t>(kRows / length), length);
  const std::vector<std::int64_t> context(lengths.size(), length / 2);
  const nn::Segments segments = nn::Segments::from_lengths(lengths, context);
  std::vector<at::Tensor> qkv;
  for (int i = 0; i < 3; ++i) {
    qkv.push_back(at::randn({kRows, config.num_attention_heads, config.head_dim()}).requires_grad_());
  }
  const at::Tensor dy = at::randn_like(qkv[0]);
  return seconds_of([&] {
    for (std::int64_t layer = 0; layer < config.num_layers; ++layer) {
      nn::prefix_lm_attention(qkv[0], qkv[1], qkv[2], segments).backward(dy);
    }
  });
}

}  // namespace

void scaling(const Options& options) {
  model::ChatGlm model = model_s();
  const std::vector<data::Example> long_ones = examples_of(2048);
  const std::vector<data::Example> short_ones = examples_of(128);
  const train::StepSamples long_samples = step_samples(long_ones);
  const train::StepSamples short_samples = step_samples(short_ones);
  Adapter adapter = adapter_s(model, adapter_config_s());
  TrainStep step(model, adapter, kRows);
  step.run(long_samples);
  step.run(short_samples);
  std::vector<double> ratios;
  std::vector<double> with_attention;
  double attention_long = 0.0;
  double attention_short = 0.0;
  for (int round = 0; round < options.rounds; ++round) {
    const double a_short = attention_seconds(128);
    const double t_short = seconds_of([&] { step.run(short_samples); });
    const double t_long = seconds_of([&] { step.run(long_samples); });
    const double a_long = attention_seconds(2048);
    ratios.push_back((t_long - a_long) / (t_short - a_short));
    with_attention.push_back(t_long / t_short);
    attention_long = a_long;
    attention_short = a_short;
  }
  report({12, "S: time per token at 2048 tokens / at 128, attention's own term subtracted", "", 1.05, {}},
         median_interval(ratios),
         {{"attention_included", median_interval(with_attention).median},
          {"attention_seconds_2048", attention_long},
          {"attention_seconds_128", attention_short},
          {"rounds", options.rounds}});

  const std::vector<data::Example> examples = batch_s();
  const train::StepSamples samples = step_samples(examples);
  adapter->disable();
  Adapter few = adapter_s(model, adapter_config_s(), "few", 8);
  few->disable();
  Adapter many = adapter_s(model, adapter_config_s(), "many", 512);
  many->disable();
  TrainStep few_step(model, few, kRows);
  TrainStep many_step(model, many, kRows);
  const Paired tasks =
      measure_paired([&](int) { many_step.run(samples); }, [&](int) { few_step.run(samples); }, options);
  report({12, "S: step time with 512 tasks / with 8", "", 1.02, {}}, tasks.ratio,
         details_of(tasks, "512 tasks", "8 tasks"));
}

}  // namespace moelora::bench
