#include "moelora/data/example.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "data/chat_example.h"
#include "moelora/io/error.h"
#include "moelora/io/utf8.h"

namespace moelora::data {
namespace {

void check_no_system(const Record& record) {
  MOELORA_CHECK(record.system.empty(), "record ", record_name(record), ": it has a system text, \"",
                io::shortened(record.system, 60),
                "\", which this model's tokenizer has no form for; leave it out, or write it into the prompt");
}

/// What building adds to a source and a target.
struct SpecialTokens {
  std::int64_t of_source;  ///< before the first label
  std::int64_t of_target;  ///< among the labels
  explicit SpecialTokens(const model::TrainingPair& empty)
      : of_source(empty.label_begin), of_target(empty.length() - empty.label_begin) {}
};

}  // namespace

std::int64_t cut_to(model::TokenIds& ids, std::int64_t limit, Cut cut) {
  const auto size = static_cast<std::int64_t>(ids.size());
  if (size <= limit) {
    return 0;
  }
  const std::int64_t first = cut == Cut::head ? 0 : cut == Cut::middle ? (limit + 1) / 2 : limit;
  const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(first);
  ids.erase(begin, begin + static_cast<std::ptrdiff_t>(size - limit));
  return size - limit;
}

void check_length(const Record& record, const char* what, std::int64_t length, std::int64_t limit, Cut cut) {
  MOELORA_CHECK(cut != Cut::error || length <= limit, "record ", record_name(record), ": its ", what, " has ", length,
                " tokens, expected at most ", limit, "; shorten it, raise max_", what,
                "_length, or choose a part to cut out: tail, head or middle");
}

Cut cut_from_name(std::string_view name) {
  const auto found = std::find(cut_names().begin(), cut_names().end(), name);
  MOELORA_CHECK(found != cut_names().end(), "expected tail, head, middle or error as the part to cut out, found '",
                name, "'");
  return static_cast<Cut>(found - cut_names().begin());
}

std::string_view cut_name(Cut cut) { return cut_names()[static_cast<std::size_t>(cut)]; }

const std::vector<std::string>& cut_names() {
  static const std::vector<std::string> names{"tail", "head", "middle", "error"};
  return names;
}

std::string record_name(const Record& record) {
  if (!record.sample_id.empty()) {
    return record.sample_id;
  }
  const std::string line =
      (record.file.empty() ? std::string() : record.file + " ") + "line " + std::to_string(record.line);
  // Several records may stand in one line of an array.
  return record.number == 0 || record.number == record.line
             ? line
             : "record " + std::to_string(record.number) + " (" + line + ")";
}

void CountedRecords::add(const std::string& name) {
  if (static_cast<std::size_t>(count++) < kMostNamed) {
    names.push_back(name);
  }
}

std::string CountedRecords::text() const {
  std::string text = std::to_string(count);
  for (std::size_t i = 0; i < names.size(); ++i) {
    text += (i == 0 ? " (" : ", ") + names[i];
  }
  return names.empty() ? text : text + (static_cast<std::size_t>(count) > names.size() ? ", …)" : ")");
}

std::string source_text(const Record& record, const model::Tokenizer& tokenizer) {
  check_no_system(record);
  return record.history.empty() ? record.input : tokenizer.conversation_text(record.history, record.input);
}

Example encode_pair(const Record& record, std::int64_t task, const model::Tokenizer& tokenizer,
                    const EncodeOptions& options) {
  if (tokenizer.has_chat_template()) {
    return encode_chat_pair(record, task, tokenizer, options);
  }
  const SpecialTokens special(tokenizer.build_pair({}, {}));
  MOELORA_CHECK(options.max_source_length > special.of_source && options.max_target_length > special.of_target,
                "expected max_source_length of at least ", special.of_source + 1, " and max_target_length of at least ",
                special.of_target + 1, ", found ", options.max_source_length, " and ", options.max_target_length);
  const std::int64_t most_source = options.max_source_length - special.of_source;
  const std::int64_t most_target = options.max_target_length - special.of_target;
  check_no_system(record);
  model::TokenIds source = tokenizer.encode_plain(
      options.source_prefix + (options.with_history ? tokenizer.conversation_text(record.history, record.input)
                                                    : source_text(record, tokenizer)));
  model::TokenIds target = tokenizer.encode_plain(record.target);
  Example example;
  example.task = task;
  example.id = record_name(record);
  example.weight = record.weight;
  check_length(record, "source", static_cast<std::int64_t>(source.size()), most_source, options.cut);
  check_length(record, "target", static_cast<std::int64_t>(target.size()), most_target, options.cut);
  example.source_cut = cut_to(source, most_source, options.cut) > 0;
  example.target_cut = cut_to(target, most_target, Cut::tail) > 0;
  model::TrainingPair pair = tokenizer.build_pair(source, target);
  example.ids = std::move(pair.ids);
  example.label_begin = pair.label_begin;
  return example;
}

model::Prompt encode_prompt(const Record& record, const model::Tokenizer& tokenizer, const EncodeOptions& options,
                            std::int64_t* removed) {
  if (tokenizer.has_chat_template()) {
    return encode_chat_prompt(record, tokenizer, options, removed);
  }
  const std::int64_t special = tokenizer.special_tokens_per_prompt();
  const std::int64_t limit = options.max_source_length - special;
  MOELORA_CHECK(limit >= 1, "expected max_source_length above ", special, ", found ", options.max_source_length);
  model::TokenIds source = tokenizer.encode_plain(options.source_prefix + source_text(record, tokenizer));
  check_length(record, "source", static_cast<std::int64_t>(source.size()), limit, options.cut);
  const std::int64_t cut = cut_to(source, limit, options.cut);
  if (removed != nullptr) {
    *removed = cut;
  }
  return tokenizer.build_prompt(source);
}

std::int64_t prompt_length(const Record& record, const model::Tokenizer& tokenizer, const std::string& source_prefix) {
  EncodeOptions options;
  options.max_source_length = std::numeric_limits<std::int32_t>::max();
  options.source_prefix = source_prefix;
  return encode_prompt(record, tokenizer, options).length();
}

std::int64_t longest_prompt(std::int64_t model_length, std::int64_t answer_length) {
  return model_length - std::min(answer_length, model_length / 2);
}

}  // namespace moelora::data
