#include "moelora/data/record.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>
#include <utility>

#include "data/record_text.h"
#include "moelora/io/error.h"
#include "moelora/io/file_kind.h"
#include "moelora/io/json_file.h"
#include "moelora/io/json_text.h"
#include "moelora/io/sha256.h"
#include "moelora/io/utf8.h"

namespace moelora::data {
namespace {

/// The fields that two equal records share, each with its length in front, so that no two different ones collide.
void hash_text(io::Sha256& hash, const std::string& text) {
  const std::uint64_t size = text.size();
  hash.update(&size, sizeof size).update(text);
}

void hash_record(io::Sha256& hash, const Record& record) {
  for (const std::string* part : {&record.input, &record.target, &record.task}) {
    hash_text(hash, *part);
  }
  for (const auto& [question, answer] : record.history) {
    hash_text(hash, question);
    hash_text(hash, answer);
  }
}

using nlohmann::json;

/// The name of a member of an object, its escapes resolved.
std::string key_of(const JsonExtent::Member& member) {
  const bool plain = member.key.find('\\') == std::string_view::npos;
  return plain ? std::string(member.key) : json::parse("\"" + std::string(member.key) + "\"").get<std::string>();
}

/// What kind of JSON value begins with this character.
const char* type_of_value(char first) {
  switch (first) {
    case '{':
      return "object";
    case '[':
      return "array";
    case '"':
      return "string";
    case 't':
    case 'f':
      return "boolean";
    case 'n':
      return "null";
    default:
      return "number";
  }
}

/// Reads one record's fields and keeps all that is wrong with them, with its place in the text. Only the fields that a
/// record has are built: what else a file carries costs nothing.
class RecordFields {
 public:
  RecordFields(std::string_view text, std::size_t begin, const std::vector<JsonExtent::Member>& members)
      : text_(text), begin_(begin), members_(members) {}

  std::string string(const char* key, bool required) {
    const std::optional<json> found = find(key);
    if (!found) {
      if (required) {
        missing_.push_back(key);
      }
      return {};
    }
    if (!required && found->is_number()) {  // sample ids of some files are numbers
      return found->dump();
    }
    if (!found->is_string()) {
      problem(key, detail::concat("expected a string as \"", key, "\", found ", found->type_name()));
      return {};
    }
    if (required && found->get_ref<const std::string&>().empty()) {
      problem(key, detail::concat("\"", key, "\" is empty"));
    }
    return found->get<std::string>();
  }

  std::vector<std::string> strings(const char* key) {
    const std::optional<json> found = find(key);
    if (!found) {
      return {};
    }
    if (!found->is_array() ||
        !std::all_of(found->begin(), found->end(), [](const json& one) { return one.is_string(); })) {
      problem(key, detail::concat("expected a list of strings or null as \"", key, "\", found ", found->type_name()));
      return {};
    }
    return found->get<std::vector<std::string>>();
  }

  std::vector<std::pair<std::string, std::string>> rounds(const char* key) {
    const std::optional<json> found = find(key);
    const auto is_round = [](const json& one) {
      return one.is_array() && one.size() == 2 && one[0].is_string() && one[1].is_string();
    };
    std::vector<std::pair<std::string, std::string>> rounds;
    if (!found) {
      return rounds;
    }
    if (!found->is_array() || !std::all_of(found->begin(), found->end(), is_round)) {
      problem(key, detail::concat("expected a list of [question, answer] pairs as \"", key, "\", found ",
                                  io::shortened(found->dump(), 80)));
      return rounds;
    }
    for (const json& round : *found) {
      rounds.emplace_back(round[0].get<std::string>(), round[1].get<std::string>());
    }
    return rounds;
  }

  /// All problems as one fault. Throws nothing if there are none.
  void check(const std::string& sample_id) {
    std::string text;
    if (!missing_.empty()) {
      text = missing_.size() == 1 ? "the field " : "the fields ";
      for (std::size_t i = 0; i < missing_.size(); ++i) {
        text += (i == 0 ? "\"" : i + 1 == missing_.size() ? " and \"" : ", \"") + missing_[i] + "\"";
      }
      text += (missing_.size() == 1 ? " is missing; found " : " are missing; found ") + found_fields();
    }
    for (const JsonFault& one : problems_) {
      text += (text.empty() ? "" : "; ") + one.what;
    }
    if (text.empty()) {
      return;
    }
    if (!sample_id.empty()) {
      text += " (sample_id " + io::shortened(sample_id, 60) + ")";
    }
    throw JsonFault{missing_.empty() ? problems_.front().at : begin_, text};
  }

 private:
  const JsonExtent::Member* member_of(const char* key) const {
    const auto member = std::find_if(members_.begin(), members_.end(), [&](const auto& one) {
      return one.key == key || (one.key.find('\\') != std::string_view::npos && key_of(one) == key);
    });
    return member == members_.end() ? nullptr : &*member;
  }

