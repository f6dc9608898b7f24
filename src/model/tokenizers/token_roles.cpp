#include "model/tokenizers/token_roles.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/utf8.h"

namespace moelora::model::tokenizers {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using IdOf = std::function<std::int64_t(const std::string&)>;

ordered_json read_if_present(const fs::path& file) {
  if (!fs::exists(file)) {
    return ordered_json::object();
  }
  ordered_json json = io::read_json_file(file);
  MOELORA_CHECK(json.is_object(), file.string(), ": expected a JSON object, found ", json.type_name());
  return json;
}

/// A token is written as its content, or as an object with it.
std::optional<std::string> content_of(const ordered_json& token) {
  const ordered_json& content = token.is_object() && token.contains("content") ? token.at("content") : token;
  return content.is_string() ? std::optional(content.get<std::string>()) : std::nullopt;
}

std::optional<bool> flag_of(const ordered_json& config, const std::string& key, const std::string& file) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) {
    return std::nullopt;
  }
  MOELORA_CHECK(found->is_boolean(), file, ": ", key, ": expected true or false, found ",
                io::shortened(found->dump(), 60));
  return found->get<bool>();
}

/// An id, or a list of ids, under `key`.
TokenIds ids_under(const ordered_json& config, const std::string& key, const std::string& file) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) {
    return {};
  }
  const ordered_json list = found->is_array() ? *found : ordered_json::array({*found});
  TokenIds ids;
  for (const ordered_json& id : list) {
    MOELORA_CHECK(id.is_number_integer() && id.get<std::int64_t>() >= -1 && id.get<std::int64_t>() < (1LL << 31), file,
                  ": ", key, ": expected a token id or a list of them, found ", io::shortened(found->dump(), 60));
    if (id.get<std::int64_t>() >= 0) {
      ids.push_back(id.get<std::int64_t>());
    }
  }
  return ids;
}

/// Tokens that the library transformers would add to the tokenizer: there must be none. Returns those of them that are
/// special.
std::vector<std::string> check_added(const ordered_json& config, const std::string& file, const IdOf& id_of) {
  std::vector<std::string> special;
  const auto check = [&](const ordered_json& token, std::int64_t id) {
    const auto content = content_of(token);
    const std::int64_t found = content ? id_of(*content) : -1;
    MOELORA_CHECK(content && found >= 0 && (id < 0 || found == id), file, ": expected tokens of tokenizer.json, found ",
                  io::shortened(token.dump(-1, ' ', false, ordered_json::error_handler_t::replace), 80),
                  id < 0 ? std::string() : " with id " + std::to_string(id), ", which it has not",
                  "; save the tokenizer again with its added tokens");
    if (id < 0 || (token.is_object() && token.value("special", ordered_json()) == true)) {
      special.push_back(*content);
    }
  };
  if (const auto added = config.find("added_tokens_decoder"); added != config.end() && added->is_object()) {
    for (const auto& [id, token] : added->items()) {
      const bool number = !id.empty() && id.size() < 10 && id.find_first_not_of("0123456789") == id.npos;
      MOELORA_CHECK(number, file, ": added_tokens_decoder: expected ids, found ", io::shortened(id, 40));
      check(token, std::stoll(id));
    }
  }
  for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
    if (const auto more = config.find(key); more != config.end() && more->is_structured()) {
      for (const auto& entry : more->items()) {
        check(entry.value(), -1);
      }
    }
  }
  return special;
}

std::optional<std::string> template_of(const fs::path& folder, const ordered_json& config, const std::string& file) {
  if (fs::exists(folder / "chat_template.jinja")) {
    return io::read_text_file(folder / "chat_template.jinja");
  }
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) {
    return std::nullopt;
  }
  if (found->is_string()) {
    return found->get<std::string>();
  }
  if (found->is_array()) {  // several, of which the one by this name is for conversations without tools
    for (const ordered_json& one : *found) {
      if (one.is_object() && one.value("name", ordered_json()) == "default" && one.contains("template") &&
          one.at("template").is_string()) {
        return one.at("template").get<std::string>();
      }
    }
  }
  throw Error(file + ": chat_template: expected a template's text, or a list with one named default, found " +
              found->type_name());
}

}  // namespace

TokenRoles read_token_roles(const fs::path& folder, const ordered_json& config, const IdOf& id_of) {
  const std::string file = (folder / "tokenizer_config.json").string();
  const ordered_json map = read_if_present(folder / "special_tokens_map.json");
  const ordered_json generation = read_if_present(folder / "generation_config.json");
  const ordered_json model = read_if_present(folder / "config.json");
  TokenRoles roles;
  roles.special = check_added(config, file, id_of);
  for (const char* name : {"bos_token", "eos_token", "pad_token", "unk_token"}) {
    const bool in_config = config.contains(name) && !config.at(name).is_null();
    const ordered_json& source = in_config ? config : map;
    if (!source.contains(name) || source.at(name).is_null()) {
      continue;
    }
    const auto content = content_of(source.at(name));
    MOELORA_CHECK(content && (content->empty() || id_of(*content) >= 0),
                  (in_config ? fs::path(file) : folder / "special_tokens_map.json").string(), ": ", name,
                  ": expected a token of tokenizer.json, found ",
                  io::shortened(source.at(name).dump(-1, ' ', false, ordered_json::error_handler_t::replace), 80));
    if (!content->empty()) {
      roles.names[name] = *content;
      roles.special.push_back(*content);
    }
  }
  for (const char* name : {"sep_token", "cls_token", "mask_token"}) {  // without a role here
    const auto named = config.find(name);
    const auto content = named == config.end() ? std::nullopt : content_of(*named);
    if (content && !content->empty() && id_of(*content) >= 0) {
      roles.special.push_back(*content);
    }
  }
  // transformers takes the ids of generation_config.json where there is one, else those of config.json.
  const bool has_generation = !generation.empty();
  const ordered_json& ids = has_generation ? generation : model;
  const std::string ids_file = (folder / (has_generation ? "generation_config.json" : "config.json")).string();
  const auto role = [&](const std::string& name) {
    const auto named = roles.names.find(name);
    if (named != roles.names.end()) {
      return id_of(named->second);
    }
    const TokenIds given = ids_under(ids, name + "_id", ids_file);
    return given.empty() ? std::int64_t{-1} : given.front();
  };
  roles.bos = role("bos_token");
  roles.eos = role("eos_token");
  roles.pad = role("pad_token");
  roles.ends = ids_under(ids, "eos_token_id", ids_file);
  if (roles.eos >= 0) {
    roles.ends.push_back(roles.eos);
  }
  std::sort(roles.ends.begin(), roles.ends.end());
  roles.ends.erase(std::unique(roles.ends.begin(), roles.ends.end()), roles.ends.end());
  MOELORA_CHECK(!roles.ends.empty(), "expected a token that ends a text: eos_token in ", file,
                " or eos_token_id in generation_config.json or config.json beside it, found neither");
  if (roles.pad < 0) {
    roles.pad = roles.eos;
  }
  roles.add_bos = flag_of(config, "add_bos_token", file);
  roles.add_eos = flag_of(config, "add_eos_token", file);
  MOELORA_CHECK(!flag_of(config, "split_special_tokens", file).value_or(false), file,
                ": split_special_tokens: true is not supported");
  roles.chat_template = template_of(folder, config, file);
  return roles;
}

}  // namespace moelora::model::tokenizers
