// Goldens of the tokenizer and of the data processor.

#include <algorithm>
#include <functional>

#include "golden.h"
#include "moelora/data/example.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/model/registry.h"

namespace moelora::verify {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using model::TokenIds;
using model::Tokenizer;

TokenIds ids_of(const Json& json) { return json.get<TokenIds>(); }

void check_cases(const Tokenizer& tokenizer, const Json& cases, const std::string& where, VerifyReport& report) {
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const Json& one = cases[i];
    const std::string name = where + "[" + std::to_string(i) + "]";
    const TokenIds ids = tokenizer.encode(one.at("text").get<std::string>());
    compare_json(report, name + ".ids", one.at("ids"), ids);
    if (one.contains("ids_special")) {
      compare_json(report, name + ".ids_special", one["ids_special"], tokenizer.build_prompt(ids).ids);
    }
    if (one.contains("pieces")) {
      std::vector<std::string> pieces;
      for (const std::int64_t id : ids) {
        pieces.push_back(tokenizer.piece(id));
      }
      compare_json(report, name + ".pieces", one["pieces"], pieces);
    }
    for (const char* key : {"decoded", "decoded_skip_special"}) {
      if (one.contains(key)) {
        compare_json(report, name + "." + key, one[key], tokenizer.decode(ids));
      }
    }
    if (one.contains("decoded_special")) {
      compare_json(report, name + ".decoded_special", one["decoded_special"],
                   tokenizer.decode(tokenizer.build_prompt(ids).ids));
    }
  }
}

// A key of options.json as settings of the tokenizer: SETTING stands for true, SETTING_NUMBER and SETTING_NUMBER_… for
// the number. Nothing if the tokenizer has no such setting.
std::optional<Json> settings_of(const std::string& key, const std::vector<std::string>& known) {
  for (const std::string& setting : known) {
    if (key == setting) {
      return Json{{setting, true}};
    }
    if (key.starts_with(setting + "_")) {
      const std::string rest = key.substr(setting.size() + 1);
      if (const auto number = number_between(rest.substr(0, rest.find('_')), "", "")) {
        return Json{{setting, *number}};
      }
    }
  }
  return std::nullopt;
}

void check_options(const fs::path& folder, const model::Family& family, const Json& options, VerifyReport& report) {
  for (const auto& [key, cases] : options.items()) {
    const auto settings = settings_of(key, family.tokenizer_settings());
    if (!settings) {
      report.not_compared.push_back("options.json: " + key);
      continue;
    }
    const auto made = family.load_tokenizer(folder, *settings);
    const Tokenizer& tokenizer = *made;
    if (cases.is_array()) {
      check_cases(tokenizer, cases, "options.json: " + key, report);
      continue;
    }
    for (const auto& [piece, id] : cases.items()) {  // ids of pieces, or pieces of ids
      const bool id_is_key =
          !piece.empty() && piece.find_first_not_of("0123456789") == std::string::npos && id.is_string();
      compare_json(report, "options.json: " + key + "." + piece, id_is_key ? id : Json(piece),
                   tokenizer.piece(id_is_key ? std::stoll(piece) : id.get<std::int64_t>()));
    }
  }
}

// Keys as encode_without_SETTING and encode_no_SETTING_no_SETTING: texts encoded with these settings off.
void check_switched_off(const fs::path& folder, const model::Family& family, const Json& options,
                        VerifyReport& report) {
  for (const auto& [key, cases] : options.items()) {
    Json settings = Json::object();
    for (const std::string& setting : family.tokenizer_settings()) {
      if (key.find("_no_" + setting) != std::string::npos || key.find("_without_" + setting) != std::string::npos) {
        settings[setting] = false;
      }
    }
    if (settings.empty()) {
      report.not_compared.push_back("sp_options.json: " + key);
      continue;
    }
    const auto tokenizer = family.load_tokenizer(folder, settings);
    std::string what = text_between(key, "encode_", "").value_or(key);
    std::replace(what.begin(), what.end(), '_', ' ');
    for (const Json& one : cases) {
      compare_json(report, "sp_options.json: " + what + ": " + one.at("text").dump(), one.at("ids"),
                   tokenizer->encode(one.at("text").get<std::string>()));
    }
  }
}

void check_special_ids(const Tokenizer& tokenizer, const Json& pairs, VerifyReport& report) {
  compare_json(report, "pairs.json: vocab_size", pairs.at("vocab_size"), tokenizer.vocab_size());
  for (const auto& [piece, id] : pairs.at("special_ids").items()) {
    compare_json(report, "pairs.json: special_ids." + piece, Json(piece), tokenizer.piece(id.get<std::int64_t>()));
  }
}

data::Record record_of(const Json& json) {
  data::Record record;
  record.input = json.at("input").get<std::string>();
  record.target = json.at("target").get<std::string>();
  record.task = json.at("task_dataset").get<std::string>();
  for (const Json& round : json.value("history", Json::array())) {
    record.history.emplace_back(round.at(0).get<std::string>(), round.at(1).get<std::string>());
  }
  return record;
}

// The entry "<prefix>N", whatever N the reference took.
std::pair<std::string, Json> first_rows(const Json& golden, const std::string& prefix) {
  for (const auto& [key, value] : golden.items()) {
    if (key.starts_with(prefix)) {
      return {key, value};
    }
  }
  return {prefix, nullptr};
}

