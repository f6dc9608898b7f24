#include <algorithm>
#include <cmath>

#include "model/chat_template/nodes.h"
#include "moelora/io/error.h"

namespace moelora::model::jinja {
namespace {

bool is_text(const Value& value) { return value != nullptr && value->is_string(); }
bool is_number(const Value& value) { return value != nullptr && (value->is_number() || value->is_boolean()); }
bool is_whole(const Value& value) { return is_number(value) && !value->is_number_float(); }
std::int64_t whole(const Value& value) {
  return value->is_boolean() ? (value->get<bool>() ? 1 : 0) : value->get<std::int64_t>();
}
double real(const Value& value) {
  return value->is_number_float() ? value->get<double>() : static_cast<double>(whole(value));
}

Value whole_operator(char sign, std::int64_t a, std::int64_t b, Run& run) {
  std::int64_t result = 0;
  bool overflow = false;
  if (sign == '+') overflow = __builtin_add_overflow(a, b, &result);
  if (sign == '-') overflow = __builtin_sub_overflow(a, b, &result);
  if (sign == '*') overflow = __builtin_mul_overflow(a, b, &result);
  if (sign == '%' || sign == 'd') {
    if (b == 0) run.fail("a division by zero");
    if (b == -1) {
      overflow = sign == 'd' && __builtin_sub_overflow(std::int64_t{0}, a, &result);
    } else {  // Python rounds down
      const std::int64_t rest = a % b;
      const bool down = rest != 0 && (rest < 0) != (b < 0);
      result = sign == '%' ? rest + (down ? b : 0) : a / b - (down ? 1 : 0);
    }
  }
  if (overflow) run.fail("a number of more than 64 bits");
  return value(result);
}

Value repeated(const Value& text, std::int64_t times, Run& run) {
  std::string result;
  const auto& one = text->get_ref<const std::string&>();
  if (times > 0 && !one.empty()) {
    if (static_cast<std::uint64_t>(times) > (std::uint64_t{1} << 40) / one.size()) run.fail("too long a string");
    run.spend(one.size() * static_cast<std::size_t>(times));
    for (std::int64_t i = 0; i < times; ++i) result += one;
  }
  return value(std::move(result));
}

/// A Python index of a sequence of `size`, or -1.
std::int64_t index_in(std::int64_t index, std::size_t size) {
  const auto count = static_cast<std::int64_t>(size);
  index += index < 0 ? count : 0;
  return index >= 0 && index < count ? index : -1;
}

}  // namespace

bool equal(const Value& left, const Value& right) {
  if (left == nullptr || right == nullptr) return left == right;
  if (is_number(left) && is_number(right)) {
    return is_whole(left) && is_whole(right) ? whole(left) == whole(right) : real(left) == real(right);
  }
  return *left == *right;
}

bool contains(const Value& all, const Value& item, Run& run) {
  if (all == nullptr) return false;
  if (all->is_string()) {
    if (!is_text(item)) run.fail(detail::concat("'in' with ", type_of(item), " on the left of a string"));
    return all->get_ref<const std::string&>().find(item->get_ref<const std::string&>()) != std::string::npos;
  }
  if (all->is_object()) return is_text(item) && all->contains(item->get_ref<const std::string&>());
  if (!all->is_array()) run.fail(detail::concat("'in' with ", type_of(all), " on the right"));
  run.spend(all->size());
  return std::any_of(all->begin(), all->end(), [&](const Json& one) { return equal(part_of(all, one), item); });
}

Value run_operator(const std::string& sign, const Value& left, const Value& right, Run& run) {
  run.step();
  if (sign == "==") return value(equal(left, right));
  if (sign == "!=") return value(!equal(left, right));
  if (sign == "~") return run.text(text_of(left) + text_of(right));
  if (sign[0] == '<' || sign[0] == '>') {
    int order = 0;
    if (is_number(left) && is_number(right)) {
      order = real(left) < real(right) ? -1 : real(left) > real(right) ? 1 : 0;
    } else if (is_text(left) && is_text(right)) {
      order = left->get_ref<const std::string&>().compare(right->get_ref<const std::string&>());
    } else {
      run.fail(detail::concat("'", sign, "' between ", type_of(left), " and ", type_of(right)));
    }
    return value((order < 0 && sign[0] == '<') || (order > 0 && sign[0] == '>') || (order == 0 && sign.size() == 2));
  }
  if (is_whole(left) && is_whole(right) && sign != "/" && sign != "**") {
    return whole_operator(sign == "//" ? 'd' : sign[0], whole(left), whole(right), run);
  }
  if (is_number(left) && is_number(right)) {
    const double a = real(left), b = real(right);
    if (sign == "+") return value(a + b);
    if (sign == "-") return value(a - b);
    if (sign == "*") return value(a * b);
    if (sign == "**" || b == 0.0) run.fail("'" + sign + "' of these numbers, which is not supported");
    if (sign == "/") return value(a / b);
    const double down = std::floor(a / b);
    return value(sign == "//" ? down : a - down * b);
  }
  if (sign == "+" && is_text(left) && is_text(right)) {
    return run.text(left->get_ref<const std::string&>() + right->get_ref<const std::string&>());
  }
  if (sign == "+" && left != nullptr && right != nullptr && left->is_array() && right->is_array()) {
    run.spend(16 * (left->size() + right->size()));
    Json joined = *left;
    joined.insert(joined.end(), right->begin(), right->end());
    return value(std::move(joined));
  }
  if (sign == "*" && is_text(left) && is_whole(right)) return repeated(left, whole(right), run);
  if (sign == "*" && is_whole(left) && is_text(right)) return repeated(right, whole(left), run);
  run.fail(detail::concat("'", sign, "' between ", type_of(left), " and ", type_of(right)));
}

Value item_of(const Value& object, const Value& key, Run& run) {
  run.step();
  if (object == nullptr) run.fail(detail::concat("an item ", text_of(key), " of an undefined value"));
  if (object->is_object() && is_text(key)) {
    const auto found = object->find(key->get_ref<const std::string&>());
    return found == object->end() ? nullptr : part_of(object, *found);
  }
  if (!is_whole(key)) return nullptr;
  if (object->is_array()) {
    const std::int64_t at = index_in(whole(key), object->size());
    return at < 0 ? nullptr : part_of(object, object->at(static_cast<std::size_t>(at)));
  }
  if (object->is_string()) {
    const std::vector<std::string_view> all = characters(object->get_ref<const std::string&>());
    run.spend(16 * all.size());
    const std::int64_t at = index_in(whole(key), all.size());
    return at < 0 ? nullptr : run.text(std::string(all[static_cast<std::size_t>(at)]));
  }
  return nullptr;
}

std::vector<Value> items_of(const Value& all, Run& run) {
  std::vector<Value> items;
  if (all == nullptr) return items;
  if (all->is_string()) {
    const auto& text = all->get_ref<const std::string&>();
    run.spend(64 * text.size());
    for (const std::string_view one : characters(text)) items.push_back(value(std::string(one)));
  } else if (all->is_array()) {
    run.spend(16 * all->size());
    for (const Json& one : *all) items.push_back(part_of(all, one));
  } else if (all->is_object()) {
    for (const auto& entry : all->items()) items.push_back(run.text(entry.key()));
  } else {
    run.fail(detail::concat("a loop over ", type_of(all)));
  }
  return items;
}

}  // namespace moelora::model::jinja
