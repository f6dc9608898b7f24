#include "io/pickle.h"

#include <unordered_map>
#include <utility>

#include "io/pickle_globals.h"
#include "moelora/io/error.h"

namespace moelora::io {
namespace {

using Kind = PickleValue::Kind;

}  // namespace

const PickleValue::Items& PickleValue::items() const {
  static const Items none;
  const bool holds = kind_ == Kind::tuple || kind_ == Kind::list || kind_ == Kind::dict || kind_ == Kind::storage ||
                     kind_ == Kind::tensor;
  return holds && items_ != nullptr ? *items_ : none;
}

const char* kind_name(PickleValue::Kind kind) {
  static constexpr const char* kNames[] = {"None", "bool", "int",  "float",   "str",   "tuple",
                                           "list", "dict", "type", "storage", "tensor"};
  return kNames[static_cast<int>(kind)];
}

class Pickle::Machine {
 public:
  using Items = PickleValue::Items;

  Machine(std::string_view bytes, std::string label, std::deque<PickleValue>& values, std::deque<Items>& items)
      : bytes_(bytes),
        label_(std::move(label)),
        values_(values),
        items_(items),
        none_(&values.emplace_back(Kind::none)),
        false_(&values.emplace_back(Kind::boolean, std::int64_t{0})),
        true_(&values.emplace_back(Kind::boolean, std::int64_t{1})),
        empty_tuple_(&values.emplace_back(Kind::tuple, static_cast<Items*>(nullptr))) {}

  const PickleValue* run() {
    for (;;) {
      const auto opcode = static_cast<unsigned char>(take(1)[0]);
      if (opcode == '.') {
        check(stack_.size() == 1 && marks_.empty(), "it ends with other than one value");
        return stack_.back();
      }
      step(opcode);
    }
  }

 private:
  void check(bool condition, const char* problem) const {
    MOELORA_CHECK(condition, label_, ": the pickle is damaged at byte ", position_, ": ", problem);
  }

  std::string_view take(std::uint64_t size) {
    check(size <= bytes_.size() - position_, "it is cut off");
    const std::string_view taken = bytes_.substr(position_, size);
    position_ += size;
    return taken;
  }

  std::uint64_t take_number(std::size_t width) {
    const std::string_view raw = take(width);
    std::uint64_t value = 0;
    for (std::size_t i = width; i-- > 0;) {
      value = value << 8 | static_cast<unsigned char>(raw[i]);
    }
    return value;
  }

  std::string_view take_line() {
    const std::size_t newline = bytes_.find('\n', position_);
    check(newline != std::string_view::npos, "it is cut off");
    const std::string_view line = take(newline - position_);
    ++position_;
    return line;
  }

  template <typename Content>
  void push(Kind kind, Content content) {
    stack_.push_back(&values_.emplace_back(kind, content));
  }
  void push_container(Kind kind) { push(kind, static_cast<Items*>(nullptr)); }
  // What such values hold is shared, never copied: two bytes could otherwise ask for a copy of everything before.
  void push_sharing(Kind kind, const PickleValue* tuple) { push(kind, tuple->items_); }
  void push_tuple(Items items) {
    if (items.empty()) {
      stack_.push_back(empty_tuple_);  // can't be changed, so one is enough
    } else {
      push(Kind::tuple, &items_.emplace_back(std::move(items)));
    }
  }

  // Python keeps what lies below a mark out of reach; so does this.
  PickleValue* pop() {
    check(stack_.size() > (marks_.empty() ? 0 : marks_.back()), "a value is missing");
    PickleValue* value = stack_.back();
    stack_.pop_back();
    return value;
  }

  PickleValue* top() {
    PickleValue* value = pop();
    stack_.push_back(value);
    return value;
  }

  Items pop_to_mark() {
    check(!marks_.empty(), "a mark is missing");
    Items items(stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back()), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return items;
  }

  void push_integer(std::uint64_t value) { push(Kind::integer, static_cast<std::int64_t>(value)); }
  void push_text(std::uint64_t size) { push(Kind::text, take(size)); }

  void push_short_tuple(std::size_t size) {
    Items items(size);
    for (std::size_t i = size; i-- > 0;) {
      items[i] = pop();
    }
    push_tuple(std::move(items));
  }

