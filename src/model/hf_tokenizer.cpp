#include "moelora/model/hf_tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "model/tokenizers/pipeline.h"
#include "model/tokenizers/token_roles.h"
#include "model/tokenizers/unicode_text.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/sha256.h"
#include "moelora/io/utf8.h"

namespace moelora::model {
namespace {

namespace fs = std::filesystem;
using namespace tokenizers;

// Characters that stand for none (Unicode's noncharacters), as marks in texts that have none of them.
constexpr std::string_view kMarks[] = {"\uFDD0", "\uFDD1", "\uFDD2", "\uFDD3", "\uFDD4", "\uFDD5", "\uFDD6", "\uFDD7"};

/// The first that none of the texts has, after leaving out `skip`.
std::string_view unused_mark(const std::vector<std::string_view>& texts, int skip = 0) {
  for (const std::string_view mark : kMarks) {
    const bool used =
        std::any_of(texts.begin(), texts.end(), [&](std::string_view text) { return text.find(mark) != text.npos; });
    if (!used && skip-- == 0) {
      return mark;
    }
  }
  throw Error("expected a text without noncharacters of Unicode, found one with all of U+FDD0 to U+FDD7; remove them");
}

std::vector<std::string_view> texts_of(const Conversation& conversation) {
  std::vector<std::string_view> texts{conversation.system, conversation.question};
  for (const auto& [question, answer] : conversation.history) {
    texts.push_back(question);
    texts.push_back(answer);
  }
  return texts;
}

}  // namespace

struct HfTokenizer::Impl {
  fs::path file;
  Pipeline pipeline;
  Surroundings surroundings;
  TokenRoles roles;
  std::optional<ChatTemplate> chat;
  bool plain = false;         ///< No template, by choice.
  bool keeps_system = true;   ///< The template writes a system text.
  bool keeps_history = true;  ///< The template writes earlier rounds.
  std::string answer_lead;    ///< What the template writes between a prompt and every answer.
  std::string answer_tail;    ///< What it writes behind it.
  std::int64_t answer_end = -1;

