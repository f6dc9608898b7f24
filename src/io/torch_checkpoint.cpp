#include "moelora/io/torch_checkpoint.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <unordered_map>

#include "io/pickle.h"
#include "io/stored_zip.h"
#include "io/tensor_bytes.h"
#include "io/torch_checkpoint_file.h"
#include "moelora/io/error.h"
#include "moelora/io/json_text.h"

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

// The storages of an archive by their keys.
using Storages = std::unordered_map<std::string_view, std::string_view>;

Storages storages_in(const StoredZip& zip, const std::string& folder) {
  constexpr std::string_view kData = "/data/";
  Storages storages;
  for (const auto& [name, bytes] : zip.members()) {
    if (std::string_view(name).starts_with(folder) && std::string_view(name).substr(folder.size()).starts_with(kData)) {
      storages.emplace(std::string_view(name).substr(folder.size() + kData.size()), bytes);
    }
  }
  return storages;
}

std::vector<std::int64_t> integers_of(const PickleValue& value, const char* what, const std::string& where) {
  MOELORA_CHECK(value.kind() == Kind::tuple || value.kind() == Kind::list, where, ": its ", what, " is no tuple");
  MOELORA_CHECK(value.items().size() <= kMaximalDimensions, where, ": its ", what, " has too many dimensions");
  std::vector<std::int64_t> numbers;
  numbers.reserve(value.items().size());
  for (const PickleValue* item : value.items()) {
    MOELORA_CHECK(item->kind() == Kind::integer && item->integer() >= 0, where, ": its ", what,
                  " holds something other than whole numbers from 0");
    numbers.push_back(item->integer());
  }
  return numbers;
}

