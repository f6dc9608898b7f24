// LoRA (Hu et al., arXiv 2106.09685): one for all tasks, one for each task, and one for all with the task in the
// prompt.

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "experiment/methods/registry.h"
#include "experiment/methods/single_loras.h"
#include "moelora/adapter/expert_factors.h"
#include "moelora/data/task_prompts.h"
#include "moelora/io/file_name.h"
#include "moelora/train/run_data.h"

namespace moelora::experiment {
namespace {

class FullLora : public TrainedMethod {
 public:
  FullLora()
      : TrainedMethod(
            "lora-full", "LoRA (Full), w/o MOE", "one LoRA of the total rank for all tasks: MOELoRA with N = 1",
            [](const ExperimentConfig&, std::int64_t, train::TrainConfig& config) { plain_lora(config.adapter); }) {}
  Role role() const override { return Role::yardstick; }
};

class TaskPromptLora : public TrainedMethod {
 public:
  TaskPromptLora()
      : TrainedMethod("lora-full-tp", "LoRA (Full + TP)",
                      "one LoRA for all tasks, the task's name and description in the prompt",
                      [](const ExperimentConfig& experiment, std::int64_t, train::TrainConfig& config) {
                        plain_lora(config.adapter);
                        config.data.task_prompts = experiment.task_prompts;
                      }) {}
  std::vector<std::pair<std::string, std::string>> problems(const ExperimentConfig& experiment) const override {
    if (!experiment.task_prompts.empty()) {
      return {};
    }
    return {{"task_prompts", "the method " + key() + " needs a file of descriptions by task"}};
  }
  Product make(Workbench& bench) const override {
    const auto prompts =
        std::make_shared<data::TaskPrompts>(data::TaskPrompts::from_file(bench.config.data.task_prompts));
    // Room for the longest description, so that no input is cut earlier than in other methods.
    std::int64_t longest = 0;
    for (const std::string& task : bench.tasks.names()) {
      longest = std::max(longest, static_cast<std::int64_t>(bench.base.tokenizer->encode(prompts->text(task)).size()));
    }
    bench.config.data.encode.max_source_length += longest;
    Product product = train_method(bench);
    product.prompt = [prompts](const data::Record& record) { return prompts->apply(record); };
    return product;
  }
};

/// One LoRA for each task by one training run for each: the task's share of the steps, on its own records alone. The
/// result is one adapter, in which expert t is task t's LoRA.
class SingleLora : public Method {
 public:
  SingleLora()
      : Method(kSingleRow, "LoRA (Single)",
               "one LoRA of the same rank for each task, trained on that task's records alone") {}
  Role role() const override { return Role::single; }
  std::string remark() const override {
    return "LoRA (Single) is one training run for each task, each with the task's share of the steps and with its own "
           "best step; the learning rate is common to all tasks.";
  }
  bool is_trained() const override { return true; }
  void configure(const ExperimentConfig&, std::int64_t tasks, train::TrainConfig& config) const override {
    // K experts of rank r, each scaled by alpha / r.
    config.adapter.routing = Routing::single;
    config.adapter.num_experts = tasks;
    config.adapter.rank *= tasks;
    config.adapter.alpha *= static_cast<double>(tasks);
  }

  Product make(Workbench& bench) const override {
    Product product;
    product.training_seconds = 0.0;
    std::vector<std::vector<nn::LowRank>> factors;  // [tasks][linears]
    for (const std::string& task : bench.tasks.names()) {
      Workbench own = bench_of_task(bench, task);
      const Product part = train_method(own);
      if (part.stopped) {
        product.stopped = true;
        return product;
      }
      Adapter adapter = part.adapter;
      factors.push_back(expert_factors(*adapter, 0));
      eject(adapter);
      product.steps += part.steps;
      product.trained_parameters += part.trained_parameters;
      *product.training_seconds += part.training_seconds.value_or(0.0);
      product.details["steps"][task] = part.steps;
    }
    product.adapter = inject(*bench.base.model, bench.config.adapter, bench.tasks);
    for (std::size_t task = 0; task < factors.size(); ++task) {
      set_expert_factors(*product.adapter, static_cast<std::int64_t>(task), factors[task]);
    }
    if (!bench.validation.empty()) {
      product.validation_loss =
          validation_loss_of(bench, *product.adapter,
                             train::encode_examples(bench.validation, bench.tasks, *bench.base.tokenizer,
                                                    bench.config.data.encode, "validation"));
    }
    save_product(bench, *product.adapter, product.details);
    return product;
  }

 private:
  static Workbench bench_of_task(const Workbench& bench, const std::string& task) {
    Workbench own = bench;
    own.tasks = TaskNames({task});
    const auto of_others = [&](const data::Record& record) { return record.task != task; };
    std::erase_if(own.train, of_others);
    std::erase_if(own.validation, of_others);
    own.folder = bench.folder / "tasks" / io::file_name_for(task);
    MoeLoraConfig& adapter = own.config.adapter;
    adapter.rank /= adapter.num_experts;
    adapter.alpha /= static_cast<double>(adapter.num_experts);
    plain_lora(own.config.adapter);
    // All tasks together have the steps, and so the samples, of a method that mixes them.
    train::TrainingOptions& training = own.config.training;
    const double share = static_cast<double>(own.train.size()) / static_cast<double>(bench.train.size());
    const double whole = static_cast<double>(training.steps);
    training.warmup_steps = static_cast<std::int64_t>(static_cast<double>(training.warmup_steps) * share);
    training.checkpoint_every =
        std::max<std::int64_t>(1, std::llround(share * static_cast<double>(training.checkpoint_every)));
    training.steps = std::max<std::int64_t>(1, std::llround(share * whole));
    return own;
  }
};

}  // namespace

std::vector<MethodPtr> lora_methods() {
  return {std::make_shared<FullLora>(), std::make_shared<SingleLora>(), std::make_shared<TaskPromptLora>()};
}

}  // namespace moelora::experiment
