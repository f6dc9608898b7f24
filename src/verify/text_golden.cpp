// tokenizer_golden.json: texts with their ids, and conversations as a chat template writes them.

#include <algorithm>

#include "golden.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/model/registry.h"

namespace moelora::verify {
namespace {

using Json = nlohmann::ordered_json;
using model::TokenIds;

constexpr const char* kFile = "tokenizer_golden.json";

/// Of a text that a template may trim or take the reasoning from: what stays in any case.
std::string last_line(const std::string& text) {
  const std::size_t end = text.find_last_not_of(" \t\r\n") + 1;
  const std::size_t line = text.substr(0, end).rfind('\n') + 1;
  const std::size_t begin = std::min(text.find_first_not_of(" \t\r", line), end);
  return text.substr(begin, end - begin);
}

/// Why a conversation's prompt differs from the recorded text on purpose: the template leaves a part out, which a
/// prompt refuses, or a user's text writes a token, which is text in a prompt. Empty: it does not.
std::string difference_of_prompt(const std::vector<model::ChatMessage>& messages, const std::string& text,
                                 const model::Tokenizer& tokenizer) {
  for (const model::ChatMessage& message : messages) {
    if (text.find(last_line(message.content)) == std::string::npos) {
      return "the template leaves out what " + message.role + " says";
    }
    if (message.role != "assistant" && tokenizer.encode(message.content) != tokenizer.encode_plain(message.content)) {
      return "a token that " + message.role + " writes is text in a prompt";
    }
  }
  return "";
}

}  // namespace

void compare_texts(const std::string& where, const model::Tokenizer& tokenizer, const Json& pairs,
                   VerifyReport& report) {
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const Json& one = pairs[i];
    const std::string name = detail::concat(where, "[", i, "]");
    const TokenIds ids = tokenizer.encode(one.at("text").get<std::string>());
    const TokenIds expected = one.at("ids").get<TokenIds>();
    compare_json(report, name + ".ids", expected, ids);
    if (one.contains("ids_special")) {
      compare_json(report, name + ".ids_special", one["ids_special"], tokenizer.build_prompt(ids).ids);
    }
    // Of the recorded ids: a wrong encoding is one difference, not three.
    if (one.contains("decoded")) {
      compare_json(report, name + ".decoded", one["decoded"], tokenizer.decode_all(expected));
    }
    if (one.contains("decoded_skip_special")) {
      compare_json(report, name + ".decoded_skip_special", one["decoded_skip_special"], tokenizer.decode(expected));
    }
  }
}

void compare_chats(const std::string& where, const model::Tokenizer& tokenizer, const Json& chats,
                   VerifyReport& report) {
  for (std::size_t i = 0; i < chats.size(); ++i) {
    const Json& one = chats[i];
    const std::string name = detail::concat(where, "[", i, "]");
    std::vector<model::ChatMessage> messages;
    model::Conversation conversation;
    bool is_plain = true;  // rounds of user and assistant that end in a question
    for (const Json& message : one.at("messages")) {
      messages.push_back({message.at("role").get<std::string>(), message.at("content").get<std::string>()});
    }
    const bool asks = one.value("add_generation_prompt", true);
    std::string text;
    const TokenIds ids = tokenizer.chat_ids(messages, asks, &text);
    compare_json(report, name + ".text", one.at("text"), text);
    compare_json(report, name + ".ids", one.at("ids"), ids);
    std::size_t at = 0;
    if (!messages.empty() && messages.front().role == "system") {
      conversation.system = messages[at++].content;
    }
    for (; at + 2 < messages.size(); at += 2) {
      is_plain = is_plain && messages[at].role == "user" && messages[at + 1].role == "assistant";
      conversation.history.emplace_back(messages[at].content, messages[at + 1].content);
    }
    if (asks && is_plain && at + 1 == messages.size() && messages[at].role == "user") {
      conversation.question = messages[at].content;
      const std::string of_prompt = name + ": the prompt of this conversation";
      const std::string difference = difference_of_prompt(messages, one.at("text").get<std::string>(), tokenizer);
      if (difference.empty()) {
        compare_json(report, of_prompt, one.at("ids"), tokenizer.chat_prompt(conversation).ids);
      } else {
        report.skipped.push_back(of_prompt + ": " + difference);
      }
    }
  }
}

void verify_tokenizer_golden(const std::filesystem::path& folder, VerifyReport& report) {
  const Json golden = io::read_json_file(folder / kFile);
  const auto own = model::load_tokenizer(folder);
  const model::Tokenizer& tokenizer = *own;
  MOELORA_CHECK(golden.is_object() && !golden.value("pairs", Json::array()).empty(), (folder / kFile).string(),
                ": expected texts under \"pairs\", found none");
  if (golden.contains("len_tokenizer")) {
    compare_json(report, detail::concat(kFile, ": len_tokenizer"), golden["len_tokenizer"], tokenizer.vocab_size());
  }
  if (golden.contains("eos_token_id") && golden["eos_token_id"].is_number()) {
    compare_json(report, detail::concat(kFile, ": eos_token_id"), golden["eos_token_id"], tokenizer.eos_id());
  }
  if (golden.contains("pad_token_id") && golden["pad_token_id"].is_number()) {
    compare_json(report, detail::concat(kFile, ": pad_token_id"), golden["pad_token_id"], tokenizer.pad_id());
  }
  compare_texts(detail::concat(kFile, ": pairs"), tokenizer, golden.at("pairs"), report);
  const Json chats = golden.value("chats", Json::array());
  if (chats.empty()) {
    report.not_compared.push_back(detail::concat(kFile, ": chats: holds none"));
  } else {
    compare_chats(detail::concat(kFile, ": chats"), tokenizer, chats, report);
  }
  for (const auto& [key, value] : golden.items()) {
    if (key != "pairs" && key != "chats" && key != "len_tokenizer" && key != "eos_token_id" && key != "pad_token_id" &&
        key != "vocab_size") {  // the rows of the model's head
      report.not_compared.push_back(detail::concat(kFile, ": ", key));
    }
  }
}

}  // namespace moelora::verify