  /// Nothing if it is absent or null.
  std::optional<json> find(const char* key) const {
    const JsonExtent::Member* member = member_of(key);
    if (member == nullptr || text_[member->value] == 'n') {
      return std::nullopt;
    }
    try {
      return json::parse(text_.substr(member->value, member->value_end - member->value));
    } catch (const json::exception& error) {  // a number that no type holds
      throw JsonFault{member->value, "broken JSON: " + io::plain_json_message(error.what())};
    }
  }

  void problem(const char* key, std::string text) { problems_.push_back({member_of(key)->value, std::move(text)}); }

  std::string found_fields() const {
    constexpr std::size_t kMost = 12;
    std::string text;
    for (std::size_t i = 0; i < members_.size() && i < kMost; ++i) {
      text += (i == 0 ? "\"" : ", \"") + io::shortened(members_[i].key, 40) + "\"";
      const std::string type = type_of_value(text_[members_[i].value]);
      text += type == "string" ? "" : " (" + type + ")";
    }
    if (members_.size() > kMost) {
      text += detail::concat(" and ", members_.size() - kMost, " more");
    }
    return text.empty() ? "no fields" : text;
  }

  std::string_view text_;
  std::size_t begin_;
  const std::vector<JsonExtent::Member>& members_;  // in the order of the text
  std::vector<std::string> missing_;
  std::vector<JsonFault> problems_;
};

/// Throws JsonFault.
Record parse_record(std::string_view text, std::size_t begin, const JsonExtent& extent, const ReadOptions& options) {
  if (text[begin] != '{') {
    throw JsonFault{begin, std::string("expected an object, found ") + type_of_value(text[begin])};
  }
  RecordFields fields(text, begin, extent.members);
  Record record;
  record.input = fields.string("input", true);
  record.target = fields.string("target", options.need_target);
  record.task = fields.string("task_dataset", options.need_task);
  record.task_type = fields.string("task_type", false);
  record.sample_id = fields.string("sample_id", false);
  record.answer_choices = fields.strings("answer_choices");
  record.history = fields.rounds("history");
  fields.check(record.sample_id);
  return record;
}

constexpr const char* kExpected = "expected JSON with \"input\", \"target\" and \"task_dataset\"";

/// Said where no record could be read at all.
std::string what_it_is(const RecordFile& file, std::string_view text) {
  const std::string kind = file.records.empty() ? io::kind_of_file(text) : "";
  return kind.empty() ? "" : "; this is " + kind;
}

std::string text_of_records(const std::filesystem::path& path) {
  std::error_code unknown;
  MOELORA_CHECK(std::filesystem::status(path, unknown).type() != std::filesystem::file_type::not_found,
                "cannot read the records in ", path.string(),
                ": no such file; give a file of JSON lines or a JSON array");
  return io::to_utf8(io::read_text_file(path), path.string());
}

}  // namespace

RecordFile read_records(const std::filesystem::path& path, const ReadOptions& options) {
  const std::string text = text_of_records(path);
  const TextPlaces places(text);
  RecordFile file;
  std::unordered_set<std::string> seen;
  std::int64_t number = 0;
  const auto problem = [&](const JsonFault& fault) {
    file.problems.push_back(
        detail::concat(path.string(), ":", places.place(fault.at), ": ", fault.what, " (record ", number, ")"));
    MOELORA_CHECK(static_cast<std::int64_t>(file.problems.size()) <= options.max_problems, path.string(),
                  ": more than ", options.max_problems, " bad records; the first: ", file.problems.front(), "; ",
                  kExpected, what_it_is(file, text));
  };
  RecordTextVisitor visitor;
  visitor.fault = [&](const JsonFault& fault) {
    ++number;
    problem({fault.at, "broken JSON: " + fault.what});
  };
  visitor.value = [&](std::size_t begin, const JsonExtent& extent) {
    ++number;
    try {
      Record record = parse_record(text, begin, extent, options);
      record.line = static_cast<std::int64_t>(places.line(begin));
      record.number = number;
      if (options.deduplicate) {
        io::Sha256 hash;
        hash_record(hash, record);
        if (!seen.insert(hash.hex()).second) {
          ++file.duplicates;
          return;
        }
      }
      file.records.push_back(std::move(record));
    } catch (const JsonFault& fault) {
      problem(fault);
    }
  };
  visit_record_text(text, path.string(), places, visitor);
  MOELORA_CHECK(!file.records.empty(), path.string(), ": not a single good record",
                file.problems.empty() ? std::string(" (the file is empty)")
                                      : "; the first problem: " + file.problems[0] + "; " + kExpected,
                what_it_is(file, text));
  return file;
}

std::string data_hash(const std::vector<Record>& records) {
  io::Sha256 hash;
  for (const Record& record : records) {
    hash_record(hash, record);
  }
  return hash.hex();
}

std::vector<std::string> task_names_of(const std::vector<Record>& records) {
  std::vector<std::string> names;
  std::unordered_set<std::string> seen;
  for (const Record& record : records) {
    if (seen.insert(record.task).second) {
      names.push_back(record.task);
    }
  }
  return names;
}

}  // namespace moelora::data
