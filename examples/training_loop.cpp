// A hand-written training loop: records, packed batches, one context for each batch, loss, AdamW. The library's own
// trainer (examples/promptcblue_trainer.cpp) adds checkpoints, resuming, schedules, micro-batches and a validation
// part.
//
//   build/bin/training_loop [MODEL [DATA]]      default: the tiny base and the sample data
//
// prints the mean loss over each 20 steps:
//   step  20 loss 5.437
//   step  40 loss 2.720
//   step  60 loss 1.644
//   step  80 loss 1.128
//   step 100 loss 0.860

#include <ATen/ATen.h>
#include <torch/optim/adamw.h>

#include <cstdio>
#include <exception>
#include <string>

#include "moelora/adapter/adapter.h"
#include "moelora/data/batch.h"
#include "moelora/data/example.h"
#include "moelora/data/record.h"
#include "moelora/data/sampler.h"
#include "moelora/model/registry.h"

namespace {

int run(const std::string& folder, const std::string& data_file) {
  const moelora::model::LoadedModel loaded = moelora::model::load(folder);
  moelora::model::CausalLM& model = *loaded.model;

  const auto records = moelora::data::read_records(data_file, {.deduplicate = true, .need_target = true}).records;
  const moelora::TaskNames tasks(moelora::data::task_names_of(records));
  std::vector<moelora::data::Example> examples;
  std::vector<std::int64_t> task_of_sample;
  for (const auto& record : records) {
    examples.push_back(moelora::data::encode_pair(record, tasks.index(record.task), *loaded.tokenizer,
                                                  {.max_source_length = 256, .max_target_length = 128}));
    task_of_sample.push_back(examples.back().task);
  }

  moelora::MoeLoraConfig config;  // rank 16, 8 experts, alpha 32, the four linears of every block
  config.dropout = 0.05;
  moelora::Adapter adapter = moelora::inject(model, config, tasks);  // freezes the base
  torch::optim::AdamW optimizer(adapter->parameters(), torch::optim::AdamWOptions(3e-3).weight_decay(0.0));

  const std::uint64_t seed = 1;
  const std::int64_t batch_size = 16;
  moelora::data::Sampler sampler(task_of_sample, batch_size, moelora::data::Batching::random, seed);
  adapter->train();  // eval() turns dropout off
  double sum = 0;
  for (int step = 1; step <= 100; ++step) {
    const auto draw = sampler.next();
    std::vector<const moelora::data::Example*> chosen;
    for (const std::int64_t sample : draw.samples) {
      chosen.push_back(&examples[sample]);
    }
    // Dropout's masks are functions of this key: without it nothing is dropped. Its draw indices, step · batch + i, are
    // those of the sampler's draw.
    const auto dropout = moelora::nn::DropoutKey::for_step(seed, step - 1, batch_size);
    // All sequences back to back, no padding; the batch knows which rows predict which labels.
    const moelora::data::Batch batch = moelora::data::pack(chosen, dropout.draws, model, model.device());
    const auto context = adapter->context(batch.segments, moelora::single_tasks(batch.tasks), dropout);

    const at::Tensor hidden = model.hidden(batch.ids, batch.positions, context, {.output_rows = batch.label_rows});
    const at::Tensor loss = moelora::model::token_losses(model, hidden, batch.labels).mean();
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();

    sum += loss.item<double>();
    if (step % 20 == 0) {
      std::printf("step %3d loss %.3f\n", step, sum / 20);
      sum = 0;
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc > 1 ? argv[1] : "examples/tiny_base/model", argc > 2 ? argv[2] : "examples/sample_data/train.json");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "training_loop: error: %s\n", error.what());
    return 2;
  }
}
