#include "moelora/model/registry.h"

#include <algorithm>
#include <mutex>
#include <nlohmann/json.hpp>

#include "model/families.h"
#include "model/foreign_weights.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/tensor_folder.h"

namespace moelora::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

struct Registry {
  std::mutex mutex;
  std::vector<std::shared_ptr<const Family>> families = built_in_families();
};

Registry& registry() {
  static Registry instance;
  return instance;
}

std::shared_ptr<const Family> family_of_config(const ordered_json& config) {
  const auto all = families();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const auto& family) { return family->recognises(config); });
  return found == all.end() ? nullptr : *found;
}

/// What a config.json of no known family says of itself.
std::string claims_of(const ordered_json& config) {
  std::string text;
  for (const auto& [key, verb] : {std::pair{"model_type", " is "}, {"architectures", " are "}}) {
    if (config.contains(key)) {
      const std::string value = config[key].dump();
      text += detail::concat(text.empty() ? "" : ", ", key, verb, value.size() <= 100 ? value : "a long value");
    }
  }
  return text.empty() ? "found neither model_type nor architectures" : text;
}

[[noreturn]] void refuse(const ordered_json& config) {
  std::string expected;
  std::string other;
  for (const auto& family : families()) {
    const FamilyTitle title = family->title();
    expected += (expected.empty() ? "" : ", or ") + title.name + "'s (" + title.edition +
                (title.edition.empty() || title.config_keys.empty() ? "" : ": ") + title.config_keys + ")";
    if (other.empty()) {
      other = family->other_model_of_config(config);
    }
  }
  if (!other.empty()) {
    throw Error("this is the configuration of " + other + ", whose graph is another one; expected " + expected);
  }
  throw Error("this is the configuration of no family of models that this library knows: " + claims_of(config) +
              "; expected " + expected);
}

}  // namespace

void register_family(std::shared_ptr<const Family> family) {
  Registry& known = registry();
  const std::lock_guard lock(known.mutex);
  const std::string name = family->title().name;
  for (const auto& other : known.families) {
    MOELORA_CHECK(other->title().name != name, "the family of models ", name,
                  " is registered already; expected another title");
  }
  known.families.push_back(std::move(family));
}

std::vector<std::shared_ptr<const Family>> families() {
  Registry& known = registry();
  const std::lock_guard lock(known.mutex);
  return known.families;
}

std::string known_families() {
  std::string text;
  for (const auto& family : families()) {
    const FamilyTitle title = family->title();
    text += (text.empty() ? "" : " or ") + title.name + (title.edition.empty() ? "" : ", " + title.edition);
  }
  return text;
}

FamilyConfig read_config(const ordered_json& config) {
  if (!config.is_object()) {
    throw Error("the model configuration must be a JSON object");
  }
  const std::shared_ptr<const Family> family = family_of_config(config);
  if (family == nullptr) {
    refuse(config);
  }
  return {family, family->read_config(config)};
}

FamilyConfig read_config_of(const fs::path& folder) {
  const fs::path config_file = folder / "config.json";
  MOELORA_CHECK(fs::exists(config_file), folder.string(), " holds no config.json, so it is no model folder");
  const ordered_json json = io::read_json_file(config_file);
  try {
    return read_config(json);
  } catch (const Error& error) {
    if (json.is_object() && json.contains("pre_seq_len") && !io::TensorFolder::forms(folder).empty()) {
      check_is_no_prefix(io::TensorFolder(folder));  // says more, if the folder is a prefix alone
    }
    throw Error(config_file.string() + ": " + error.what());
  }
}

std::shared_ptr<const Family> family_of_tokenizer(const fs::path& path) {
  if (fs::is_regular_file(path / "config.json")) {
    const ordered_json config = io::read_json_file(path / "config.json");
    if (auto family = config.is_object() ? family_of_config(config) : nullptr) {
      return family;
    }
  }
  const auto all = families();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const auto& family) { return family->holds_tokenizer(path); });
  return found == all.end() ? nullptr : *found;
}

ordered_json template_settings(const Family& family, const std::string& choice) {
  ordered_json settings = ordered_json::object();
  if (choice == kOwnTemplate) {
    return settings;
  }
  const std::vector<std::string> known = family.tokenizer_settings();
  MOELORA_CHECK(std::find(known.begin(), known.end(), "chat_template") != known.end(), "expected the template ",
                kOwnTemplate, " for ", family.title().name, ", whose prompts have one form, found ", choice);
  settings["chat_template"] = nullptr;
  if (choice != kNoTemplate) {
    MOELORA_CHECK(fs::is_regular_file(choice), "expected the template ", kOwnTemplate,
                  ", none or the path of a file with one, found ", choice);
    settings["chat_template"] = io::read_text_file(choice);
  }
  return settings;
}

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& path) { return load_tokenizer(path, ordered_json::object()); }

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& path, const ordered_json& settings) {
  const std::shared_ptr<const Family> family = family_of_tokenizer(path);
  MOELORA_CHECK(family != nullptr, "expected a tokenizer of ", known_families(), " in ", path.string(),
                ", found none; copy the tokenizer's files of the model's distribution there");
  return family->load_tokenizer(path, settings);
}

}  // namespace moelora::model
