#include "io/pickle_globals.h"

#include <algorithm>
#include <array>

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

}  // namespace

bool is_allowed_global(std::string_view module, std::string_view name) {
  return std::any_of(kAllowedGlobals.begin(), kAllowedGlobals.end(),
                     [&](const AllowedGlobal& allowed) { return allowed.module == module && allowed.name == name; });
}

void refuse_global(std::string_view module, std::string_view name, const std::string& label) {
  throw Error(detail::concat(label, ": the pickle names ", printable_text(module), ".", printable_text(name),
                             ", which no state dict of tensors needs: refuses to call ", printable_text(module), ".",
                             printable_text(name),
                             "; save a plain state dict with torch.save, and trust no file that fails like this"));
}

}  // namespace moelora::io
