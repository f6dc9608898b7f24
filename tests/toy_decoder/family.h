#pragma once
#include <memory>

#include "moelora/model/family.h"

namespace toy {

/// Folders with "model_type": "toy_decoder" and a byte tokenizer (bytes.json).
std::shared_ptr<const moelora::model::Family> family();

}  // namespace toy
