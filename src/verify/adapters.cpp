// Goldens of adapters on a base that has goldens of its own: MOELoRA-peft (shared and per-layer gates) and PEFT LoRA.

#include <ATen/ATen.h>

#include "adapter_bench.h"
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
  const auto width = adapter.config().rank / experts;
  for (const auto& linear : adapter.linears()) {
    const std::string prefix = foreign_prefix(linear.name);
    const at::Tensor a = take(linear.delta->A);
    const at::Tensor b = take(linear.delta->B);
    for (std::int64_t i = 0; i < experts; ++i) {
      const std::string expert = "." + std::to_string(i) + ".weight";
      tensors[prefix + "lora_A.loraA" + expert] = a.narrow(0, i * width, width);
      tensors[prefix + "lora_B.loraB" + expert] = b.narrow(1, i * width, width);
    }
    if (experts == 1) {
      tensors[prefix + "lora_A.weight"] = a;
      tensors[prefix + "lora_B.weight"] = b;
    }
  }
  for (std::size_t i = 0; i < adapter.gates().size(); ++i) {
    const std::string prefix = adapter.config().per_linear ? foreign_prefix(adapter.linears()[i].name) : std::string();
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

// Five AdamW steps on the left batch. Returns the losses before each step and after the last.
std::vector<double> five_steps(const AdapterRun& run, const GoldenBatch& batch) {
  io::NamedTensors parameters;
  for (const auto& parameter : run.adapter->named_parameters()) {
    parameters.emplace_back(parameter.key(), parameter.value());
  }
  train::AdamW optimizer(parameters, {});
  std::vector<double> losses;
  for (int step = 0; step < 5; ++step) {
    optimizer.clear_gradients();
    const at::Tensor loss = run.run(batch).loss;
    losses.push_back(loss.item<double>());
    loss.backward();
    optimizer.step(2e-4);
  }
  at::NoGradGuard guard;
  losses.push_back(run.run(batch).loss.item<double>());
  return losses;
}

void compare_losses(VerifyReport& report, const nlohmann::ordered_json& json, const char* key,
                    const std::vector<double>& losses, double tolerance) {
  const auto& expected = json.at(key);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    compare_numbers(report, "golden.json: " + std::string(key) + "[" + std::to_string(i) + "]",
                    expected[i].get<double>(), losses.at(i), tolerance);
  }
}

void verify_parameters_after(const fs::path& path, AdapterImpl& adapter, const fs::path& gradients_file,
                             const ByName& checkpoint, VerifyReport& report) {
  GoldenFile golden(path, report);
  VerifyReport unused;
  const GoldenFile gradients(gradients_file, unused);
  const ByName found = foreign_tensors(adapter, false);
  for (const std::string& name : golden.names()) {
    const auto entry = found.find(name);
    if (entry == found.end()) {
      golden.compare_equal(name, checkpoint.at(name));  // no gradient: unchanged
      continue;
    }
    const at::Tensor gradient = gradients.peek("grad." + name);
    const at::Tensor sure = gradient.abs() > 1e-5;
    golden.compare_rows(name, entry->second, sure, 1e-5);
    // Below that the sign of a gradient's rounding decides the step: at most twice the five steps of 2e-4 apart.
    compare_tensors(report, path.filename().string() + ": " + name + ", gradients below 1e-5",
                    golden.peek(name).masked_select(~sure), entry->second.masked_select(~sure), 2.1e-3);
  }
  golden.finish();
}

