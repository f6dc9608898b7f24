// Goldens of a model's graph by whole sequences without padding, as recorded with Hugging Face transformers:
//
//   sequence.I [n] ids                      golden.json: lengths_context_target, greedy_new_ids, losses
//   base.I.logits [n, V], base.I.hidden.K   K = 0 … layers: the embeddings, then after each block; the last one normed
//   moelora.omega [tasks, experts], moelora.taskT.I.logits     of the mixture in moelora.safetensors
//   lora.I.logits                           of the PEFT adapter in peft_lora/
//
// A loss is the mean over the target tokens of all sequences.

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "golden.h"
#include "moelora/adapter/adapter.h"
#include "moelora/adapter/foreign.h"
#include "moelora/adapter/merge.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/safetensors.h"
#include "moelora/model/generation.h"
#include "moelora/model/registry.h"

namespace moelora::verify {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

std::string sequence_name(std::size_t index) { return "sequence." + std::to_string(index); }

/// The sequences of one golden folder on its model.
class Sequences {
 public:
  Sequences(const fs::path& folder, const VerifyOptions& options, VerifyReport& report)
      : folder_(folder),
        options_(options),
        report_(report),
        golden_(folder / "golden.safetensors", report),
        json_(fs::exists(folder / "golden.json") ? io::read_json_file(folder / "golden.json") : ordered_json::object()),
        tolerance_(kTolerance * options.tolerance_factor) {
    model::LoadOptions load;
    load.dtype = options.dtype;
    load.device = options.device;
    load.tokenizer = false;
    model_ = model::load(folder, load).model;
    MOELORA_CHECK(json_.contains("lengths_context_target"), folder.string(),
                  ": golden.json lacks lengths_context_target, the lengths of each sequence's context and target");
    for (const auto& pair : json_.at("lengths_context_target")) {
      contexts_.push_back(pair.at(0).get<std::int64_t>());
      lengths_.push_back(contexts_.back() + pair.at(1).get<std::int64_t>());
      MOELORA_CHECK(contexts_.back() > 0 && lengths_.back() > contexts_.back(), folder.string(),
                    ": golden.json: expected a context and a target of at least one token each");
      MOELORA_CHECK(golden_.contains(sequence_name(lengths_.size() - 1)), folder.string(),
                    ": golden.safetensors lacks ", sequence_name(lengths_.size() - 1));
    }
    MOELORA_CHECK(!lengths_.empty(), folder.string(), ": golden.json: lengths_context_target names no sequence");
  }

  void verify() {
    verify_lengths();
    verify_base();
    verify_greedy();
    if (fs::exists(folder_ / "moelora.safetensors")) {
      verify_mixture();
    }
    if (fs::exists(folder_ / "peft_lora" / "adapter_config.json")) {
      verify_lora();
    }
    golden_.finish();
  }

 private:
  /// One sequence by itself, as the goldens were recorded: sums of another batch are added in another order.
  GoldenBatch batch(std::size_t index) const {
    GoldenBatch made;
    const std::int64_t context = contexts_[index];
    const std::int64_t targets = lengths_[index] - context;
    made.ids = golden_.peek(sequence_name(index));
    made.labels = made.ids.narrow(0, context, targets);
    made.label_rows = at::arange(context - 1, context - 1 + targets, at::kLong);
    made.segments = model_->segments({lengths_[index]}, {context});
    return made;
  }

  /// Logits "PREFIX.I.logits" of every sequence, and "PREFIX.loss" over all of them. `context` makes that of one.
  void compare_runs(const std::string& prefix, const nn::ContextMaker& context, double roundings = 1.0) {
    double sum = 0.0;
    double labels = 0.0;
    for (std::size_t i = 0; i < lengths_.size(); ++i) {
      const GoldenBatch one = batch(i);
      const GraphRun run = run_graph(*model_, one, context(one.segments));
      golden_.compare(prefix + "." + std::to_string(i) + ".logits", run.logits, roundings * tolerance_);
      const auto count = static_cast<double>(one.labels.numel());
      sum += run.loss.item<double>() * count;
      labels += count;
    }
    compare_loss(prefix, sum / labels);
  }

  nn::ContextMaker plain() const {
    return [this](const nn::Segments& segments) { return nn::RowContext::plain(segments, options_.device); };
  }

  /// Rounding grows with the numbers: hidden states in front of a norm reach a hundred where logits reach ten.
  static double magnitude(const at::Tensor& expected) {
    return expected.numel() == 0 ? 1.0 : std::max(1.0, expected.abs().max().item<double>() / 10.0);
  }

  void compare_loss(const std::string& prefix, double loss) {
    if (json_.contains(prefix + ".loss")) {
      compare_numbers(report_, "golden.json: " + prefix + ".loss", json_.at(prefix + ".loss").get<double>(), loss,
                      tolerance_);
    }
  }

  void verify_lengths() {
    for (std::size_t i = 0; i < lengths_.size(); ++i) {
      const at::Tensor& ids = golden_.peek(sequence_name(i));
      compare_numbers(report_, "golden.json: length of " + sequence_name(i), static_cast<double>(ids.numel()),
                      static_cast<double>(lengths_[i]), 0);
      golden_.compare_equal(sequence_name(i), batch(i).ids);
    }
  }

