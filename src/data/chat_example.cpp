#include "data/chat_example.h"

#include <algorithm>
#include <utility>

#include "moelora/io/error.h"

namespace moelora::data {
namespace {

constexpr std::string_view kBroken = "\uFFFD";  // what half a character decodes to

/// The prefix stands before the first thing that the user says.
model::Conversation conversation_of(const Record& record, std::size_t rounds_left_out, const std::string& question,
                                    const EncodeOptions& options) {
  model::Conversation conversation;
  conversation.system = record.system;
  conversation.history.assign(record.history.begin() + static_cast<std::ptrdiff_t>(rounds_left_out),
                              record.history.end());
  conversation.question = question;
  std::string& first = conversation.history.empty() ? conversation.question : conversation.history.front().first;
  first.insert(0, options.source_prefix);
  return conversation;
}

/// The text of `ids` without some of them. Characters that the cut goes through are left out.
std::string cut_text(const model::TokenIds& ids, std::int64_t keep, Cut cut, const model::Tokenizer& tokenizer) {
  model::TokenIds before, after;
  const auto size = static_cast<std::int64_t>(ids.size());
  const std::int64_t first = cut == Cut::head ? 0 : cut == Cut::middle ? (keep + 1) / 2 : keep;
  before.assign(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(first));
  after.assign(ids.end() - static_cast<std::ptrdiff_t>(std::min(size, keep) - first), ids.end());
  std::string head = tokenizer.decode_all(before), tail = tokenizer.decode_all(after);
  while (head.ends_with(kBroken)) head.resize(head.size() - kBroken.size());
  while (tail.starts_with(kBroken)) tail.erase(0, kBroken.size());
  return head + tail;
}

/// A conversation whose prompt has at most `limit` tokens, and the tokens by which it became shorter: the earliest
/// rounds go first, then a part of the question.
std::pair<model::Conversation, std::int64_t> fitted(const Record& record, const model::Tokenizer& tokenizer,
                                                    const EncodeOptions& options) {
  const std::int64_t limit = options.max_source_length;
  model::Conversation conversation = conversation_of(record, 0, record.input, options);
  const std::int64_t whole = tokenizer.chat_prompt(conversation).length();
  check_length(record, "source", whole, limit, options.cut);
  std::int64_t length = whole;
  for (std::size_t rounds = 1; length > limit && rounds <= record.history.size(); ++rounds) {
    conversation = conversation_of(record, rounds, record.input, options);
    length = tokenizer.chat_prompt(conversation).length();
  }
  if (length > limit) {
    // The prefix belongs to what is cut, as it does where prompts are made of ids.
    const model::TokenIds ids = tokenizer.encode_plain(options.source_prefix + record.input);
    EncodeOptions without_prefix = options;
    without_prefix.source_prefix.clear();
    auto keep = static_cast<std::int64_t>(ids.size());
    while (length > limit) {
      MOELORA_CHECK(keep > 0, "record ", record_name(record), ": expected max_source_length of at least ", length,
                    ", which the chat template takes by itself, found ", limit);
      keep = std::max<std::int64_t>(0, keep - (length - limit));
      conversation =
          conversation_of(record, record.history.size(), cut_text(ids, keep, options.cut, tokenizer), without_prefix);
      length = tokenizer.chat_prompt(conversation).length();
    }
  }
  return {std::move(conversation), whole - length};
}

}  // namespace

Example encode_chat_pair(const Record& record, std::int64_t task, const model::Tokenizer& tokenizer,
                         const EncodeOptions& options) {
  MOELORA_CHECK(options.max_target_length >= 2, "expected max_target_length of at least 2, found ",
                options.max_target_length);
  const auto [conversation, removed] = fitted(record, tokenizer, options);
  model::TrainingPair pair = tokenizer.chat_pair(conversation, record.target);
  const std::int64_t labels = pair.length() - pair.label_begin;
  check_length(record, "target", labels, options.max_target_length, options.cut);
  Example example;
  example.task = task;
  example.id = record_name(record);
  example.weight = record.weight;
  example.source_cut = removed > 0;
  example.target_cut = labels > options.max_target_length;
  if (example.target_cut) {  // the token that ends the answer stays
    const std::int64_t end = pair.ids.back();
    pair.ids.resize(static_cast<std::size_t>(pair.label_begin + options.max_target_length - 1));
    pair.ids.push_back(end);
  }
  example.ids = std::move(pair.ids);
  example.label_begin = pair.label_begin;
  return example;
}

model::Prompt encode_chat_prompt(const Record& record, const model::Tokenizer& tokenizer, const EncodeOptions& options,
                                 std::int64_t* removed) {
  const auto [conversation, cut] = fitted(record, tokenizer, options);
  if (removed != nullptr) {
    *removed = cut;
  }
  return tokenizer.chat_prompt(conversation);
}

}  // namespace moelora::data
