#include "io/pickle.h"

#include <array>
#include <bit>
#include <unordered_map>
#include <utility>

#include "moelora/io/error.h"

namespace moelora::io {
namespace {

struct AllowedGlobal {
  std::string_view module;
  std::string_view name;
};
constexpr std::array<AllowedGlobal, 13> kAllowedGlobals{{{"collections", "OrderedDict"},
                                                         {"torch._utils", "_rebuild_tensor_v2"},
                                                         {"torch._utils", "_rebuild_parameter"},
                                                         {"torch", "DoubleStorage"},
                                                         {"torch", "FloatStorage"},
                                                         {"torch", "HalfStorage"},
                                                         {"torch", "BFloat16Storage"},
                                                         {"torch", "LongStorage"},
                                                         {"torch", "IntStorage"},
                                                         {"torch", "ShortStorage"},
                                                         {"torch", "CharStorage"},
                                                         {"torch", "ByteStorage"},
                                                         {"torch", "BoolStorage"}}};

// Text from a hostile file, fit for one line of an error.
std::string printable_text(std::string_view text) {
  std::string shown;
  for (const char c : text.substr(0, 100)) {
    shown += c >= ' ' && c <= '~' ? c : '?';
  }
  return shown;
}

using Kind = PickleValue::Kind;

}  // namespace

const char* kind_name(PickleValue::Kind kind) {
  static constexpr const char* kNames[] = {"None", "bool", "int",  "float",   "str",   "tuple",
                                           "list", "dict", "type", "storage", "tensor"};
  return kNames[static_cast<int>(kind)];
}

class Pickle::Machine {
 public:
  Machine(std::string_view bytes, std::string label, std::deque<PickleValue>& values)
      : bytes_(bytes), label_(std::move(label)), values_(values) {}

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

