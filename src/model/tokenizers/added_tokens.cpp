#include "model/tokenizers/added_tokens.h"

#include <algorithm>

#include "model/tokenizers/unicode_text.h"
#include "moelora/io/error.h"
#include "moelora/io/utf8.h"

namespace moelora::model::tokenizers {

void AddedTokens::Tree::add(std::string_view content, const AddedToken& token) {
  begins[static_cast<unsigned char>(content.front())] = true;
  std::size_t at = 0;
  for (const char c : content) {
    const auto [found, is_new] = nodes[at].next.emplace(static_cast<unsigned char>(c), nodes.size());
    at = found->second;
    if (is_new) {
      nodes.emplace_back();
    }
  }
  if (nodes[at].token == nullptr) {
    nodes[at].token = &token;
  }
}

const AddedToken* AddedTokens::Tree::longest(std::string_view text, std::size_t at, std::size_t& length) const {
  if (!begins[static_cast<unsigned char>(text[at])]) {
    return nullptr;
  }
  const AddedToken* found = nullptr;
  std::size_t node = 0;
  for (std::size_t i = at; i < text.size(); ++i) {
    const auto next = nodes[node].next.find(static_cast<unsigned char>(text[i]));
    if (next == nodes[node].next.end()) {
      break;
    }
    node = next->second;
    if (nodes[node].token != nullptr) {
      found = nodes[node].token;
      length = i + 1 - at;
    }
  }
  return found;
}

AddedTokens::AddedTokens(const Json& list, const std::string& where, const Normalizer* normalizer) {
  constexpr std::size_t kMost = 100000;
  constexpr std::size_t kLongest = 1000;
  if (list.is_null()) {
    return;
  }
  MOELORA_CHECK(list.is_array() && list.size() <= kMost, where, ": expected an array of at most ", kMost, " tokens");
  for (std::size_t i = 0; i < list.size(); ++i) {
    JsonPart part(list[i], where + "[" + std::to_string(i) + "]");
    AddedToken token;
    token.id = part.number("id", -1);
    token.content = part.text("content");
    token.single_word = part.flag("single_word", false);
    token.strip_left = part.flag("lstrip", false);
    token.strip_right = part.flag("rstrip", false);
    token.special = part.flag("special", false);
    token.match_normalized = part.flag("normalized", !token.special);
    part.finish();
    MOELORA_CHECK(token.id >= 0, part.where(), ".id: expected a whole number of at least 0, found none");
    MOELORA_CHECK(!token.content.empty() && token.content.size() <= kLongest, part.where(),
                  ".content: expected a text of 1 to ", kLongest, " bytes, found ", token.content.size());
    MOELORA_CHECK(!by_id_.contains(token.id) && !by_content_.contains(token.content), part.where(), ": ",
                  io::shortened(token.content, 60), " with id ", token.id,
                  " repeats the id or the content of an earlier token");
    add(std::move(token), normalizer);
  }
}

void AddedTokens::add(AddedToken token, const Normalizer* normalizer) {
  AddedToken& kept = tokens_.emplace_back(std::move(token));
  by_id_[kept.id] = &kept;
  by_content_[kept.content] = &kept;
  const std::string looked_for =
      kept.match_normalized && normalizer != nullptr ? normalizer->apply(kept.content) : kept.content;
  if (!looked_for.empty()) {
    trees_[kept.match_normalized ? 1 : 0].add(looked_for, kept);
  }
}

bool AddedTokens::make_special(const std::string& content, std::int64_t id) {
  if (const auto found = by_content_.find(content); found != by_content_.end()) {
    found->second->special = true;
    return false;
  }
  AddedToken token;
  token.id = id;
  token.content = content;
  token.special = true;
  add(std::move(token), nullptr);
  return true;
}

const AddedToken* AddedTokens::find(std::int64_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : found->second;
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto found = by_content_.find(content);
  return found == by_content_.end() ? nullptr : found->second;
}

std::vector<Stretch> AddedTokens::cut(std::string_view text, bool after_normalizing) const {
  const Tree& tree = trees_[after_normalizing ? 1 : 0];
  std::vector<Stretch> stretches;
  std::size_t done = 0;  // up to here the text is in stretches
  for (std::size_t at = 0; at < text.size();) {
    std::size_t length = 0;
    const AddedToken* token = tree.longest(text, at, length);
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at, end = at + length;
    at = end;
    if (token->single_word && (ends_with_word(text.substr(0, begin)) || begins_with_word(text.substr(end)))) {
      continue;
    }
    if (token->strip_left && done < begin) {  // blanks that an earlier token has taken are its own
      begin -= blanks_at_end(text.substr(done, begin - done));
    }
    if (token->strip_right) {
      end += blanks_at_begin(text.substr(end));
    }
    if (done < begin) {
      stretches.push_back({{done, begin}, -1});
    }
    stretches.push_back({{begin, end}, token->id});
    done = end;
  }
  if (done < text.size()) {
    stretches.push_back({{done, text.size()}, -1});
  }
  return stretches;
}

const AddedToken* AddedTokens::special_at(std::string_view text, std::size_t at) const {
  const AddedToken* longest = nullptr;
  for (const Tree& tree : trees_) {
    std::size_t length = 0;
    const AddedToken* found = tree.longest(text, at, length);
    if (found != nullptr && found->special && (longest == nullptr || found->content.size() > longest->content.size())) {
      longest = found;
    }
  }
  return longest;
}

}  // namespace moelora::model::tokenizers
