#include "moelora/io/gguf.h"

#include <ATen/ATen.h>

#include <cstring>
#include <limits>

#include "io/gguf_format.h"
#include "io/mapped_file.h"
#include "io/tensor_bytes.h"
#include "moelora/io/error.h"
#include "moelora/io/json_text.h"

namespace moelora::io {
namespace {

/// Takes little-endian numbers and strings out of a mapped file, and nothing beyond its end.
class GgufCursor {
 public:
  explicit GgufCursor(const MappedFile& file) : file_(file) {}

  template <typename Number>
  Number number(const char* what) {
    Number value{};
    std::memcpy(&value, take(sizeof(Number), what), sizeof(Number));
    return value;
  }
  std::string text(const char* what) {
    const auto length = number<std::uint64_t>(what);
    const auto* bytes = reinterpret_cast<const char*>(take(length, what));
    return {bytes, static_cast<std::size_t>(length)};
  }
  void skip(std::uint64_t count, std::uint64_t size, const char* what) {
    MOELORA_CHECK(count <= left() / size, cut_off(what));
    take(count * size, what);
  }
  /// A number of things that take at least `smallest` bytes each.
  std::uint64_t count(std::uint64_t smallest, const char* what) {
    const auto value = number<std::uint64_t>(what);
    MOELORA_CHECK(value <= left() / smallest, file_.path().string(), ": its header claims ", value, " ", what,
                  ", more than its ", file_.size(), " bytes can hold; it is cut off or damaged, copy it again");
    return value;
  }
  std::uint64_t position() const { return position_; }

 private:
  std::uint64_t left() const { return file_.size() - position_; }
  std::string cut_off(const char* what) const {
    return detail::concat(file_.path().string(), ": its ", what, " at byte ", position_, " reach beyond the end, byte ",
                          file_.size(), "; it is cut off or damaged, copy it again");
  }
  const std::uint8_t* take(std::uint64_t size, const char* what) {
    MOELORA_CHECK(size <= left(), cut_off(what));
    const std::uint8_t* bytes = file_.data() + position_;
    position_ += size;
    return bytes;
  }

  const MappedFile& file_;
  std::uint64_t position_ = 0;
};

/// Bytes of one value of a fixed size; 0: strings, lists and unknown types.
std::uint64_t fixed_size(std::uint32_t type) {
  constexpr std::uint64_t kSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < std::size(kSizes) ? kSizes[type] : 0;
}

/// Reads a value; nothing if it is of a type that is passed over.
std::optional<GgufValue> kept_value(GgufCursor& cursor, std::uint32_t type, const std::string& where) {
  switch (type) {
    case gguf::kString:
      return cursor.text("metadata");
    case gguf::kFloat32:
      return cursor.number<float>("metadata");
    case gguf::kUint32:
      return cursor.number<std::uint32_t>("metadata");
    default:
      break;
  }
  if (type != gguf::kArray) {
    MOELORA_CHECK(fixed_size(type) > 0, where, ": unknown type of value ", type);
    cursor.skip(1, fixed_size(type), "metadata");
    return std::nullopt;
  }
  const auto element = cursor.number<std::uint32_t>("metadata");
  MOELORA_CHECK(element == gguf::kString || fixed_size(element) > 0, where, ": unknown type of list ", element);
  const std::uint64_t count = cursor.count(element == gguf::kString ? 8 : fixed_size(element), "list entries");
  for (std::uint64_t i = 0; element == gguf::kString && i < count; ++i) {
    cursor.skip(cursor.number<std::uint64_t>("metadata"), 1, "metadata");
  }
  if (element != gguf::kString) {
    cursor.skip(count, fixed_size(element), "metadata");
  }
  return std::nullopt;
}

TensorInfo read_tensor_info(GgufCursor& cursor, std::uint64_t expected_offset, const std::string& where) {
  TensorInfo info{at::kFloat, {}};
  const auto dimensions = cursor.number<std::uint32_t>("tensor list");
  MOELORA_CHECK(dimensions >= 1 && dimensions <= gguf::kMaximalDimensions, where, ": expected 1 to ",
                gguf::kMaximalDimensions, " dimensions, found ", dimensions);
  for (std::uint32_t i = 0; i < dimensions; ++i) {
    const auto size = cursor.number<std::uint64_t>("tensor list");
    MOELORA_CHECK(size <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()), where,
                  ": a dimension of ", size);
    info.shape.insert(info.shape.begin(), static_cast<std::int64_t>(size));  // ggml names the fastest first
  }
  const auto type = cursor.number<std::uint32_t>("tensor list");
  const auto dtype = gguf::dtype_of(type);
  MOELORA_CHECK(dtype, where, ": expected F32, F16 or BF16 (ggml's types 0, 1 and 30), found type ", type,
                "; quantised tensors can't be read");
  info.dtype = *dtype;
  const auto offset = cursor.number<std::uint64_t>("tensor list");
  MOELORA_CHECK(offset == expected_offset, where, ": expected its data at byte ", expected_offset,
                " of the data part, behind those before it, found ", offset);
  const auto bytes = checked_byte_count(info.shape, c10::elementSize(info.dtype));
  MOELORA_CHECK(bytes && *bytes <= std::numeric_limits<std::uint64_t>::max() / 4, where, ": too many elements");
  info.begin = offset;
  info.end = offset + *bytes;
  return info;
}

}  // namespace

