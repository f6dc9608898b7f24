#include "model/tokenizers/decoder.h"

#include <cctype>
#include <utility>

#include "model/tokenizers/byte_alphabet.h"
#include "model/tokenizers/pattern.h"
#include "model/tokenizers/unicode_text.h"
#include "moelora/io/error.h"
#include "moelora/io/utf8.h"

namespace moelora::model::tokenizers {
namespace {

std::string joined(const std::vector<std::string>& pieces, std::string_view between = {}) {
  std::string text;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (i > 0) text += between;
    text += pieces[i];
  }
  return text;
}

class JoinWithBlanks : public Decoder {
 public:
  void apply(std::vector<std::string>& pieces) const override { pieces = {joined(pieces, " ")}; }
};

class Fuse : public Decoder {
 public:
  void apply(std::vector<std::string>& pieces) const override { pieces = {joined(pieces)}; }
};

class ByteLevelBytes : public Decoder {
 public:
  void apply(std::vector<std::string>& pieces) const override {
    std::string bytes;
    for (const std::string& piece : pieces) {
      bytes += bytes_of_piece(piece).value_or(piece);  // an added token stands for itself
    }
    pieces = {valid_utf8(bytes)};
  }
};

/// Pieces <0x00> … <0xFF> are bytes; a run of them that is no UTF-8 becomes U+FFFD for each.
class ByteFallback : public Decoder {
 public:
  void apply(std::vector<std::string>& pieces) const override {
    std::vector<std::string> result;
    std::string run;
    const auto end_run = [&] {
      if (run.empty()) return;
      if (is_valid_utf8(run)) {
        result.push_back(std::move(run));
      } else {
        result.insert(result.end(), run.size(), "\uFFFD");
      }
      run.clear();
    };
    for (std::string& piece : pieces) {
      if (is_byte(piece)) {
        run += static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16));
      } else {
        end_run();
        result.push_back(std::move(piece));
      }
    }
    end_run();
    pieces = std::move(result);
  }

 private:
  static bool is_byte(const std::string& piece) {
    const auto hexadecimal = [&](std::size_t i) { return std::isxdigit(static_cast<unsigned char>(piece[i])) != 0; };
    return piece.size() == 6 && piece.starts_with("<0x") && piece.ends_with('>') && hexadecimal(3) && hexadecimal(4);
  }
};

class ReplaceText : public Decoder {
 public:
  ReplaceText(Expression pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(std::vector<std::string>& pieces) const override {
    for (std::string& piece : pieces) {
      std::string result;
      cut_at_matches(pattern_, piece, 0, piece.size(), [&](Span span, bool is_match) {
        is_match ? result += content_ : result.append(piece, span.begin, span.end - span.begin);
      });
      piece = std::move(result);
    }
  }

 private:
  Expression pattern_;
  std::string content_;
};

/// Takes up to `first` of a character from the beginning of each piece and up to `last` from its end.
class StripCharacter : public Decoder {
 public:
  StripCharacter(std::string content, std::int64_t first, std::int64_t last)
      : content_(std::move(content)), first_(first), last_(last) {}
  void apply(std::vector<std::string>& pieces) const override {
    for (std::string& piece : pieces) {
      for (std::int64_t i = 0; i < first_ && piece.starts_with(content_); ++i) piece.erase(0, content_.size());
      for (std::int64_t i = 0; i < last_ && piece.ends_with(content_); ++i)
        piece.resize(piece.size() - content_.size());
    }
  }

 private:
  std::string content_;
  std::int64_t first_, last_;
};

class MetaspaceBlanks : public Decoder {
 public:
  MetaspaceBlanks(std::string blank, bool prepended) : blank_(std::move(blank)), prepended_(prepended) {}
  void apply(std::vector<std::string>& pieces) const override {
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      std::string result;
      for (std::size_t at = 0; at < pieces[i].size();) {
        const bool blank = pieces[i].compare(at, blank_.size(), blank_) == 0;
        if (!blank) {
          result += pieces[i][at];
        } else if (i > 0 || !prepended_) {
          result += ' ';
        }
        at += blank ? blank_.size() : 1;
      }
      pieces[i] = std::move(result);
    }
  }

 private:
  std::string blank_;
  bool prepended_;
};

class DecoderSteps : public Decoder {
 public:
  explicit DecoderSteps(std::vector<std::unique_ptr<Decoder>> steps) : steps_(std::move(steps)) {}
  void apply(std::vector<std::string>& pieces) const override {
    for (const auto& step : steps_) {
      step->apply(pieces);
    }
  }

 private:
  std::vector<std::unique_ptr<Decoder>> steps_;
};

std::unique_ptr<Decoder> read_metaspace_blanks(JsonPart& part) {
  const std::string blank = part.text("replacement", "\u2581");
  if (io::count_characters(blank) != 1) {
    part.wrong("replacement", "one character");
  }
  const std::string scheme = part.text("prepend_scheme", part.flag("add_prefix_space", true) ? "always" : "never");
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    part.wrong("prepend_scheme", "always, first or never");
  }
  part.find("split");  // of no effect here
  part.find("str_rep");
  return std::make_unique<MetaspaceBlanks>(blank, scheme != "never");
}

}  // namespace

std::unique_ptr<Decoder> read_decoder(const Json& json, const std::string& where, int depth) {
  if (json.is_null()) {
    return std::make_unique<JoinWithBlanks>();
  }
  MOELORA_CHECK(depth < kDeepest, where, ": expected at most ", kDeepest, " sequences in each other");
  JsonPart part(json, where);
  const std::string type = part.type();
  std::unique_ptr<Decoder> made;
  if (type == "ByteLevel") {
    for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"}) {
      part.find(key);  // of the pre-tokenizer with which it shares its form
    }
    made = std::make_unique<ByteLevelBytes>();
  } else if (type == "ByteFallback") {
    made = std::make_unique<ByteFallback>();
  } else if (type == "Fuse") {
    made = std::make_unique<Fuse>();
  } else if (type == "Replace") {
    Expression pattern = read_pattern(part);
    made = std::make_unique<ReplaceText>(std::move(pattern), part.text("content"));
  } else if (type == "Strip") {
    const std::string content = part.text("content", " ");
    if (io::count_characters(content) != 1) {
      part.wrong("content", "one character");
    }
    const std::int64_t first = part.number("start", 0);
    made = std::make_unique<StripCharacter>(content, first, part.number("stop", 0));
  } else if (type == "Metaspace") {
    made = read_metaspace_blanks(part);
  } else if (type == "Sequence") {
    std::vector<std::unique_ptr<Decoder>> steps;
    part.each("decoders", [&](const Json& entry, const std::string& place) {
      MOELORA_CHECK(!entry.is_null(), place, ": expected an object, found null");
      steps.push_back(read_decoder(entry, place, depth + 1));
    });
    made = std::make_unique<DecoderSteps>(std::move(steps));
  } else {
    part.refuse("a decoder of type \"" + type + "\"");
  }
  part.finish();
  return made;
}

}  // namespace moelora::model::tokenizers
