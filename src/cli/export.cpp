// moelora export: an adapter in the format of another program.

#include <ATen/ATen.h>

#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/probe.h"
#include "cli/session.h"
#include "cli/standalone_adapter.h"
#include "cli/verbs.h"
#include "moelora/adapter/merge.h"
#include "moelora/io/dtype.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/log/log.h"

namespace moelora::cli {
namespace {

constexpr const char* kProbeFile = "probe.json";

struct ExportOptions {
  SessionOptions session;
  std::filesystem::path output;
  std::string format = "peft";
  std::string task;
  std::string base_name;
  bool probe = false;
};

// What other programs load the adapter's file onto: as given, the model's folder, or what training recorded.
std::string base_of(const ExportOptions& options) {
  if (!options.base_name.empty()) {
    return options.base_name;
  }
  if (!options.session.model.empty()) {
    return std::filesystem::absolute(options.session.model).lexically_normal().string();
  }
  const nlohmann::ordered_json json = io::read_json_file(options.session.adapter / "adapter.json");
  const auto provenance = json.find("provenance");
  if (provenance != json.end() && provenance->is_object() && provenance->contains("base") &&
      provenance->at("base").is_string() && !provenance->at("base").get<std::string>().empty()) {
    return provenance->at("base").get<std::string>();
  }
  log::warning(
      "base_model_name_or_path stays empty, for the adapter does not record its base; name it with "
      "--base-name (or --model), so that other programs find it");
  return {};
}

bool changes_nothing(const AdapterImpl& adapter, const std::string& task) {
  at::NoGradGuard no_grad;
  const at::Tensor omega = adapter.expert_weights(single_tasks({adapter.tasks().index(task)}));
  for (const auto& linear : adapter.linears()) {
    if (!linear.delta->low_rank(omega.defined() ? omega.select(1, 0) : omega).update().is_zero()) {
      return false;
    }
  }
  return true;
}

// One prompt's part of a probe: how far logits move, and what a server shows of it, the next token's.
nlohmann::ordered_json probe_of_prompt(const Probe& probe, std::size_t prompt, const at::Tensor& without,
                                       const at::Tensor& with) {
  const std::int64_t first = probe.segments.offsets[prompt];
  const std::int64_t count = probe.segments.offsets[prompt + 1] - first;
  const at::Tensor change = (with - without).narrow(0, first, count).abs();
  const std::int64_t last = first + count - 1;
  const auto token = change[count - 1].argmax().item<std::int64_t>();
  return {{"text", probe.texts[prompt]},
          {"ids", probe.prompts[prompt].ids},
          {"largest_change", change.max().item<double>()},
          {"next_token",
           {{"most_changed_id", token},
            {"logit_without", without[last][token].item<double>()},
            {"logit_with", with[last][token].item<double>()},
            {"best_id_without", without[last].argmax().item<std::int64_t>()},
            {"best_id_with", with[last].argmax().item<std::int64_t>()}}}};
}

// Loads what was written, as another program would, onto the base alone: the changes of its logits, by task.
void write_probe(Session& session, const ExportOptions& options, const std::vector<std::string>& exported) {
  at::NoGradGuard no_grad;
  ForeignOptions foreign;
  foreign.per_linear = session.adapter->config().gate.per_linear;
  eject(session.adapter);
  const Probe probe(*session.tokenizer);
  const at::Device device = session.model->device();
  const at::Tensor without = probe_logits(
      *session.model, probe, [&](const nn::Segments& segments) { return nn::RowContext::plain(segments, device); });
  Adapter loaded = load_foreign_adapter(*session.model, options.output, foreign);
  loaded->eval();
  nlohmann::ordered_json json{{"base", std::filesystem::absolute(options.session.model).lexically_normal().string()},
                              {"base_fingerprint", session.base_fingerprint},
                              {"dtype", io::dtype_name(session.model->dtype())},
                              {"tasks", nlohmann::ordered_json::array()}};
  for (std::size_t task = 0; task < exported.size(); ++task) {
    const std::vector<std::int64_t> tasks(probe.prompts.size(), static_cast<std::int64_t>(task));
    const at::Tensor with = probe_logits(*session.model, probe, for_tasks(loaded, single_tasks(tasks)));
    const double largest = (with - without).abs().max().item<double>();
    nlohmann::ordered_json entry{{"task", exported[task]}, {"largest_change", largest}};
    for (std::size_t prompt = 0; prompt < probe.texts.size(); ++prompt) {
      entry["prompts"].push_back(probe_of_prompt(probe, prompt, without, with));
    }
    json["tasks"].push_back(std::move(entry));
    std::cout << "  " << exported[task] << ": loading the file changes logits by up to " << largest << " on "
              << probe.texts.size() << " prompts" << (largest == 0.0 ? ": NOTHING changes" : "") << std::endl;
  }
  io::write_json_file(options.output / kProbeFile, json);
  std::cout << "  wrote " << (options.output / kProbeFile).string()
            << ": a server whose logits do not change so has not loaded the adapter" << std::endl;
}

void run_export(const ExportOptions& options) {
  const bool peft = options.format == "peft";
  MOELORA_CHECK(peft || options.format == "moelora-peft", "--format: expected peft or moelora-peft, found '",
                options.format, "'");
  MOELORA_CHECK(peft || options.task.empty(), "--task goes with --format peft: moelora-peft keeps all tasks");
  require_empty(options.output);
  std::optional<Session> session;
  std::optional<StandaloneAdapter> alone;
  if (options.session.model.empty()) {
    alone = load_standalone_adapter(options.session.adapter);
  } else {
    session = open_session(options.session);
  }
  const Adapter& adapter = session ? session->adapter : alone->adapter;
  const TaskNames& tasks = adapter->tasks();
  MOELORA_CHECK(!peft || !options.task.empty() || tasks.size() == 1,
                "--task is needed: a PEFT adapter holds one task (`moelora inspect` lists them)");
  std::vector<std::string> exported = tasks.names();
  if (peft) {
    exported = {options.task.empty() ? tasks.name(0) : options.task};
    export_peft(*adapter, exported.front(), options.output, base_of(options));
    std::cout << "Wrote " << options.output.string() << ": PEFT LoRA adapter of task " << exported.front() << std::endl;
  } else {
    export_moelora_peft(*adapter, options.output, base_of(options));
    std::cout << "Wrote " << options.output.string() << ": MOELoRA-peft adapter, task ids 1.." << tasks.size()
              << " are";
    for (const std::string& name : exported) {
      std::cout << " " << name;
    }
    std::cout << std::endl;
  }
  for (const std::string& task : exported) {
    if (changes_nothing(*adapter, task)) {
      log::warning("the update of task " + task + " is zero: loading it changes nothing");
    }
  }
  if (options.probe) {
    write_probe(*session, options, exported);
  }
}

}  // namespace

void add_export(CLI::App& app, int& status) {
  auto* verb = app.add_subcommand("export", "write an adapter in the format of another program");
  auto options = std::make_shared<ExportOptions>();
  verb->add_option("--adapter", options->session.adapter, "adapter folder")->required();
  verb->add_option("--format", options->format, "peft (one task) or moelora-peft (all tasks)")->capture_default_str();
  verb->add_option("--task", options->task, "task to export, for peft");
  verb->add_option("--output", options->output, "new folder")->required();
  auto* model = verb->add_option("--model", options->session.model, "the base's model folder: checked, and named");
  verb->add_option(
      "--base-name", options->base_name,
      "base_model_name_or_path of the written file (default: --model, or the base that training recorded)");
  verb->add_flag("--probe", options->probe,
                 "measure how far loading the written file moves the base's logits on fixed prompts, into probe.json")
      ->needs(model);
  add_compute_options(*verb, options->session);
  verb->footer(
      "Examples:\n"
      "  moelora export --adapter out/run/adapter --format peft --task CMeIE --output out/cmeie-peft\n"
      "  moelora export --adapter out/run/adapter --task CMeIE --model MODEL --probe --output out/cmeie-peft\n"
      "  moelora export --adapter out/run/adapter --format moelora-peft --output out/moelora-peft");
  verb->callback([options, &status] {
    run_export(*options);
    status = 0;
  });
}

}  // namespace moelora::cli