  void push_long(std::uint64_t width) {
    check(width <= 8, "an integer has more than 64 bits");
    const std::uint64_t raw = take_number(width);
    const bool negative = width > 0 && (raw >> (8 * width - 1) & 1) != 0;
    push_integer(negative && width < 8 ? raw | ~std::uint64_t{0} << (8 * width) : raw);
  }

  void append(PickleValue* list, const Items& items) {
    check(list->kind() == Kind::list, "appending to something that is no list");
    insert(list, items);
  }

  void set_items(PickleValue* dict, const Items& items) {
    check(dict->kind() == Kind::dict, "setting items of something that is no dict");
    check(items.size() % 2 == 0, "a key without a value");
    insert(dict, items);
  }

  void insert(PickleValue* container, const Items& items) {
    if (items.empty()) {
      return;
    }
    Items* held = container->items_;
    if (held == nullptr) {
      held = container->items_ = &items_.emplace_back();
    }
    held->insert(held->end(), items.begin(), items.end());
  }

  void push_global(std::string_view module, std::string_view name) {
    if (is_allowed_global(module, name)) {
      return push(Kind::global, name);
    }
    refuse_global(module, name, label_);
  }

  void reduce() {
    const PickleValue* arguments = pop();
    const PickleValue* function = pop();
    check(function->kind() == Kind::global && arguments->kind() == Kind::tuple,
          "a call of something that is no function");
    if (function->text() == "OrderedDict") {
      check(arguments->items().empty(), "an OrderedDict made from arguments");
      push_container(Kind::dict);
    } else if (function->text() == "_rebuild_tensor_v2") {
      push_sharing(Kind::tensor, arguments);
    } else if (function->text() == "_rebuild_parameter") {
      check(!arguments->items().empty() && arguments->items()[0]->kind() == Kind::tensor,
            "a parameter without a tensor");
      push_sharing(Kind::tensor, arguments->items()[0]);
    } else {
      refuse_global("torch", function->text(), label_);  // what is left in the allow-list: a type of storage
    }
  }

  // Python sets attributes here; a state dict has one, `_metadata`, and nothing needs it.
  void build() {
    const PickleValue* state = pop();
    check(state->kind() == Kind::dict && top()->kind() == Kind::dict, "attributes of something that is no state dict");
  }

  // Python counts entries up from 0, which a list holds at eight bytes each; others are possible.
  void put(std::uint64_t index) {
    PickleValue* value = top();
    if (index < bytes_.size()) {
      if (index >= memo_.size()) {
        memo_.resize(index + 1, nullptr);
      }
      memorised_ += memo_[index] == nullptr;
      memo_[index] = value;
    } else {
      memorised_ += far_memo_.insert_or_assign(index, value).second;
    }
  }

  void get(std::uint64_t index) {
    PickleValue* value = index < memo_.size() ? memo_[index] : nullptr;
    if (const auto far = far_memo_.find(index); value == nullptr && far != far_memo_.end()) {
      value = far->second;
    }
    check(value != nullptr, "an unknown memo entry");
    stack_.push_back(value);
  }

  void step(unsigned char opcode);
  bool step_containers(unsigned char opcode);
  [[noreturn]] void refuse_opcode(unsigned char opcode);

