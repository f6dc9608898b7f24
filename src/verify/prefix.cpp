// Goldens of P-Tuning v2: a prefix encoder of the reference on a base that has goldens of its own.

#include <ATen/ATen.h>

#include "adapter_bench.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/safetensors.h"
#include "moelora/io/torch_checkpoint.h"

namespace moelora::verify {
namespace {

namespace fs = std::filesystem;

// The name in an adapter file of what the reference calls PATH.prefix_encoder.X, whatever the path; nothing if it is
// no tensor of a prefix encoder.
std::optional<std::string> own_name(const std::string& name) {
  static const std::map<std::string, std::string> names{{"embedding.weight", "prefix.embedding"},
                                                        {"trans.0.weight", "prefix.hidden.weight"},
                                                        {"trans.0.bias", "prefix.hidden.bias"},
                                                        {"trans.2.weight", "prefix.output.weight"},
                                                        {"trans.2.bias", "prefix.output.bias"}};
  constexpr std::string_view kEncoder = "prefix_encoder.";
  const std::size_t encoder = name.find(kEncoder);
  const auto found = encoder == std::string::npos ? names.end() : names.find(name.substr(encoder + kEncoder.size()));
  return found == names.end() ? std::nullopt : std::optional(found->second);
}

// The checkpoint under the adapter's names; where both of its forms are there, they are compared.
std::map<std::string, at::Tensor> read_prefix_encoder(const fs::path& folder, VerifyReport& report) {
  const fs::path mapped = folder / "prefix_encoder.safetensors";
  const fs::path pickled = folder / "pytorch_model.bin";
  const auto tensors = fs::exists(mapped) ? io::load_safetensors(mapped) : io::load_torch_checkpoint(pickled);
  if (fs::exists(mapped) && fs::exists(pickled)) {
    compare_forms(report, "pytorch_model.bin", tensors, io::load_torch_checkpoint(pickled));
  }
  std::map<std::string, at::Tensor> renamed;
  for (const auto& [name, tensor] : tensors) {
    const auto ours = own_name(name);
    MOELORA_CHECK(ours, folder.string(), ": ", name, " is no tensor of a prefix encoder");
    renamed.emplace(*ours, tensor);
  }
  return renamed;
}

// The smallest difference of the two best logits on the way: how sure the greedy ids are.
double smallest_margin(const at::Tensor& logits) {
  const at::Tensor best = std::get<0>(at::topk(logits, 2, -1));
  return (best.select(-1, 0) - best.select(-1, 1)).min().item<double>();
}

}  // namespace

void verify_prefix(const fs::path& folder, const fs::path& base, const VerifyOptions& options, VerifyReport& report) {
  const double tolerance = kTolerance * options.tolerance_factor;
  const nlohmann::ordered_json json = io::read_json_file(folder / "golden.json");
  const auto tensors = read_prefix_encoder(folder, report);
  AdapterBench bench = open_bench(base, options);
  MoeLoraConfig config;
  config.targets.clear();
  config.prefix =
      PrefixConfig{json.at("pre_seq_len").get<std::int64_t>(), json.at("prefix_projection").get<bool>(), 0.0};
  AdapterRun run{inject(*bench.model, config, TaskNames({"default"})), *bench.model, bench.one_task()};
  fill_adapter(*run.adapter, tensors, folder.string());

  GoldenFile golden(folder / "golden.safetensors", report);
  compare_sides(golden, run, bench, "", tolerance);
  for (const auto& [side, batch] : bench.batches) {
    if (golden.contains(side + ".loss")) {
      compare_numbers(report, "golden.json: loss_" + side, json.at("loss_" + side).get<double>(),
                      golden.peek(side + ".loss").item<double>(), 0);
    }
  }
  const GreedyRun greedy = run.compare_greedy(golden, bench, tolerance);
  compare_numbers(report, "golden.json: greedy_min_top2_margin", json.at("greedy_min_top2_margin").get<double>(),
                  smallest_margin(greedy.logits), 2 * tolerance);
  nlohmann::ordered_json new_ids = nlohmann::ordered_json::array();
  const at::Tensor answers = greedy.ids.narrow(1, bench.prompts.size(1), greedy.logits.size(1)).contiguous();
  for (std::int64_t i = 0; i < answers.size(0); ++i) {
    const auto* id = answers[i].const_data_ptr<std::int64_t>();
    new_ids.push_back(std::vector<std::int64_t>(id, id + answers.size(1)));
  }
  compare_json(report, "golden.json: greedy_new_ids", json.at("greedy_new_ids"), new_ids);

  run.backward(bench.trained());
  std::map<std::string, at::Tensor> gradients;
  for (const auto& [name, parameter] : adapter_tensors(*run.adapter)) {
    gradients[name] = parameter.grad();
  }
  for (const std::string& name : golden.names()) {
    const auto ours = name.starts_with("grad.") ? own_name(name) : std::nullopt;
    if (ours && gradients.contains(*ours)) {
      golden.compare_relative(name, gradients.at(*ours), tolerance);
    }
  }
  golden.finish();
  eject(run.adapter);
}

}  // namespace moelora::verify
