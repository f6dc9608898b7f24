#pragma once
// Names and settings by which the checkpoints and adapters of other models are known, so that an error can say what a
// file is instead of listing what it lacks.

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace moelora::model {

/// The model that tensors or modules of these names belong to, e.g. "ChatGLM2-6B, ChatGLM3-6B or GLM-4-9B"; empty for
/// ChatGLM-6B's own names and for unknown ones.
std::string other_family_of_names(const std::vector<std::string>& names);

/// The same by the keys of a config.json.
std::string other_family_of_config(const nlohmann::ordered_json& json);

}  // namespace moelora::model