void verify_merged(const fs::path& path, const AdapterRun& run, VerifyReport& report) {
  at::NoGradGuard guard;
  GoldenFile golden(path, report);
  for (const std::int64_t id : {1, 8}) {
    const at::Tensor omega = run.adapter->expert_weights(single_tasks({id - 1})).select(1, 0);
    for (const auto& linear : run.adapter->linears()) {
      const std::string name =
          "task" + std::to_string(id) + "." + linear.name.substr(sizeof("transformer.") - 1) + ".weight";
      if (golden.contains(name)) {
        const nn::LowRank update = linear.delta->low_rank(omega);
        golden.compare(name, at::addmm(linear.base->weight.to(at::kFloat), update.B, update.A), 1e-5);
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

}  // namespace

void verify_moelora(const fs::path& folder, const fs::path& base, const VerifyOptions& options, VerifyReport& report) {
  const double tolerance = kTolerance * options.tolerance_factor;
  AdapterBench bench = open_bench(base, options);
  GoldenFile golden(folder / "golden.safetensors", report);
  const nlohmann::ordered_json json = io::read_json_file(folder / "golden.json");
  AdapterRun run{load_foreign_adapter(*bench.model, folder), *bench.model, task_ids_of(golden.peek("task_id"))};
  AdapterRun multi{run.adapter, *bench.model, task_ids_of(golden.peek("task_id_multi"))};

  compare_tensors(report, "golden.json: task_ids",
                  at::tensor(json.at("task_ids").get<std::vector<std::int64_t>>(), at::kLong), golden.peek("task_id"),
                  0);
  golden.compare_equal("task_id", at::tensor(json.at("task_ids").get<std::vector<std::int64_t>>(), at::kLong));
  std::vector<at::Tensor> rows;
  for (const auto& row : json.at("task_ids_multi")) {
    rows.push_back(at::tensor(row.get<std::vector<std::int64_t>>(), at::kLong));
  }
  golden.compare_equal("task_id_multi", at::stack(rows));
  {
    at::NoGradGuard guard;
    TaskGate& gate = run.adapter->gates().front();
    golden.compare("gate_weights",
                   gate->weights_of_rows(at::arange(golden.peek("gate_weights").size(0),
                                                    at::TensorOptions(at::kLong).device(options.device))),
                   1e-6 * options.tolerance_factor);
    golden.compare("gate_weights_multi", run.adapter->expert_weights(multi.tasks)[0], 1e-6 * options.tolerance_factor);
    run.compare_greedy(golden, bench.prompts, tolerance);
    run.adapter->disable();
    golden.compare_rows(
        "left.logits_adapter_disabled",
        bench.left.pad(
            run_graph(*bench.model, bench.left, nn::RowContext::plain(bench.left.segments, options.device)).logits),
        bench.left.real, tolerance);
    run.adapter->enable();
  }
  compare_sides(golden, run, bench, "", tolerance);
  compare_sides(golden, multi, bench, "_multi", tolerance);
  golden.finish();
  compare_numbers(report, "golden.json: scaling", json.at("scaling").get<double>(), run.adapter->config().scaling(), 0);

  if (fs::exists(folder / "gradients.safetensors")) {
    run.backward(bench.left);
    GoldenFile gradients(folder / "gradients.safetensors", report);
    compare_gradients(gradients, *run.adapter, tolerance);
    gradients.finish();
  }
  if (fs::exists(folder / "gradients_multi_gate_only.safetensors")) {
    multi.backward(bench.left);
    GoldenFile gradients(folder / "gradients_multi_gate_only.safetensors", report);
    compare_gradients(gradients, *run.adapter, tolerance);
    gradients.finish();
  }
  if (fs::exists(folder / "merged_layer0.safetensors")) {
    verify_merged(folder / "merged_layer0.safetensors", run, report);
  }
  verify_checkpoint_forms(folder, report);

  const std::vector<double> losses = five_steps(run, bench.left);
  compare_losses(report, json, "losses_before_each_of_5_steps", losses, tolerance);
  compare_numbers(report, "golden.json: loss_after_5_steps", json.at("loss_after_5_steps").get<double>(), losses.back(),
                  tolerance);
  if (fs::exists(folder / "params_after_5_adamw.safetensors") && fs::exists(folder / "gradients.safetensors")) {
    verify_parameters_after(folder / "params_after_5_adamw.safetensors", *run.adapter, folder / "gradients.safetensors",
                            io::load_safetensors(folder / "adapter_model.safetensors"), report);
  }
  eject(run.adapter);

  if (fs::exists(folder / "multi_gate_golden.safetensors")) {
    GoldenFile gates(folder / "multi_gate_golden.safetensors", report);
    ForeignOptions foreign;
    foreign.per_linear = true;
    AdapterRun own{load_foreign_adapter(*bench.model, folder, foreign), *bench.model, run.tasks};
    {
      at::NoGradGuard guard;
      const auto& linears = own.adapter->linears();
      for (std::size_t i = 0; i < linears.size(); ++i) {
        const std::string name = "gate_weights.model." + linears[i].name;
        gates.compare(name,
                      own.adapter->gates()[i]->weights_of_rows(
                          at::arange(gates.peek(name).size(0), at::TensorOptions(at::kLong).device(options.device))),
                      1e-6 * options.tolerance_factor);
      }
    }
    compare_sides(gates, own, bench, "", tolerance);
    own.backward(bench.left);
    compare_gradients(gates, *own.adapter, tolerance);
    gates.finish();
  }
}

void verify_lora(const fs::path& folder, const fs::path& base, const VerifyOptions& options, VerifyReport& report) {
  const double tolerance = kTolerance * options.tolerance_factor;
  AdapterBench bench = open_bench(base, options);
  GoldenFile golden(folder / "golden.safetensors", report);
  const nlohmann::ordered_json json = io::read_json_file(folder / "golden.json");
  AdapterRun run{load_foreign_adapter(*bench.model, folder), *bench.model, {{0}, {0}, {0}}};
  compare_sides(golden, run, bench, "", tolerance);
  run.backward(bench.left);
  compare_gradients(golden, *run.adapter, tolerance);
  golden.finish();
  compare_numbers(report, "golden.json: scaling", json.at("scaling").get<double>(), run.adapter->config().scaling(), 0);
  const std::vector<double> losses = five_steps(run, bench.left);
  compare_losses(report, json, "losses_before_each_of_5_adamw_steps", losses, tolerance);
}

}  // namespace moelora::verify
