#pragma once
// ChatGLM-6B as a family of the registry.

#include <memory>

#include "moelora/model/chatglm/config.h"
#include "moelora/model/family.h"

namespace moelora::model {

std::shared_ptr<const Family> chatglm_family();

/// A configuration in the form in which the registry passes it on.
std::shared_ptr<const ModelConfig> as_model_config(const ChatGlmConfig& config);

}  // namespace moelora::model
