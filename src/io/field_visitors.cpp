#include "moelora/io/field_visitors.h"

#include <algorithm>

namespace moelora::io {
namespace {

using nlohmann::ordered_json;

std::string joined(const std::string& section, const std::string& key) {
  return section.empty() ? key : section + "." + key;
}

/// A list of numbers of 0 or more; a negative one is a problem.
bool read_value(JsonReader& reader, const std::string& key, std::vector<std::uint64_t>& value) {
  std::vector<std::int64_t> numbers;
  if (!reader.read(key, numbers)) {
    return false;
  }
  if (std::any_of(numbers.begin(), numbers.end(), [](std::int64_t number) { return number < 0; })) {
    reader.problem(key, "expected numbers of 0 or more");
    return false;
  }
  value.assign(numbers.begin(), numbers.end());
  return true;
}

template <typename Value>
bool read_value(JsonReader& reader, const std::string& key, Value& value) {
  return reader.read(key, value);
}

void add_comment(std::string& text, const std::string& indent, const std::string& meaning) {
  for (std::size_t begin = 0; begin < meaning.size();) {
    const std::size_t end = std::min(meaning.find('\n', begin), meaning.size());
    text += indent + "// " + meaning.substr(begin, end - begin) + "\n";
    begin = end + 1;
  }
}

/// The keys of a section that the configuration leaves out, as comments.
void add_absent_keys(std::string& text, const std::string& indent, const ordered_json& object,
                     const std::string& section, const FieldList& fields) {
  for (const auto& [path, field] : fields.all) {
    if (field.example != nullptr && path == joined(section, field.key) && !object.contains(field.key)) {
      add_comment(text, indent, field.meaning);
      text += indent + "// \"" + field.key + "\": " + field.example + ",\n";
    }
  }
}

void add_object(std::string& text, const ordered_json& object, const std::string& section, int depth,
                const FieldList& fields) {
  const std::string indent(static_cast<std::size_t>(2 * depth), ' ');
  text += "{\n";
  add_absent_keys(text, indent, object, section, fields);
  for (auto entry = object.begin(); entry != object.end(); ++entry) {
    const std::string path = joined(section, entry.key());
    if (const Field* field = fields.find(path); field != nullptr) {
      add_comment(text, indent, field->meaning);
    }
    text += indent + ordered_json(entry.key()).dump() + ": ";
    // The sections have a line for each key; what lies deeper (data.part, model.init) is one value.
    if (section.empty() && entry.value().is_object()) {
      add_object(text, entry.value(), path, depth + 1, fields);
    } else {
      text += entry.value().dump(-1, ' ', false, ordered_json::error_handler_t::replace);
    }
    text += std::next(entry) == object.end() ? "\n" : ",\n";
  }
  text += std::string(static_cast<std::size_t>(2 * (depth - 1)), ' ') + "}";
}

}  // namespace

FieldReader::FieldReader(JsonReader reader, const FieldList* names) : reader_(std::move(reader)), names_(names) {
  if (names_ == nullptr) {
    return;
  }
  for (const auto& [path, field] : names_->all) {
    for (const auto& [name, advice] : field.other_names) {
      ordered_json ignored;
      if (reader_.has(name) && reader_.read(name, ignored)) {
        reader_.problem(name, "unknown key; " + (advice != nullptr ? advice : "use " + path));
      }
    }
  }
}

bool FieldReader::visit(const Field& field, FieldValue value) {
  if (field.accepts_null && !reader_.has(field.key)) {
    ordered_json ignored;
    reader_.read(field.key, ignored);
    return false;
  }
  return std::visit([&](auto* place) { return read_value(reader_, field.key, *place); }, value);
}

void FieldReader::check(const Field& field, const std::string& problem) {
  if (!problem.empty()) {
    reader_.problem(field.key, problem);
  }
}

void FieldReader::section(const Field& field, const std::function<void(FieldVisitor&)>& inner) {
  FieldReader of_section(reader_.child(field.key), names_);
  inner(of_section);
}

bool FieldWriter::visit(const Field& field, FieldValue value) {
  if (field.written) {
    std::visit([&](auto* place) { json_[field.key] = *place; }, value);
    const auto* text = std::get_if<std::string*>(&value);
    if (field.empty_is_null && text != nullptr && (*text)->empty()) {
      json_[field.key] = nullptr;
    }
  }
  return false;
}

void FieldWriter::section(const Field& field, const std::function<void(FieldVisitor&)>& inner) {
  if (field.written) {
    FieldWriter of_section;
    inner(of_section);
    json_[field.key] = of_section.take();
  }
}

void FieldChecker::check(const Field& field, const std::string& problem) {
  if (!problem.empty()) {
    problems.emplace_back(joined(where_, field.key), problem);
  }
}

void FieldChecker::section(const Field& field, const std::function<void(FieldVisitor&)>& inner) {
  const std::string outer = where_;
  where_ = joined(where_, field.key);
  inner(*this);
  where_ = outer;
}

bool FieldList::visit(const Field& field, FieldValue) {
  all.emplace_back(joined(where_, field.key), field);
  return false;
}

void FieldList::section(const Field& field, const std::function<void(FieldVisitor&)>& inner) {
  const std::string outer = where_;
  all.emplace_back(joined(where_, field.key), field);
  where_ = joined(where_, field.key);
  inner(*this);
  where_ = outer;
}

const Field* FieldList::find(const std::string& path) const {
  const auto found = std::find_if(all.begin(), all.end(), [&](const auto& entry) { return entry.first == path; });
  return found == all.end() ? nullptr : &found->second;
}

std::string documented_json(const ordered_json& json, const FieldList& fields, const std::string& heading) {
  std::string text = heading;
  add_object(text, json, "", 1, fields);
  return text + "\n";
}

}  // namespace moelora::io
