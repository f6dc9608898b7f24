// moelora train: an adapter on a frozen base, a new task of one, or all parameters of a model.

#include <ATen/Parallel.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/plan.h"
#include "cli/predict.h"
#include "cli/ranks.h"
#include "cli/stop.h"
#include "cli/training_report.h"
#include "cli/verbs.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/provenance.h"
#include "moelora/log/log.h"
#include "moelora/train/new_task.h"
#include "moelora/train/run_data.h"
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
  bool dry_run = false;
};

ordered_json provenance_of(const TrainVerbOptions& options, const train::TrainConfig& config,
                           const train::RunData& data) {
  ordered_json provenance = io::provenance();
  provenance["configuration"] = options.config.string();
  provenance["overrides"] = options.overrides;
  provenance["seed"] = config.training.seed;
  if (!config.model.path.empty()) {
    provenance["base"] = std::filesystem::absolute(config.model.path).lexically_normal().string();
  }
  provenance["data"] = {{"file", config.data.train},
                        {"records", data.train.size()},
                        {"sha256", data::data_hash(data.train)},
                        {"validation_records", data.validation.size()}};
  return provenance;
}

int run_train(const TrainVerbOptions& options, train::ProcessGroup* ranks) {
  ordered_json json = io::read_json_file(options.config);
  for (const std::string& assignment : options.overrides) {
    train::apply_override(json, assignment);
  }
  train::TrainConfig config = train::TrainConfig::from_json(json);
  config.model.device = device_of_rank(config.model.device, ranks);
  MOELORA_CHECK(options.dry_run || !options.output.empty(),
                "--output is required: the folder of the run (or --dry-run, to see what it would take)");
  if (!options.resume && !options.dry_run && writes(ranks)) {
    require_empty(options.output);
  }
  const train::RunData data = train::read_run_data(config.data, config.training.seed);
  Session session = open_model(config.model);
  TaskNames tasks(data::task_names_of(data.train));
  if (config.mode == train::Mode::adapter) {
    session.adapter = inject(*session.model, config.adapter, tasks);
  } else if (config.mode == train::Mode::new_task) {
    session.adapter = train::load_with_new_task(*session.model, config.adapter_from, data.train,
                                                session.base_fingerprint, session.tokenizer->fingerprint());
    tasks = session.adapter->tasks();
  }
  const auto examples = train::encode_examples(data.train, tasks, *session.tokenizer, config.data.encode, "training");
  if (options.dry_run) {
    if (config.training.threads > 0) {
      at::set_num_threads(static_cast<int>(config.training.threads));
    }
    print_plan(session, config, examples);
    return 0;
  }
  const auto validation =
      train::encode_examples(data.validation, tasks, *session.tokenizer, config.data.encode, "validation");

  if (writes(ranks)) {
    std::filesystem::create_directories(options.output);
    io::write_json_file(options.output / "config.json", config.to_json());
  }
  const train::TrainInputs inputs{.model = *session.model,
                                  .adapter = session.adapter ? session.adapter.get() : nullptr,
                                  .train = examples,
                                  .validation = validation,
                                  .tasks = tasks.names(),
                                  .output = options.output,
                                  .resume = options.resume,
                                  .base_fingerprint = session.base_fingerprint,
                                  .tokenizer_fingerprint = session.tokenizer->fingerprint(),
                                  .provenance = provenance_of(options, config, data),
                                  .ranks = ranks,
                                  .new_task_only = config.mode == train::Mode::new_task};
  train::Callbacks callbacks;
  callbacks.save_model = [&](const std::filesystem::path& folder) {
    save_model(session.model, folder, config.model);
  };
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
  verb->add_option("--config", options->config, "configuration (JSON; lines of // are comments)")->required();
  verb->add_option("--set", options->overrides, "KEY=VALUE: overrides a key, e.g. training.steps=100; repeatable")
      ->take_all();
  verb->add_option("--output", options->output,
                   "new folder: adapter/ or model/, checkpoints/, log.jsonl, report.html, config.json");
  verb->add_flag("--resume", options->resume, "go on from the newest checkpoint in --output");
  verb->add_flag("--dry-run", options->dry_run, "load everything, print the memory and time that a step will take");
  verb->footer(
      "Ctrl-C ends a run after its step, with a checkpoint (exit code 130); the same command with --resume goes on, "
      "bit for bit.\n"
      "Several processes (torchrun, or RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT) share each step's samples.\n"
      "Examples:\n"
      "  moelora train --config configs/quickstart.json --output out/run\n"
      "  moelora train --config configs/quickstart.json --set training.steps=50 --set adapter.num_experts=4 --output "
      "out/x\n"
      "  moelora train --config configs/quickstart.json --output out/run --resume\n"
      "  moelora train --config configs/new-task.json --output out/new-task");
  verb->callback([options, &status] {
    status = run_with_ranks("train", [&](train::ProcessGroup* ranks) { return run_train(*options, ranks); });
  });
}

}  // namespace moelora::cli
