// A task that was left out of training, learned from a few examples: by its embedding alone (MOELoRA), by weights of
// the other tasks' single LoRAs (LoRAHub), and by a LoRA of its own.

#include "moelora/adapter/new_task.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "experiment/grid/bench.h"
#include "experiment/methods/lorahub_settings.h"
#include "experiment/methods/single_loras.h"
#include "moelora/adapter/lorahub.h"
#include "moelora/data/split.h"
#include "moelora/io/error.h"
#include "moelora/log/log.h"
#include "moelora/train/diverged.h"
#include "moelora/train/run_data.h"
#include "moelora/train/step.h"
#include "moelora/train/trainer.h"

namespace moelora::experiment {
namespace {

using nlohmann::ordered_json;

class NewTaskCell {
 public:
  NewTaskCell(Workbench& bench, const std::string& task, const Cell& cell)
      : bench_(bench), section_(bench.experiment.new_tasks), task_(task), seed_(cell.seed) {
    shown_ = data::select_few(data::select_tasks(bench.train, {task}, {}), section_.examples);
    for (const data::Record& record : evaluation_records(bench.experiment, bench.tasks)) {
      if (record.task == task) {
        references_.push_back(record);
      }
    }
    MOELORA_CHECK(!references_.empty(), bench.experiment.evaluation, ": no record of task ", task);
  }

  /// Null if it was stopped.
  ordered_json run() {
    ordered_json result;
    result["ways"] = ordered_json::array();
    std::optional<Adapter> mixture = train_without_task();
    if (!mixture) {
      return nullptr;
    }
    const auto with_row = [&] { return with_new_task(*bench_.base.model, **mixture, task_, "new"); };
    Adapter unfitted = with_row();
    add_way(result, "MOELoRA (D), mean embedding, nothing fitted", "unfitted", 0, unfitted);
    eject(unfitted);
    Adapter embedding = fit("embedding", true, with_row);
    add_way(result, "MOELoRA (D), only the new embedding", "embedding", bench_.config.adapter.gate.task_embedding_dim,
            embedding);
    eject(embedding);
    eject(*mixture);
    if (const std::string missing = lorahub_missing(); missing.empty()) {
      add_lorahub(result);
    } else {
      log::warning(task_ + " is not learned by LoRAHub: " + missing);
    }
    const MoeLoraConfig plain = config_of(bench_.experiment, method_with(Role::yardstick), 1, seed_, 0.0).adapter;
    Adapter fresh = fit("fresh-lora", false, [&] { return inject(*bench_.base.model, plain, TaskNames({task_})); });
    add_way(result, "LoRA of its own, from scratch", "fresh-lora", parameters_of(*fresh), fresh);
    result["details"] = details_;
    return result;
  }

 private:
  std::optional<Adapter> train_without_task() {
    std::vector<std::string> others = bench_.tasks.names();
    std::erase(others, task_);
    bench_.tasks = TaskNames(others);
    for (auto* records : {&bench_.train, &bench_.validation}) {
      std::erase_if(*records, [&](const data::Record& record) { return record.task == task_; });
    }
    Product product = train_method(bench_);
    return product.stopped ? std::nullopt : std::optional(product.adapter);
  }

  std::vector<data::Example> encoded(const std::vector<data::Record>& records, const TaskNames& tasks) const {
    return train::encode_examples(records, tasks, *bench_.base.tokenizer, bench_.config.data.encode, task_);
  }

  /// Trains on `examples`; returns the loss on `held_out` at the end.
  double train_on(AdapterImpl& adapter, const std::vector<data::Example>& examples,
                  const std::vector<data::Example>& held_out, const std::filesystem::path& folder, double rate,
                  bool embedding_only) {
    train::TrainingOptions options = bench_.config.training;
    options.steps = section_.steps;
    options.batch_size = std::min(options.batch_size, static_cast<std::int64_t>(examples.size()));
    options.warmup_steps = std::min(options.warmup_steps, section_.steps / 10);
    options.learning_rate = rate;
    options.weight_decay = embedding_only ? 0.0 : options.weight_decay;
    options.checkpoint_every = section_.steps;
    options.validate_every = section_.steps;
    const std::vector<data::Example> none;
    train::TrainInputs inputs{.model = *bench_.base.model,
                              .adapter = &adapter,
                              .train = examples,
                              .validation = none,
                              .tasks = adapter.tasks().names(),
                              .output = folder,
                              .resume = true,
                              .base_fingerprint = bench_.base.fingerprint,
                              .tokenizer_fingerprint = bench_.base.tokenizer->fingerprint(),
                              .provenance = {}};
    inputs.new_task_only = embedding_only;
    train::Callbacks callbacks;
    callbacks.quiet = true;
    callbacks.stop = bench_.stop;
    callbacks.on_step = [&](const train::StepReport& report) {
      bench_.status("fitting " + folder.parent_path().filename().string(), report.step, options.steps);
    };
    if (train::train(inputs, options, callbacks).stopped) {
      throw Stopped();
    }
    if (held_out.empty()) {
      return 0.0;
    }
    return train::validation_loss(*bench_.base.model, &adapter, held_out, adapter.tasks().names(),
                                  options.micro_batch_tokens)
        .loss;
  }

