// Goldens of adapters on a base that has goldens of its own: MOELoRA-peft (shared and per-layer gates) and PEFT LoRA.

#include <ATen/ATen.h>

#include "adapter_bench.h"
#include "moelora/adapter/expert_factors.h"
#include "moelora/adapter/foreign.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/safetensors.h"
#include "moelora/io/torch_checkpoint.h"
#include "moelora/train/optimizer.h"

namespace moelora::verify {
namespace {

namespace fs = std::filesystem;

using ByName = std::map<std::string, at::Tensor>;

TaskIds task_ids_of(const at::Tensor& ids) {
  // The reference counts from 1; 0 in a list means "no entry".
  TaskIds tasks;
  const at::Tensor table = ids.dim() == 1 ? ids.unsqueeze(1) : ids;
  for (std::int64_t i = 0; i < table.size(0); ++i) {
    std::vector<std::int64_t> own;
    for (std::int64_t j = 0; j < table.size(1); ++j) {
      const auto id = table[i][j].item<std::int64_t>();
      if (id != 0) {
        own.push_back(id - 1);
      }
    }
    tasks.push_back(own);
  }
  return tasks;
}

// Parameters (or their gradients) by the names of the foreign checkpoint; experts are slices of the stacked tensors.
ByName foreign_tensors(AdapterImpl& adapter, bool gradients) {
  const auto take = [&](const at::Tensor& parameter) { return gradients ? parameter.grad() : parameter.detach(); };
  ByName tensors;
  const auto experts = adapter.config().num_experts;
  for (std::int64_t i = 0; i < experts; ++i) {
    const auto factors = gradients ? expert_gradients(adapter, i) : expert_factors(adapter, i);
    for (std::size_t linear = 0; linear < factors.size(); ++linear) {
      const auto& [a, b] = factors[linear];
      const std::string prefix = foreign_prefix(adapter.linears()[linear].name);
      const std::string expert = "." + std::to_string(i) + ".weight";
      tensors[prefix + "lora_A.loraA" + expert] = a.detach();
      tensors[prefix + "lora_B.loraB" + expert] = b.detach();
      if (experts == 1) {
        tensors[prefix + "lora_A.weight"] = a.detach();
        tensors[prefix + "lora_B.weight"] = b.detach();
      }
    }
  }
  for (std::size_t i = 0; i < adapter.gates().size(); ++i) {
    const std::string prefix =
        adapter.config().gate.per_linear ? foreign_prefix(adapter.linears()[i].name) : std::string();
    tensors[prefix + "lora_task_embedding.weight"] = take(adapter.gates()[i]->task_embedding);
    tensors[prefix + "lora_gate.GateL.weight"] = take(adapter.gates()[i]->weight);
  }
  return tensors;
}

// Gradients of the left loss: every golden "grad.…", and no gradient that the goldens lack.
void compare_gradients(GoldenFile& golden, AdapterImpl& adapter, double tolerance) {
  const ByName found = foreign_tensors(adapter, true);
  for (const std::string& name : golden.names()) {
    if (name.starts_with("grad.")) {
      const auto entry = found.find(name.substr(5));
      if (entry != found.end() && entry->second.defined()) {
        golden.compare_relative(name, entry->second, tolerance);
      }
    }
  }
}

// AdamW steps on the left batch, as many as are asked for.
class Training {
 public:
  Training(const AdapterRun& run, const GoldenBatch& batch)
      : run_(run), batch_(batch), optimizer_(parameters_of(*run.adapter), {}) {}

  void advance_to(std::int64_t steps) {
    while (static_cast<std::int64_t>(losses_.size()) < steps) {
      optimizer_.clear_gradients();
      const at::Tensor loss = run_.run(batch_).loss;
      losses_.push_back(loss.item<double>());
      loss.backward();
      optimizer_.step(kLearningRate);
    }
  }
  const std::vector<double>& losses() const { return losses_; }  // before each step
  double loss_now() const {
    at::NoGradGuard guard;
    return run_.run(batch_).loss.item<double>();
  }
  static constexpr double kLearningRate = 2e-4;