// ('storage', torch.FloatStorage, key, device, element count)
TorchCheckpointFile::Entry entry_of_storage(const PickleValue& value, const Storages& storages,
                                            const std::string& where) {
  const auto& items = value.items();
  MOELORA_CHECK(value.kind() == Kind::storage && items.size() == 5 && items[0]->kind() == Kind::text &&
                    items[0]->text() == "storage" && items[1]->kind() == Kind::global &&
                    items[2]->kind() == Kind::text && items[4]->kind() == Kind::integer,
                where, ": the description of its storage is damaged");
  const StorageType* type = nullptr;
  for (const StorageType& known : kStorageTypes) {
    type = known.name == items[1]->text() ? &known : type;
  }
  MOELORA_CHECK(type != nullptr, where, ": ", items[1]->text(), " is no storage type");
  const std::string_view key = items[2]->text();
  constexpr std::size_t kLongestKey = 256;  // torch.save counts
  const auto member = key.size() <= kLongestKey ? storages.find(key) : storages.end();
  MOELORA_CHECK(member != storages.end(), where, ": its storage data/", key.substr(0, kLongestKey),
                " is not in the archive");
  const auto size = checked_byte_count({items[4]->integer()}, c10::elementSize(type->dtype));
  MOELORA_CHECK(size.has_value() && *size == member->second.size(), where, ": its storage should have ",
                items[4]->integer(), " elements of ", c10::elementSize(type->dtype), " bytes, but data/", key, " has ",
                member->second.size(), " bytes");
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
TorchCheckpointFile::Entry entry_of_tensor(const PickleValue& value, const Storages& storages,
                                           const std::string& where) {
  const auto& items = value.items();
  MOELORA_CHECK(items.size() >= 4 && items[1]->kind() == Kind::integer && items[1]->integer() >= 0, where,
                ": the description of the tensor is damaged");
  TorchCheckpointFile::Entry entry = entry_of_storage(*items[0], storages, where);
  entry.offset = items[1]->integer();
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

// Calls copy(target index, source index) for each run of elements along the last dimension, in row-major order.
template <typename CopyRun>
void for_each_run(const TorchCheckpointFile::Entry& entry, CopyRun&& copy) {
  const std::size_t outer = entry.shape.empty() ? 0 : entry.shape.size() - 1;
  const std::int64_t run = entry.shape.empty() ? 1 : entry.shape.back();
  std::vector<std::int64_t> index(outer, 0);
  std::int64_t source = entry.offset;
  for (std::int64_t target = 0;; target += run) {
    copy(target, source, run);
    std::size_t d = outer;
    for (; d-- > 0;) {
      if (entry.shape[d] == 1) {
        continue;  // its stride may be any number
      }
      source += entry.strides[d];
      if (++index[d] < entry.shape[d]) {
        break;
      }
      source -= entry.strides[d] * entry.shape[d];
      index[d] = 0;
    }
    if (d == static_cast<std::size_t>(-1)) {
      return;
    }
  }
}

// The elements in row-major order. Read where they lie, as a mapped file promises no alignment: a copy of the storage
// for each of many small tensors in it could take a time that has nothing to do with the file's size.
at::Tensor gather(const TorchCheckpointFile::Entry& entry) {
  at::Tensor tensor = at::empty(entry.shape, at::TensorOptions(entry.dtype));
  const std::size_t size = c10::elementSize(entry.dtype);
  const std::size_t step = (entry.strides.empty() ? 0 : static_cast<std::size_t>(entry.strides.back())) * size;
  auto* to = static_cast<char*>(tensor.mutable_data_ptr());
  const char* from = entry.storage.data();
  const auto copy = [&](auto width) {
    for_each_run(entry, [&](std::int64_t target, std::int64_t source, std::int64_t count) {
      char* out = to + static_cast<std::size_t>(target) * width;
      const char* in = from + static_cast<std::size_t>(source) * width;
      for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
        std::memcpy(out + i * width, in + i * step, width);
      }
    });
  };
  switch (size) {  // sizes that the compiler knows become single moves
    case 1:
      copy(std::integral_constant<std::size_t, 1>());
      break;
    case 2:
      copy(std::integral_constant<std::size_t, 2>());
      break;
    case 4:
      copy(std::integral_constant<std::size_t, 4>());
      break;
    default:
      copy(std::integral_constant<std::size_t, 8>());
  }
  if (entry.dtype == at::kBool) {
    for (std::int64_t i = 0; i < tensor.numel(); ++i) {
      to[i] = to[i] != 0;  // any other byte in a bool is undefined behaviour
    }
  }
  return tensor;
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
  const std::string_view pickled = zip.members().at(folder + "/data.pkl");
  const Pickle pickle(pickled, label);
  const Storages storages = storages_in(zip, folder);
  const PickleValue& top = pickle.top();
  MOELORA_CHECK(top.kind() == Kind::dict, label, ": expected a state dict (names to tensors), found a ",
                kind_name(top.kind()), "; save model.state_dict() with torch.save");
  // Tensors may share a storage, but not so often that reading them takes far more memory than the file has bytes.
  constexpr std::uint64_t kMostViews = 8;
  std::uint64_t bytes = 0;
  std::uint64_t sizes = 0;
  const auto& members = top.items();
  for (std::size_t i = 0; i + 1 < members.size(); i += 2) {
    MOELORA_CHECK(members[i]->kind() == Kind::text, label, ": expected names as keys of the state dict, found a ",
                  kind_name(members[i]->kind()));
    const std::string name(members[i]->text());
    const PickleValue& value = *members[i + 1];
    const std::string where = label + ": tensor \"" + excerpt(name) + "\"";
    if (value.kind() == Kind::none || name == "_metadata") {
      continue;
    }
    MOELORA_CHECK(value.kind() == Kind::tensor, label, ": expected only tensors in the state dict, found \"",
                  excerpt(name), "\" of type ", kind_name(value.kind()), "; save the tensors alone with torch.save");
    Entry entry = entry_of_tensor(value, storages, where);
    bytes += *checked_byte_count(entry.shape, c10::elementSize(entry.dtype));
    sizes += entry.shape.size() + entry.strides.size();
    MOELORA_CHECK(bytes / kMostViews <= file_->size(), where, ": the tensors up to here take ", bytes,
                  " bytes, but the file has ", file_->size(),
                  ": they share storages more often than a state dict does; clone() them before torch.save");
    MOELORA_CHECK(sizes <= pickled.size(), where, ": the shapes up to here hold ", sizes,
                  " numbers, more than the pickle has bytes; no state dict of torch.save looks like this");
    const bool added = entries_.emplace(name, std::move(entry)).second;
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
  const at::Tensor values = gather(entry);
  const std::size_t item_size = c10::elementSize(entry.dtype);
  const std::size_t first = static_cast<std::size_t>(entry.offset) * item_size;
  MappedFile::release(entry.storage.data() + first, (*highest_index(entry) + 1) * item_size - first);
  return values.to(wanted);
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
