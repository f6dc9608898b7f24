// A training step with the adapter on the device, against the frozen model on the same path, and its memory.

#include <iostream>
#include <numeric>

#include "benchmarks/model_s.h"
#include "gpu/bench/lengths.h"
#include "gpu/bench/rows.h"
#include "moelora/nn/device.h"

namespace moelora::bench {
namespace {

constexpr double kShareForActivations = 0.8;  // of what is free once the model is there

Options harness_options(const DeviceOptions& options) {
  Options harness;
  harness.rounds = options.rounds;
  harness.most_rounds = 2 * options.rounds;
  return harness;
}

// Of the blocks' linears: 2 forward and 2 for dx, for each row and weight; of the head the same for each label row.
double step_flops(model::ChatGlm& model, const std::vector<data::Example>& examples) {
  double linears = 0.0;
  for (const auto& entry : model->named_parameters()) {
    if (entry.value().dim() == 2 && entry.key().find("layers.") != std::string::npos) {
      linears += static_cast<double>(entry.value().numel());
    }
  }
  const double head =
      static_cast<double>(model->config().vocab_size) * static_cast<double>(model->config().hidden_size);
  double rows = 0.0;
  double labels = 0.0;
  for (const data::Example& example : examples) {
    rows += static_cast<double>(example.length());
    labels += static_cast<double>(example.length() - example.label_begin);
  }
  return 4.0 * (rows * linears + labels * head);
}

}  // namespace

void step_on_device(const DeviceOptions& options) {
  model::ChatGlm model = random_model(options);
  Adapter adapter = random_adapter(model);
  adapter->disable();
  const std::vector<data::Example> examples =
      samples_of_real_lengths(static_cast<std::size_t>(options.samples), options.micro_batch_tokens);
  const train::StepSamples samples = step_samples(examples);
  const nn::DeviceInfo card = nn::device_info(options.device);
  TrainStep step(model, adapter, options.micro_batch_tokens,
                 kShareForActivations * static_cast<double>(card.free_bytes));
  const Paired paired = measure_paired(
      [&](int) {
        step.run(samples);
        wait_for(options.device);
      },
      [&](int) {
        frozen_steps(model, samples, options.micro_batch_tokens);
        wait_for(options.device);
      },
      harness_options(options));
  nlohmann::ordered_json details = details_of(paired, "MOELoRA step", "own frozen");
  std::int64_t rows = 0;
  for (const data::Example& example : examples) {
    rows += example.length();
  }
  details["rows"] = rows;
  details["samples_per_second"] = static_cast<double>(examples.size()) / paired.ours_seconds;
  report({8, options.shape + ": MOELoRA step / own frozen forward + backward", "", 1.06, 1.03}, paired.ratio, details);
  const double peak = options.peak_tflops > 0.0 ? options.peak_tflops : peak_tflops(card.name);
  const double reached = step_flops(model, examples) / paired.ours_seconds / 1e12;
  if (peak > 0.0) {
    report({8, options.shape + ": MFU of the step", "", 0.50, 0.65, Better::larger}, reached / peak,
           {{"tflops", reached}, {"peak_tflops", peak}});
  } else {
    report_skipped(8, options.shape + ": MFU of the step", "the card's peak is not known (--peak-tflops)");
  }
}

void memory_on_device(const DeviceOptions& options) {
  model::ChatGlm model = random_model(options);
  const std::int64_t length = std::min<std::int64_t>(1220, model->config().max_sequence_length);
  std::vector<data::Example> examples;
  for (std::int64_t i = 0; i < 4; ++i) {
    examples.push_back(random_example(length, length * 5 / 6, i, static_cast<std::uint64_t>(i)));
  }
  TrainStep step(model, random_adapter(model), 4 * length);
  const train::StepSamples samples = step_samples(examples);
  step.run(samples);
  step.run(samples);
  wait_for(options.device);
  // LibTorch gives nothing back: what is not free now is the most that was ever held, the context of CUDA included.
  const nn::DeviceInfo card = nn::device_info(options.device);
  report({10, options.shape + ": memory of the device in use after steps of 4 x " + std::to_string(length) + " tokens",
          "GiB", 30.0, 24.0},
         static_cast<double>(card.total_bytes - card.free_bytes) / static_cast<double>(1 << 30));
}

void lengths(const DeviceOptions& options) {
  nlohmann::ordered_json line{{"lengths", nlohmann::ordered_json::array()}};
  for (const data::Example& example :
       samples_of_real_lengths(static_cast<std::size_t>(options.samples), options.micro_batch_tokens)) {
    line["lengths"].push_back({example.length(), example.label_begin});
  }
  std::cout << line.dump() << std::endl;
}

}  // namespace moelora::bench
