#include "cli/plan.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "moelora/data/sampler.h"
#include "moelora/io/dtype.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/readable.h"
#include "moelora/log/log.h"
#include "moelora/nn/device.h"
#include "moelora/train/plan.h"

namespace moelora::cli {
namespace {

constexpr std::int64_t kSteps = 20;  // that the prediction looks at

void plan_line(const char* name, const std::string& value) { std::printf("%-24s %s\n", name, value.c_str()); }

std::string fixed_number(double value, const char* unit, int digits) {
  char text[64];
  // A number that is out of any range keeps to a few digits too.
  std::snprintf(text, sizeof text, std::abs(value) < 1e15 ? "%.*f %s" : "%.*e %s", digits, value, unit);
  return text;
}

std::vector<at::Tensor> trained_tensors(const Session& session, train::Mode mode) {
  if (mode == train::Mode::new_task) {
    std::vector<at::Tensor> embeddings;
    for (const TaskGate& gate : session.adapter->gates()) {
      embeddings.push_back(gate->task_embedding);
    }
    return embeddings;
  }
  const auto tensors = session.adapter ? session.adapter->parameters() : session.model->parameters();
  return {tensors.begin(), tensors.end()};
}

/// The samples of the run's first steps.
std::vector<std::vector<const data::Example*>> first_steps(const train::TrainingOptions& options,
                                                           const std::vector<data::Example>& examples) {
  data::Sampler sampler = data::sampler_of(examples, options.batch_size, options.batching, options.seed);
  std::vector<std::vector<const data::Example*>> steps;
  for (std::int64_t step = 0; step < std::min(kSteps, options.steps); ++step) {
    steps.emplace_back();
    for (const std::int64_t sample : sampler.next().samples) {
      steps.back().push_back(&examples[static_cast<std::size_t>(sample)]);
    }
  }
  return steps;
}

std::string gigabytes(double bytes) { return fixed_number(bytes / 1e9, "GB", 2); }

/// What a card's memory is taken for, and whether it suffices. Returns the choice.
train::MicroBatchChoice print_memory_of_card(const Session& session, const train::TrainConfig& config,
                                             const std::vector<std::vector<const data::Example*>>& steps,
                                             const PlannedCard& planned, const train::Machine& machine) {
  const train::TrainingOptions& options = config.training;
  const auto trained = trained_tensors(session, config.mode);
  const AdapterImpl* adapter = session.adapter ? session.adapter.get() : nullptr;
  const double memory = planned.card.memory_bytes;
  const double limit = options.memory_budget_gb > 0.0 ? std::min(memory, options.memory_budget_gb * 1e9) : memory;
  const auto choice =
      train::choose_micro_batch(*session.model, adapter, trained, steps, options.micro_batch_tokens, machine, limit);
  plan_line("card", planned.card.title + ", " + planned.how_chosen);
  plan_line("its memory", gigabytes(memory));
  if (limit < memory) {
    plan_line("memory_budget_gb", gigabytes(limit));
  }
  const double fixed = train::kContextBytes + train::kWorkspaceBytes;
  plan_line("CUDA's context", gigabytes(train::kContextBytes) + ", assumed");
  plan_line("workspaces", gigabytes(train::kWorkspaceBytes) + ", assumed");
  plan_line("weights and adapter", gigabytes(machine.resident_bytes - fixed));
  plan_line("gradients, AdamW", gigabytes(train::optimizer_bytes(trained)));
  const double activations =
      (choice.peak_bytes - machine.resident_bytes - train::optimizer_bytes(trained)) / (1.0 + machine.fragmentation);
  plan_line("activations", gigabytes(activations) + " in " + io::dtype_name(session.model->dtype()) +
                               "; attention stores no scores, dropout no masks");
  plan_line("fragmentation", gigabytes(activations * machine.fragmentation) + ", assumed: " +
                                 fixed_number(100.0 * machine.fragmentation, "%", 0) + " of the activations");
  return choice;
}

void print_choice(const train::TrainConfig& config, const train::MicroBatchChoice& choice, std::int64_t layers) {
  const train::TrainingOptions& options = config.training;
  if (!choice.fits) {
    plan_line("fits", "no, not even the smallest micro-batches with all blocks but one recomputed");
    const std::string names = io::joined(train::card_names(choice.peak_bytes));
    plan_line("", "lower data.max_source_length or data.max_target_length" +
                      (names.empty() ? std::string() : ", or take a larger card: " + names));
    return;
  }
  const bool as_set = choice.tokens == options.micro_batch_tokens && choice.recomputed_blocks == 0;
  plan_line("fits", as_set ? "yes, as it is set" : "yes, with the settings below");
  plan_line("micro_batch_tokens", io::with_commas(choice.tokens));
  plan_line("recomputed blocks", std::to_string(choice.recomputed_blocks) + " of " + std::to_string(layers));
  if (!as_set) {
    std::string set = "--set training.micro_batch_tokens=" + std::to_string(choice.tokens);
    if (choice.budget_bytes > 0.0) {
      char budget[32];
      std::snprintf(budget, sizeof budget, "%.2f", std::floor(choice.budget_bytes / 1e7) / 100.0);
      set += std::string(" training.memory_budget_gb=") + budget;
    }
    plan_line("", set);
  }
}

}  // namespace

std::optional<PlannedCard> planned_card(const std::string& name, const std::string& device, at::ScalarType dtype) {
  if (!name.empty()) {
    return PlannedCard{train::find_card(name), "named by --card", false};
  }
  const at::Device cuda(device.starts_with("cuda") ? device : "cuda");
  const bool present = nn::device_problem(cuda).empty();
  if (device == "cpu" || (device == "auto" && !present)) {
    return std::nullopt;
  }
  if (!present) {
    const train::Card& card = train::default_card(dtype);
    return PlannedCard{card, "assumed: there is none here; --card names another", false};
  }
  const nn::DeviceInfo info = nn::device_info(cuda);
  train::Card card;
  card.name = cuda.str();
  card.title = info.name;
  card.memory_bytes = static_cast<double>(info.total_bytes);
  return PlannedCard{card, "the one that is here", true};
}

ShapeOfModel model_shape(const train::ModelSection& section) {
  if (!section.init.is_null()) {
    return {model::read_config(section.init).config, "model.init"};
  }
  if (const std::filesystem::path file = std::filesystem::path(section.path) / "config.json";
      std::filesystem::exists(file)) {
    return {model::read_config(io::read_json_file(file)).config, section.path};
  }
  for (const auto& family : model::families()) {
    if (auto config = family->default_config()) {
      log::warning("no config.json in " + section.path + ": the shape of " + family->title().name +
                   " stands in for it; make or download the base first, or set model.path");
      return {std::move(config), family->title().name + " (no model in " + section.path + ")"};
    }
  }
  throw Error("no model in " + section.path);
}

at::ScalarType planned_dtype(const train::ModelSection& model, const std::string& card) {
  if (model.dtype != "auto") {
    return parse_dtype(model.dtype);
  }
  if (card.empty() && !model.device.starts_with("cuda")) {
    return at::kFloat;
  }
  const bool stored = !model.path.empty() && std::filesystem::exists(std::filesystem::path(model.path) / "config.json");
  return stored ? model::stored_dtype(model.path) : at::kHalf;
}

double unloaded_weight_bytes(const model::ModelConfig& shape, at::ScalarType dtype) {
  return static_cast<double>(shape.expected_tensors().parameter_count(/*tied=*/true)) *
         static_cast<double>(c10::elementSize(dtype));
}

std::string card_help() { return "a card to plan for that need not be here: " + io::joined(train::card_names()); }

void print_plan(const Session& session, const train::TrainConfig& config, const std::vector<data::Example>& examples,
                const PlanTarget& target) {
  MOELORA_CHECK(config.mode != train::Mode::full,
                "only the training of an adapter is planned, not that of a whole model; set \"mode\" to \"adapter\"");
  MOELORA_CHECK(!examples.empty(), "expected samples to plan with, found none");
  const train::TrainingOptions& options = config.training;
  const AdapterImpl* adapter = session.adapter ? session.adapter.get() : nullptr;
  auto steps = first_steps(options, examples);
  if (target.lengths == PlanLengths::assumed) {
    steps.resize(1);  // all are alike
  }
  const std::int64_t width = session.model->shape().hidden_size;
  const std::int64_t layers = session.model->shape().layers;
  train::Machine machine;
  const double weights = target.absent_bytes > 0.0 ? target.absent_bytes : train::weight_bytes(*session.model);
  std::string products = "measured";
  if (!target.card) {
    machine = train::measure_machine(width, session.model->dtype());
    machine.resident_bytes += target.absent_bytes;
  } else if (target.card->present) {
    machine = train::device_machine(weights, adapter);
    machine.operations_per_second =
        train::measure_products(width, session.model->dtype(), at::Device(target.card->card.name));
  } else {
    machine = train::machine_of(target.card->card, session.model->dtype(), weights, adapter);
    products = fixed_number(100.0 * train::kAssumedEfficiency, "%", 0) + " of the card's peak, assumed of a whole step";
    if (target.card->card.operations(session.model->dtype()) == 0.0) {
      products += "; it has no products in " + io::dtype_name(session.model->dtype()) + ": as fast as in float32";
    }
  }
  if (target.lengths == PlanLengths::assumed) {
    std::printf("Plan, of steps whose samples all have the assumed length:\n");
  } else {
    std::printf("Plan, from the data of the first %zu steps:\n", steps.size());
  }
  std::int64_t tokens = options.micro_batch_tokens;
  double budget = options.memory_budget_gb * 1e9;
  if (target.card) {
    const train::MicroBatchChoice choice = print_memory_of_card(session, config, steps, *target.card, machine);
    print_choice(config, choice, layers);
    tokens = choice.tokens;
    budget = choice.budget_bytes;
  }
  train::StepPlan worst;
  double seconds = 0.0;
  for (const auto& samples : steps) {
    const train::StepPlan plan = train::plan_step(*session.model, adapter, trained_tensors(session, config.mode),
                                                  samples, tokens, budget, machine);
    seconds += plan.seconds / static_cast<double>(steps.size());
    if (plan.peak_bytes > worst.peak_bytes) {
      worst = plan;
    }
  }
  plan_line("largest micro-batch", io::with_commas(worst.largest.rows) + " tokens, " +
                                       io::with_commas(worst.largest.labels) + " of them labels");
  plan_line("peak memory", gigabytes(worst.peak_bytes));
  if (!target.card && options.memory_budget_gb > 0.0) {
    plan_line("budget", fixed_number(options.memory_budget_gb, "GB", 2));
    plan_line("recomputed blocks", std::to_string(worst.recomputed_blocks) + " of " + std::to_string(layers));
    if (worst.peak_bytes > options.memory_budget_gb * 1e9) {
      plan_line("", "the budget can't be kept: lower training.micro_batch_tokens");
    }
  }
  plan_line("time of a step", fixed_number(seconds, "s", 3));
  plan_line("time of all steps", fixed_number(seconds * static_cast<double>(options.steps) / 60.0, "min", 1) + " for " +
                                     io::with_commas(options.steps) + " steps, without validation");
  if (target.card) {
    plan_line("launches", fixed_number(1e3 * machine.extra_seconds, "ms", 1) + " of a micro-batch, assumed");
  }
  plan_line("products", fixed_number(machine.operations_per_second / 1e9, ("GFLOP/s, " + products).c_str(), 0));
}

}  // namespace moelora::cli
