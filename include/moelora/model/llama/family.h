#pragma once
// Decoders of the Llama kind as a family of the registry.

#include <memory>

#include "moelora/model/family.h"
#include "moelora/model/llama/config.h"

namespace moelora::model {

std::shared_ptr<const Family> llama_family();

/// A configuration in the form in which the registry passes it on.
std::shared_ptr<const ModelConfig> as_model_config(const LlamaConfig& config);

}  // namespace moelora::model
