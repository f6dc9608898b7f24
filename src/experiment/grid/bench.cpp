#include "experiment/grid/bench.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <set>

#include "moelora/adapter/parameter_count.h"
#include "moelora/data/task_prompts.h"
#include "moelora/eval/scorer.h"
#include "moelora/io/error.h"
#include "moelora/io/provenance.h"
#include "moelora/log/log.h"
#include "moelora/train/prompt_form.h"
#include "moelora/train/trainer.h"

namespace moelora::experiment {
namespace {

using SteadyClock = std::chrono::steady_clock;

/// Writes the status file at most twice a second. It is for eyes only: a failure to write it is no error.
class StatusFile {
 public:
  explicit StatusFile(std::filesystem::path path) : path_(std::move(path)) {}
  void operator()(const std::string& what, std::int64_t done, std::int64_t total) {
    const auto now = SteadyClock::now();
    if (what == what_ && now - written_ < std::chrono::milliseconds(500)) {
      return;
    }
    what_ = what;
    written_ = now;
    std::ofstream(path_) << done << ' ' << total << ' ' << what << '\n';
  }

 private:
  std::filesystem::path path_;
  std::string what_;
  SteadyClock::time_point written_;
};

}  // namespace

Surroundings::Surroundings(const ExperimentConfig& config, train::TrainConfig own, Base opened, TaskNames tasks,
                           train::RunData records, const std::filesystem::path& folder, std::uint64_t seed,
                           std::function<std::filesystem::path(const std::string&)> adapter_of,
                           const std::atomic<bool>* stop)
    : base(std::move(opened)),
      bench{config,
            std::move(own),
            base,
            std::move(tasks),
            std::move(records.train),
            std::move(records.validation),
            folder,
            seed,
            std::move(adapter_of),
            StatusFile(folder / "status"),
            stop} {}

std::optional<double> median_of(std::vector<double> values) {
  if (values.empty()) {
    return std::nullopt;
  }
  std::sort(values.begin(), values.end());
  const auto middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : 0.5 * (values[middle - 1] + values[middle]);
}

std::int64_t parameters_of(const torch::nn::Module& module) {
  std::set<const void*> seen;
  std::int64_t count = 0;
  for (const at::Tensor& parameter : module.parameters()) {
    count += seen.insert(parameter.unsafeGetTensorImpl()).second ? parameter.numel() : 0;
  }
  return count;
}

nlohmann::ordered_json provenance_of(const Workbench& bench) {
  nlohmann::ordered_json provenance = io::provenance();
  provenance["experiment"] = bench.experiment.title;
  provenance["seed"] = bench.seed;
  const train::DataSection& data = bench.config.data;
  provenance["data"]["prompts"] =
      train::PromptForm::of(*bench.base.tokenizer, data.encode.source_prefix, data.task_prompts).to_json();
  return provenance;
}

Product train_method(Workbench& bench) {
  const train::TrainConfig& config = bench.config;
  Product product;
  if (config.mode == train::Mode::adapter) {
    product.adapter = inject(*bench.base.model, config.adapter, bench.tasks);
  }
  const auto prompts = data::TaskPrompts::from_file(config.data.task_prompts);
  const auto encode = [&](const std::vector<data::Record>& records, const char* what) {
    return train::encode_examples(prompts.apply_all(records), bench.tasks, *bench.base.tokenizer, config.data.encode,
                                  what);
  };
  const auto examples = encode(bench.train, "training");
  const auto validation = encode(bench.validation, "validation");
  std::filesystem::create_directories(bench.folder / "run");
  const train::TrainInputs inputs{.model = *bench.base.model,
                                  .adapter = product.adapter ? product.adapter.get() : nullptr,
                                  .train = examples,
                                  .validation = validation,
                                  .tasks = bench.tasks.names(),
                                  .output = bench.folder / "run",
                                  .resume = true,
                                  .base_fingerprint = bench.base.fingerprint,
                                  .tokenizer_fingerprint = bench.base.tokenizer->fingerprint(),
                                  .provenance = provenance_of(bench)};
  train::Callbacks callbacks;
  callbacks.save_model = bench.base.save;
  callbacks.stop = bench.stop;
  callbacks.quiet = true;
  callbacks.on_step = [&](const train::StepReport& report) {
    bench.status("training", report.step, config.training.steps);
  };
  const train::TrainResult result = train::train(inputs, config.training, callbacks);
  product.stopped = result.stopped;
  product.steps = result.step;
  product.validation_loss = result.best_validation_loss;
  product.training_seconds = result.seconds;
  product.trained_parameters = product.adapter ? parameters_of(*product.adapter) : parameters_of(*bench.base.model);
  product.gate_parameters = product.adapter ? count_parameters(*product.adapter).gates : 0;
  return product;
}

std::vector<data::Record> answer(Workbench& bench, const Product& product, const std::vector<data::Record>& records) {
  eval::EvaluateOptions options;
  options.encode = bench.config.data.encode;
  if (product.max_source_length > 0) {
    options.encode.max_source_length = product.max_source_length;
  }
  options.max_target_length = bench.config.data.encode.max_target_length;
  options.batch_size = bench.experiment.eval_batch_size;
  options.ask = product.prompt;
  eval::BatchContext context;
  if (Adapter adapter = product.adapter; adapter) {
    adapter->eval();
    context = [adapter, &records](const std::vector<std::int64_t>& batch) {
      std::vector<std::int64_t> tasks;
      for (const std::int64_t record : batch) {
        tasks.push_back(adapter->tasks().index(records[static_cast<std::size_t>(record)].task));
      }
      return for_tasks(adapter, single_tasks(tasks));
    };
  }
  return eval::evaluate(*bench.base.model, *bench.base.tokenizer, records, options, context,
                        [&](const eval::EvaluateProgress& at) {
                          bench.status("answering", at.done, at.total);
                          bench.stop_if_asked();
                        })
      .predictions;
}

std::vector<data::Record> evaluation_records(const ExperimentConfig& config, const TaskNames& tasks) {
  std::vector<data::Record> records;
  std::int64_t unknown = 0;
  for (data::Record& record : train::read_and_report(config.evaluation, {.fields = config.data.fields})) {
    if (tasks.contains(record.task)) {
      records.push_back(std::move(record));
    } else {
      ++unknown;
    }
  }
  if (unknown > 0) {
    log::warning(config.evaluation + ": " + std::to_string(unknown) +
                 " records of tasks that training does not have are left out");
  }
  MOELORA_CHECK(!records.empty(), config.evaluation, ": no record of a task that training has");
  const data::CountedRecords unscored = eval::without_target(records, config.evaluation);
  if (unscored.count > 0) {
    log::warning(config.evaluation + ": records without a target are not scored: " + unscored.text());
  }
  return records;
}

}  // namespace moelora::experiment
