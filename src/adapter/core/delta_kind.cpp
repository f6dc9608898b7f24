#include "moelora/adapter/delta_kind.h"

#include <deque>
#include <mutex>

#include "moelora/adapter/moe_lora_linear.h"
#include "moelora/adapter/mtl_lora_linear.h"
#include "moelora/io/error.h"
#include "moelora/io/readable.h"

namespace moelora {
namespace {

struct DeltaKinds {
  std::mutex mutex;
  std::deque<DeltaKind> all{moe_lora_kind(), mtl_lora_kind()};  // references stay valid as it grows
};

DeltaKinds& delta_kinds() {
  static DeltaKinds kinds;
  return kinds;
}

const DeltaKind* find_kind(const DeltaKinds& kinds, const std::string& name) {
  for (const DeltaKind& kind : kinds.all) {
    if (kind.name == name) {
      return &kind;
    }
  }
  return nullptr;
}

}  // namespace

void register_delta_kind(DeltaKind kind) {
  MOELORA_CHECK(!kind.name.empty() && kind.tensors && kind.make && kind.size,
                "a kind of deltas needs a name and its three functions (tensors, make, size), found '", kind.name,
                "' without all of them");
  DeltaKinds& kinds = delta_kinds();
  const std::lock_guard lock(kinds.mutex);
  MOELORA_CHECK(find_kind(kinds, kind.name) == nullptr, "a kind of deltas named '", kind.name,
                "' is there already; give the new one another name");
  kinds.all.push_back(std::move(kind));
}

const DeltaKind& delta_kind(const std::string& name) {
  DeltaKinds& kinds = delta_kinds();
  {
    const std::lock_guard lock(kinds.mutex);
    if (const DeltaKind* kind = find_kind(kinds, name); kind != nullptr) {
      return *kind;
    }
  }
  throw Error(detail::concat("delta: expected one of ", io::joined(delta_kind_names()), ", found '",
                             name.substr(0, 200), "'; a program's own kind is registered first (register_delta_kind)"));
}

std::vector<std::string> delta_kind_names() {
  DeltaKinds& kinds = delta_kinds();
  const std::lock_guard lock(kinds.mutex);
  std::vector<std::string> names;
  for (const DeltaKind& kind : kinds.all) {
    names.push_back(kind.name);
  }
  return names;
}

}  // namespace moelora
