#include <ATen/ATen.h>

#include <set>

#include "io/gguf_format.h"
#include "moelora/io/atomic_file.h"
#include "moelora/io/dtype.h"
#include "moelora/io/error.h"
#include "moelora/io/gguf.h"

namespace moelora::io {
namespace {

template <typename Number>
void append(std::string& bytes, Number value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void append_text(std::string& bytes, const std::string& text) {
  append(bytes, static_cast<std::uint64_t>(text.size()));
  bytes += text;
}

void append_value(std::string& bytes, const GgufValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) {
    append(bytes, gguf::kString);
    append_text(bytes, *text);
  } else if (const auto* number = std::get_if<float>(&value)) {
    append(bytes, gguf::kFloat32);
    append(bytes, *number);
  } else {
    append(bytes, gguf::kUint32);
    append(bytes, std::get<std::uint32_t>(value));
  }
}

std::uint64_t padding_behind(std::uint64_t size) {
  return (gguf::kAlignment - size % gguf::kAlignment) % gguf::kAlignment;
}

/// Appends the tensor's entry. Returns the bytes of its data.
std::uint64_t append_entry(std::string& bytes, const std::string& name, const at::Tensor& tensor,
                           std::uint64_t offset) {
  MOELORA_CHECK(!name.empty() && name.size() <= gguf::kLongestName, "a tensor's name in a GGUF file has 1 to ",
                gguf::kLongestName, " bytes, found \"", name, "\"");
  const auto type = gguf::type_of(tensor.scalar_type());
  MOELORA_CHECK(type, name, ": expected float32, float16 or bfloat16 for a GGUF file, found ",
                dtype_name(tensor.scalar_type()));
  MOELORA_CHECK(tensor.dim() >= 1 && tensor.dim() <= gguf::kMaximalDimensions && tensor.numel() > 0, name,
                ": expected 1 to ", gguf::kMaximalDimensions,
                " dimensions and an element for a GGUF file, found shape ", tensor.sizes());
  append_text(bytes, name);
  append(bytes, static_cast<std::uint32_t>(tensor.dim()));
  for (std::int64_t i = tensor.dim(); i-- > 0;) {
    append(bytes, static_cast<std::uint64_t>(tensor.size(i)));
  }
  append(bytes, *type);
  append(bytes, offset);
  return static_cast<std::uint64_t>(tensor.nbytes());
}

}  // namespace

void save_gguf(const std::filesystem::path& path, const GgufMetadata& metadata, const NamedTensors& tensors) {
  std::string header(gguf::kMagic);
  append(header, gguf::kVersion);
  append(header, static_cast<std::uint64_t>(tensors.size()));
  append(header, static_cast<std::uint64_t>(metadata.size()));
  std::set<std::string> names;
  for (const auto& [key, value] : metadata) {
    MOELORA_CHECK(names.insert(key).second, "\"", key, "\" is there twice in the metadata for ", path.string());
    append_text(header, key);
    append_value(header, value);
  }
  names.clear();
  std::uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    MOELORA_CHECK(names.insert(name).second, "\"", name, "\" is there twice among the tensors for ", path.string());
    const std::uint64_t size = append_entry(header, name, tensor, offset);
    offset += size + padding_behind(size);
  }
  header.append(padding_behind(header.size()), '\0');
  AtomicFile file(path);
  file.write(header);
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor bytes = tensor.detach().to(at::kCPU).contiguous();
    file.write(bytes.const_data_ptr(), bytes.nbytes());
    file.write(std::string(padding_behind(bytes.nbytes()), '\0'));
  }
  file.commit();
}

}  // namespace moelora::io
