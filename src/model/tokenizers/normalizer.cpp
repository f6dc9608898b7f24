#include "model/tokenizers/normalizer.h"

#include <map>
#include <utility>
#include <vector>

#include "model/tokenizers/pattern.h"
#include "model/tokenizers/unicode_text.h"
#include "moelora/io/error.h"

namespace moelora::model::tokenizers {
namespace {

class Form : public Normalizer {
 public:
  explicit Form(NormalForm form) : form_(form) {}
  std::string apply(std::string text) const override { return normalized(text, form_); }

 private:
  NormalForm form_;
};

class Lowercase : public Normalizer {
 public:
  std::string apply(std::string text) const override { return lowercased(text); }
};

class StripBlanks : public Normalizer {
 public:
  StripBlanks(bool left, bool right) : left_(left), right_(right) {}
  std::string apply(std::string text) const override {
    if (right_) text.erase(text.size() - blanks_at_end(text));
    if (left_) text.erase(0, blanks_at_begin(text));
    return text;
  }

 private:
  bool left_, right_;
};

class Replace : public Normalizer {
 public:
  Replace(Expression pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}
  std::string apply(std::string text) const override {
    std::string result;
    cut_at_matches(pattern_, text, 0, text.size(), [&](Span span, bool is_match) {
      is_match ? result += content_ : result.append(text, span.begin, span.end - span.begin);
    });
    return result;
  }

 private:
  Expression pattern_;
  std::string content_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string text) : text_(std::move(text)) {}
  std::string apply(std::string text) const override { return text.empty() ? text : text_ + text; }

 private:
  std::string text_;
};

class NormalizerSteps : public Normalizer {
 public:
  explicit NormalizerSteps(std::vector<std::unique_ptr<Normalizer>> steps) : steps_(std::move(steps)) {}
  std::string apply(std::string text) const override {
    for (const auto& step : steps_) {
      text = step->apply(std::move(text));
    }
    return text;
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> steps_;
};

}  // namespace

Expression read_pattern(JsonPart& part) {
  JsonPart pattern = part.child("pattern");
  if (pattern.find("Regex") != nullptr) {
    return Expression(pattern.text("Regex"), pattern.where());
  }
  return Expression::literal(pattern.text("String"), pattern.where());
}

std::unique_ptr<Normalizer> read_normalizer(const Json& json, const std::string& where, int depth) {
  static const std::map<std::string, NormalForm> forms{
      {"NFC", NormalForm::nfc}, {"NFD", NormalForm::nfd}, {"NFKC", NormalForm::nfkc}, {"NFKD", NormalForm::nfkd}};
  if (json.is_null()) {
    return nullptr;
  }
  MOELORA_CHECK(depth < kDeepest, where, ": expected at most ", kDeepest, " sequences in each other");
  JsonPart part(json, where);
  const std::string type = part.type();
  std::unique_ptr<Normalizer> made;
  if (const auto form = forms.find(type); form != forms.end()) {
    made = std::make_unique<Form>(form->second);
  } else if (type == "Lowercase") {
    made = std::make_unique<Lowercase>();
  } else if (type == "Strip") {
    const bool left = part.flag("strip_left", true);
    made = std::make_unique<StripBlanks>(left, part.flag("strip_right", true));
  } else if (type == "Replace") {
    Expression pattern = read_pattern(part);
    made = std::make_unique<Replace>(std::move(pattern), part.text("content"));
  } else if (type == "Prepend") {
    made = std::make_unique<Prepend>(part.text("prepend"));
  } else if (type == "Sequence") {
    std::vector<std::unique_ptr<Normalizer>> steps;
    part.each("normalizers", [&](const Json& entry, const std::string& place) {
      if (auto step = read_normalizer(entry, place, depth + 1)) {
        steps.push_back(std::move(step));
      }
    });
    made = std::make_unique<NormalizerSteps>(std::move(steps));
  } else {
    part.refuse("a normalizer of type \"" + type + "\"");
  }
  part.finish();
  return made;
}

}  // namespace moelora::model::tokenizers
