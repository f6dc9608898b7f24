#include <algorithm>
#include <set>

#include "model/chat_template/nodes.h"
#include "model/tokenizers/unicode_text.h"
#include "moelora/io/error.h"

namespace moelora::model::jinja {
namespace {

const std::set<std::string> kMethods{"capitalize",   "endswith",     "find",   "get",     "isdigit", "items",
                                     "keys",         "lower",        "lstrip", "replace", "rstrip",  "split",
                                     "splitlines",   "startswith",   "strip",  "title",   "upper",   "values",
                                     "removeprefix", "removesuffix", "rsplit", "join"};
const std::set<std::string> kFunctions{"dict", "namespace", "raise_exception", "range", "strftime_now"};

/// ASCII letters only: other alphabets' cases are refused rather than guessed.
std::string in_case(const std::string& name, const std::string& text, Run& run) {
  if (name == "lower") return tokenizers::lowercased(text);
  std::string result;
  bool in_word = false;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x80) run.fail(name + " of letters beyond ASCII, which is not supported");
    const bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool up = name == "upper" || (name == "title" && !in_word) || (name == "capitalize" && result.empty());
    result += !is_letter ? c : static_cast<char>(up ? c & ~0x20 : c | 0x20);
    in_word = is_letter;
  }
  return result;
}

std::string text_at(const Given& given, std::size_t position, const std::string& method, Run& run) {
  const Value argument = given.at(position);
  if (argument == nullptr || !argument->is_string()) {
    run.fail(detail::concat("expected a string in ", method, "(), found ", type_of(argument)));
  }
  return argument->get<std::string>();
}

std::int64_t count_at(const Given& given, std::size_t position, const std::string& name, Run& run) {
  const Value argument = given.at(position, name);
  if (argument != nullptr && !argument->is_number_integer()) {
    run.fail(detail::concat("expected a number for ", name, ", found ", type_of(argument)));
  }
  return argument == nullptr ? -1 : argument->get<std::int64_t>();
}

Json split(const std::string& text, const Given& given, bool from_right, Run& run) {
  const std::int64_t most = count_at(given, 1, "maxsplit", run);
  const Value separator = given.at(0, "sep");
  Json parts = Json::array();
  run.spend(64 + 2 * text.size());
  if (separator == nullptr || separator->is_null()) {  // at blanks
    if (most >= 0) run.fail("split at blanks with maxsplit, which is not supported");
    std::string_view rest = stripped(text, "", true, true);
    while (!rest.empty()) {
      std::size_t length = 0;
      while (length < rest.size() && stripped(rest.substr(length), "", true, false).size() == rest.size() - length) {
        ++length;
        while (length < rest.size() && (static_cast<unsigned char>(rest[length]) & 0xC0) == 0x80) ++length;
      }
      parts.push_back(std::string(rest.substr(0, length)));
      rest = stripped(rest.substr(length), "", true, false);
    }
    return parts;
  }
  const std::string at = separator->is_string() ? separator->get<std::string>() : "";
  if (at.empty()) run.fail("split at an empty string");
  std::string_view rest = text;
  std::vector<std::string> found;
  for (std::int64_t done = 0; most < 0 || done < most; ++done) {
    const std::size_t place = from_right ? rest.rfind(at) : rest.find(at);
    if (place == rest.npos) break;
    run.step();
    found.emplace_back(from_right ? rest.substr(place + at.size()) : rest.substr(0, place));
    rest = from_right ? rest.substr(0, place) : rest.substr(place + at.size());
  }
  found.emplace_back(rest);
  if (from_right) std::reverse(found.begin(), found.end());
  for (std::string& part : found) parts.push_back(std::move(part));
  return parts;
}

std::string replaced(const std::string& text, const Given& given, Run& run) {
  const std::string from = text_at(given, 0, "replace", run), to = text_at(given, 1, "replace", run);
  std::int64_t left = count_at(given, 2, "count", run);
  if (from.empty()) run.fail("replace of an empty string, which is not supported");
  std::string result;
  std::size_t at = 0;
  for (std::size_t found; left-- != 0 && (found = text.find(from, at)) != text.npos; at = found + from.size()) {
    run.spend(found - at + to.size());
    result.append(text, at, found - at);
    result += to;
  }
  return result.append(text, at);
}

