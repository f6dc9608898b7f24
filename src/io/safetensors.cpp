#include "moelora/io/safetensors.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "io/mapped_file.h"
#include "io/tensor_bytes.h"
#include "moelora/io/error.h"
#include "moelora/io/json_text.h"

namespace moelora::io {
namespace {

struct DtypeName {
  const char* name;
  at::ScalarType dtype;
};
constexpr std::array<DtypeName, 10> kDtypeNames{{{"F64", at::kDouble},
                                                 {"F32", at::kFloat},
                                                 {"F16", at::kHalf},
                                                 {"BF16", at::kBFloat16},
                                                 {"I64", at::kLong},
                                                 {"I32", at::kInt},
                                                 {"I16", at::kShort},
                                                 {"I8", at::kChar},
                                                 {"U8", at::kByte},
                                                 {"BOOL", at::kBool}}};

at::ScalarType dtype_of_entry(const nlohmann::json& entry, const std::string& where) {
  const auto found = entry.find("dtype");
  MOELORA_CHECK(found != entry.end() && found->is_string(), where, ": expected a \"dtype\" string");
  const auto& name = found->get_ref<const std::string&>();
  for (const DtypeName& known : kDtypeNames) {
    if (name == known.name) {
      return known.dtype;
    }
  }
  throw Error(detail::concat(where, ": expected dtype F64, F32, F16, BF16, I64, I32, I16, I8, U8 or BOOL, found \"",
                             name, "\"; convert the file to one of these"));
}

std::vector<std::int64_t> sizes_of_entry(const nlohmann::json& entry, const char* key, const std::string& where) {
  const auto found = entry.find(key);
  MOELORA_CHECK(found != entry.end() && found->is_array(), where, ": expected a list \"", key, "\"");
  MOELORA_CHECK(found->size() <= kMaximalDimensions, where, ": its ", key, " has too many dimensions (", found->size(),
                ")");
  std::vector<std::int64_t> sizes;
  for (const nlohmann::json& size : *found) {
    constexpr auto kLimit = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    MOELORA_CHECK(size.is_number_unsigned() && size.get<std::uint64_t>() <= kLimit, where,
                  ": expected whole numbers from 0 in \"", key, "\", found ", found->dump());
    sizes.push_back(size.get<std::int64_t>());
  }
  return sizes;
}

TensorInfo checked_info(const nlohmann::json& entry, std::size_t data_size, const std::string& where) {
  MOELORA_CHECK(entry.is_object(), where, ": expected an object with dtype, shape and data_offsets");
  TensorInfo info{dtype_of_entry(entry, where), sizes_of_entry(entry, "shape", where)};
  const std::vector<std::int64_t> offsets = sizes_of_entry(entry, "data_offsets", where);
  MOELORA_CHECK(offsets.size() == 2 && offsets[0] <= offsets[1], where,
                ": expected data_offsets [begin, end] with begin <= end");
  info.begin = static_cast<std::size_t>(offsets[0]);
  info.end = static_cast<std::size_t>(offsets[1]);
  MOELORA_CHECK(info.end <= data_size, where, ": its data end at byte ", info.end, " of a data part of ", data_size,
                " bytes; the file is cut off or damaged, copy or download it again");
  const auto expected = checked_byte_count(info.shape, c10::elementSize(info.dtype));
  MOELORA_CHECK(expected.has_value(), where, ": its shape ", entry["shape"].dump(),
                " has too many dimensions or elements");
  MOELORA_CHECK(*expected == info.end - info.begin, where, ": its shape and dtype take ", *expected,
                " bytes, but data_offsets span ", info.end - info.begin);
  return info;
}

void check_layout(const std::map<std::string, TensorInfo>& entries, std::size_t data_size, const std::string& file) {
  std::vector<const std::pair<const std::string, TensorInfo>*> in_order;
  for (const auto& entry : entries) {
    if (entry.second.begin < entry.second.end) {
      in_order.push_back(&entry);
    }
  }
  std::sort(in_order.begin(), in_order.end(),
            [](const auto* a, const auto* b) { return a->second.begin < b->second.begin; });
  std::size_t end = 0;
  for (std::size_t i = 0; i < in_order.size(); ++i) {
    MOELORA_CHECK(in_order[i]->second.begin >= end, file, ": the data of \"", in_order[i]->first,
                  "\" overlap those of \"", in_order[i > 0 ? i - 1 : 0]->first, "\"");
    end = in_order[i]->second.end;
  }
  MOELORA_CHECK(end == data_size, file, ": the tensors end at byte ", end, " of a data part of ", data_size,
                " bytes; the file is damaged");
}

std::string header_text(const MappedFile& file) {
  constexpr std::uint64_t kLongest = 100'000'000;  // the limit of the reference implementation
  const std::string path = file.path().string();
  MOELORA_CHECK(file.size() >= 8, path, " is no safetensors file: it has only ", file.size(), " bytes");
  std::uint64_t length = 0;
  for (int i = 7; i >= 0; --i) {
    length = length << 8 | file.data()[i];
  }
  MOELORA_CHECK(length <= kLongest, path, " is no safetensors file, or damaged: its header claims ", length, " bytes");
  MOELORA_CHECK(length <= file.size() - 8, path, ": its header claims ", length, " bytes, the file has ",
                file.size() - 8, " after the length; it is cut off, copy or download it again");
  std::string text(reinterpret_cast<const char*>(file.data()) + 8, length);
  MOELORA_CHECK(text.starts_with('{'), path, " is no safetensors file: its header is no JSON object");
  return text;
}

}  // namespace

struct SafetensorsFile::Impl {
  std::shared_ptr<const MappedFile> file;
  const std::uint8_t* data = nullptr;
  std::map<std::string, TensorInfo> entries;
  std::map<std::string, std::string> metadata;