  Impl(const fs::path& path, const nlohmann::ordered_json& settings);
  void read_template(const nlohmann::ordered_json& settings);
  /// With a mark in each token that would otherwise steer the model: special ones, and those that the template writes,
  /// which an answer may have (such as the tags of its reasoning).
  std::string marked(std::string_view text, std::string_view mark, bool is_answer = false) const;
  std::string render(const Conversation& conversation, const std::string* answer, std::string_view mark) const;
};

HfTokenizer::Impl::Impl(const fs::path& path, const nlohmann::ordered_json& settings)
    : file(fs::is_directory(path) ? path / kFile : path), pipeline(file), surroundings(pipeline.surroundings()) {
  const fs::path config_file = file.parent_path() / "tokenizer_config.json";
  nlohmann::ordered_json config =
      fs::exists(config_file) ? io::read_json_file(config_file) : nlohmann::ordered_json::object();
  MOELORA_CHECK(config.is_object(), config_file.string(), ": expected a JSON object, found ", config.type_name());
  for (const auto& [key, setting] : settings.items()) {
    if (key != "chat_template") config[key] = setting;  // read_template's affair
  }
  roles = read_token_roles(file.parent_path(), config,
                           [this](const std::string& content) { return pipeline.id_of(content); });
  for (const std::string& content : roles.special) {
    pipeline.make_special(content);
  }
  // Of tokenizer_config.json transformers 5 takes neither where there is a tokenizer.json, whose post-processor says
  // it.
  if (settings.contains("add_bos_token") || settings.contains("add_eos_token")) {
    const auto with = [&](std::optional<bool> wanted, std::int64_t id) {
      return wanted.value_or(false) && id >= 0 ? TokenIds{id} : TokenIds{};
    };
    surroundings = {with(roles.add_bos, roles.bos), with(roles.add_eos, roles.eos)};
  }
  read_template(settings);
}

void HfTokenizer::Impl::read_template(const nlohmann::ordered_json& settings) {
  const auto chosen = settings.find("chat_template");
  plain = chosen != settings.end() && chosen->is_null();
  if (plain) {
    return;
  }
  std::string name = "the chat template of " + file.parent_path().string();
  if (chosen != settings.end()) {
    MOELORA_CHECK(chosen->is_string(), "chat_template: expected a template's text, found ", chosen->type_name());
    name = "the chat template that was chosen";
    chat.emplace(chosen->get<std::string>(), name);
  } else if (roles.chat_template) {
    chat.emplace(*roles.chat_template, name);
  } else {
    return;
  }
  // What stands around every answer is found with a conversation of marks.
  const std::string mark(kMarks[0]), question(kMarks[1]);
  const std::string prompt = render({{}, {}, question}, nullptr, {}), whole = render({{}, {}, question}, &mark, {});
  const std::size_t at = whole.find(mark);
  MOELORA_CHECK(at != whole.npos && whole.find(mark, at + 1) == whole.npos && prompt.find(question) != prompt.npos,
                name, ": expected one that writes a question and an answer once, found another; choose the template ",
                "none, or one of your own");
  answer_tail = whole.substr(at + mark.size());
  if (whole.starts_with(prompt)) {
    answer_lead = whole.substr(prompt.size(), at - prompt.size());
  }
  // What a template leaves out is no error of its own.
  const auto writes = [&](const Conversation& conversation, std::initializer_list<std::string_view> marks) {
    std::string text;
    try {
      text = render(conversation, nullptr, {});
    } catch (const Error&) {
      return true;  // it says so itself when it is asked to
    }
    return std::all_of(marks.begin(), marks.end(), [&](std::string_view one) { return text.find(one) != text.npos; });
  };
  const std::string first(kMarks[2]), second(kMarks[3]);
  keeps_system = writes({first, {}, question}, {first});
  keeps_history = writes({{}, {{first, second}}, question}, {first, second});
  const std::vector<Stretch> tail = pipeline.added().cut(answer_tail, /*after_normalizing=*/false);
  answer_end = !tail.empty() && tail.front().id >= 0 ? tail.front().id : roles.eos;
  roles.ends.push_back(answer_end);
  std::sort(roles.ends.begin(), roles.ends.end());
  roles.ends.erase(std::unique(roles.ends.begin(), roles.ends.end()), roles.ends.end());
}

std::string HfTokenizer::Impl::render(const Conversation& conversation, const std::string* answer,
                                      std::string_view mark) const {
  MOELORA_CHECK(chat.has_value(), file.parent_path().string(),
                " has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json); choose the ",
                "template none for a base model, whose prompts are plain text, or a file with one");
  constexpr const char* kChoose = "; leave it out of the records, or choose another template";
  MOELORA_CHECK(conversation.system.empty() || keeps_system, "the chat template leaves out a system text, which a ",
                "record has", kChoose);
  MOELORA_CHECK(conversation.history.empty() || keeps_history, "the chat template leaves out earlier rounds of a ",
                "dialogue, which a record has", kChoose);
  std::vector<ChatMessage> messages;
  if (!conversation.system.empty()) {
    messages.push_back({"system", marked(conversation.system, mark)});
  }
  for (const auto& [question, reply] : conversation.history) {
    messages.push_back({"user", marked(question, mark)});
    messages.push_back({"assistant", marked(reply, mark, /*is_answer=*/true)});
  }
  messages.push_back({"user", marked(conversation.question, mark)});
  if (answer != nullptr) {
    messages.push_back({"assistant", marked(*answer, mark, /*is_answer=*/true)});
  }
  return chat->render(messages, answer == nullptr, roles.names);
}

std::string HfTokenizer::Impl::marked(std::string_view text, std::string_view mark, bool is_answer) const {
  std::string result = valid_utf8(text);
  if (mark.empty()) {
    return result;
  }
  for (const AddedToken& token : pipeline.added().all()) {
    const bool steers = token.special || (!is_answer && chat && chat->text().find(token.content) != std::string::npos &&
                                          blanks_at_begin(token.content) < token.content.size());
    if (!steers) {
      continue;
    }
    const std::size_t first = std::max<std::size_t>(1, io::utf8_length(token.content, 0));
    for (std::size_t at = 0; (at = result.find(token.content, at)) != std::string::npos; at += first + mark.size()) {
      result.insert(at + first, mark);
    }
  }
  return result;
}

HfTokenizer::HfTokenizer(const fs::path& path) : HfTokenizer(path, nlohmann::ordered_json::object()) {}

HfTokenizer::HfTokenizer(const fs::path& path, const nlohmann::ordered_json& settings)
    : impl_(std::make_unique<Impl>(path, settings)) {}

HfTokenizer::~HfTokenizer() = default;

bool HfTokenizer::is_at(const fs::path& path) {
  return fs::is_regular_file(path / kFile) || (fs::is_regular_file(path) && path.extension() == ".json");
}

std::vector<std::string> HfTokenizer::setting_names() {
  return {"bos_token", "eos_token", "pad_token", "add_bos_token", "add_eos_token", "chat_template"};
}

TokenIds HfTokenizer::encode(std::string_view text) const {
  std::string mended;
  if (!is_valid_utf8(text)) {
    mended = valid_utf8(text);
    text = mended;
  }
  return impl_->pipeline.encode(text, {});
}

TokenIds HfTokenizer::encode_plain(std::string_view text) const {
  const std::string_view mark = unused_mark({text});
  return impl_->pipeline.encode(impl_->marked(text, mark), mark);
}

bool HfTokenizer::has_chat_template() const {
  if (!impl_->plain && !impl_->chat) {
    impl_->render({}, nullptr, {});  // says what to do
  }
  return impl_->chat.has_value();
}

std::string HfTokenizer::prompt_form() const {
  return impl_->chat ? io::sha256_of(impl_->chat->text()) : impl_->plain ? "none" : "";
}

Prompt HfTokenizer::chat_prompt(const Conversation& conversation) const {
  const std::string_view mark = unused_mark(texts_of(conversation));
  return {impl_->pipeline.encode(impl_->render(conversation, nullptr, mark), mark), 0};
}

TrainingPair HfTokenizer::chat_pair(const Conversation& conversation, std::string_view answer) const {
  std::vector<std::string_view> texts = texts_of(conversation);
  texts.push_back(answer);
  const std::string_view mark = unused_mark(texts);
  const std::string given(answer), prompt = impl_->render(conversation, nullptr, mark);
  std::string whole = impl_->render(conversation, &given, mark);
  std::size_t begin = prompt.size();
  if (!whole.starts_with(prompt)) {  // the head of an answer to come is another than that of one that is there
    const std::string place(unused_mark(texts, 1));
    begin = impl_->render(conversation, &place, mark).find(place);
  }
  MOELORA_CHECK(
      begin != whole.npos && whole.ends_with(impl_->answer_tail) && begin + impl_->answer_tail.size() <= whole.size(),
      "expected a chat template that writes answers behind the conversation, found one that does not");
  const std::string label = whole.substr(begin, whole.size() - impl_->answer_tail.size() - begin);
  TrainingPair pair{impl_->pipeline.encode(prompt, mark), 0};
  pair.label_begin = pair.length();
  // The whole text's ids, of which the prompt's are the first: what a model is asked with is what it was trained on.
  TokenIds all = impl_->pipeline.encode(prompt + label, mark);
  if (all.size() >= pair.ids.size() && std::equal(pair.ids.begin(), pair.ids.end(), all.begin())) {
    pair.ids = std::move(all);
  } else {
    const TokenIds rest = impl_->pipeline.encode(label, mark);
    pair.ids.insert(pair.ids.end(), rest.begin(), rest.end());
  }
  pair.ids.push_back(impl_->answer_end);
  return pair;
}

TokenIds HfTokenizer::chat_ids(const std::vector<ChatMessage>& messages, bool add_generation_prompt,
                               std::string* text) const {
  if (!impl_->chat) {
    impl_->render({}, nullptr, {});  // says what to do
  }
  std::string rendered = impl_->chat->render(messages, add_generation_prompt, impl_->roles.names);
  TokenIds ids = encode(rendered);
  if (text != nullptr) {
    *text = std::move(rendered);
  }
  return ids;
}

std::string HfTokenizer::decode(const TokenIds& ids) const {
  return impl_->pipeline.decode(ids, /*with_special=*/false);
}

std::string HfTokenizer::decode_all(const TokenIds& ids) const {
  return impl_->pipeline.decode(ids, /*with_special=*/true);
}

std::string HfTokenizer::piece(std::int64_t id) const { return impl_->pipeline.content_of(id); }

Prompt HfTokenizer::build_prompt(const TokenIds& source) const {
  Prompt prompt;
  prompt.ids = impl_->surroundings.before;
  prompt.ids.insert(prompt.ids.end(), source.begin(), source.end());
  prompt.ids.insert(prompt.ids.end(), impl_->surroundings.after.begin(), impl_->surroundings.after.end());
  return prompt;
}

TrainingPair HfTokenizer::build_pair(const TokenIds& source, const TokenIds& target) const {
  TrainingPair pair{build_prompt(source).ids, 0};
  pair.label_begin = pair.length();
  pair.ids.insert(pair.ids.end(), target.begin(), target.end());
  pair.ids.push_back(eos_id());
  return pair;
}

std::int64_t HfTokenizer::vocab_size() const { return impl_->pipeline.size(); }
std::int64_t HfTokenizer::bos_id() const { return impl_->roles.bos; }
std::int64_t HfTokenizer::eos_id() const { return impl_->roles.eos; }
std::int64_t HfTokenizer::pad_id() const { return impl_->roles.pad; }
TokenIds HfTokenizer::end_ids() const { return impl_->roles.ends; }
std::string HfTokenizer::fingerprint() const { return impl_->pipeline.fingerprint(); }

std::string HfTokenizer::clean_response(std::string text) const {
  if (is_valid_utf8(text)) {
    const std::string& lead = impl_->answer_lead;
    if (blanks_at_begin(lead) < lead.size() && text.starts_with(lead)) {
      text.erase(0, lead.size());
    }
    text.erase(text.size() - blanks_at_end(text));
    text.erase(0, blanks_at_begin(text));
  }
  return text;
}

}  // namespace moelora::model
