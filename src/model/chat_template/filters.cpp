#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <string_view>

#include "model/chat_template/nodes.h"
#include "moelora/io/error.h"

namespace moelora::model::jinja {
namespace {

const std::set<std::string> kFilters{"abs",    "capitalize", "count",  "d",          "default", "first",   "float",
                                     "indent", "int",        "items",  "join",       "last",    "length",  "list",
                                     "lower",  "map",        "reject", "rejectattr", "replace", "reverse", "safe",
                                     "select", "selectattr", "string", "title",      "tojson",  "trim",    "upper"};
const std::set<std::string> kTests{"boolean", "defined", "divisibleby", "eq",       "equalto", "even",     "false",
                                   "float",   "in",      "integer",     "iterable", "mapping", "ne",       "none",
                                   "number",  "odd",     "sequence",    "string",   "true",    "undefined"};

std::string text_argument(const Value& given, const std::string& otherwise, Run& run) {
  if (given == nullptr) return otherwise;
  if (!given->is_string()) run.fail(detail::concat("expected a string as an argument, found ", type_of(given)));
  return given->get<std::string>();
}

std::int64_t whole_argument(const Value& given, std::int64_t otherwise, Run& run) {
  if (given == nullptr) return otherwise;
  if (!given->is_number_integer()) run.fail(detail::concat("expected a number as an argument, found ", type_of(given)));
  return given->get<std::int64_t>();
}

Value length_of(const Value& value_of, Run& run) {
  if (value_of == nullptr) return value(0);
  if (value_of->is_string()) return value(characters(value_of->get_ref<const std::string&>()).size());
  if (!value_of->is_structured()) run.fail(detail::concat("the length of ", type_of(value_of)));
  return value(value_of->size());
}

Value listed(const std::vector<Value>& items, Run& run) {
  Json list = Json::array();
  run.spend(16 * items.size());
  for (const Value& item : items) {
    if (item == nullptr) run.fail("an undefined value in a list");
    if (item->is_structured() || item->is_string()) run.spend(item->is_string() ? text_of(item).size() : 256);
    list.push_back(*item);
  }
  return value(std::move(list));
}

/// An attribute of an item; dots lead to attributes of attributes.
Value attribute_of(Value item, const Value& attribute, Run& run) {
  if (attribute == nullptr || !attribute->is_string()) return item_of(item, attribute, run);
  const std::string path = text_of(attribute);
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    if (item == nullptr) return nullptr;
    item = item_of(item, value(path.substr(begin, end - begin)), run);
    begin = end + 1;
  }
  return item;
}

Value joined(const Value& list, const Given& given, Run& run) {
  const std::string between = text_argument(given.at(0, "d"), "", run);
  const Value attribute = given.at(1, "attribute");
  std::string text;
  for (const Value& item : items_of(list, run)) {
    const std::string one = text_of(attribute == nullptr ? item : attribute_of(item, attribute, run));
    run.spend(one.size() + between.size());
    text += one + between;
  }
  text.resize(text.size() - (text.empty() ? 0 : between.size()));
  return value(std::move(text));
}

/// select, reject, selectattr, rejectattr: those of which a test holds (or does not).
Value chosen(const std::string& name, const Value& list, const Given& given, Run& run) {
  const bool by_attribute = name.ends_with("attr"), keep = name.starts_with("select");
  std::size_t used = 0;
  const Value attribute = by_attribute ? given.at(used++) : nullptr;
  if (by_attribute && attribute == nullptr) run.fail("the filter " + name + " without an attribute");
  const Value test = given.at(used++);
  Given rest;
  for (std::size_t i = used; i < given.positional.size(); ++i) rest.positional.push_back(given.positional[i]);
  const std::string test_name = text_argument(test, "", run);
  if (test != nullptr && !is_test(test_name)) run.fail("the test " + test_name + ", which is not supported");
  std::vector<Value> kept;
  for (const Value& item : items_of(list, run)) {
    const Value looked_at = by_attribute ? attribute_of(item, attribute, run) : item;
    if ((test == nullptr ? is_true(looked_at) : run_test(test_name, looked_at, rest, run)) == keep)
      kept.push_back(item);
  }
  return listed(kept, run);
}

Value mapped(const Value& list, const Given& given, Run& run) {
  const Value attribute = given.at(99, "attribute"), otherwise = given.at(99, "default");
  const std::string filter = attribute != nullptr ? "" : text_argument(given.at(0), "", run);
  if (attribute == nullptr && !is_filter(filter)) run.fail("map with '" + filter + "', which is not supported");
  Given rest;
  for (std::size_t i = 1; i < given.positional.size(); ++i) rest.positional.push_back(given.positional[i]);
  std::vector<Value> results;
  for (const Value& item : items_of(list, run)) {
    Value one = attribute != nullptr ? attribute_of(item, attribute, run) : run_filter(filter, item, rest, run);
    results.push_back(one == nullptr && otherwise != nullptr ? otherwise : one);
  }
  return listed(results, run);
}

/// All of a text without blanks around it as a number; nothing for another text.
template <typename Number>
std::optional<Number> number_of(std::string_view text) {
  text = stripped(text, "", true, true);
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  Number number{};
  const auto [rest, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  return failure == std::errc() && rest == text.data() + text.size() ? std::optional(number) : std::nullopt;
}

/// As Jinja's: int of a text that only a real number is, is that number without its fraction; what is no number is the
/// default, or 0.
Value converted(const std::string& name, const Value& given, const Given& arguments, Run& run) {
  const auto without_fraction = [](double number) -> Value {
    return number > -9e15 && number < 9e15 ? value(static_cast<std::int64_t>(number)) : nullptr;
  };
  if (arguments.at(1, "base") != nullptr) run.fail("the filter int with a base");
  if (given != nullptr && given->is_number()) {
    const double number = given->get<double>();
    if (name == "float") return value(number);
    if (given->is_number_integer()) return given;
    if (Value whole = without_fraction(number)) return whole;
  } else if (given != nullptr && given->is_boolean()) {
    return name == "float" ? value(given->get<bool>() ? 1.0 : 0.0) : value(given->get<bool>() ? 1 : 0);
  } else if (given != nullptr && given->is_string()) {
    const auto& text = given->get_ref<const std::string&>();
    const auto whole = number_of<std::int64_t>(text);
    const auto real = number_of<double>(text);
    if (name == "int" && whole) return value(*whole);
    if (name == "float" && real) return value(*real);
    if (Value cut = name == "int" && real ? without_fraction(*real) : nullptr) return cut;
    const Value otherwise = arguments.at(0, "default");
    return otherwise != nullptr ? otherwise : name == "float" ? value(0.0) : value(0);
  }
  run.fail(detail::concat("the filter ", name, " of ", type_of(given)));
}

Value indented(const Value& given, const Given& arguments, Run& run) {
  const std::string blanks(
      static_cast<std::size_t>(std::clamp<std::int64_t>(whole_argument(arguments.at(0, "width"), 4, run), 0, 1000)),
      ' ');
  std::string result = is_true(arguments.at(1, "first")) ? blanks : "";
  const bool also_empty = is_true(arguments.at(2, "blank"));
  const std::string text = text_of(given);
  run.spend(text.size() * (1 + blanks.size()));
  for (std::size_t i = 0; i < text.size(); ++i) {
    result += text[i];
    if (text[i] == '\n' && i + 1 < text.size() && (also_empty || text[i + 1] != '\n')) result += blanks;
  }
  return value(std::move(result));
}

}  // namespace

bool is_filter(const std::string& name) { return kFilters.contains(name); }
bool is_test(const std::string& name) { return kTests.contains(name); }

Value run_filter(const std::string& name, const Value& given, const Given& arguments, Run& run) {
  run.step();
  if (name == "default" || name == "d") {
    const bool replace = given == nullptr || (is_true(arguments.at(1, "boolean")) && !is_true(given));
    const Value otherwise = arguments.at(0, "default_value");
    return !replace ? given : otherwise != nullptr ? otherwise : value("");
  }
  if (name == "length" || name == "count") return length_of(given, run);
  if (name == "tojson") {
    if (given == nullptr) run.fail("tojson of an undefined value");
    for (const auto& [key, argument] : arguments.named) {
      if (key != "indent" && key != "ensure_ascii") run.fail("tojson with " + key + ", which is not supported");
    }
    if (is_true(arguments.at(99, "ensure_ascii"))) run.fail("tojson with ensure_ascii, which is not supported");
    const Value indent = arguments.at(1, "indent");
    const bool one_line = indent == nullptr || indent->is_null();
    return run.text(json_text(
        *given, one_line ? -1 : static_cast<int>(std::clamp<std::int64_t>(whole_argument(indent, 0, run), 0, 100))));
  }
  if (name == "string" || name == "safe") return run.text(text_of(given));
  if (name == "trim") {
    return run.text(
        std::string(stripped(text_of(given), text_argument(arguments.at(0, "chars"), "", run), true, true)));
  }
  if (name == "upper" || name == "lower" || name == "title" || name == "capitalize") {
    return run_method(name, run.text(text_of(given)), {}, run);
  }
  if (name == "replace") return run_method(name, run.text(text_of(given)), arguments, run);
  if (name == "items") {
    return given == nullptr ? value(Json::array()) : run_method(name, given, {}, run);
  }
  if (name == "join") return joined(given, arguments, run);
  if (name == "first" || name == "last") {
    const std::vector<Value> items = items_of(given, run);
    return items.empty() ? nullptr : name == "first" ? items.front() : items.back();
  }
  if (name == "list") return listed(items_of(given, run), run);
  if (name == "reverse") {
    std::vector<Value> items = items_of(given, run);
    std::reverse(items.begin(), items.end());
    if (given == nullptr || !given->is_string()) return listed(items, run);
    std::string text;
    for (const Value& item : items) text += text_of(item);
    return run.text(std::move(text));
  }
  if (name == "map") return mapped(given, arguments, run);
  if (name == "int" || name == "float") return converted(name, given, arguments, run);
  if (name == "indent") return indented(given, arguments, run);
  if (name == "abs") {
    if (given == nullptr || !given->is_number()) run.fail(detail::concat("abs of ", type_of(given)));
    return given->get<double>() >= 0 ? given : run_operator("-", value(0), given, run);
  }
  return chosen(name, given, arguments, run);
}

bool run_test(const std::string& name, const Value& given, const Given& arguments, Run& run) {
  run.step();
  const bool known = given != nullptr;
  if (name == "defined") return known;
  if (name == "undefined") return !known;
  if (name == "none") return known && given->is_null();
  if (name == "string") return known && given->is_string();
  if (name == "boolean") return known && given->is_boolean();
  if (name == "true" || name == "false") return known && given->is_boolean() && given->get<bool>() == (name == "true");
  if (name == "integer") return known && given->is_number_integer();
  if (name == "float") return known && given->is_number_float();
  if (name == "number") return known && (given->is_number() || given->is_boolean());
  if (name == "mapping") return known && given->is_object();
  if (name == "iterable" || name == "sequence") return !known || given->is_structured() || given->is_string();
  if (name == "odd" || name == "even" || name == "divisibleby") {
    const Value by = name == "divisibleby" ? arguments.at(0, "num") : value(2);
    return equal(run_operator("%", given, by, run), value(name == "odd" ? 1 : 0));
  }
  const Value other = arguments.at(0);
  if (name == "in") return contains(other, given, run);
  return equal(given, other) == (name != "ne");
}

}  // namespace moelora::model::jinja
