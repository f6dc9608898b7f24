#include "model_s.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <random>

#include "moelora/data/batch.h"

namespace moelora::bench {

model::ChatGlmConfig config_s() {
  model::ChatGlmConfig config;
  config.vocab_size = 8192;
  config.hidden_size = 1024;
  config.num_layers = 8;
  config.num_attention_heads = 16;
  config.inner_hidden_size = 4096;
  config.max_sequence_length = 4096;
  config.bos_token_id = 8004;
  config.eos_token_id = 8005;
  config.mask_token_id = 8000;
  config.gmask_token_id = 8001;
  config.torch_dtype = "float32";
  return config;
}

model::ChatGlm model_s() {
  model::ChatGlm model(config_s(), model::random_tensors(0));
  freeze(*model);
  return model;
}

MoeLoraConfig adapter_config_s(std::int64_t num_experts) {
  MoeLoraConfig config;
  config.num_experts = num_experts;
  config.rank = 16;
  config.alpha = 32.0;
  config.dropout = 0.1;
  return config;
}

Adapter adapter_s(model::ChatGlm& model, const MoeLoraConfig& config, const std::string& name, std::int64_t tasks) {
  std::vector<std::string> names;
  for (std::int64_t task = 0; task < tasks; ++task) {
    names.push_back("task " + std::to_string(task));
  }
  Adapter adapter = inject(*model, config, TaskNames(names), name);
  at::NoGradGuard no_grad;
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(1);
  for (const auto& linear : adapter->linears()) {
    at::Tensor b = linear.delta->tensor("B");
    b.copy_(at::empty(b.sizes()).normal_(0.0, 0.01, generator));  // the same values on every device
  }
  return adapter;
}

data::Example random_example(std::int64_t length, std::int64_t label_begin, std::int64_t task, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  data::Example example;
  example.task = task;
  example.label_begin = label_begin;
  for (std::int64_t i = 0; i < length; ++i) {
    example.ids.push_back(static_cast<std::int64_t>(random() % 8000));
  }
  return example;
}

std::vector<data::Example> batch_s() {
  std::vector<data::Example> examples;
  for (std::int64_t i = 0; i < 4; ++i) {
    examples.push_back(random_example(256, 128, i, static_cast<std::uint64_t>(i)));
  }
  return examples;
}

train::StepSamples step_samples(const std::vector<data::Example>& examples) {
  train::StepSamples samples;
  for (const data::Example& example : examples) {
    samples.draws.push_back(static_cast<std::int64_t>(samples.examples.size()));
    samples.examples.push_back(&example);
  }
  return samples;
}

namespace {

io::NamedTensors parameters_of(const Adapter& adapter) {
  io::NamedTensors parameters;
  for (const auto& parameter : adapter->named_parameters()) {
    parameters.emplace_back(parameter.key(), parameter.value());
  }
  return parameters;
}

}  // namespace

TrainStep::TrainStep(std::shared_ptr<model::CausalLM> model, Adapter adapter, std::int64_t micro_batch_tokens,
                     double activation_bytes)
    : model_(std::move(model)),
      adapter_(std::move(adapter)),
      optimizer_(parameters_of(adapter_), {}),
      micro_batch_tokens_(micro_batch_tokens),
      activation_bytes_(activation_bytes) {}

double TrainStep::run(const train::StepSamples& samples) {
  adapter_->enable();
  optimizer_.clear_gradients();
  const train::SampleLosses losses =
      train::accumulate_gradients(*model_, adapter_.get(), samples, 0, micro_batch_tokens_, 1.0, 0, activation_bytes_);
  optimizer_.collect_gradients(1.0, 1.0);
  optimizer_.step(1e-5);
  adapter_->disable();
  return losses.mean();
}

double frozen_step(model::ChatGlm& model, const train::StepSamples& samples) {
  const data::Batch batch = data::pack(samples.examples, samples.draws, *model, model->device());
  model::ForwardOptions options;
  options.output_rows = batch.label_rows;
  options.input_embeddings = at::embedding(model->transformer->word_embeddings->weight, batch.ids).requires_grad_();
  const at::Tensor hidden =
      model->hidden(batch.ids, batch.positions, nn::RowContext::plain(batch.segments, model->device()), options);
  const at::Tensor losses = model::token_losses(*model, hidden, batch.labels);
  losses.backward(at::full_like(losses, 1.0 / static_cast<double>(losses.size(0))));
  return losses.mean().item<double>();
}

void frozen_steps(model::ChatGlm& model, const train::StepSamples& samples, std::int64_t micro_batch_tokens) {
  std::vector<std::int64_t> lengths;
  for (const data::Example* example : samples.examples) {
    lengths.push_back(example->length());
  }
  for (const auto& indices : data::plan_micro_batches(lengths, micro_batch_tokens)) {
    train::StepSamples some;
    for (const std::int64_t i : indices) {
      some.examples.push_back(samples.examples[static_cast<std::size_t>(i)]);
      some.draws.push_back(samples.draws[static_cast<std::size_t>(i)]);
    }
    frozen_step(model, some);
  }
}

}  // namespace moelora::bench
