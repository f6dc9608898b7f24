#pragma once
// The part "added_tokens" of tokenizer.json: tokens that are found in a text before it is cut into words.

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizers/expression.h"
#include "model/tokenizers/json_part.h"
#include "model/tokenizers/normalizer.h"

namespace moelora::model::tokenizers {

struct AddedToken {
  std::int64_t id = -1;
  std::string content;
  bool single_word = false;       ///< Not beside a letter or digit.
  bool strip_left = false;        ///< Blanks before it belong to it.
  bool strip_right = false;       ///< Blanks after it do.
  bool match_normalized = false;  ///< It is looked for in the normalised text.
  bool special = false;           ///< It is left out of decoded texts.
};

/// A stretch of a text: an added token (id >= 0), or what is between them.
struct Stretch {
  Span span;
  std::int64_t id = -1;
};

class AddedTokens {
 public:
  AddedTokens(const Json& list, const std::string& where, const Normalizer* normalizer);

  const std::deque<AddedToken>& all() const { return tokens_; }
  const AddedToken* find(std::int64_t id) const;
  const AddedToken* find(std::string_view content) const;
  /// A token that is left out of decoded texts from now on: one of these, or a new one with that id. Returns whether it
  /// is new, so that texts are encoded otherwise.
  bool make_special(const std::string& content, std::int64_t id);
  /// The stretches of a text, by the tokens that are looked for before normalising (or after it).
  std::vector<Stretch> cut(std::string_view text, bool after_normalizing) const;
  /// The special token that is written at `at`, the longest; nullptr: none.
  const AddedToken* special_at(std::string_view text, std::size_t at) const;

 private:
  /// A tree of bytes: of all tokens that begin at a place the longest is found.
  struct Tree {
    struct Node {
      std::map<unsigned char, std::size_t> next;
      const AddedToken* token = nullptr;
    };
    std::vector<Node> nodes{Node()};
    bool begins[256] = {};

    void add(std::string_view content, const AddedToken& token);
    const AddedToken* longest(std::string_view text, std::size_t at, std::size_t& length) const;
  };
  void add(AddedToken token, const Normalizer* normalizer);

  std::deque<AddedToken> tokens_;  // which stay where they are
  std::map<std::int64_t, AddedToken*> by_id_;
  std::map<std::string, AddedToken*, std::less<>> by_content_;
  Tree trees_[2];  ///< before normalising, after it
};

}  // namespace moelora::model::tokenizers