  /// The rate by training on one half of the examples and looking at the other; then all examples.
  template <typename Make>
  Adapter fit(const std::string& way, bool embedding_only, const Make& make) {
    const auto folder = bench_.folder / way;
    std::optional<double> best_loss;
    double best_rate = section_.learning_rates.front();
    const auto half = static_cast<std::ptrdiff_t>(shown_.size() / 2);
    const std::vector<data::Record> first(shown_.begin(), shown_.begin() + half);
    const std::vector<data::Record> second(shown_.begin() + half, shown_.end());
    std::int64_t number = 0;
    for (const double rate : section_.learning_rates) {
      Adapter adapter = make();
      double loss = std::numeric_limits<double>::infinity();
      try {
        loss = train_on(*adapter, encoded(first, adapter->tasks()), encoded(second, adapter->tasks()),
                        folder / ("rate-" + std::to_string(number++)), rate, embedding_only);
      } catch (const train::TrainingDiverged&) {  // this rate is too large
      }
      details_[way]["tried"].push_back({{"learning_rate", rate}, {"held_out_loss", loss}});
      if (std::isfinite(loss) && (!best_loss || loss < *best_loss)) {
        best_loss = loss;
        best_rate = rate;
      }
      eject(adapter);
    }
    MOELORA_CHECK(best_loss, "no learning rate that was tried for ", way, " gives a finite loss; add smaller ones to ",
                  "new_tasks.learning_rates");
    details_[way]["learning_rate"] = best_rate;
    Adapter adapter = make();
    train_on(*adapter, encoded(shown_, adapter->tasks()), {}, folder / "all", best_rate, embedding_only);
    return adapter;
  }

  void add_lorahub(ordered_json& result) {
    const SingleLoras all = read_single_loras(bench_);
    SingleLoras others = all;
    others.of_task.erase(others.of_task.begin() + all.tasks.index(task_));
    const TaskNames one({task_});
    const auto examples = encoded(shown_, one);
    std::vector<const data::Example*> shown;
    for (const data::Example& example : examples) {
      shown.push_back(&example);
    }
    Adapter adapter{nullptr};
    const auto apply = [&](const std::vector<double>& weights) {
      const std::vector<nn::LowRank> composed = composed_factors(others, weights);
      if (adapter) {
        fill_factors(*adapter, {composed});
      } else {
        const TaskNames before = bench_.tasks;
        bench_.tasks = one;
        adapter = inject_factors(bench_, others, {composed});
        bench_.tasks = before;
      }
    };
    LoraHubOptions options;
    options.evaluations = bench_.experiment.own.of<LoraHubSettings>().evaluations;
    options.seed = seed_;
    const auto found = search_weights(
        static_cast<std::int64_t>(others.of_task.size()),
        [&](const std::vector<double>& weights) {
          bench_.stop_if_asked();
          apply(weights);
          return train::evaluate_losses(*bench_.base.model, adapter.get(), shown,
                                        bench_.config.training.micro_batch_tokens)
              .mean();
        },
        options);
    apply(found.weights);
    details_["lorahub"]["weights"] = found.weights;
    add_way(result, "LoRAHub over the other tasks' LoRAs", "lorahub", static_cast<std::int64_t>(found.weights.size()),
            adapter);
    eject(adapter);
  }

  void add_way(ordered_json& result, const std::string& title, const std::string& way, std::int64_t parameters,
               const Adapter& adapter) {
    Product product;
    product.adapter = adapter;
    const std::string file = way + ".json";
    data::write_records(bench_.folder / file, answer(bench_, product, references_));
    result["ways"].push_back({{"title", title}, {"file", file}, {"trained_parameters", parameters}});
  }

  Workbench& bench_;
  const NewTasksSection& section_;
  std::string task_;
  std::uint64_t seed_;
  std::vector<data::Record> shown_;
  std::vector<data::Record> references_;
  ordered_json details_;
};

}  // namespace

ordered_json run_new_task(const ExperimentConfig& config, const Cell& cell, const std::filesystem::path& output,
                          const OpenBase& open_base, const std::atomic<bool>* stop) {
  const auto around = open_bench(config, cell, find_method(cell.method), output, open_base, stop);
  return NewTaskCell(around->bench, cell.task, cell).run();
}

}  // namespace moelora::experiment