  std::string_view bytes_;
  std::string label_;
  std::deque<PickleValue>& values_;
  std::deque<Items>& items_;
  PickleValue* none_;
  PickleValue* false_;
  PickleValue* true_;
  PickleValue* empty_tuple_;
  std::size_t position_ = 0;
  std::vector<PickleValue*> stack_;
  std::vector<std::size_t> marks_;
  std::vector<PickleValue*> memo_;  ///< null: no such entry
  std::unordered_map<std::uint64_t, PickleValue*> far_memo_;
  std::size_t memorised_ = 0;  ///< entries of both
};

bool Pickle::Machine::step_containers(unsigned char opcode) {
  switch (opcode) {
    case '(':
      marks_.push_back(stack_.size());
      return true;
    case '}':
      push_container(Kind::dict);
      return true;
    case ']':
      push_container(Kind::list);
      return true;
    case ')':
      push_tuple({});
      return true;
    case 0x85:
    case 0x86:
    case 0x87:
      push_short_tuple(opcode - 0x84u);
      return true;
    case 't':
      push_tuple(pop_to_mark());
      return true;
    case 'a': {
      const PickleValue* item = pop();
      append(top(), {item});
      return true;
    }
    case 'e': {
      const Items items = pop_to_mark();
      append(top(), items);
      return true;
    }
    case 's': {
      const PickleValue* value = pop();
      const PickleValue* key = pop();
      set_items(top(), {key, value});
      return true;
    }
    case 'u': {
      const Items items = pop_to_mark();
      set_items(top(), items);
      return true;
    }
    default:
      return false;
  }
}

void Pickle::Machine::step(unsigned char opcode) {
  if (step_containers(opcode)) {
    return;
  }
  switch (opcode) {
    case 0x80:  // PROTO
      check(take_number(1) <= 5, "its protocol is newer than 5");
      return;
    case 0x95:  // FRAME: only a hint for readers of streams
      take(8);
      return;
    case 'N':
      stack_.push_back(none_);
      return;
    case 0x88:
    case 0x89:
      stack_.push_back(opcode == 0x88 ? true_ : false_);
      return;
    case 'K':
      return push_integer(take_number(1));
    case 'M':
      return push_integer(take_number(2));
    case 'J':
      return push_long(4);
    case 0x8a:
      return push_long(take_number(1));
    case 'G':  // no state dict needs what it is
      take(8);
      return push(Kind::real, std::int64_t{0});
    case 'X':
      return push_text(take_number(4));
    case 0x8c:
      return push_text(take_number(1));
    case 0x8d:
      return push_text(take_number(8));
    case 'q':
      return put(take_number(1));
    case 'r':
      return put(take_number(4));
    case 0x94:
      return put(memorised_);
    case 'h':
      return get(take_number(1));
    case 'j':
      return get(take_number(4));
    case 'c': {
      const std::string_view module = take_line();
      return push_global(module, take_line());
    }
    case 0x93: {
      const PickleValue* name = pop();
      const PickleValue* module = pop();
      check(name->kind() == Kind::text && module->kind() == Kind::text, "a global without a name");
      return push_global(module->text(), name->text());
    }
    case 'Q': {
      const PickleValue* id = pop();
      check(id->kind() == Kind::tuple, "a storage without a description");
      return push_sharing(Kind::storage, id);
    }
    case 'R':
      return reduce();
    case 'b':
      return build();
    default:
      refuse_opcode(opcode);
  }
}

void Pickle::Machine::refuse_opcode(unsigned char opcode) {
  if (opcode == 'i') {  // INST: names what it calls
    const std::string_view module = take_line();
    refuse_global(module, take_line(), label_);
  }
  std::string_view name;
  for (const auto& [code, meaning] :
       std::initializer_list<std::pair<unsigned char, std::string_view>>{{'o', " (OBJ)"},
                                                                         {0x81, " (NEWOBJ)"},
                                                                         {0x92, " (NEWOBJ_EX)"},
                                                                         {0x82, " (EXT1)"},
                                                                         {0x83, " (EXT2)"},
                                                                         {0x84, " (EXT4)"},
                                                                         {'P', " (PERSID)"},
                                                                         {'B', " (BINBYTES)"},
                                                                         {'C', " (SHORT_BINBYTES)"}}) {
    name = code == opcode ? meaning : name;
  }
  throw Error(detail::concat(label_, ": the pickle uses opcode ", static_cast<int>(opcode), name, " at byte ",
                             position_ - 1,
                             ", which no state dict of tensors needs: refuses to run it; the file is "
                             "damaged, or holds more than tensors (save a plain state dict with torch.save)"));
}

Pickle::Pickle(std::string_view bytes, std::string label) {
  // A state dict takes about 150 bytes for each tensor; the limit bounds the memory that a hostile file can ask for.
  constexpr std::size_t kLongest = std::size_t{8} << 20;
  MOELORA_CHECK(bytes.size() <= kLongest, label, ": the pickle has ", bytes.size(),
                " bytes, far more than a state dict of tensors needs");
  top_ = Machine(bytes, std::move(label), values_, items_).run();
}

}  // namespace moelora::io