  PickleValue* push(Kind kind) {
    stack_.push_back(&values_.emplace_back());
    stack_.back()->kind = kind;
    return stack_.back();
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

  std::vector<const PickleValue*> pop_to_mark() {
    check(!marks_.empty(), "a mark is missing");
    const std::vector<const PickleValue*> items(stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back()),
                                                stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return items;
  }

  void push_integer(std::uint64_t value) { push(Kind::integer)->integer = static_cast<std::int64_t>(value); }
  void push_text(std::uint64_t size) {
    const std::string_view text = take(size);
    push(Kind::text)->text = text;
  }

  void push_tuple(std::size_t size) {
    std::vector<const PickleValue*> items(size);
    for (std::size_t i = size; i-- > 0;) {
      items[i] = pop();
    }
    push(Kind::tuple)->items = std::move(items);
  }

  void push_long(std::uint64_t width) {
    check(width <= 8, "an integer has more than 64 bits");
    const std::uint64_t raw = take_number(width);
    const bool negative = width > 0 && (raw >> (8 * width - 1) & 1) != 0;
    push_integer(negative && width < 8 ? raw | ~std::uint64_t{0} << (8 * width) : raw);
  }

  void push_real() {
    std::uint64_t bits = 0;
    for (const char c : take(8)) {  // the only big-endian number of the language
      bits = bits << 8 | static_cast<unsigned char>(c);
    }
    push(Kind::real)->real = std::bit_cast<double>(bits);
  }

  void append(PickleValue* list, const std::vector<const PickleValue*>& items) {
    check(list->kind == Kind::list, "appending to something that is no list");
    list->items.insert(list->items.end(), items.begin(), items.end());
  }

  void set_items(PickleValue* dict, const std::vector<const PickleValue*>& items) {
    check(dict->kind == Kind::dict, "setting items of something that is no dict");
    check(items.size() % 2 == 0, "a key without a value");
    dict->items.insert(dict->items.end(), items.begin(), items.end());
  }

  void push_global(std::string_view module, std::string_view name) {
    for (const AllowedGlobal& allowed : kAllowedGlobals) {
      if (module == allowed.module && name == allowed.name) {
        PickleValue* global = push(Kind::global);
        global->text = module;
        global->name = name;
        return;
      }
    }
    refuse_global(module, name);
  }

  [[noreturn]] void refuse_global(std::string_view module, std::string_view name) const {
    throw Error(detail::concat(label_, ": the pickle names ", printable_text(module), ".", printable_text(name),
                               ", which no state dict of tensors needs: refuses to call ", printable_text(module), ".",
                               printable_text(name),
                               "; save a plain state dict with torch.save, and trust no file that fails like this"));
  }

  void reduce() {
    const PickleValue* arguments = pop();
    const PickleValue* function = pop();
    check(function->kind == Kind::global && arguments->kind == Kind::tuple, "a call of something that is no function");
    if (function->name == "OrderedDict") {
      check(arguments->items.empty(), "an OrderedDict made from arguments");
      push(Kind::dict);
    } else if (function->name == "_rebuild_tensor_v2") {
      push(Kind::tensor)->items = arguments->items;
    } else if (function->name == "_rebuild_parameter") {
      check(!arguments->items.empty() && arguments->items[0]->kind == Kind::tensor, "a parameter without a tensor");
      push(Kind::tensor)->items = arguments->items[0]->items;
    } else {
      refuse_global(function->text, function->name);
    }
  }

  // Python sets attributes here; a state dict has one, `_metadata`, and nothing needs it.
  void build() {
    const PickleValue* state = pop();
    check(state->kind == Kind::dict && top()->kind == Kind::dict, "attributes of something that is no state dict");
  }

  void get(std::uint64_t index) {
    const auto found = memo_.find(index);
    check(found != memo_.end(), "an unknown memo entry");
    stack_.push_back(found->second);
  }

  void step(unsigned char opcode);
  bool step_containers(unsigned char opcode);
  [[noreturn]] void refuse_opcode(unsigned char opcode);

  std::string_view bytes_;
  std::string label_;
  std::deque<PickleValue>& values_;
  std::size_t position_ = 0;
  std::vector<PickleValue*> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint64_t, PickleValue*> memo_;
};

bool Pickle::Machine::step_containers(unsigned char opcode) {
  switch (opcode) {
    case '(':
      marks_.push_back(stack_.size());
      return true;
    case '}':
      push(Kind::dict);
      return true;
    case ']':
      push(Kind::list);
      return true;
    case ')':
      push(Kind::tuple);
      return true;
    case 0x85:
    case 0x86:
    case 0x87:
      push_tuple(opcode - 0x84u);
      return true;
    case 't': {
      auto items = pop_to_mark();
      push(Kind::tuple)->items = std::move(items);
      return true;
    }
    case 'a': {
      const PickleValue* item = pop();
      append(top(), {item});
      return true;
    }
    case 'e': {
      const auto items = pop_to_mark();
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
      const auto items = pop_to_mark();
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
      push(Kind::none);
      return;
    case 0x88:
    case 0x89:
      push(Kind::boolean)->integer = opcode == 0x88;
      return;
    case 'K':
      return push_integer(take_number(1));
    case 'M':
      return push_integer(take_number(2));
    case 'J':
      return push_long(4);
    case 0x8a:
      return push_long(take_number(1));
    case 'G':
      return push_real();
    case 'X':
      return push_text(take_number(4));
    case 0x8c:
      return push_text(take_number(1));
    case 0x8d:
      return push_text(take_number(8));
    case 'q':
      memo_[take_number(1)] = top();
      return;
    case 'r':
      memo_[take_number(4)] = top();
      return;
    case 0x94:
      memo_[memo_.size()] = top();
      return;
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
      check(name->kind == Kind::text && module->kind == Kind::text, "a global without a name");
      return push_global(module->text, name->text);
    }
    case 'Q': {
      const PickleValue* id = pop();
      check(id->kind == Kind::tuple, "a storage without a description");
      push(Kind::storage)->items = id->items;
      return;
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
    refuse_global(module, take_line());
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
  constexpr std::size_t kLongest = std::size_t{64} << 20;
  MOELORA_CHECK(bytes.size() <= kLongest, label, ": the pickle has ", bytes.size(),
                " bytes, far more than a state dict of tensors needs");
  top_ = Machine(bytes, std::move(label), values_).run();
}

}  // namespace moelora::io
