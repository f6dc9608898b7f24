#pragma once
// Which tokens begin, end and pad a text, by the files beside tokenizer.json, as the library transformers picks them.

#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moelora/model/prompt.h"

namespace moelora::model::tokenizers {

struct TokenRoles {
  std::int64_t bos = -1;  ///< -1: none
  std::int64_t eos = -1;  ///< The tokenizer's own, else the first that ends generation.
  std::int64_t pad = -1;
  TokenIds ends;  ///< All that end an answer, in ascending order.
  /// What tokenizer_config.json says of the tokens around a text; nothing: the post-processor decides.
  std::optional<bool> add_bos, add_eos;
  std::map<std::string, std::string> names;  ///< bos_token, eos_token, …: their contents, for chat templates.
  /// Contents of all that the files call special, whatever tokenizer.json says of them, as transformers takes them.
  std::vector<std::string> special;
  std::optional<std::string> chat_template;  ///< Of chat_template.jinja, else of tokenizer_config.json.
};

/// `config`: tokenizer_config.json with the settings that override it. `id_of` gives the id of a token's content, -1 if
/// there is none. Error: a file names a token that tokenizer.json has not, or none ends a text.
TokenRoles read_token_roles(const std::filesystem::path& folder, const nlohmann::ordered_json& config,
                            const std::function<std::int64_t(const std::string&)>& id_of);

}  // namespace moelora::model::tokenizers