// The rows that the data processor made of real records: training rows, and the first four prompts.
void check_processor(const Tokenizer& tokenizer, const fs::path& path, VerifyReport& report) {
  const Json golden = io::read_json_file(path);
  const std::string file = path.filename().string();
  const auto [eval_key, eval_rows] = first_rows(golden, "eval_first");
  data::EncodeOptions options;
  options.max_source_length = golden.at("max_source_length").get<std::int64_t>();
  options.max_target_length = golden.at("max_target_length").get<std::int64_t>();
  options.source_prefix = golden.at("source_prefix").get<std::string>();
  options.with_history = !golden.at("history_column").is_null();
  Json rows = Json::array();
  std::vector<TokenIds> prompts;
  for (const Json& entry : golden.at("records")) {
    const data::Record record = record_of(entry);
    if (prompts.size() < eval_rows.at("task_id").size()) {
      prompts.push_back(data::encode_prompt(record, tokenizer, options).ids);
    }
    if (record.input.empty() || record.target.empty()) {
      continue;  // the reference skips these in training
    }
    const data::Example example = data::encode_pair(record, 0, tokenizer, options);
    TokenIds label(example.ids.size(), -100);
    std::copy(example.ids.begin() + example.label_begin, example.ids.end(), label.begin() + example.label_begin);
    rows.push_back({{"input_ids", example.ids}, {"labels", label}});
  }
  const Json& expected = golden.at("train_rows");
  compare_numbers(report, file + ": train_rows", static_cast<double>(expected.size()), static_cast<double>(rows.size()),
                  0);
  for (std::size_t i = 0; i < std::min(rows.size(), expected.size()); ++i) {
    for (const char* key : {"input_ids", "labels"}) {
      compare_json(report, file + ": train_rows[" + std::to_string(i) + "]." + key, expected[i].at(key),
                   rows[i].at(key));
    }
  }
  std::size_t longest = 0;
  for (const TokenIds& prompt : prompts) {
    longest = std::max(longest, prompt.size());
  }
  Json padded = Json::array();
  for (TokenIds prompt : prompts) {
    prompt.insert(prompt.begin(), longest - prompt.size(), tokenizer.pad_id());
    padded.push_back(prompt);
  }
  compare_json(report, file + ": " + eval_key + ".input_ids", eval_rows.at("input_ids"), padded);
  if (const auto [key, collated] = first_rows(golden, "train_collated_first"); !collated.is_null()) {
    for (const auto& [column, filler] :
         {std::pair<const char*, std::int64_t>{"input_ids", tokenizer.pad_id()}, {"labels", -100}}) {
      Json batch = Json::array();
      for (std::size_t i = 0; i < std::min(rows.size(), collated.at(column).size()); ++i) {
        TokenIds row = ids_of(rows[i].at(column));
        row.resize(std::max(row.size(), collated.at(column)[i].size()), filler);
        batch.push_back(row);
      }
      compare_json(report, file + ": " + key + "." + column, collated.at(column), batch);
    }
  }
}

}  // namespace

void verify_tokenizer(const fs::path& folder, VerifyReport& report) {
  const auto family = model::family_of_tokenizer(folder);
  const auto own = model::load_tokenizer(folder);
  const Tokenizer& tokenizer = *own;
  const auto if_present = [&](const std::string& name, const std::function<void(const Json&)>& check) {
    if (!fs::exists(folder / name)) {
      return;
    }
    const std::size_t before = report.comparisons.size();
    check(io::read_json_file(folder / name));
    if (report.comparisons.size() == before) {
      report.not_compared.push_back(name + ": holds no cases");
    }
  };
  if_present("pairs.json", [&](const Json& pairs) {
    check_cases(tokenizer, pairs.at("pairs"), "pairs.json: ", report);
    if (pairs.at("pairs").empty()) {
      report.not_compared.push_back("pairs.json: holds no pairs");
    }
    check_special_ids(tokenizer, pairs, report);
  });
  if_present("options.json", [&](const Json& options) { check_options(folder, *family, options, report); });
  if_present("sp_options.json", [&](const Json& options) { check_switched_off(folder, *family, options, report); });
  if_present("decode.json", [&](const Json& cases) {
    for (const Json& one : cases) {
      compare_json(report, "decode.json: " + one.at("ids").dump(), one.at("decoded"),
                   tokenizer.decode(ids_of(one.at("ids"))));
    }
  });
  if_present("process_response.json", [&](const Json& cases) {
    for (const Json& one : cases) {
      compare_json(report, "process_response.json: " + one.at("raw").dump(), one.at("processed"),
                   tokenizer.clean_response(one.at("raw").get<std::string>()));
    }
  });
  if_present("build_inputs.json", [&](const Json& cases) {
    for (const Json& one : cases) {
      const TokenIds a = ids_of(one.at("a"));
      compare_json(
          report, "build_inputs.json: " + one.dump(), one.at("ids"),
          one.at("b").is_null() ? tokenizer.build_prompt(a).ids : tokenizer.build_pair(a, ids_of(one.at("b"))).ids);
    }
  });
  for (const auto& [kind, path] : files_like(folder, "processor_", ".json")) {
    check_processor(tokenizer, path, report);
  }
}

}  // namespace moelora::verify
