#pragma once
// What an optimizer trains of a run.

#include "moelora/adapter/adapter.h"
#include "moelora/io/safetensors.h"
#include "moelora/model/causal_lm.h"

namespace moelora::train {

/// The adapter's parameters with their names in its file; without an adapter (null) the model's, a tensor that has two
/// names (a tied head) once. `new_task_only`: the task embeddings alone.
io::NamedTensors trained_parameters(const model::CausalLM& model, const AdapterImpl* adapter,
                                    bool new_task_only = false);

}  // namespace moelora::train
