#include "cli/show_records.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "moelora/io/error.h"
#include "moelora/io/readable.h"
#include "moelora/io/utf8.h"

namespace moelora::cli {
namespace {

using io::with_commas;

/// A row of the table of lengths.
void print_lengths(const std::string& name, std::vector<std::int64_t> lengths) {
  std::sort(lengths.begin(), lengths.end());
  const auto at = [&](double share) {  // the smallest length that this share of the records does not exceed
    const auto place = static_cast<std::size_t>(std::llround(share * static_cast<double>(lengths.size() - 1)));
    return with_commas(lengths[place]);
  };
  std::printf("  %-20s %9s %9s %9s %9s\n", name.c_str(), at(0.0).c_str(), at(0.5).c_str(), at(0.95).c_str(),
              at(1.0).c_str());
}

void print_text(const char* title, const std::string& text) {
  std::printf("  %s\n", title);
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::printf("    | %s\n", text.substr(begin, end - begin).c_str());
    begin = end + 1;
  }
}

/// Ids as text; those that leave none, as special tokens do, by their pieces.
std::string shown(const model::Tokenizer& tokenizer, const model::TokenIds& ids) {
  std::string text;
  model::TokenIds run;
  const auto flush = [&] {
    text += run.empty() ? std::string() : tokenizer.decode(run);
    run.clear();
  };
  for (const std::int64_t id : ids) {
    if (tokenizer.decode({id}).empty()) {
      flush();
      text += tokenizer.piece(id);
    } else {
      run.push_back(id);
    }
  }
  flush();
  return text;
}

void print_tokens(const data::Example& example, const model::Tokenizer& tokenizer) {
  const auto begin = example.ids.begin() + static_cast<std::ptrdiff_t>(example.label_begin);
  const std::string cut = example.source_cut ? ", cut" : "";
  print_text(("tokens without labels (" + with_commas(example.label_begin) + cut + ")").c_str(),
             shown(tokenizer, {example.ids.begin(), begin}));
  print_text(("labels (" + with_commas(example.label_count()) + (example.target_cut ? ", cut)" : ")")).c_str(),
             shown(tokenizer, {begin, example.ids.end()}));
}

void print_record(const data::Record& record) {
  std::printf("%s, task '%s'\n", data::record_name(record).c_str(), record.task.c_str());
  if (!record.system.empty()) {
    print_text("system", record.system);
  }
  for (const auto& [question, answer] : record.history) {
    print_text("earlier prompt", question);
    print_text("earlier answer", answer);
  }
  print_text("prompt", record.input);
  print_text("answer", record.target);
  if (!record.answer_choices.empty()) {
    print_text("choices", io::joined(record.answer_choices, " | "));
  }
}

}  // namespace

void show_records(const std::vector<data::Record>& records, const RecordInspection& inspection) {
  std::unique_ptr<model::Tokenizer> tokenizer;
  if (!inspection.model.empty()) {
    const std::shared_ptr<const model::Family> family = model::family_of_tokenizer(inspection.model);
    MOELORA_CHECK(family, inspection.model.string(),
                  ": no tokenizer of a family that is known: ", model::known_families());
    tokenizer = model::load_tokenizer(inspection.model, model::template_settings(*family, inspection.chat_template));
  }
  std::vector<std::int64_t> prompts;
  std::vector<std::int64_t> answers;
  std::vector<std::int64_t> prompt_tokens;
  std::vector<std::int64_t> answer_tokens;
  std::vector<std::int64_t> all_tokens;
  data::CountedRecords cut_prompts;
  data::CountedRecords cut_answers;
  data::EncodeOptions whole = inspection.encode;
  whole.max_source_length = whole.max_target_length = std::numeric_limits<std::int64_t>::max() / 2;
  for (const data::Record& record : records) {
    prompts.push_back(static_cast<std::int64_t>(io::count_characters(record.input)));
    answers.push_back(static_cast<std::int64_t>(io::count_characters(record.target)));
    if (tokenizer) {
      const data::Example example = data::encode_pair(record, 0, *tokenizer, whole);
      prompt_tokens.push_back(example.label_begin);
      answer_tokens.push_back(example.label_count());
      all_tokens.push_back(example.length());
      if (example.label_begin > inspection.encode.max_source_length) {
        cut_prompts.add(example.id);
      }
      if (example.label_count() > inspection.encode.max_target_length) {
        cut_answers.add(example.id);
      }
    }
  }
  std::printf("lengths                      min    median      95 %%       max\n");
  print_lengths("prompt, characters", prompts);
  print_lengths("answer, characters", answers);
  if (tokenizer) {
    print_lengths("prompt, tokens", prompt_tokens);
    print_lengths("answer, tokens", answer_tokens);
    print_lengths("both, tokens", all_tokens);
    std::printf("prompts cut at %s tokens: %s\n", with_commas(inspection.encode.max_source_length).c_str(),
                cut_prompts.text().c_str());
    std::printf("answers cut at %s tokens: %s\n", with_commas(inspection.encode.max_target_length).c_str(),
                cut_answers.text().c_str());
  }
  const auto samples = std::min(static_cast<std::size_t>(inspection.samples), records.size());
  for (std::size_t i = 0; i < samples; ++i) {
    std::printf("--- ");
    print_record(records[i]);
    if (tokenizer) {
      print_tokens(data::encode_pair(records[i], 0, *tokenizer, inspection.encode), *tokenizer);
    }
  }
  if (samples > 0) {
    std::printf("---\n");
  }
}

}  // namespace moelora::cli