  const TensorInfo& entry(const std::string& name) const {
    const auto found = entries.find(name);
    MOELORA_CHECK(found != entries.end(), file->path().string(), " holds no tensor \"", name, "\"");
    return found->second;
  }
};

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : impl_(std::make_unique<Impl>()) {
  impl_->file = MappedFile::open(path);
  const std::string label = path.string();
  const std::string text = header_text(*impl_->file);
  impl_->data = impl_->file->data() + 8 + text.size();
  const std::size_t data_size = impl_->file->size() - 8 - text.size();
  // Entry by entry: the whole header as one JSON value would take many times the memory of its text.
  parse_json_text<nlohmann::json>(text, label + " (header)", [&](const std::string& name, const nlohmann::json& value) {
    if (name == "__metadata__") {
      MOELORA_CHECK(value.is_object(), label, ": expected an object \"__metadata__\"");
      for (const auto& [key, note] : value.items()) {
        MOELORA_CHECK(note.is_string(), label, ": expected strings in \"__metadata__\", found ", key, ": ",
                      note.type_name());
        impl_->metadata[key] = note.get<std::string>();
      }
    } else {
      impl_->entries.emplace(name, checked_info(value, data_size, label + ": tensor \"" + excerpt(name) + "\""));
    }
  });
  check_layout(impl_->entries, data_size, label);
}

SafetensorsFile::~SafetensorsFile() = default;
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;

const std::map<std::string, TensorInfo>& SafetensorsFile::entries() const { return impl_->entries; }
const std::map<std::string, std::string>& SafetensorsFile::metadata() const { return impl_->metadata; }
bool SafetensorsFile::contains(const std::string& name) const { return impl_->entries.contains(name); }

at::Tensor SafetensorsFile::tensor(const std::string& name, std::optional<at::ScalarType> as) const {
  const TensorInfo& info = impl_->entry(name);
  return copy_from_file(impl_->data + info.begin, info.shape, info.dtype, as.value_or(info.dtype));
}

std::string_view SafetensorsFile::bytes(const std::string& name) const {
  const TensorInfo& info = impl_->entry(name);
  return {reinterpret_cast<const char*>(impl_->data) + info.begin, info.end - info.begin};
}

at::Tensor SafetensorsFile::view(const std::string& name) const {
  const TensorInfo& info = impl_->entry(name);
  const std::uint8_t* bytes = impl_->data + info.begin;
  // Truth values need their bytes checked, and an empty tensor has nothing to share.
  if (reinterpret_cast<std::uintptr_t>(bytes) % c10::elementSize(info.dtype) != 0 || info.dtype == at::kBool ||
      info.begin == info.end) {
    return copy_from_bytes(bytes, info.shape, info.dtype);
  }
  return at::from_blob(
      const_cast<std::uint8_t*>(bytes), info.shape, [file = impl_->file](void*) {}, at::TensorOptions(info.dtype));
}

std::map<std::string, at::Tensor> load_safetensors(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, info] : file.entries()) {
    tensors.emplace(name, file.tensor(name));
  }
  return tensors;
}

const char* safetensors_dtype_name(at::ScalarType dtype) {
  for (const DtypeName& known : kDtypeNames) {
    if (known.dtype == dtype) {
      return known.name;
    }
  }
  return nullptr;
}

}  // namespace moelora::io
