// moelora inspect: what a model folder, an adapter folder, a configuration or a file of records is.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/inspect_records.h"
#include "cli/numbers.h"
#include "cli/plan.h"
#include "cli/predict.h"
#include "cli/session.h"
#include "cli/standalone_adapter.h"
#include "cli/verbs.h"
#include "moelora/adapter/adapter.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/foreign.h"
#include "moelora/adapter/parameter_count.h"
#include "moelora/data/split.h"
#include "moelora/experiment/grid.h"
#include "moelora/experiment/method.h"
#include "moelora/io/dtype.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/readable.h"
#include "moelora/train/begin_from.h"
#include "moelora/train/config.h"

namespace moelora::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

// The paper's tasks, for a model's configuration that names none.
constexpr std::int64_t kPaperTasks = 8;

void line(const std::string& name, const std::string& value) { std::printf("%-22s %s\n", name.c_str(), value.c_str()); }

void print_adapter_config(const MoeLoraConfig& config) {
  const ordered_json json = config.to_json();
  for (const auto& [key, value] : json.items()) {
    line("  " + key, value.dump());
  }
}

void print_count(const ParameterCount& count) {
  line("adapted linears", io::with_commas(count.linears));
  line("adapter parameters", io::with_commas(count.updates));
  line("gate parameters", io::with_commas(count.gates));
  if (count.prefix > 0) {
    line("prefix parameters", io::with_commas(count.prefix));
  }
  if (count.saved > 0) {
    line("modules to save", io::with_commas(count.saved) + " parameters");
  }
}

void print_model_config(const model::ModelConfig& config) {
  for (const auto& [name, value] : config.summary()) {
    line(name, value);
  }
}

std::int64_t parameter_count(const model::ModelConfig& config) {
  return config.expected_tensors().parameter_count(/*tied=*/true);
}

// The paper's targets where a model has them, else every kind of linear that takes an adapter, by the end of its name.
std::vector<std::string> usual_targets(const model::ModelConfig& config, const std::vector<std::string>& of_paper) {
  const auto model = config.make(model::weightless_tensors());
  std::vector<std::string> kinds;
  for (const std::string& linear : adaptable_linears(*model)) {
    const std::string kind = linear.substr(linear.rfind('.') + 1);
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) {
      kinds.push_back(kind);
    }
  }
  const bool has_paper = std::all_of(of_paper.begin(), of_paper.end(), [&](const std::string& target) {
    return std::find(kinds.begin(), kinds.end(), target) != kinds.end();
  });
  return has_paper ? of_paper : kinds;
}

// What an adapter on a model of this configuration would be: from shapes, with weights that take no memory.
void print_prediction(const model::ModelConfig& config, const MoeLoraConfig& adapter_config, std::int64_t tasks,
                      const std::string& whose) {
  const auto model = config.make(model::weightless_tensors());
  std::vector<std::string> names;
  for (std::int64_t task = 1; task <= tasks; ++task) {
    names.push_back("task" + std::to_string(task));
  }
  const Adapter adapter = inject(*model, adapter_config, TaskNames(names));
  const ParameterCount count = count_parameters(*adapter);
  const std::int64_t base = parameter_count(config);
  line("model parameters",
       io::with_commas(base) + (model::tied_names(*model).empty() ? "" : " (head and embedding are one tensor)"));
  std::printf("An adapter with %s:\n", whose.c_str());
  print_adapter_config(adapter_config);
  print_count(count);
  char share[64];
  std::snprintf(share, sizeof share, "%.3f %% of %s", 100.0 * static_cast<double>(count.updates + count.prefix) / base,
                io::with_commas(base).c_str());
  line("adapter share", share);
}

