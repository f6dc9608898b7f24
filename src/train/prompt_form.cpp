#include "moelora/train/prompt_form.h"

#include <nlohmann/json.hpp>

#include "moelora/adapter/adapter_file.h"
#include "moelora/io/error.h"
#include "moelora/io/sha256.h"
#include "moelora/log/log.h"

namespace moelora::train {
namespace {

using nlohmann::ordered_json;

std::string text_at(const ordered_json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
}

// A hash by its beginning, what is left out as "none".
std::string shown(const std::string& what) {
  return what.empty() || what == "none" ? "none" : "one with SHA-256 " + what.substr(0, 12) + "…";
}

}  // namespace

PromptForm PromptForm::of(const model::Tokenizer& tokenizer, const std::string& source_prefix,
                          const std::filesystem::path& task_prompts) {
  return {tokenizer.prompt_form(), source_prefix, task_prompts.empty() ? "" : io::sha256_of_file(task_prompts)};
}

std::optional<PromptForm> PromptForm::of_adapter(const std::filesystem::path& folder) {
  const ordered_json provenance = read_provenance(folder);
  const ordered_json form = provenance.value("/data/prompts"_json_pointer, ordered_json());
  if (!form.is_object()) {
    return std::nullopt;
  }
  return PromptForm{text_at(form, "template"), text_at(form, "source_prefix"), text_at(form, "task_prompts")};
}

ordered_json PromptForm::to_json() const {
  return {{"template", chat_template}, {"source_prefix", source_prefix}, {"task_prompts", task_prompts}};
}

void warn_of_other_prompts(const std::filesystem::path& folder, const PromptForm& now) {
  const std::optional<PromptForm> trained = PromptForm::of_adapter(folder);
  if (!trained) {
    return;
  }
  std::string differences;
  const auto compare = [&](const char* what, const std::string& before, const std::string& after) {
    if (before != after) {
      differences +=
          detail::concat(differences.empty() ? "" : "; ", what, ": ", before, " in training, ", after, " now");
    }
  };
  compare("chat template (data.template, --template)", shown(trained->chat_template), shown(now.chat_template));
  compare("data.source_prefix", '"' + trained->source_prefix + '"', '"' + now.source_prefix + '"');
  compare("task prompts (data.task_prompts, --task-prompts)", shown(trained->task_prompts), shown(now.task_prompts));
  if (!differences.empty()) {
    log::warning("the adapter in " + folder.string() + " was trained on prompts of another form: " + differences);
  }
}

}  // namespace moelora::train
