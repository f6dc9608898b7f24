// LoRA (Hu et al., arXiv 2106.09685): one for all tasks, one for each task, and one for all with the task in the
// prompt.

#include <algorithm>

#include "experiment/methods/registry.h"
#include "moelora/data/task_prompts.h"

namespace moelora::experiment {
namespace {

void plain_lora(train::TrainConfig& config) {
  config.adapter.num_experts = 1;
  config.adapter.routing = Routing::task;
  config.adapter.top_k = 0;
}

class TaskPromptLora : public TrainedMethod {
 public:
  TaskPromptLora()
      : TrainedMethod("lora-full-tp", "LoRA (Full + TP)",
                      "one LoRA for all tasks, the task's name and description in the prompt",
                      [](const ExperimentConfig& experiment, std::int64_t, train::TrainConfig& config) {
                        plain_lora(config);
                        config.data.task_prompts = experiment.task_prompts;
                      }) {}
  Product make(Workbench& bench) const override {
    const auto prompts =
        std::make_shared<data::TaskPrompts>(data::TaskPrompts::from_file(bench.config.data.task_prompts));
    // Room for the longest description, so that no input is cut earlier than in other rows.
    std::int64_t longest = 0;
    for (const std::string& task : bench.tasks.names()) {
      longest = std::max(longest, static_cast<std::int64_t>(bench.base.tokenizer->encode(prompts->text(task)).size()));
    }
    bench.config.data.encode.max_source_length += longest;
    Product product = train_row(bench);
    product.prompt = [prompts](const data::Record& record) { return prompts->apply(record); };
    return product;
  }
};

}  // namespace

std::vector<MethodPtr> lora_methods() {
  return {
      std::make_shared<TrainedMethod>(
          "lora-full", "LoRA (Full), w/o MOE", "one LoRA of the total rank for all tasks: MOELoRA with N = 1",
          [](const ExperimentConfig&, std::int64_t, train::TrainConfig& config) { plain_lora(config); }),
      std::make_shared<TrainedMethod>("lora-single", "LoRA (Single)",
                                      "one LoRA of the same rank for each task, trained on that task's records alone",
                                      [](const ExperimentConfig&, std::int64_t tasks, train::TrainConfig& config) {
                                        // Expert t is task t's own LoRA: K experts of rank r, each scaled by alpha / r.
                                        config.adapter.routing = Routing::single;
                                        config.adapter.num_experts = tasks;
                                        config.adapter.rank *= tasks;
                                        config.adapter.alpha *= static_cast<double>(tasks);
                                      }),
      std::make_shared<TaskPromptLora>()};
}

}  // namespace moelora::experiment
