#include "moelora/data/record.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "data/messages.h"
#include "data/record_fields.h"
#include "data/record_text.h"
#include "moelora/io/error.h"
#include "moelora/io/file_kind.h"
#include "moelora/io/json_file.h"
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
  if (!record.system.empty()) {
    hash_text(hash, "system");
    hash_text(hash, record.system);
  }
}

/// The task of a record by the first source that has one. Returns the source's place, or the number of sources.
std::size_t read_task(RecordFields& fields, const FieldMap& map, const std::filesystem::path& path, bool need_task,
                      std::string& task) {
  const auto take = map.is_own("task") ? RecordFields::Take::scalars : RecordFields::Take::strings;
  for (std::size_t place = 0; place < map.task.size(); ++place) {
    const TaskSource& source = map.task[place];
    if (source.kind == TaskSource::Kind::field) {
      if (map.task.size() == 1 || fields.find(source.text)) {
        const bool legacy = !need_task && map.is_default();  // a number as a task is taken where none is needed
        task = fields.string(source.text, need_task ? RecordFields::Need::filled : RecordFields::Need::none,
                             legacy ? RecordFields::Take::ids : take);
        return place;
      }
    } else if (need_task || map.task.size() == 1) {  // where none is needed, what stands in for one is none
      task = map.fallback_task(path);
      return place;
    }
  }
  if (need_task) {
    fields.missing(map.task.front().text);
  }
  return map.task.size();
}

/// Which of the fields that a mapping names itself were found in some record: all must be, but those that it calls
/// optional, which are told of.
class NamedFields {
 public:
  explicit NamedFields(const FieldMap& map) {
    for (const auto& [key, name] : {std::pair("choices", &map.choices), std::pair("history", &map.history),
                                    std::pair("system", &map.system), std::pair("id", &map.id)}) {
      if (map.is_own(key)) {
        missing_.emplace_back(key, *name);
      }
    }
    for (const auto& [key, filled] : {std::pair("prompt", &map.prompt), std::pair("answer", &map.answer)}) {
      for (const TextTemplate::Field& field : filled->fields()) {
        if (map.is_own(key) && field.optional) {
          optional_missing_.emplace_back(key, field.name);
        }
      }
    }
    for (const TaskSource& source : map.task) {
      if (map.is_own("task") && map.task.size() > 1 && source.kind == TaskSource::Kind::field) {
        task_missing_.emplace_back("task", source.text);
      }
    }
  }
  void see(const RecordFields& fields) {
    for (auto* missing : {&missing_, &optional_missing_}) {
      std::erase_if(*missing, [&](const auto& one) { return fields.find(one.second).has_value(); });
    }
    if (std::any_of(task_missing_.begin(), task_missing_.end(),
                    [&](const Named& one) { return fields.find(one.second).has_value(); })) {
      task_missing_.clear();  // one source of several is enough
    }
  }
  void check(const std::filesystem::path& path) const {
    MOELORA_CHECK(missing_.empty(), path.string(), ": ", said_of(missing_.front()),
                  "; name another one, or leave it out");
  }
  std::vector<std::string> warnings() const {
    std::vector<std::string> all;
    for (const auto* missing : {&optional_missing_, &task_missing_}) {
      for (const Named& one : *missing) {
        all.push_back(said_of(one));
      }
    }
    return all;
  }

 private:
  using Named = std::pair<std::string, std::string>;  // key of the mapping, field
  static std::string said_of(const Named& one) {
    return "no record has the field \"" + one.second + "\" that \"" + one.first + "\" of the fields names";
  }

  std::vector<Named> missing_;
  std::vector<Named> optional_missing_;
  std::vector<Named> task_missing_;
};

/// Throws JsonFault.
Record parse_record(RecordFields& fields, const std::filesystem::path& path, const ReadOptions& options,
                    std::int64_t& fallback_tasks) {
  using Need = RecordFields::Need;
  using Take = RecordFields::Take;
  const FieldMap& map = options.fields;
  const auto take = [&](const char* key) { return map.is_own(key) ? Take::scalars : Take::strings; };
  Record record;
  if (!map.system.empty()) {
    record.system = fields.string(map.system, Need::none, take("system"));
  }
  if (map.messages) {
    read_conversation(fields, *map.messages, options.need_target && map.prediction.empty(), record);
  } else {
    record.input = fields.filled(map.prompt, "prompt", true, take("prompt"));
  }
  if (!map.prediction.empty()) {
    record.target = fields.string(map.prediction, Need::present, Take::strings);
  } else if (!map.messages) {
    // A number as an answer is taken where none is needed.
    record.target = fields.filled(map.answer, "answer", options.need_target,
                                  options.need_target || map.is_own("answer") ? take("answer") : Take::ids);
  }
  if (const std::size_t source = read_task(fields, map, path, options.need_task, record.task);
      source > 0 && source < map.task.size()) {
    ++fallback_tasks;
  }
  if (!map.type.empty()) {
    record.task_type = fields.string(map.type, Need::none, Take::ids);
  }
  if (!map.id.empty()) {
    record.sample_id = fields.string(map.id, Need::none, Take::ids);
  }
  if (!map.choices.empty()) {
    record.answer_choices = fields.strings(map.choices, take("choices"));
  }
  if (!map.history.empty()) {
    record.history = fields.rounds(map.history);
  }
  fields.check(record.sample_id, map);
  return record;
}

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
  NamedFields named(options.fields);
  const std::string expected = "expected JSON with " + options.fields.needed();
  const auto problem = [&](const JsonFault& fault) {
    file.problems.push_back(
        detail::concat(path.string(), ":", places.place(fault.at), ": ", fault.what, " (record ", number, ")"));
    MOELORA_CHECK(static_cast<std::int64_t>(file.problems.size()) <= options.max_problems, path.string(),
                  ": more than ", options.max_problems, " bad records; the first: ", file.problems.front(), "; ",
                  expected, what_it_is(file, text));
  };
  RecordTextVisitor visitor;
  visitor.fault = [&](const JsonFault& fault) {
    ++number;
    problem({fault.at, "broken JSON: " + fault.what});
  };
  visitor.value = [&](std::size_t begin, const JsonExtent& extent) {
    ++number;
    try {
      if (text[begin] != '{') {
        throw JsonFault{begin, std::string("expected an object, found ") + type_of_value(text[begin])};
      }
      RecordFields fields(text, begin, extent.members);
      named.see(fields);
      Record record = parse_record(fields, path, options, file.fallback_tasks);
      record.line = static_cast<std::int64_t>(places.line(begin));
      record.number = number;
      if (options.keep_original && !options.fields.is_default()) {
        record.original = std::make_shared<const std::string>(text.substr(begin, extent.end - begin));
      }
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
                                      : "; the first problem: " + file.problems[0] + "; " + expected,
                what_it_is(file, text));
  named.check(path);
  file.warnings = named.warnings();
  return file;
}

std::string data_hash(const std::vector<Record>& records) {
  io::Sha256 hash;
  for (const Record& record : records) {
    hash_record(hash, record);
    if (record.weight != 1.0) {
      hash.update(&record.weight, sizeof record.weight);
    }
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
