#pragma once
// A machine for the part of Python's pickle language that torch.save uses for state dicts. It builds data and nothing
// else: a "global" is a name out of an allow-list, and "calling" one makes a labelled tuple.

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

namespace moelora::io {

struct PickleValue {
  enum class Kind { none, boolean, integer, real, text, tuple, list, dict, global, storage, tensor };
  Kind kind = Kind::none;
  std::int64_t integer = 0;  ///< integer and boolean
  double real = 0.0;
  std::string_view text;  ///< text: its UTF-8 bytes; global: "module.name" without the dot, see `name`
  std::string_view name;  ///< global: text is the module, this the name in it
  /// tuple, list: elements; dict: key, value, key, value, …; storage: the persistent id's tuple;
  /// tensor: the arguments of _rebuild_tensor_v2.
  std::vector<const PickleValue*> items;
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
  std::deque<PickleValue> values_;  ///< flat, so that no nesting, however deep, is destroyed recursively
  const PickleValue* top_ = nullptr;
};

}  // namespace moelora::io