 private:
  static io::NamedTensors parameters_of(const AdapterImpl& adapter) {
    io::NamedTensors parameters;
    for (const auto& parameter : adapter.named_parameters()) {
      parameters.emplace_back(parameter.key(), parameter.value());
    }
    return parameters;
  }
  const AdapterRun& run_;
  const GoldenBatch& batch_;
  train::AdamW optimizer_;
  std::vector<double> losses_;
};

void verify_parameters_after(std::int64_t steps, const fs::path& path, AdapterImpl& adapter,
                             const fs::path& gradients_file, const ByName& checkpoint, VerifyReport& report) {
  GoldenFile golden(path, report);
  VerifyReport unused;
  const GoldenFile gradients(gradients_file, unused);
  const ByName found = foreign_tensors(adapter, false);
  // Where the sign of a gradient's rounding decides the step: at most twice all the steps apart.
  const double apart = 2.1 * static_cast<double>(steps) * Training::kLearningRate;
  for (const std::string& name : golden.names()) {
    const auto entry = found.find(name);
    if (entry == found.end()) {
      golden.compare_equal(name, checkpoint.at(name));  // no gradient: unchanged
      continue;
    }
    const at::Tensor gradient = gradients.peek("grad." + name);
    const at::Tensor sure = (gradient.abs() > 1e-5).logical_or(at::isfinite(gradient).logical_not());
    golden.compare_masked(name, entry->second, sure, 1e-5);
    golden.compare_masked(name, entry->second, ~sure, apart, ", gradients below 1e-5");
  }
  golden.finish();
}

// Losses of golden.json and parameters of golden files after as many steps as their names say.
void verify_training(const fs::path& folder, const nlohmann::ordered_json& json, const AdapterRun& run,
                     const AdapterBench& bench, double tolerance, VerifyReport& report) {
  std::map<std::int64_t, std::string> losses;  // key in golden.json, by steps
  for (const auto& [key, value] : json.items()) {
    for (const char* after : {"_steps", "_adamw_steps"}) {
      if (const auto steps = number_between(key, "losses_before_each_of_", after)) {
        losses[*steps] = key;
      }
    }
  }
  std::map<std::int64_t, fs::path> parameters;
  for (const auto& [steps, path] : files_like(folder, "params_after_", "_adamw.safetensors")) {
    const auto number = number_between(path.filename().string(), "params_after_", "_adamw.safetensors");
    if (number && fs::exists(folder / "gradients.safetensors")) {
      parameters[*number] = path;
    } else {
      report.not_compared.push_back(path.filename().string() + (number ? ": needs gradients.safetensors" : ""));
    }
  }
  std::set<std::int64_t> stops;
  for (const auto& entry : losses) stops.insert(entry.first);
  for (const auto& entry : parameters) stops.insert(entry.first);
  Training training(run, bench.trained());
  for (const std::int64_t steps : stops) {
    training.advance_to(steps);
    if (losses.contains(steps)) {
      const auto expected = json.at(losses[steps]).get<std::vector<double>>();
      // The reference may also give the loss after the last step, in the same list.
      std::vector<double> found(training.losses().begin(), training.losses().begin() + steps);
      if (expected.size() == found.size() + 1) {
        found.push_back(training.loss_now());
      }
      compare_tensors(report, "golden.json: " + losses[steps], at::tensor(expected, at::kDouble),
                      at::tensor(found, at::kDouble), tolerance);
    }
    if (const std::string after = "loss_after_" + std::to_string(steps) + "_steps"; json.contains(after)) {
      compare_numbers(report, "golden.json: " + after, json.at(after).get<double>(), training.loss_now(), tolerance);
    }
    if (parameters.contains(steps)) {
      Adapter adapter = run.adapter;
      verify_parameters_after(steps, parameters[steps], *adapter, folder / "gradients.safetensors",
                              io::load_safetensors(folder / "adapter_model.safetensors"), report);
    }
  }
}

// Every "task<id>.<linear>.weight": which tasks and linears a file holds, its own names say.
void verify_merged(const fs::path& path, const AdapterRun& run, VerifyReport& report) {
  at::NoGradGuard guard;
  GoldenFile golden(path, report);
  for (const std::string& name : golden.names()) {
    const std::size_t dot = name.find('.');
    const auto id = number_between(name.substr(0, dot), "task", "");
    const auto linear_name =
        dot == std::string::npos ? std::nullopt : text_between(name.substr(dot + 1), "", ".weight");
    if (!id || *id < 1 || *id > run.adapter->tasks().size() || !linear_name) {
      continue;  // listed as not compared
    }
    const at::Tensor omega = run.adapter->expert_weights(single_tasks({*id - 1})).select(1, 0);
    for (const auto& linear : run.adapter->linears()) {
      if (linear.name == *linear_name || linear.name.ends_with("." + *linear_name)) {
        golden.compare(name, linear.delta->low_rank(omega).update().added_to(linear.base->weight), 1e-5);
        break;
      }
    }
  }
  golden.finish();
}

void verify_checkpoint_forms(const fs::path& folder, VerifyReport& report) {
  if (!fs::exists(folder / "adapter_model.bin") || !fs::exists(folder / "adapter_model.safetensors")) {
    return;
  }
  const ByName pickled = io::load_torch_checkpoint(folder / "adapter_model.bin");
  const ByName mapped = io::load_safetensors(folder / "adapter_model.safetensors");
  compare_forms(report, "adapter_model.bin", mapped, pickled);
}

// The adapter with each list of task ids that the goldens hold, by what stands behind "task_id" in its name: one task
// for each sequence (""), or several.
std::map<std::string, AdapterRun> runs_of(const GoldenFile& golden, const Adapter& adapter, const AdapterBench& bench) {
  constexpr std::string_view kTaskIds = "task_id";
  std::map<std::string, AdapterRun> runs;
  for (const std::string& name : golden.names()) {
    if (name.starts_with(kTaskIds)) {
      runs.emplace(name.substr(kTaskIds.size()), AdapterRun{adapter, *bench.model, task_ids_of(golden.peek(name))});
    }
  }
  return runs;
}

// The task ids of golden.json ("task_ids" and so on) against those that were used.
void compare_task_ids(GoldenFile& golden, const nlohmann::ordered_json& json, const std::string& which) {
  std::vector<at::Tensor> rows;
  for (const auto& row : json.at("task_ids" + which)) {
    rows.push_back(row.is_array() ? at::tensor(row.get<std::vector<std::int64_t>>(), at::kLong)
                                  : at::scalar_tensor(row.get<std::int64_t>(), at::kLong));
  }
  golden.compare_equal("task_id" + which, at::stack(rows));
}

// Every "gradients….safetensors"; what follows that word says with which task ids, or nothing but the plain ones.
void verify_gradients(const fs::path& folder, const std::map<std::string, AdapterRun>& runs, const AdapterBench& bench,
                      double tolerance, VerifyReport& report) {
  for (const auto& [name, path] : files_like(folder, "", ".safetensors")) {
    const auto which = name == "gradients" ? std::string() : text_between(name, "gradients", "");
    if (!which) {
      continue;
    }
    const AdapterRun* run = &runs.at("");
    for (const auto& [suffix, candidate] : runs) {
      run = which->starts_with(suffix) ? &candidate : run;  // in order of length where one begins with another
    }
    run->backward(bench.trained());
    GoldenFile gradients(path, report);
    compare_gradients(gradients, *Adapter(run->adapter), tolerance);
    gradients.finish();
  }
}

}  // namespace

void verify_moelora(const fs::path& folder, const fs::path& base, const VerifyOptions& options, VerifyReport& report) {
  const double tolerance = kTolerance * options.tolerance_factor;
  AdapterBench bench = open_bench(base, options);
  GoldenFile golden(folder / "golden.safetensors", report);
  const nlohmann::ordered_json json = io::read_json_file(folder / "golden.json");
  golden.peek("task_id");  // the plain list is the one that everything else needs
  const std::map<std::string, AdapterRun> runs = runs_of(golden, load_foreign_adapter(*bench.model, folder), bench);
  AdapterRun run = runs.at("");
  compare_tensors(report, "golden.json: task_ids",
                  at::tensor(json.at("task_ids").get<std::vector<std::int64_t>>(), at::kLong), golden.peek("task_id"),
                  0);
  for (const auto& [which, one] : runs) {
    compare_task_ids(golden, json, which);
  }
  {
    at::NoGradGuard guard;
    if (golden.contains("gate_weights")) {
      TaskGate& gate = run.adapter->gates().front();
      golden.compare("gate_weights",
                     gate->weights_of_rows(at::arange(golden.peek("gate_weights").size(0),
                                                      at::TensorOptions(at::kLong).device(options.device))),
                     1e-6 * options.tolerance_factor);
    }
    for (const auto& [which, one] : runs) {
      if (!which.empty() && golden.contains("gate_weights" + which)) {
        golden.compare("gate_weights" + which, run.adapter->expert_weights(one.tasks)[0],
                       1e-6 * options.tolerance_factor);
      }
    }
    if (golden.contains("greedy_batch.logits")) {
      run.compare_greedy(golden, bench, tolerance);
    }
    run.adapter->disable();
    for (const auto& [side, batch] : bench.batches) {
      if (const std::string name = side + ".logits_adapter_disabled"; golden.contains(name)) {
        const nn::RowContext plain = nn::RowContext::plain(batch.segments, options.device);
        golden.compare_rows(name, batch.pad(run_graph(*bench.model, batch, plain).logits), batch.real, tolerance);
      }
    }
    run.adapter->enable();
  }
  for (const auto& [which, one] : runs) {
    compare_sides(golden, one, bench, which, tolerance);
  }
  golden.finish();
  compare_numbers(report, "golden.json: scaling", json.at("scaling").get<double>(), run.adapter->config().scaling(), 0);

  verify_gradients(folder, runs, bench, tolerance, report);
  for (const auto& [layers, path] : files_like(folder, "merged", ".safetensors")) {
    verify_merged(path, run, report);
  }
  verify_checkpoint_forms(folder, report);
  verify_training(folder, json, run, bench, tolerance, report);
  eject(run.adapter);

  if (fs::exists(folder / "multi_gate_golden.safetensors")) {
    GoldenFile gates(folder / "multi_gate_golden.safetensors", report);
    ForeignOptions foreign;
    foreign.per_linear = true;
    AdapterRun own{load_foreign_adapter(*bench.model, folder, foreign), *bench.model, run.tasks};
    {
      at::NoGradGuard guard;
      const auto& linears = own.adapter->linears();
      for (const std::string& name : gates.names()) {
        for (std::size_t i = 0; name.starts_with("gate_weights.") && i < linears.size(); ++i) {
          if (name.ends_with("." + linears[i].name)) {
            gates.compare(name,
                          own.adapter->gates()[i]->weights_of_rows(at::arange(
                              gates.peek(name).size(0), at::TensorOptions(at::kLong).device(options.device))),
                          1e-6 * options.tolerance_factor);
          }
        }
      }
    }
    compare_sides(gates, own, bench, "", tolerance);
    own.backward(bench.trained());
    compare_gradients(gates, *own.adapter, tolerance);
    gates.finish();
  }
}

void verify_lora(const fs::path& folder, const fs::path& base, const VerifyOptions& options, VerifyReport& report) {
  const double tolerance = kTolerance * options.tolerance_factor;
  AdapterBench bench = open_bench(base, options);
  GoldenFile golden(folder / "golden.safetensors", report);
  const nlohmann::ordered_json json = io::read_json_file(folder / "golden.json");
  AdapterRun run{load_foreign_adapter(*bench.model, folder), *bench.model, bench.one_task()};
  compare_sides(golden, run, bench, "", tolerance);
  run.backward(bench.trained());
  compare_gradients(golden, *run.adapter, tolerance);
  golden.finish();
  compare_numbers(report, "golden.json: scaling", json.at("scaling").get<double>(), run.adapter->config().scaling(), 0);
  verify_training(folder, json, run, bench, tolerance, report);
}

}  // namespace moelora::verify
