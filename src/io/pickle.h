#pragma once
// A machine for the part of Python's pickle language that torch.save uses for state dicts. It builds data and nothing
// else: a "global" is a name out of an allow-list, and "calling" one makes a labelled tuple. A byte of the pickle costs
// at most some 24 bytes of memory, whatever it says.

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

namespace moelora::io {

/// Sixteen bytes: a hostile pickle makes a value with every byte.
class PickleValue {
 public:
  enum class Kind : std::uint8_t { none, boolean, integer, real, text, tuple, list, dict, global, storage, tensor };
  using Items = std::vector<const PickleValue*>;

  explicit PickleValue(Kind kind) : kind_(kind), integer_(0) {}
  PickleValue(Kind kind, std::int64_t integer) : kind_(kind), integer_(integer) {}
  PickleValue(Kind kind, std::string_view text)
      : kind_(kind), size_(static_cast<std::uint32_t>(text.size())), text_(text.data()) {}
  PickleValue(Kind kind, Items* items) : kind_(kind), items_(items) {}

  Kind kind() const { return kind_; }
  std::int64_t integer() const { return kind_ == Kind::integer || kind_ == Kind::boolean ? integer_ : 0; }
  /// text: its UTF-8 bytes; global: its name, without the module.
  std::string_view text() const {
    return kind_ == Kind::text || kind_ == Kind::global ? std::string_view(text_, size_) : std::string_view();
  }
  /// tuple, list: elements; dict: key, value, key, value, …; storage: the persistent id's tuple;
  /// tensor: the arguments of _rebuild_tensor_v2. Storages and tensors share them with the tuple they came in.
  const Items& items() const;

 private:
  friend class Pickle;  // its machine fills containers
  Kind kind_;
  std::uint32_t size_ = 0;
  union {
    std::int64_t integer_;
    const char* text_;
    Items* items_;  ///< null: none
  };
};

const char* kind_name(PickleValue::Kind kind);

/// Runs one pickle. Values live as long as this object; they may contain each other, even in circles.
class Pickle {
 public:
  /// `bytes` must outlive this object. Error naming `label` and the opcode or global that is not allowed, or the byte
  /// at which the pickle is broken.
  Pickle(std::string_view bytes, std::string label);

  const PickleValue& top() const { return *top_; }

 private:
  class Machine;
  std::deque<PickleValue> values_;        ///< flat, so that no nesting, however deep, is destroyed recursively
  std::deque<PickleValue::Items> items_;  ///< of the containers that hold any
  const PickleValue* top_ = nullptr;
};

}  // namespace moelora::io