struct GgufFile::Impl {
  std::shared_ptr<const MappedFile> file;
  std::string label;
  const std::uint8_t* data = nullptr;
  std::map<std::string, GgufValue> metadata;
  std::map<std::string, TensorInfo> entries;

  template <typename Value>
  const Value& value(const std::string& key, const char* type) const {
    const auto found = metadata.find(key);
    MOELORA_CHECK(found != metadata.end() && std::holds_alternative<Value>(found->second), label, ": expected ", type,
                  " \"", key, "\" in its metadata, found ", found == metadata.end() ? "none" : "another type");
    return std::get<Value>(found->second);
  }
};

GgufFile::GgufFile(const std::filesystem::path& path) : impl_(std::make_unique<Impl>()) {
  impl_->file = MappedFile::open(path);
  impl_->label = path.string();
  const std::string& label = impl_->label;
  GgufCursor cursor(*impl_->file);
  MOELORA_CHECK(impl_->file->size() >= 4 && std::memcmp(impl_->file->data(), gguf::kMagic, 4) == 0, label,
                " is no GGUF file: it does not begin with \"GGUF\"");
  cursor.skip(4, 1, "magic");
  const auto version = cursor.number<std::uint32_t>("version");
  MOELORA_CHECK(version == gguf::kVersion, label, ": expected GGUF version ", gguf::kVersion,
                " in little-endian, found ", version, "; convert it with a newer llama.cpp");
  const std::uint64_t tensor_count = cursor.count(32, "tensors");
  const std::uint64_t value_count = cursor.count(13, "values of metadata");
  std::uint64_t alignment = gguf::kAlignment;
  for (std::uint64_t i = 0; i < value_count; ++i) {
    const std::string key = cursor.text("metadata");
    const auto type = cursor.number<std::uint32_t>("metadata");
    const std::string where = label + ": \"" + excerpt(key) + "\"";
    if (auto value = kept_value(cursor, type, where)) {
      if (key == "general.alignment" && std::holds_alternative<std::uint32_t>(*value)) {
        alignment = std::get<std::uint32_t>(*value);
        MOELORA_CHECK(alignment > 0 && (alignment & (alignment - 1)) == 0, where, ": expected a power of two, found ",
                      alignment);
      }
      MOELORA_CHECK(impl_->metadata.emplace(key, std::move(*value)).second, where, " is there twice");
    }
  }
  const auto aligned = [&](std::uint64_t size) { return (size + alignment - 1) / alignment * alignment; };
  std::uint64_t end = 0;
  std::uint64_t last_end = 0;
  for (std::uint64_t i = 0; i < tensor_count; ++i) {
    const std::string name = cursor.text("tensor list");
    const std::string where = label + ": tensor \"" + excerpt(name) + "\"";
    const TensorInfo info = read_tensor_info(cursor, end, where);
    MOELORA_CHECK(info.end <= impl_->file->size(), where, ": its data end at byte ", info.end,
                  " of the data part, the whole file has ", impl_->file->size(), "; it is cut off, copy it again");
    last_end = info.end;
    end = aligned(info.end);
    MOELORA_CHECK(impl_->entries.emplace(name, info).second, where, " is there twice");
  }
  const std::uint64_t begin = aligned(cursor.position());
  MOELORA_CHECK(tensor_count == 0 || (begin <= impl_->file->size() && last_end <= impl_->file->size() - begin), label,
                ": its tensors end at byte ", begin + last_end, ", the file has ", impl_->file->size(),
                "; it is cut off, copy it again");
  impl_->data = impl_->file->data() + begin;
}

GgufFile::~GgufFile() = default;
GgufFile::GgufFile(GgufFile&&) noexcept = default;
GgufFile& GgufFile::operator=(GgufFile&&) noexcept = default;

const std::string& GgufFile::label() const { return impl_->label; }
const std::map<std::string, GgufValue>& GgufFile::metadata() const { return impl_->metadata; }
const std::map<std::string, TensorInfo>& GgufFile::entries() const { return impl_->entries; }
const std::string& GgufFile::text(const std::string& key) const { return impl_->value<std::string>(key, "a string"); }
float GgufFile::number(const std::string& key) const { return impl_->value<float>(key, "a float32"); }

at::Tensor GgufFile::tensor(const std::string& name, std::optional<at::ScalarType> as) const {
  const auto found = impl_->entries.find(name);
  MOELORA_CHECK(found != impl_->entries.end(), impl_->label, " holds no tensor \"", name, "\"");
  const TensorInfo& info = found->second;
  return copy_from_file(impl_->data + info.begin, info.shape, info.dtype, as.value_or(info.dtype));
}

}  // namespace moelora::io
