#include "moelora/data/example.h"

#include "moelora/io/error.h"

namespace moelora::data {
namespace {

/// Shortens `ids` to at most `limit` tokens; returns whether anything was cut.
bool cut_to(model::TokenIds& ids, std::int64_t limit) {
  if (static_cast<std::int64_t>(ids.size()) <= limit) {
    return false;
  }
  ids.resize(static_cast<std::size_t>(limit));
  return true;
}

/// The input as the reference's round template writes it, after its earlier rounds.
std::string as_round(const Record& record) {
  std::string text;
  for (std::size_t i = 0; i < record.history.size(); ++i) {
    text += "[Round " + std::to_string(i) + "]\n问：" + record.history[i].first + "\n答：" + record.history[i].second +
            "\n";
  }
  return text + "[Round " + std::to_string(record.history.size()) + "]\n问：" + record.input + "\n答：";
}

}  // namespace

std::string source_text(const Record& record) { return record.history.empty() ? record.input : as_round(record); }

Example encode_pair(const Record& record, std::int64_t task, const model::Tokenizer& tokenizer,
                    const EncodeOptions& options) {
  MOELORA_CHECK(options.max_source_length >= 2 && options.max_target_length >= 3,
                "expected max_source_length of at least 2 and max_target_length of at least 3, found ",
                options.max_source_length, " and ", options.max_target_length);
  model::TokenIds source =
      tokenizer.encode(options.source_prefix + (options.with_history ? as_round(record) : source_text(record)));
  model::TokenIds target = tokenizer.encode(record.target);
  Example example;
  example.task = task;
  example.id = record.sample_id.empty() ? "line " + std::to_string(record.line) : record.sample_id;
  example.cut = cut_to(source, options.max_source_length - 1);
  example.cut |= cut_to(target, options.max_target_length - 2);
  example.context = tokenizer.context_length(static_cast<std::int64_t>(source.size()));
  example.ids = tokenizer.build_pair(source, target);
  return example;
}

model::TokenIds encode_prompt(const Record& record, const model::Tokenizer& tokenizer, const EncodeOptions& options) {
  const std::int64_t limit = options.max_source_length - tokenizer.prompt_overhead();
  MOELORA_CHECK(limit >= 1, "expected max_source_length above ", tokenizer.prompt_overhead(), ", found ",
                options.max_source_length);
  model::TokenIds source = tokenizer.encode(options.source_prefix + source_text(record));
  cut_to(source, limit);
  return tokenizer.build_prompt(source);
}

}  // namespace moelora::data
