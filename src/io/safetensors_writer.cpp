#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>

#include "io/tensor_bytes.h"
#include "moelora/io/atomic_file.h"
#include "moelora/io/error.h"
#include "moelora/io/json_text.h"
#include "moelora/io/safetensors.h"

namespace moelora::io {
namespace {

// The format allows no gaps. Wider types first keeps every tensor aligned to its own elements; among equals the
// caller's order stays.
std::vector<const std::pair<std::string, at::Tensor>*> file_order(const NamedTensors& tensors) {
  std::vector<const std::pair<std::string, at::Tensor>*> order;
  for (const auto& named : tensors) {
    order.push_back(&named);
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const auto* a, const auto* b) { return a->second.element_size() > b->second.element_size(); });
  return order;
}

void check_writable(const NamedTensors& tensors, const std::string& file) {
  std::set<std::string> names;
  for (const auto& [name, tensor] : tensors) {
    MOELORA_CHECK(
        tensor.defined() && tensor.layout() == at::kStrided && tensor.dim() <= std::int64_t{kMaximalDimensions},
        "cannot write ", file, ": \"", name, "\" is no dense tensor");
    MOELORA_CHECK(safetensors_dtype_name(tensor.scalar_type()) != nullptr, "cannot write ", file, ": \"", name,
                  "\" has a type that safetensors lacks (", c10::toString(tensor.scalar_type()), ")");
    MOELORA_CHECK(name != "__metadata__", "cannot write ", file, ": no tensor may be called __metadata__");
    MOELORA_CHECK(names.insert(name).second, "cannot write ", file, ": the tensor \"", name, "\" is given twice");
  }
}

std::string header_of(const std::vector<const std::pair<std::string, at::Tensor>*>& order,
                      const std::map<std::string, std::string>& metadata, const std::string& file) {
  nlohmann::ordered_json::object_t header;  // pushed unchecked: names are known to differ
  if (!metadata.empty()) {
    header.emplace_back("__metadata__", metadata);
  }
  std::uint64_t offset = 0;
  for (const auto* named : order) {
    const std::uint64_t end = offset + named->second.nbytes();
    header.emplace_back(named->first,
                        nlohmann::ordered_json{{"dtype", safetensors_dtype_name(named->second.scalar_type())},
                                               {"shape", named->second.sizes().vec()},
                                               {"data_offsets", {offset, end}}});
    offset = end;
  }
  std::string text;
  try {
    text = nlohmann::ordered_json(std::move(header)).dump();
  } catch (const nlohmann::ordered_json::exception& error) {
    throw Error(detail::concat("cannot write ", file, ": ", plain_json_message(error.what())));
  }
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

}  // namespace

void save_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                      const std::map<std::string, std::string>& metadata) {
  check_writable(tensors, path.string());
  const auto order = file_order(tensors);
  const std::string header = header_of(order, metadata, path.string());
  std::array<std::uint8_t, 8> length{};
  for (std::size_t i = 0; i < 8; ++i) {
    length[i] = static_cast<std::uint8_t>(std::uint64_t{header.size()} >> (8 * i));
  }
  AtomicFile file(path);
  file.write(length.data(), length.size());
  file.write(header);
  for (const auto* named : order) {  // at most one tensor is copied at a time
    const at::Tensor bytes = named->second.detach().to(at::kCPU).contiguous();
    file.write(bytes.const_data_ptr(), bytes.nbytes());
  }
  file.commit();
}

}  // namespace moelora::io