void inspect_model(const fs::path& folder) {
  model::LoadOptions load;
  load.dtype = model::stored_dtype(folder);
  load.fingerprint = true;
  load.tokenizer = false;
  const model::LoadedModel loaded = model::load(folder, load);
  const bool tied = !model::tied_names(*loaded.model).empty();
  line("model folder", folder.string());
  print_model_config(*loaded.config);
  line("stored type", io::dtype_name(loaded.stored_dtype));
  line("parameters", io::with_commas(loaded.config->expected_tensors().parameter_count(tied)));
  line("head", tied ? "one tensor with the embedding" : "its own tensor");
  line("fingerprint", loaded.base_fingerprint);
  if (loaded.family->holds_tokenizer(folder)) {
    line("tokenizer", model::load_tokenizer(folder)->fingerprint());
  } else {
    line("tokenizer", "none (no " + loaded.family->tokenizer_file() + ")");
  }
  if (fs::exists(folder / "merge_certificate.json")) {
    const ordered_json certificate = io::read_json_file(folder / "merge_certificate.json");
    const bool named = certificate.is_object() && certificate.contains("what") && certificate["what"].is_string();
    line("merged", named ? certificate["what"].get<std::string>() : "merge_certificate.json does not say what");
  }
}

void print_expert_weights(const AdapterImpl& adapter) {
  const TaskNames& tasks = adapter.tasks();
  if (adapter.config().num_experts == 1 || adapter.linears().empty()) {
    return;
  }
  std::vector<std::int64_t> all(tasks.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i] = static_cast<std::int64_t>(i);
  }
  at::NoGradGuard no_grad;
  const at::Tensor weights = adapter.expert_weights(single_tasks(all));  // [gates, K, N]
  if (!weights.defined()) {
    return;  // a matter of each token
  }
  const bool several = weights.size(0) > 1;
  std::printf("expert weights%s\n", several ? " (mean over the linears' gates)" : "");
  const at::Tensor mean = weights.mean(0).contiguous();
  for (std::int64_t task = 0; task < tasks.size(); ++task) {
    std::string text;
    for (std::int64_t expert = 0; expert < mean.size(1); ++expert) {
      char number[16];
      std::snprintf(number, sizeof number, " %.3f", mean[task][expert].item<float>());
      text += number;
    }
    line("  " + tasks.name(task), text);
  }
}

