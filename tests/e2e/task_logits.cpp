// task_logits MODEL GOLDEN OUTPUT
//
// Makes an adapter for MODEL and writes it to OUTPUT/adapter, with what the model computes with each of its tasks, for
// the checks of other programs: OUTPUT/base.safetensors and OUTPUT/TASK.safetensors hold sequence.I (ids), logits.I
// (beside the weights), merged_logits.I (folded into them), and the greedy continuation `greedy` of `prompt`. If the
// folder GOLDEN has a recorded adapter (moelora.safetensors, golden.json), it is that one and recorded logits, which
// are of folded weights, are compared too; otherwise the adapter is drawn.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/merge.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/safetensors.h"
#include "moelora/model/generation.h"
#include "moelora/model/registry.h"

namespace {

namespace fs = std::filesystem;
using Tensors = std::map<std::string, at::Tensor>;

constexpr double kTolerance = 1e-4;
constexpr std::int64_t kNewTokens = 24;

std::vector<std::string> task_names(std::int64_t count) {
  std::vector<std::string> names;
  for (std::int64_t task = 0; task < count; ++task) {
    names.push_back("task" + std::to_string(task));
  }
  return names;
}

moelora::Adapter recorded_adapter(moelora::model::CausalLM& model, const fs::path& golden) {
  const auto json = moelora::io::read_json_file(golden / "golden.json").at("moelora");
  moelora::MoeLoraConfig config;
  config.rank = json.at("rank");
  config.num_experts = json.at("num_experts");
  config.alpha = json.at("alpha");
  config.gate.task_embedding_dim = json.at("task_embedding_dim");
  config.targets = json.at("linears").get<std::vector<std::string>>();
  moelora::Adapter adapter = moelora::inject(model, config, moelora::TaskNames(task_names(json.at("tasks"))));
  Tensors ours;
  for (const auto& [name, tensor] : moelora::io::load_safetensors(golden / "moelora.safetensors")) {
    ours[name == "gate"             ? "gate.weight"
         : name == "task_embedding" ? "gate.task_embedding"
                                    : "linears." + name] = tensor;
  }
  moelora::fill_adapter(*adapter, ours, golden.string());
  return adapter;
}

moelora::Adapter drawn_adapter(moelora::model::CausalLM& model) {
  at::NoGradGuard no_grad;
  moelora::MoeLoraConfig config;
  config.rank = 12;
  config.num_experts = 4;
  config.alpha = 20.0;
  config.targets = {".*\\.layers\\..*"};
  config.seed = 5;
  moelora::Adapter adapter = moelora::inject(model, config, moelora::TaskNames(task_names(2)));
  auto generator = at::make_generator<at::CPUGeneratorImpl>(11);
  for (const auto& linear : adapter->linears()) {
    linear.delta->tensor("B").normal_(0.0, 0.01, generator);
  }
  return adapter;
}

std::vector<moelora::model::TokenIds> drawn_sequences(std::int64_t vocabulary) {
  std::vector<moelora::model::TokenIds> sequences;
  std::int64_t next = 17;
  for (const std::size_t length : {23U, 35U, 12U}) {
    auto& ids = sequences.emplace_back();
    while (ids.size() < length) {
      ids.push_back((next = (next * 75 + 74) % 65537) % std::min<std::int64_t>(vocabulary, 40000));
    }
  }
  return sequences;
}

std::vector<moelora::model::TokenIds> recorded_sequences(const Tensors& golden) {
  std::vector<moelora::model::TokenIds> sequences;
  for (std::size_t i = 0; golden.contains("sequence." + std::to_string(i)); ++i) {
    const at::Tensor ids = golden.at("sequence." + std::to_string(i)).to(at::kLong).contiguous();
    sequences.emplace_back(ids.const_data_ptr<std::int64_t>(), ids.const_data_ptr<std::int64_t>() + ids.numel());
  }
  return sequences;
}

std::vector<at::Tensor> logits_of(moelora::model::CausalLM& model,
                                  const std::vector<moelora::model::TokenIds>& sequences,
                                  const moelora::nn::ContextMaker& make_context) {
  std::vector<at::Tensor> logits;
  for (const auto& sequence : sequences) {
    const auto segments = moelora::nn::Segments::from_lengths({static_cast<std::int64_t>(sequence.size())});
    const moelora::nn::RowContext context =
        make_context ? make_context(segments) : moelora::nn::RowContext::plain(segments);
    const at::Tensor ids = at::tensor(sequence, at::kLong);
    logits.push_back(model.logits(model.hidden(ids, model.positions(segments), context)));
  }
  return logits;
}

/// -1: none are recorded.
double difference(const std::vector<at::Tensor>& logits, const Tensors& golden, const std::string& recorded) {
  double largest = -1.0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const auto expected = golden.find(recorded + "." + std::to_string(i) + ".logits");
    if (expected != golden.end()) {
      largest = std::max(largest, (logits[i] - expected->second).abs().max().item<double>());
    }
  }
  return largest;
}