Value of_text(const std::string& name, const Value& object, const Given& given, Run& run) {
  const auto& text = object->get_ref<const std::string&>();
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const Value among = given.at(0);
    const bool blanks = among == nullptr || among->is_null();
    const std::string set = blanks ? "" : text_at(given, 0, name, run);
    if (!blanks && set.empty()) return object;
    return run.text(std::string(stripped(text, set, name != "rstrip", name != "lstrip")));
  }
  if (name == "startswith" || name == "endswith") {
    const Value wanted = given.at(0);
    const std::vector<Value> any =
        wanted != nullptr && wanted->is_array() ? items_of(wanted, run) : std::vector{wanted};
    return value(std::any_of(any.begin(), any.end(), [&](const Value& one) {
      if (one == nullptr || !one->is_string()) run.fail(detail::concat(name, "() of ", type_of(one)));
      const auto& end = one->get_ref<const std::string&>();
      return name == "startswith" ? text.starts_with(end) : text.ends_with(end);
    }));
  }
  if (name == "upper" || name == "lower" || name == "title" || name == "capitalize") {
    return run.text(in_case(name, text, run));
  }
  if (name == "split" || name == "rsplit") return value(split(text, given, name == "rsplit", run));
  if (name == "splitlines") {
    Json lines = Json::array();
    run.spend(64 + 2 * text.size());
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = std::min(text.find('\n', at), text.size());
      lines.push_back(text.substr(at, end - at));
      at = end + 1;
    }
    return value(std::move(lines));
  }
  if (name == "replace") return run.text(replaced(text, given, run));
  if (name == "removeprefix" || name == "removesuffix") {
    const std::string part = text_at(given, 0, name, run);
    if (name == "removeprefix") return run.text(text.starts_with(part) ? text.substr(part.size()) : text);
    return run.text(text.ends_with(part) ? text.substr(0, text.size() - part.size()) : text);
  }
  if (name == "find") {
    const std::size_t at = text.find(text_at(given, 0, name, run));
    return value(at == text.npos ? std::int64_t{-1}
                                 : static_cast<std::int64_t>(characters(std::string_view(text).substr(0, at)).size()));
  }
  if (name == "isdigit") {
    return value(!text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; }));
  }
  if (name == "join") {
    Given with;
    with.positional.push_back(object);
    return run_filter("join", given.at(0), with, run);
  }
  run.fail("." + name + "() of a string");
}

Value of_mapping(const std::string& name, const Value& object, const Given& given, Run& run) {
  if (name == "get") {
    const Value key = given.at(0), found = key == nullptr ? nullptr : item_of(object, key, run);
    if (found != nullptr) return found;
    return given.positional.size() > 1 ? given.at(1) : value(nullptr);
  }
  if (name != "items" && name != "keys" && name != "values") run.fail("." + name + "() of a mapping");
  Json list = Json::array();
  for (const auto& [key, item] : object->items()) {
    run.spend(64 + key.size() +
              (name == "keys"     ? 0
               : item.is_string() ? item.get_ref<const std::string&>().size()
                                  : 256));
    list.push_back(name == "items" ? Json::array({key, item}) : name == "keys" ? Json(key) : item);
  }
  return value(std::move(list));
}

}  // namespace

bool is_method(const std::string& name) { return kMethods.contains(name); }
bool is_function(const std::string& name) { return kFunctions.contains(name); }

Value run_method(const std::string& name, const Value& object, const Given& given, Run& run) {
  run.step();
  if (object != nullptr && object->is_string()) return of_text(name, object, given, run);
  if (object != nullptr && object->is_object()) return of_mapping(name, object, given, run);
  run.fail(detail::concat(".", name, "() of ", type_of(object)));
}

Value run_function(const std::string& name, const Given& given, Run& run) {
  run.step();
  if (name == "raise_exception") {
    run.fail("the template refuses the conversation: " + text_of(given.at(0)));
  }
  if (name == "range") {
    std::vector<std::int64_t> numbers;
    for (const Value& argument : given.positional) {
      if (argument == nullptr || !argument->is_number_integer()) {
        run.fail(detail::concat("range of ", type_of(argument)));
      }
      numbers.push_back(argument->get<std::int64_t>());
    }
    if (numbers.empty() || numbers.size() > 3) run.fail("range without one to three numbers");
    const std::int64_t begin = numbers.size() == 1 ? 0 : numbers[0],
                       end = numbers.size() == 1 ? numbers[0] : numbers[1];
    const std::int64_t by = numbers.size() == 3 ? numbers[2] : 1;
    if (by == 0) run.fail("range in steps of 0");
    constexpr std::int64_t kMost = 100000;  // as Jinja's sandbox
    Json list = Json::array();
    for (std::int64_t i = begin; by > 0 ? i < end : i > end;) {
      if (static_cast<std::int64_t>(list.size()) == kMost) run.fail("range of more than 100000 numbers");
      run.step();
      list.push_back(i);
      if (__builtin_add_overflow(i, by, &i)) break;
    }
    return value(std::move(list));
  }
  if (name == "dict" || name == "namespace") {
    if (!given.positional.empty()) run.fail(name + " of positional arguments, which is not supported");
    Json made = Json::object();
    for (const auto& [key, item] : given.named) {
      run.spend(64 + text_of(item).size());
      made[key] = item == nullptr ? Json() : *item;
    }
    return value(std::move(made));
  }
  run.fail(name + "(): the date is not given to templates, because no run could be repeated");
}

}  // namespace moelora::model::jinja