void inspect_own_adapter(const fs::path& folder) {
  const StandaloneAdapter alone = load_standalone_adapter(folder);
  const AdapterInfo info = read_adapter_info(folder);
  line("adapter folder", folder.string());
  line("tasks", ordered_json(info.tasks.names()).dump());
  std::printf("configuration\n");
  print_adapter_config(info.config);
  print_count(count_parameters(*alone.adapter));
  line("base fingerprint", info.base_fingerprint.empty() ? "not recorded" : info.base_fingerprint);
  line("tokenizer", info.tokenizer_fingerprint.empty() ? "not recorded" : info.tokenizer_fingerprint);
  print_expert_weights(*alone.adapter);
  if (const ordered_json provenance = read_provenance(folder); !provenance.empty()) {
    std::printf("provenance\n");
    for (const auto& [key, value] : provenance.items()) {
      line("  " + key, value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
}

void inspect_foreign_adapter(const fs::path& folder, ForeignFormat format) {
  line("adapter folder", folder.string());
  line("format", format == ForeignFormat::peft ? "PEFT LoRA" : "MOELoRA-peft");
  const StandaloneAdapter alone = load_foreign_standalone_adapter(folder, {});
  std::printf("as ours (moelora import)\n");
  print_adapter_config(alone.adapter->config());
  line("tasks", ordered_json(alone.adapter->tasks().names()).dump());
  print_count(count_parameters(*alone.adapter));
  print_expert_weights(*alone.adapter);
}

void inspect_training_configuration(const fs::path& path, const ordered_json& json) {
  auto config = train::TrainConfig::from_json(json);
  train::take_adapter_config(config);
  line("training", path.string());
  const auto [shape, shape_from] = model_shape(config.model);
  line("model's shape from", shape_from);
  print_model_config(*shape);
  if (config.mode == train::Mode::full) {
    line("trained parameters", io::with_commas(parameter_count(*shape)) + " (all)");
    return;
  }
  if (config.mode == train::Mode::new_task) {
    const MoeLoraConfig adapter = read_adapter_info(config.adapter_from).config;
    line("trained parameters", io::with_commas(adapter.gate.task_embedding_dim) + " (the new task's embedding" +
                                   (adapter.gate.per_linear ? ", for each adapted linear)" : ")"));
    print_adapter_config(adapter);
    return;
  }
  std::int64_t tasks = kPaperTasks;
  const std::vector<train::DataFile> files = config.data.training();
  std::string whose =
      "these settings and " + std::to_string(tasks) + " tasks (" + train::title_of(files) + " is not here)";
  if (std::all_of(files.begin(), files.end(), [](const auto& file) { return fs::exists(file.path); })) {
    const auto records = data::select_tasks(train::read_and_report(files, {.fields = config.data.fields}),
                                            config.data.tasks, config.data.without_tasks);
    tasks = static_cast<std::int64_t>(data::task_names_of(records).size());
    whose = "these settings and the " + std::to_string(tasks) + " tasks of " + train::title_of(files);
  }
  print_prediction(*shape, config.adapter, tasks, whose);
}

void inspect_experiment(const fs::path& path, const ordered_json& json) {
  const auto config = experiment::ExperimentConfig::from_json(json);
  line("experiment", path.string());
  line("evaluated on", config.evaluation);
  std::size_t runs = 0;
  for (const std::string& key : config.methods) {
    runs += config.seeds_for(key).size();
  }
  line("methods", std::to_string(config.methods.size()) + ", " + std::to_string(runs) + " runs of " +
                      std::to_string(config.training.steps) + " steps");
  line("learning rates", std::to_string(config.tuning.learning_rates.size()) + " for each trained method");
  line("cells", std::to_string(experiment::plan_cells(config).size()));
  for (const std::string& key : config.methods) {
    line(key, experiment::find_method(key).title());
  }
}

// Memory and time of a run that need not be possible here: from shapes, with samples of the greatest length.
void plan_configuration(const fs::path& path, const std::string& card) {
  auto config = train::TrainConfig::from_json(io::read_json_file(path));
  train::take_adapter_config(config);
  const auto [shape, shape_from] = model_shape(config.model);
  const at::ScalarType dtype = planned_dtype(config.model, card);
  PlanTarget plan_target{.card = planned_card(card, config.model.device, dtype), .lengths = PlanLengths::assumed};
  if (plan_target.card) {
    at::set_num_threads(1);  // nothing is timed here, and small loops would only wait for other threads
  }
  Session session;
  session.model = shape->make(model::weightless_tensors(dtype));
  if (config.mode == train::Mode::adapter) {
    session.adapter = inject(*session.model, config.adapter, TaskNames({"task"}));
  } else if (config.mode == train::Mode::new_task) {
    session.adapter = inject(*session.model, read_adapter_info(config.adapter_from).config, TaskNames({"task"}));
  }
  const auto source = std::min(config.data.encode.max_source_length, session.model->shape().max_sequence_length / 2);
  const auto target = std::min(config.data.encode.max_target_length, session.model->shape().max_sequence_length / 2);
  data::Example longest;
  longest.ids.resize(static_cast<std::size_t>(source + target));
  longest.label_begin = source;
  const std::vector<data::Example> examples(static_cast<std::size_t>(config.training.batch_size), longest);
  line("plan for", path.string());
  line("model's shape from", shape_from);
  line("samples", "assumed: all of the greatest length, " + std::to_string(source) + " + " + std::to_string(target) +
                      " tokens (no data was read; moelora train --dry-run takes its lengths)");
  plan_target.absent_bytes = unloaded_weight_bytes(*shape, dtype);
  line("weights", io::dtype_name(dtype) + ", " + std::to_string(plan_target.absent_bytes / 1e9) + " GB");
  print_plan(session, config, examples, plan_target);
}

void inspect_configuration(const fs::path& path) {
  const ordered_json json = io::read_json_file(path);
  MOELORA_CHECK(json.is_object(), path.string(), ": expected a JSON object");
  if (json.contains("hidden_size") || json.contains("architectures")) {
    line("model configuration", path.string());
    const auto config = model::read_config(json).config;
    print_model_config(*config);
    MoeLoraConfig adapter;
    adapter.targets = usual_targets(*config, adapter.targets);
    print_prediction(*config, adapter, kPaperTasks,
                     "the paper's settings and " + std::to_string(kPaperTasks) + " tasks");
    return;
  }
  if (json.contains("evaluation")) {
    inspect_experiment(path, json);
    return;
  }
  inspect_training_configuration(path, json);
}

void run_inspect(const fs::path& path, const std::optional<RecordInspection>& inspection) {
  MOELORA_CHECK(fs::exists(path), path.string(), ": no such file or folder");
  if (inspection) {
    MOELORA_CHECK(!fs::is_directory(path), path.string(),
                  ": expected a file of records beside the options for records, found a folder");
    inspect_records(path, *inspection);
  } else if (!fs::is_directory(path) && is_data_file(path)) {
    inspect_records(path, {});
  } else if (!fs::is_directory(path)) {
    inspect_configuration(path);
  } else if (is_adapter_folder(path)) {
    inspect_own_adapter(path);
  } else if (const ForeignFormat format = detect_foreign(path); format != ForeignFormat::none) {
    inspect_foreign_adapter(path, format);
  } else if (is_adapter_folder(path / "adapter")) {
    throw Error(path.string() + ": this is a run's folder; its adapter is " + (path / "adapter").string());
  } else if (fs::exists(path / "config.json")) {
    inspect_model(path);
  } else {
    throw Error(path.string() + ": expected a model folder (config.json), an adapter folder (adapter.json or " +
                "adapter_config.json), a configuration or a file of records");
  }
}

}  // namespace

void add_inspect(CLI::App& app, int& status) {
  auto* verb = app.add_subcommand(
      "inspect", "show what a model folder, an adapter folder, a configuration or a file of records is");
  auto records = std::make_shared<RecordInspection>();
  auto path = std::make_shared<fs::path>();
  auto plan = std::make_shared<bool>(false);
  auto card = std::make_shared<std::string>();
  auto* plan_flag = verb->add_flag("--plan", *plan,
                                   "a configuration of moelora train: peak memory and time of a step, on this machine "
                                   "or for a card that need not be here");
  verb->add_option("--card", *card, card_help())->needs(plan_flag);
  add_fields_option(*verb, records->fields);
  verb->add_option("--model", records->model, "with records: a model folder whose tokenizer shows them as tokens");
  verb->add_option("--template", records->chat_template,
                   "with records: how prompts are written: model (its chat template), none, or a file with a template")
      ->needs("--model");
  verb->add_option("--max-source-length", records->encode.max_source_length,
                   "with records: tokens at which training would cut a prompt (data.max_source_length)")
      ->check(whole_number(3))
      ->capture_default_str();
  verb->add_option("--max-target-length", records->encode.max_target_length,
                   "with records: tokens at which training would cut an answer (data.max_target_length)")
      ->check(whole_number(3))
      ->capture_default_str();
  verb->add_option("--samples", records->samples, "with records: how many are written out")
      ->check(whole_number(0))
      ->capture_default_str();
  verb->add_option("path", *path,
                   "model folder, adapter folder, records, or a configuration (config.json, configs/*.json)")
      ->required();
  verb->footer(
      "Examples:\n"
      "  moelora inspect examples/tiny_base/model\n"
      "  moelora inspect out/run/adapter\n"
      "  moelora inspect configs/promptcblue-adapter.json\n"
      "  moelora inspect alpaca.json --fields alpaca --model MODEL\n"
      "  moelora inspect own.json --fields '{\"prompt\": \"{question}\", \"answer\": \"{answer}\", \"task\": "
      "{\"file_name\": true}}'\n"
      "  moelora inspect --plan --card v100-16gb configs/chatglm-6b-v100.json");
  verb->callback([verb, path, plan, card, records, &status] {
    const auto given = [&](const char* option) { return verb->count(option) > 0; };
    const bool of_records = given("--fields") || given("--model") || given("--max-source-length") ||
                            given("--max-target-length") || given("--samples");
    MOELORA_CHECK(!*plan || !of_records, "--plan is for a configuration, --fields and its like for a file of records");
    if (*plan) {
      plan_configuration(*path, *card);
    } else {
      run_inspect(*path, of_records ? std::optional(*records) : std::nullopt);
    }
    status = 0;
  });
}

}  // namespace moelora::cli