  void verify_base() {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < lengths_.size(); ++i) {
      const GoldenBatch one = batch(i);
      const auto states = hidden_states(*model_, one, plain()(one.segments));
      for (std::size_t layer = 0; layer < states.size(); ++layer) {
        const std::string name = "base." + std::to_string(i) + ".hidden." + std::to_string(layer);
        if (golden_.contains(name)) {
          golden_.compare(name, states[layer].to(at::kFloat), tolerance_ * magnitude(golden_.peek(name)));
        }
      }
    }
    compare_runs("base", plain());
  }

  void verify_greedy() {
    if (!json_.contains("greedy_new_ids")) {
      return;
    }
    const auto& expected = json_.at("greedy_new_ids");
    const at::Tensor ids = golden_.peek(sequence_name(0)).narrow(0, 0, contexts_.front()).contiguous();
    const auto* first = ids.const_data_ptr<std::int64_t>();
    model::GenerationOptions generation;
    generation.beyond_longest_sequence = true;
    generation.max_new_tokens = static_cast<std::int64_t>(expected.size());
    std::vector<at::Tensor> steps;
    const auto answers =
        model::generate(*model_, {{{first, first + ids.numel()}, 0}}, generation, {}, {},
                        [&](const at::Tensor& logits, const auto&) { steps.push_back(logits.cpu().clone()); });
    compare_json(report_, "golden.json: greedy_new_ids", expected, answers.front().ids);
    if (json_.contains("greedy_min_top2_margin")) {
      const at::Tensor best = std::get<0>(at::cat(steps).topk(2, 1));
      compare_numbers(report_, "golden.json: greedy_min_top2_margin", json_["greedy_min_top2_margin"].get<double>(),
                      (best.select(1, 0) - best.select(1, 1)).min().item<double>(), 2.0 * tolerance_);
    }
  }

  /// The adapter of golden.json's "moelora" with the tensors of moelora.safetensors, each of which is compared with
  /// what the adapter then holds.
  Adapter mixture(const ordered_json& settings) {
    MoeLoraConfig config;
    config.rank = settings.at("rank").get<std::int64_t>();
    config.num_experts = settings.at("num_experts").get<std::int64_t>();
    config.alpha = settings.at("alpha").get<double>();
    config.gate.task_embedding_dim = settings.at("task_embedding_dim").get<std::int64_t>();
    config.targets = settings.at("linears").get<std::vector<std::string>>();
    std::vector<std::string> names;
    for (std::int64_t task = 0; task < settings.at("tasks").get<std::int64_t>(); ++task) {
      names.push_back("task" + std::to_string(task));
    }
    Adapter adapter = inject(*model_, config, TaskNames(names));
    adapter->eval();
    GoldenFile stored(folder_ / "moelora.safetensors", report_);
    const at::NoGradGuard no_grad;
    const auto fill = [&](const std::string& name, at::Tensor parameter) {
      MOELORA_CHECK(stored.peek(name).sizes() == parameter.sizes(), "moelora.safetensors: ", name, " is ",
                    stored.peek(name).sizes(), ", expected ", parameter.sizes());
      parameter.copy_(stored.peek(name));
      stored.compare_equal(name, parameter);
    };
    for (const auto& linear : adapter->linears()) {
      fill(linear.name + ".A", linear.delta->tensor("A"));
      fill(linear.name + ".B", linear.delta->tensor("B"));
    }
    fill("task_embedding", adapter->gates().front()->task_embedding);
    fill("gate", adapter->gates().front()->weight);
    stored.finish();
    return adapter;
  }

  void verify_mixture() {
    const ordered_json& settings = json_.at("moelora");
    Adapter adapter = mixture(settings);
    const at::NoGradGuard no_grad;
    const std::size_t tasks = adapter->tasks().size();
    std::vector<std::int64_t> all_tasks;
    for (std::size_t task = 0; task < tasks; ++task) {
      all_tasks.push_back(static_cast<std::int64_t>(task));
    }
    golden_.compare("moelora.omega", adapter->expert_weights(single_tasks(all_tasks))[0],
                    1e-6 * options_.tolerance_factor);
    // Recorded with folded weights. Beside the weights a linear's output is a sum of two rounded products.
    for (const std::int64_t task : all_tasks) {
      const std::string& name = adapter->tasks().name(task);
      compare_runs("moelora.task" + std::to_string(task), for_task(adapter, name), 2.0);
      merge_for_task(adapter, name);
      compare_runs("moelora.task" + std::to_string(task), plain());
      unmerge(adapter);
    }
    eject(adapter);
  }

  void verify_lora() {
    Adapter adapter = load_foreign_adapter(*model_, folder_ / "peft_lora");
    adapter->eval();
    const at::NoGradGuard no_grad;
    compare_runs("lora", for_task(adapter, adapter->tasks().name(0)));
    eject(adapter);
  }

  fs::path folder_;
  const VerifyOptions& options_;
  VerifyReport& report_;
  GoldenFile golden_;
  ordered_json json_;
  double tolerance_;
  std::shared_ptr<model::CausalLM> model_;
  std::vector<std::int64_t> contexts_;
  std::vector<std::int64_t> lengths_;
};

}  // namespace

bool holds_sequences(const fs::path& folder) {
  const fs::path file = folder / "golden.safetensors";
  return fs::exists(folder / "config.json") && fs::exists(file) &&
         io::SafetensorsFile(file).entries().contains(sequence_name(0));
}

void verify_sequences(const fs::path& folder, const VerifyOptions& options, VerifyReport& report) {
  Sequences(folder, options, report).verify();
}

}  // namespace moelora::verify
