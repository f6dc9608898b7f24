#include "train/new_task_only.h"

#include "moelora/adapter/adapter_file.h"
#include "moelora/io/error.h"
#include "moelora/io/fingerprint.h"

namespace moelora::train {

void check_new_task_only(const TrainInputs& inputs, const TrainingOptions& options) {
  MOELORA_CHECK(inputs.adapter != nullptr && !inputs.adapter->gates().empty(),
                "a new task is fitted on an adapter with a task gate, found ",
                inputs.adapter == nullptr ? "no adapter" : "one without; make it with with_new_task()");
  MOELORA_CHECK(inputs.adapter->config().gate.top_k != 1,
                "expected a gate whose weights can change, found top_k = 1, whose ",
                "one weight is always 1 and gives no gradient; train the adapter with another top_k");
  MOELORA_CHECK(options.weight_decay == 0.0,
                "expected weight_decay 0, which leaves the other tasks' embeddings as they ", "are, found ",
                options.weight_decay);
  const std::int64_t last = inputs.adapter->tasks().size() - 1;
  for (const data::Example& example : inputs.train) {
    MOELORA_CHECK(example.task == last, "expected training samples of the new task ", last, " (",
                  inputs.adapter->tasks().name(last), ") alone, found sample ", example.id, " of task ", example.task);
  }
}

std::string fingerprint_of_frozen(const AdapterImpl& adapter) {
  io::NamedTensors frozen;
  for (const auto& [name, tensor] : adapter_tensors(adapter)) {
    const bool embedding = name.ends_with(".task_embedding");
    frozen.emplace_back(name, embedding ? tensor.detach().narrow(0, 0, tensor.size(0) - 1) : tensor.detach());
  }
  return io::fingerprint(frozen);
}

OnlyEmbeddings::OnlyEmbeddings(AdapterImpl& adapter) {
  for (const at::Tensor& parameter : adapter.parameters()) {
    before_.emplace_back(parameter, parameter.requires_grad());
  }
  freeze(adapter);
  for (const TaskGate& gate : adapter.gates()) {
    gate->task_embedding.set_requires_grad(true);
  }
}

OnlyEmbeddings::~OnlyEmbeddings() {
  for (const auto& [parameter, trained] : before_) {
    parameter.set_requires_grad(trained);
  }
}

}  // namespace moelora::train
