#include "model/tokenizers/pre_tokenizer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "model/tokenizers/pattern.h"
#include "moelora/io/error.h"
#include "moelora/io/utf8.h"

namespace moelora::model::tokenizers {
namespace {

enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

constexpr std::array<const char*, 5> kBehaviors{"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                                "Contiguous"};

// GPT-2's expression, ByteLevel's own.
constexpr const char* kByteLevelWords = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Cuts each word at what the expression matches.
class Split : public PreTokenizer {
 public:
  Split(Expression pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void apply(Words& words) const override {
    std::vector<Span> cut;
    cut.reserve(words.spans.size());
    for (const Span& word : words.spans) {
      const std::size_t first = cut.size();
      bool previous = false;  // whether the piece before was a match
      cut_at_matches(pattern_, words.text, word.begin, word.end, [&](Span span, bool found) {
        const bool match = found != invert_;
        const bool begun = cut.size() > first;
        switch (behavior_) {
          case Behavior::removed:
            if (!match) cut.push_back(span);
            break;
          case Behavior::isolated:
            cut.push_back(span);
            break;
          case Behavior::merged_with_previous:
            match&& begun && !previous ? void(cut.back().end = span.end) : cut.push_back(span);
            break;
          case Behavior::merged_with_next:
            !match&& begun&& previous ? void(cut.back().end = span.end) : cut.push_back(span);
            break;
          case Behavior::contiguous:
            match == previous&& begun ? void(cut.back().end = span.end) : cut.push_back(span);
            break;
        }
        previous = match;
      });
    }
    words.spans = std::move(cut);
  }

 private:
  Expression pattern_;
  Behavior behavior_;
  bool invert_;
};

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool add_blank, bool use_expression, const std::string& where) : add_blank_(add_blank) {
    if (use_expression) {
      split_.emplace_back(Expression(kByteLevelWords, where), Behavior::isolated, false);
    }
  }

  void apply(Words& words) const override {
    if (add_blank_) {
      Words with;
      for (const Span& span : words.spans) {
        const std::size_t begin = with.text.size();
        if (words.text[span.begin] != ' ') with.text += ' ';
        with.text += words.word(span);
        with.spans.push_back({begin, with.text.size()});
      }
      words.text = std::move(with.text);
      words.spans = std::move(with.spans);
    }
    for (const Split& split : split_) {
      split.apply(words);
    }
  }
  bool makes_bytes() const override { return true; }

 private:
  bool add_blank_;
  std::vector<Split> split_;  // none or one
};

/// SentencePiece's way: blanks become a visible character, and words begin with it.
class Metaspace : public PreTokenizer {
 public:
  enum class Scheme { always, first, never };
  Metaspace(std::string blank, Scheme scheme, bool split, const std::string& where)
      : blank_(std::move(blank)), scheme_(scheme) {
    if (split) {
      split_.emplace_back(Expression::literal(blank_, where), Behavior::merged_with_next, false);
    }
  }

  void apply(Words& words) const override {
    Words marked;
    for (const Span& span : words.spans) {
      const std::size_t begin = marked.text.size();
      const std::string_view word = words.word(span);
      const bool begins = scheme_ == Scheme::always || (scheme_ == Scheme::first && words.at_begin && span.begin == 0);
      if (begins && word.front() != ' ' && !word.starts_with(blank_)) marked.text += blank_;
      for (const char c : word) {
        c == ' ' ? marked.text += blank_ : marked.text += c;
      }
      marked.spans.push_back({begin, marked.text.size()});
    }
    words.text = std::move(marked.text);
    words.spans = std::move(marked.spans);
    for (const Split& split : split_) {
      split.apply(words);
    }
  }

 private:
  std::string blank_;
  Scheme scheme_;
  std::vector<Split> split_;  // none or one
};

class PreTokenizerSteps : public PreTokenizer {
 public:
  explicit PreTokenizerSteps(std::vector<std::unique_ptr<PreTokenizer>> steps) : steps_(std::move(steps)) {}
  void apply(Words& words) const override {
    for (const auto& step : steps_) {
      step->apply(words);
    }
  }
  bool makes_bytes() const override { return !steps_.empty() && steps_.back()->makes_bytes(); }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> steps_;
};

std::unique_ptr<PreTokenizer> read_split(JsonPart& part) {
  const std::string name = part.text("behavior");
  const auto found = std::find(kBehaviors.begin(), kBehaviors.end(), name);
  if (found == kBehaviors.end()) {
    part.refuse("the behavior \"" + name + "\"");
  }
  Expression pattern = read_pattern(part);
  return std::make_unique<Split>(std::move(pattern), static_cast<Behavior>(found - kBehaviors.begin()),
                                 part.flag("invert", false));
}

std::unique_ptr<PreTokenizer> read_metaspace_words(JsonPart& part) {
  const std::string blank = part.text("replacement", "\u2581");
  if (io::count_characters(blank) != 1) {
    part.wrong("replacement", "one character");
  }
  // Older files say add_prefix_space instead of prepend_scheme.
  const std::string scheme = part.text("prepend_scheme", part.flag("add_prefix_space", true) ? "always" : "never");
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    part.wrong("prepend_scheme", "always, first or never");
  }
  part.find("str_rep");  // of older files; Hugging Face does not read it either
  return std::make_unique<Metaspace>(blank,
                                     scheme == "always"  ? Metaspace::Scheme::always
                                     : scheme == "first" ? Metaspace::Scheme::first
                                                         : Metaspace::Scheme::never,
                                     part.flag("split", true), part.where());
}

}  // namespace

std::unique_ptr<PreTokenizer> read_pre_tokenizer(const Json& json, const std::string& where, int depth) {
  if (json.is_null()) {
    return nullptr;
  }
  MOELORA_CHECK(depth < kDeepest, where, ": expected at most ", kDeepest, " sequences in each other");
  JsonPart part(json, where);
  const std::string type = part.type();
  std::unique_ptr<PreTokenizer> made;
  if (type == "Split") {
    made = read_split(part);
  } else if (type == "ByteLevel") {
    part.find("trim_offsets");  // offsets are not kept
    const bool add_blank = part.flag("add_prefix_space", true);
    made = std::make_unique<ByteLevel>(add_blank, part.flag("use_regex", true), where);
  } else if (type == "Digits") {
    const bool single = part.flag("individual_digits", false);
    made = std::make_unique<Split>(Expression(R"(\p{N})", where), single ? Behavior::isolated : Behavior::contiguous,
                                   false);
  } else if (type == "Metaspace") {
    made = read_metaspace_words(part);
  } else if (type == "Sequence") {
    std::vector<std::unique_ptr<PreTokenizer>> steps;
    part.each("pretokenizers", [&](const Json& entry, const std::string& place) {
      if (!steps.empty() && steps.back()->makes_bytes()) {
        part.refuse("a part after ByteLevel");
      }
      if (auto step = read_pre_tokenizer(entry, place, depth + 1)) {
        steps.push_back(std::move(step));
      }
    });
    made = std::make_unique<PreTokenizerSteps>(std::move(steps));
  } else {
    part.refuse("a pre-tokenizer of type \"" + type + "\"");
  }
  part.finish();
  return made;
}

}  // namespace moelora::model::tokenizers
