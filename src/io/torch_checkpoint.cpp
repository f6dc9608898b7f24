#include "moelora/io/torch_checkpoint.h"

#include <ATen/ops/from_blob.h>

#include <array>
#include <limits>

#include "io/pickle.h"
#include "io/stored_zip.h"
#include "io/tensor_bytes.h"
#include "io/torch_checkpoint_file.h"
#include "moelora/io/error.h"

namespace moelora::io {
namespace {

using Kind = PickleValue::Kind;

struct StorageType {
  std::string_view name;
  at::ScalarType dtype;
};
constexpr std::array<StorageType, 10> kStorageTypes{{{"DoubleStorage", at::kDouble},
                                                     {"FloatStorage", at::kFloat},
                                                     {"HalfStorage", at::kHalf},
                                                     {"BFloat16Storage", at::kBFloat16},
                                                     {"LongStorage", at::kLong},
                                                     {"IntStorage", at::kInt},
                                                     {"ShortStorage", at::kShort},
                                                     {"CharStorage", at::kChar},
                                                     {"ByteStorage", at::kByte},
                                                     {"BoolStorage", at::kBool}}};

void check_looks_like_zip(const MappedFile& file) {
  const std::string path = file.path().string();
  const std::string_view start(reinterpret_cast<const char*>(file.data()), std::min<std::size_t>(file.size(), 4));
  MOELORA_CHECK(!start.starts_with("\x80\x02"), path,
                " is in the format of torch.save before 1.6 (a bare pickle); load it with Python's torch.load and "
                "save it again with torch.save");
  MOELORA_CHECK(start.starts_with("PK\x03\x04"), path,
                " is no checkpoint of torch.save: it does not start like a zip archive");
}

// The members' common folder: the name before "/data.pkl".
std::string archive_folder(const StoredZip& zip, const std::string& path) {
  constexpr std::string_view kPickle = "/data.pkl";
  for (const auto& [name, bytes] : zip.members()) {
    if (name.ends_with(kPickle) && name.find('/') == name.size() - kPickle.size()) {
      return name.substr(0, name.size() - kPickle.size());
    }
  }
  throw Error(detail::concat(path, " is a zip archive without data.pkl, so torch.save did not write it"));
}

std::vector<std::int64_t> integers_of(const PickleValue& value, const char* what, const std::string& where) {
  MOELORA_CHECK(value.kind == Kind::tuple || value.kind == Kind::list, where, ": its ", what, " is no tuple");
  std::vector<std::int64_t> numbers;
  for (const PickleValue* item : value.items) {
    MOELORA_CHECK(item->kind == Kind::integer && item->integer >= 0, where, ": its ", what,
                  " holds something other than whole numbers from 0");
    numbers.push_back(item->integer);
  }
  return numbers;
}

// ('storage', torch.FloatStorage, key, device, element count)
TorchCheckpointFile::Entry entry_of_storage(const PickleValue& value, const StoredZip& zip, const std::string& folder,
                                            const std::string& where) {
  const auto& items = value.items;
  MOELORA_CHECK(value.kind == Kind::storage && items.size() == 5 && items[0]->kind == Kind::text &&
                    items[0]->text == "storage" && items[1]->kind == Kind::global && items[2]->kind == Kind::text &&
                    items[4]->kind == Kind::integer,
                where, ": the description of its storage is damaged");
  const StorageType* type = nullptr;
  for (const StorageType& known : kStorageTypes) {
    type = known.name == items[1]->name ? &known : type;
  }
  MOELORA_CHECK(type != nullptr, where, ": ", items[1]->name, " is no storage type");
  const auto member = zip.members().find(folder + "/data/" + std::string(items[2]->text));
  MOELORA_CHECK(member != zip.members().end(), where, ": its storage data/", items[2]->text, " is not in the archive");
  const auto size = checked_byte_count({items[4]->integer}, c10::elementSize(type->dtype));
  MOELORA_CHECK(size.has_value() && *size == member->second.size(), where, ": its storage should have ",
                items[4]->integer, " elements of ", c10::elementSize(type->dtype), " bytes, but data/", items[2]->text,
                " has ", member->second.size(), " bytes");
  TorchCheckpointFile::Entry entry;
  entry.dtype = type->dtype;
  entry.storage = member->second;
  return entry;
}

// Highest element index that the strides reach, or nothing on overflow.
std::optional<std::uint64_t> highest_index(const TorchCheckpointFile::Entry& entry) {
  constexpr auto kLimit = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  auto index = static_cast<std::uint64_t>(entry.offset);
  for (std::size_t d = 0; d < entry.shape.size(); ++d) {
    const auto steps = static_cast<std::uint64_t>(entry.shape[d] - 1);
    const auto stride = static_cast<std::uint64_t>(entry.strides[d]);
    if (stride != 0 && steps > (kLimit - index) / stride) {
      return std::nullopt;
    }
    index += steps * stride;
  }
  return index;
}

// (storage, offset, sizes, strides, requires_grad, hooks[, metadata])
TorchCheckpointFile::Entry entry_of_tensor(const PickleValue& value, const StoredZip& zip, const std::string& folder,
                                           const std::string& where) {
  const auto& items = value.items;
  MOELORA_CHECK(items.size() >= 4 && items[1]->kind == Kind::integer && items[1]->integer >= 0, where,
                ": the description of the tensor is damaged");
  TorchCheckpointFile::Entry entry = entry_of_storage(*items[0], zip, folder, where);
  entry.offset = items[1]->integer;
  entry.shape = integers_of(*items[2], "shape", where);
  entry.strides = integers_of(*items[3], "list of strides", where);
  MOELORA_CHECK(entry.shape.size() == entry.strides.size(), where, ": it has ", entry.shape.size(), " sizes but ",
                entry.strides.size(), " strides");
  const std::size_t item_size = c10::elementSize(entry.dtype);
  const auto size = checked_byte_count(entry.shape, item_size);
  MOELORA_CHECK(size.has_value(), where, ": its shape has too many dimensions or elements");
  if (*size == 0) {
    entry.storage = {};
    return entry;
  }
  MOELORA_CHECK(*size <= entry.storage.size(), where, ": it takes ", *size, " bytes, its storage has ",
                entry.storage.size(), "; call contiguous() on expanded tensors before torch.save");
  const auto highest = highest_index(entry);
  MOELORA_CHECK(highest.has_value() && *highest < entry.storage.size() / item_size, where,
                ": its elements lie beyond the end of its storage");
  return entry;
}

bool is_contiguous_entry(const TorchCheckpointFile::Entry& entry) {
  std::int64_t expected = 1;
  for (std::size_t d = entry.shape.size(); d-- > 0;) {
    if (entry.shape[d] != 1 && entry.strides[d] != expected) {
      return false;
    }
    expected *= entry.shape[d];
  }
  return true;
}

}  // namespace

TorchCheckpointFile::TorchCheckpointFile(const std::filesystem::path& path) : file_(MappedFile::open(path)) {
  check_looks_like_zip(*file_);
  const StoredZip zip(file_);
  const std::string label = path.string();
  const std::string folder = archive_folder(zip, label);
  const auto byte_order = zip.members().find(folder + "/byteorder");
  MOELORA_CHECK(byte_order == zip.members().end() || byte_order->second == "little", label,
                " was written on a big-endian machine; save it again on a little-endian one");
  const Pickle pickle(zip.members().at(folder + "/data.pkl"), label);
  const PickleValue& top = pickle.top();
  MOELORA_CHECK(top.kind == Kind::dict, label, ": expected a state dict (names to tensors), found a ",
                kind_name(top.kind), "; save model.state_dict() with torch.save");
  for (std::size_t i = 0; i + 1 < top.items.size(); i += 2) {
    MOELORA_CHECK(top.items[i]->kind == Kind::text, label, ": expected names as keys of the state dict, found a ",
                  kind_name(top.items[i]->kind));
    const std::string name(top.items[i]->text);
    const PickleValue& value = *top.items[i + 1];
    const std::string where = label + ": tensor \"" + name + "\"";
    if (value.kind == Kind::none || name == "_metadata") {
      continue;
    }
    MOELORA_CHECK(value.kind == Kind::tensor, label, ": expected only tensors in the state dict, found \"", name,
                  "\" of type ", kind_name(value.kind), "; save the tensors alone with torch.save");
    const bool added = entries_.emplace(name, entry_of_tensor(value, zip, folder, where)).second;
    MOELORA_CHECK(added, where, " is there twice");
  }
}

std::optional<std::string_view> TorchCheckpointFile::bytes(const std::string& name) const {
  const Entry& entry = entries_.at(name);
  if (entry.storage.empty()) {
    return entry.storage;
  }
  if (!is_contiguous_entry(entry)) {
    return std::nullopt;
  }
  const std::size_t item_size = c10::elementSize(entry.dtype);
  return entry.storage.substr(static_cast<std::size_t>(entry.offset) * item_size,
                              *checked_byte_count(entry.shape, item_size));
}

at::Tensor TorchCheckpointFile::tensor(const std::string& name, std::optional<at::ScalarType> as) const {
  const Entry& entry = entries_.at(name);
  const at::ScalarType wanted = as.value_or(entry.dtype);
  if (const auto in_order = bytes(name)) {
    return copy_from_file(reinterpret_cast<const std::uint8_t*>(in_order->data()), entry.shape, entry.dtype, wanted);
  }
  // Other strides need aligned elements, which a mapped file does not promise: the storage is copied first.
  const auto count = static_cast<std::int64_t>(entry.storage.size() / c10::elementSize(entry.dtype));
  const at::Tensor storage =
      copy_from_file(reinterpret_cast<const std::uint8_t*>(entry.storage.data()), {count}, entry.dtype, entry.dtype);
  return storage.as_strided(entry.shape, entry.strides, entry.offset).to(wanted).clone(at::MemoryFormat::Contiguous);
}

std::map<std::string, at::Tensor> load_torch_checkpoint(const std::filesystem::path& path) {
  const TorchCheckpointFile file(path);
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, entry] : file.entries()) {
    tensors.emplace(name, file.tensor(name));
  }
  return tensors;
}

}  // namespace moelora::io
