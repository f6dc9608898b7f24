// moelora train: an adapter on a frozen base, a new task of one, or all parameters of a model.

#include <ATen/Parallel.h>

#include <charconv>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/plan.h"
#include "cli/predict.h"
#include "cli/ranks.h"
#include "cli/stop.h"
#include "cli/training_report.h"
#include "cli/verbs.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/io/error.h"
#include "moelora/io/folder_lock.h"
#include "moelora/io/json_file.h"
#include "moelora/io/provenance.h"
#include "moelora/log/log.h"
#include "moelora/train/begin_from.h"
#include "moelora/train/config_text.h"
#include "moelora/train/new_task.h"
#include "moelora/train/prompt_form.h"
#include "moelora/train/run_data.h"
#include "moelora/train/run_folder.h"
#include "moelora/train/trainer.h"

namespace moelora::cli {
namespace {

using nlohmann::ordered_json;

constexpr int kInterrupted = 130;  // as a shell reports a program that SIGINT ended

struct TrainVerbOptions {
  std::filesystem::path config;
  std::vector<std::string> overrides;
  std::filesystem::path output;
  bool resume = false;
  std::string resume_from;
  std::vector<std::string> allowed_changes;
  bool dry_run = false;
  std::string card;
  bool print_config = false;

  bool resumes() const { return resume || !resume_from.empty(); }
};

// "step-6" or "6".
std::optional<std::int64_t> step_of(const std::string& name) {
  if (name.empty()) {
    return std::nullopt;
  }
  const std::string number = name.starts_with("step-") ? name.substr(5) : name;
  std::int64_t step = 0;
  const auto [rest, failure] = std::from_chars(number.data(), number.data() + number.size(), step);
  MOELORA_CHECK(failure == std::errc() && rest == number.data() + number.size() && step > 0,
                "--resume-from: expected the name of a checkpoint such as step-100, found '", name, "'");
  return step;
}

// Nothing is written into a folder that is not this run's, not even the lock.
io::FolderLock lock_output(const std::filesystem::path& output, bool resumes) {
  if (resumes) {
    train::check_run_folder(output);
  } else if (!std::filesystem::exists(output / io::FolderLock::kFileName)) {
    require_empty(output);
  }
  io::FolderLock lock(output, "moelora train");
  if (!resumes) {
    require_empty(output);
  }
  return lock;
}

train::PromptForm prompt_form(const train::TrainConfig& config, const model::Tokenizer& tokenizer) {
  return train::PromptForm::of(tokenizer, config.data.encode.source_prefix, config.data.task_prompts);
}

ordered_json provenance_of(const TrainVerbOptions& options, const train::TrainConfig& config,
                           const train::RunData& data, const model::Tokenizer& tokenizer) {
  ordered_json provenance = io::provenance();
  provenance["configuration"] = options.config.string();
  provenance["overrides"] = options.overrides;
  provenance["seed"] = config.training.seed;
  if (!config.adapter_from.empty()) {
    provenance["adapter_from"] = config.adapter_from;
  }
  if (!config.model.path.empty()) {
    provenance["base"] = std::filesystem::absolute(config.model.path).lexically_normal().string();
  }
  provenance["data"] = {{"file", train::title_of(config.data.training())},
                        {"records", data.train.size()},
                        {"sha256", data::data_hash(data.train)},
                        {"validation_records", data.validation.size()}};
  if (!config.data.train_files.empty()) {
    provenance["data"]["files"] = train::to_json(config.data.train, config.data.train_files);
  }
  if (!config.data.fields.is_default()) {
    provenance["data"]["fields"] = config.data.fields.to_json();
  }
  provenance["data"]["prompts"] = prompt_form(config, tokenizer).to_json();
  return provenance;
}

/// Of a card that is not here: the data's lengths and the model's shape, without its weights.
void plan_for_absent_card(const train::TrainConfig& config, const train::RunData& data, PlanTarget target) {
  const at::ScalarType dtype = planned_dtype(config.model, target.card->card.name);
  const TaskNames tasks(data::task_names_of(data.train));
  Session session;
  const auto shape = model_shape(config.model).config;
  session.model = shape->make(model::weightless_tensors(dtype));
  target.absent_bytes = unloaded_weight_bytes(*shape, dtype);
  session.tokenizer = model::load_tokenizer(config.model.tokenizer_path());
  if (config.mode == train::Mode::new_task) {
    const AdapterInfo info = read_adapter_info(config.adapter_from);
    session.adapter = inject(*session.model, info.config, info.tasks);
  } else if (config.mode == train::Mode::adapter) {
    session.adapter = inject(*session.model, config.adapter, tasks);
  }
  print_plan(session, config,
             train::encode_examples(data.train, tasks, *session.tokenizer, config.data.encode, "training"), target);
}

int run_train(const TrainVerbOptions& options, train::ProcessGroup* ranks) {
  MOELORA_CHECK(!options.config.empty() || options.print_config,
                "--config is required: a configuration file (--print-config shows one with every key)");
  MOELORA_CHECK(!options.config.empty() || options.overrides.empty(), "--set changes the configuration of --config");
  if (options.config.empty()) {
    std::cout << train::documented_default_config() << std::flush;
    return 0;
  }
  ordered_json json = io::read_json_file(options.config);
  for (const std::string& assignment : options.overrides) {
    train::apply_override(json, assignment);
  }
  train::TrainConfig config = train::TrainConfig::from_json(json);
  if (options.print_config) {
    std::cout << train::documented_config(config) << std::flush;
    return 0;
  }
  train::take_adapter_config(config);
  config.model.device = device_of_rank(config.model.device, ranks);
  MOELORA_CHECK(options.dry_run || !options.output.empty(),
                "--output is required: the folder of the run (or --dry-run, to see what it would take)");
  const std::optional<std::int64_t> resume_from = step_of(options.resume_from);
  MOELORA_CHECK(options.resumes() || options.allowed_changes.empty(),
                "--allow-change goes with --resume or --resume-from");
  std::optional<io::FolderLock> lock;
  if (!options.dry_run && writes(ranks)) {
    lock.emplace(lock_output(options.output, options.resumes()));
  }
  const train::RunData data = train::read_run_data(config.data, config.training.seed);
  if (options.dry_run) {
    PlanTarget target{.card =
                          planned_card(options.card, config.model.device, planned_dtype(config.model, options.card))};
    if (target.card && !target.card->present) {
      plan_for_absent_card(config, data, std::move(target));
      return 0;
    }
  }
  Session session = open_model(config.model, config.data.chat_template);
  TaskNames tasks(data::task_names_of(data.train));
  std::string begins_from;
  if (config.mode == train::Mode::adapter && !config.adapter_from.empty()) {
    session.adapter = train::load_to_train_on(*session.model, config.adapter_from, data.train, session.base_fingerprint,
                                              session.tokenizer->fingerprint());
    begins_from = train::fingerprint_of(*session.adapter);
    tasks = session.adapter->tasks();
  } else if (config.mode == train::Mode::adapter) {
    session.adapter = inject(*session.model, config.adapter, tasks);
  } else if (config.mode == train::Mode::new_task) {
    session.adapter = train::load_with_new_task(*session.model, config.adapter_from, data.train,
                                                session.base_fingerprint, session.tokenizer->fingerprint());
    tasks = session.adapter->tasks();
  }
  if (!config.adapter_from.empty()) {
    train::warn_of_other_prompts(config.adapter_from, prompt_form(config, *session.tokenizer));
  }
  const auto examples = train::encode_examples(data.train, tasks, *session.tokenizer, config.data.encode, "training");
  if (options.dry_run) {
    if (config.training.threads > 0) {
      at::set_num_threads(static_cast<int>(config.training.threads));
    }
    print_plan(session, config, examples,
               {.card = planned_card(options.card, config.model.device, session.model->dtype())});
    return 0;
  }
  const auto validation =
      train::encode_examples(data.validation, tasks, *session.tokenizer, config.data.encode, "validation");

  const train::TrainInputs inputs{.model = *session.model,
                                  .adapter = session.adapter ? session.adapter.get() : nullptr,
                                  .train = examples,
                                  .validation = validation,
                                  .tasks = tasks.names(),
                                  .output = options.output,
                                  .resume = options.resume,
                                  .base_fingerprint = session.base_fingerprint,
                                  .tokenizer_fingerprint = session.tokenizer->fingerprint(),
                                  .provenance = provenance_of(options, config, data, *session.tokenizer),
                                  .ranks = ranks,
                                  .new_task_only = config.mode == train::Mode::new_task,
                                  .resume_from = resume_from,
                                  .allowed_changes = {options.allowed_changes.begin(), options.allowed_changes.end()},
                                  .begins_from = begins_from,
                                  .locked = lock.has_value()};
  train::Callbacks callbacks;
  // After all checks: a refused run leaves the configuration of the run that is there.
  callbacks.on_begin = [&] { io::write_json_file(options.output / "config.json", config.to_json()); };
  callbacks.save_model = [&](const std::filesystem::path& folder) { save_model(session, folder, config.model); };
  callbacks.stop = &stop_on_signals();  // ends the run after its step, with a checkpoint
  const train::TrainResult result = train::train(inputs, config.training, callbacks);
  if (writes(ranks)) {
    write_training_report(options.output, config, result);
  }
  if (result.stopped) {
    return kInterrupted;
  }
  if (!writes(ranks)) {
    return 0;
  }
  std::cout << "Wrote " << result.result.string() << " (step " << result.best_step << " of " << result.step;
  if (result.best_validation_loss) {
    std::cout << ", validation loss " << *result.best_validation_loss;
  }
  std::cout << ") and " << (options.output / "report.html").string() << std::endl;
  return 0;
}

}  // namespace

void add_train(CLI::App& app, int& status) {
  auto* verb =
      app.add_subcommand("train", "train an adapter on a frozen base, one more task of an adapter, or a whole model");
  auto options = std::make_shared<TrainVerbOptions>();
  verb->add_option("--config", options->config, "configuration (JSON; lines of // are comments)");
  verb->add_option("--set", options->overrides, "KEY=VALUE: overrides a key, e.g. training.steps=100; repeatable")
      ->take_all();
  verb->add_option("--output", options->output,
                   "new folder: adapter/ or model/, checkpoints/, log.jsonl, report.html, config.json");
  verb->add_flag("--resume", options->resume, "go on from the newest whole checkpoint in --output");
  verb->add_option("--resume-from", options->resume_from,
                   "step-N: go on from this checkpoint; later ones and the log as it was are moved to set-aside-1");
  verb->add_option("--allow-change", options->allowed_changes,
                   "with --resume: dtype or device may differ from what the run began with; repeatable")
      ->check(CLI::IsMember(train::allowable_changes()))
      ->take_all();
  verb->add_flag("--print-config", options->print_config,
                 "print every key with its meaning and default (with --config: that configuration's values)");
  auto* dry_run = verb->add_flag("--dry-run", options->dry_run,
                                 "print the memory and time that a step will take, with the data's lengths");
  verb->add_option("--card", options->card, card_help())->needs(dry_run);
  verb->footer(
      "Ctrl-C ends a run after its step, with a checkpoint (exit code 130); the same command with --resume goes on, "
      "bit for bit.\n"
      "On resuming, memory, threads, logging and checkpoint settings are free; steps, learning rate and the gate's "
      "ratio to it, schedule, warm-up, clipping, weight decay and AdamW's numbers may change, with a warning that the "
      "log and the adapter keep. All else is refused.\n"
      "Several processes (torchrun, or RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT) share each step's samples.\n"
      "Examples:\n"
      "  moelora train --config configs/quickstart.json --output out/run\n"
      "  moelora train --config configs/quickstart.json --set training.steps=50 --set adapter.num_experts=4 --output "
      "out/x\n"
      "  moelora train --config configs/quickstart.json --output out/run --resume\n"
      "  moelora train --config configs/quickstart.json --output out/run --resume-from step-200 --set "
      "training.learning_rate=1e-3\n"
      "  moelora train --config configs/quickstart.json --set adapter_from=out/run/adapter adapter=null --output "
      "out/more\n"
      "  moelora train --config configs/new-task.json --output out/new-task\n"
      "  moelora train --print-config");
  verb->callback([options, &status] {
    status = run_with_ranks("train", [&](train::ProcessGroup* ranks) { return run_train(*options, ranks); });
  });
}

}  // namespace moelora::cli
