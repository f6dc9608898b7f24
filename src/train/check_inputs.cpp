#include "train/check_inputs.h"

#include "moelora/io/error.h"
#include "train/new_task_only.h"

namespace moelora::train {

void check_inputs(const TrainInputs& inputs, const TrainingOptions& options, const Callbacks& callbacks) {
  options.validate();
  MOELORA_CHECK(!inputs.train.empty(), "expected at least one training sample, found none");
  MOELORA_CHECK(inputs.adapter != nullptr || callbacks.save_model,
                "full-parameter training needs Callbacks::save_model");
  if (inputs.new_task_only) {
    check_new_task_only(inputs, options);
  }
  const std::int64_t longest = inputs.model.shape().max_sequence_length;
  const auto tasks = static_cast<std::int64_t>(inputs.tasks.size());
  for (const auto* examples : {&inputs.train, &inputs.validation}) {
    for (const data::Example& example : *examples) {
      MOELORA_CHECK(example.length() <= longest, "sample ", example.id, " has ", example.length(),
                    " tokens, but the model takes ", longest, "; lower max_source_length or max_target_length");
      MOELORA_CHECK(example.task >= 0 && example.task < tasks, "sample ", example.id, " has task ", example.task,
                    ", expected one of the ", tasks, " tasks named");
    }
  }
}

std::string out_of_memory(const TrainingOptions& options) {
  return detail::concat("out of memory: lower training.micro_batch_tokens (now ", options.micro_batch_tokens,
                        ") or set training.memory_budget_gb, and resume the run; both may change on resuming");
}

}  // namespace moelora::train