/// Writes one file. `merged`: the logits with folded weights, which are also what is recorded.
void dump(moelora::model::CausalLM& model, const std::vector<moelora::model::TokenIds>& sequences,
          const moelora::nn::ContextMaker& make_context, const std::vector<at::Tensor>& logits,
          const std::vector<at::Tensor>& merged, const fs::path& path) {
  moelora::io::NamedTensors tensors;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const std::string number = std::to_string(i);
    tensors.emplace_back("sequence." + number, at::tensor(sequences[i], at::kLong));
    tensors.emplace_back("logits." + number, logits[i]);
    tensors.emplace_back("merged_logits." + number, merged[i]);
  }
  moelora::model::GenerationOptions options;
  options.max_new_tokens = kNewTokens;
  moelora::model::Prompt prompt;
  prompt.ids.assign(sequences[0].begin(), sequences[0].begin() + 14);
  const auto generated = moelora::model::generate(model, {prompt}, options, make_context);
  tensors.emplace_back("prompt", at::tensor(prompt.ids, at::kLong));
  tensors.emplace_back("greedy", at::tensor(generated.front().ids, at::kLong));
  moelora::io::save_safetensors(path, tensors);
}

int run(const fs::path& folder, const fs::path& golden_folder, const fs::path& output) {
  at::NoGradGuard no_grad;
  moelora::model::LoadOptions options;
  options.dtype = at::kFloat;
  options.tokenizer = false;
  const auto loaded = moelora::model::load(folder, options);
  moelora::model::CausalLM& model = *loaded.model;
  model.eval();
  Tensors golden;
  if (fs::exists(golden_folder / "golden.safetensors")) {
    golden = moelora::io::load_safetensors(golden_folder / "golden.safetensors");
  }
  auto sequences = recorded_sequences(golden);
  if (sequences.empty()) {
    sequences = drawn_sequences(model.shape().vocab_size);
  }
  const std::vector<at::Tensor> plain = logits_of(model, sequences, {});
  double largest = difference(plain, golden, "base");
  dump(model, sequences, {}, plain, plain, output / "base.safetensors");
  moelora::Adapter adapter =
      fs::exists(golden_folder / "moelora.safetensors") ? recorded_adapter(model, golden_folder) : drawn_adapter(model);
  adapter->eval();
  moelora::save_adapter(*adapter, output / "adapter", "");
  for (const std::string& task : adapter->tasks().names()) {
    moelora::merge_for_task(adapter, task);
    const std::vector<at::Tensor> merged = logits_of(model, sequences, {});
    moelora::unmerge(adapter);
    largest = std::max(largest, difference(merged, golden, "moelora." + task));
    const moelora::nn::ContextMaker context = moelora::for_task(adapter, task);
    dump(model, sequences, context, logits_of(model, sequences, context), merged, output / (task + ".safetensors"));
  }
  std::cout << folder.filename().string() << ": " << adapter->tasks().size() << " tasks, ";
  if (largest < 0.0) {
    std::cout << "nothing recorded to compare with" << std::endl;
    return 0;
  }
  std::cout << "largest difference from recorded logits " << largest << " (allowed " << kTolerance << ")" << std::endl;
  return largest <= kTolerance ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: task_logits MODEL GOLDEN OUTPUT\n";
    return 2;
  }
  try {
    return run(argv[1], argv[2], argv[3]);
  } catch (const moelora::Error& error) {
    std::cerr << error.what() << "\n";
    return 2;
  }
}
