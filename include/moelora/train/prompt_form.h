#pragma once
// How the prompts of a run are written, besides the records' own fields: what an adapter was trained on, it has to be
// asked with.

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "moelora/data/example.h"
#include "moelora/model/tokenizer.h"

namespace moelora::train {

struct PromptForm {
  std::string chat_template;  ///< model::Tokenizer::prompt_form: empty (the family's own form), "none" or a SHA-256.
  std::string source_prefix;  ///< data.source_prefix
  std::string task_prompts;   ///< SHA-256 of the file of task prompts; empty: none.

  /// `task_prompts`: a file's path, or empty.
  static PromptForm of(const model::Tokenizer& tokenizer, const std::string& source_prefix,
                       const std::filesystem::path& task_prompts);
  /// What an adapter's folder tells of its training; nothing where it does not say.
  static std::optional<PromptForm> of_adapter(const std::filesystem::path& folder);
  nlohmann::ordered_json to_json() const;
};

/// A warning that names each difference of `now` from the form that the adapter in `folder` was trained with.
void warn_of_other_prompts(const std::filesystem::path& folder, const PromptForm& now);

}  // namespace moelora::train
