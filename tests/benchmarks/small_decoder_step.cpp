// A training step of a small decoder of the Llama kind with the adapter, against the frozen model in plain operations:
// where matrices are small, what is not a product of matrices counts.

#include <ATen/ATen.h>

#include <cmath>

#include "cases.h"
#include "model_s.h"
#include "moelora/io/error.h"
#include "small_decoder.h"

namespace moelora::bench {

void small_decoder_step(const Options& options) {
  model::Llama model = small_decoder();
  const std::vector<data::Example> examples = batch_s();
  const train::StepSamples samples = step_samples(examples);
  PlainDecoder plain(model, samples.examples);
  // Both sides compute the same model: else the ratio says nothing.
  std::vector<const data::Example*> all = samples.examples;
  const double ours = train::evaluate_losses(*model, nullptr, all, kMicroBatchTokens).mean();
  const double plain_loss = plain.step();
  MOELORA_CHECK(std::abs(ours - plain_loss) < 1e-4 * plain_loss, "the yardstick's loss is ", plain_loss, ", ours is ",
                ours);
  TrainStep step(model.ptr(), small_decoder_adapter(model), kMicroBatchTokens);
  const Paired paired =
      measure_paired([&](int) { step.run(samples); }, [&](int) { plain.step(); }, options, cpu_seconds_of);
  report({15, "SmolLM2's shape: MOELoRA step, r 16, all linears / plain frozen, CPU seconds", "", 0.95, 0.85},
         paired.ratio, details_of(paired, "MOELoRA step", "plain frozen forward + backward"));
}

void small_decoder_memory(const Options& options) {
  const auto peak = [&](const std::string& name) {
    return peak_memory_of("'" + options.program.string() + "' --threads " + std::to_string(options.threads) +
                          " --once " + name);
  };
  const double ours = peak("small_decoder_step");
  report({15, "SmolLM2's shape: peak memory of a MOELoRA step", "GB", 2.4, {}}, ours / 1e9,
         {{"ours_gb", ours / 1e9}, {"yardstick_gb", peak("small_decoder_plain") / 1e9}});
}

bool small_decoder_once(const std::string& name, int times) {
  if (name != "small_decoder_step" && name != "small_decoder_plain") {
    return false;
  }
  model::Llama model = small_decoder();
  const std::vector<data::Example> examples = batch_s();
  const train::StepSamples samples = step_samples(examples);
  if (name == "small_decoder_plain") {
    PlainDecoder plain(model, samples.examples);
    for (int i = 0; i < times; ++i) {
      plain.step();
    }
    return true;
  }
  TrainStep step(model.ptr(), small_decoder_adapter(model), kMicroBatchTokens);
  for (int i = 0; i < times; ++i) {
    step.run(samples);
  }
  return true;
}

}  // namespace moelora::bench
