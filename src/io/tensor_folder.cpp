#include "moelora/io/tensor_folder.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <variant>

#include "io/tensor_bytes.h"
#include "io/torch_checkpoint_file.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/saved_names.h"
#include "moelora/log/log.h"

namespace moelora::io {
namespace {

namespace fs = std::filesystem;
using Shard = std::variant<SafetensorsFile, TorchCheckpointFile>;

Shard open_shard(const fs::path& path) {
  if (path.extension() == ".safetensors") {
    return Shard(std::in_place_type<SafetensorsFile>, path);
  }
  return Shard(std::in_place_type<TorchCheckpointFile>, path);
}

struct StoredTensor {
  std::string key;  ///< Its name in the file.
  TensorInfo info;
};

/// Name → what is stored, sorted by name.
std::map<std::string, StoredTensor> tensors_in_shard(const Shard& shard, const fs::path& path) {
  return std::visit(
      [&](const auto& file) {
        std::map<std::string, StoredTensor> tensors;
        for (const auto& [key, entry] : file.entries()) {
          const auto [place, fresh] =
              tensors.emplace(without_wrappers(key), StoredTensor{key, {entry.dtype, entry.shape}});
          MOELORA_CHECK(fresh, path.string(), " holds one tensor twice, as \"", place->second.key, "\" and \"", key,
                        "\"; save the model again without the wrapper");
        }
        return tensors;
      },
      shard);
}

/// Shard file → names promised by the index.
std::map<std::string, std::vector<std::string>> read_index(const fs::path& path) {
  const nlohmann::ordered_json index = read_json_file(path);
  const std::string label = path.string();
  MOELORA_CHECK(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(), label,
                ": expected an object with \"weight_map\": {tensor name: file name}");
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& [name, file] : index["weight_map"].items()) {
    MOELORA_CHECK(file.is_string(), label, ": expected a file name for \"", name, "\", found ", file.type_name());
    const auto& shard = file.get_ref<const std::string&>();
    const bool plain = !shard.empty() && shard != "." && shard != ".." &&
                       shard.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
    MOELORA_CHECK(plain, label, ": expected a plain file name for \"", name, "\", found ", file.dump(-1, ' ', true),
                  "; shards lie in the folder of their index");
    shards[shard].push_back(without_wrappers(name));
  }
  MOELORA_CHECK(!shards.empty(), label, ": its \"weight_map\" is empty");
  return shards;
}

}  // namespace

struct TensorFolder::Impl {
  fs::path folder;
  std::string form;
  std::vector<std::string> names;
  std::vector<Shard> shards;  // mapped, so an open one costs no memory
  struct Place {
    std::size_t shard;
    std::string key;  // in the shard
    TensorInfo info;
  };
  std::unordered_map<std::string, Place> places;

  const Place& place(const std::string& name) const {
    const auto found = places.find(name);
    MOELORA_CHECK(found != places.end(), folder.string(), " holds no tensor \"", name, "\"");
    return found->second;
  }

  /// As mapped, if they lie in order in the file.
  std::optional<std::string_view> bytes(const std::string& name) const {
    const Place& at = place(name);
    return std::visit([&](const auto& file) -> std::optional<std::string_view> { return file.bytes(at.key); },
                      shards[at.shard]);
  }

  void add_shard(const fs::path& path, const std::vector<std::string>* promised, const std::string& index) {
    MOELORA_CHECK(fs::exists(path), index, " names the file ", path.filename().string(), ", which is missing in ",
                  folder.string(), "; download the whole folder");
    const Shard& shard = shards.emplace_back(open_shard(path));
    std::map<std::string, StoredTensor> present = tensors_in_shard(shard, path);
    if (promised != nullptr) {
      std::vector<std::string> wanted = *promised;
      std::sort(wanted.begin(), wanted.end());
      for (const std::string& name : wanted) {
        MOELORA_CHECK(present.contains(name), path.string(), " lacks the tensor \"", name, "\" that ", index,
                      " promises; the folder mixes two models or the index is outdated");
      }
      if (present.size() > wanted.size()) {
        log::warning(detail::concat(path.string(), " holds ", present.size() - wanted.size(),
                                    " tensors that its index does not name; they are ignored"));
      }
      std::erase_if(present,
                    [&](const auto& entry) { return !std::binary_search(wanted.begin(), wanted.end(), entry.first); });
    }
    for (auto& [name, stored] : present) {
      const auto [place, fresh] =
          places.emplace(name, Place{shards.size() - 1, std::move(stored.key), std::move(stored.info)});
      MOELORA_CHECK(fresh, index, " names the tensor \"", name, "\" twice; the index is damaged");
      names.push_back(name);
    }
  }

  void open() {
    const fs::path path = folder / form;
    if (path.extension() != ".json") {
      add_shard(path, nullptr, "");
    } else {
      for (const auto& [shard, promised] : read_index(path)) {
        add_shard(folder / shard, &promised, form);
      }
    }
    MOELORA_CHECK(!names.empty(), path.string(), " holds no tensors: an empty state dict was saved; save the model's ",
                  "own state dict, or copy the file again");
  }
};

TensorFolder::TensorFolder(const fs::path& folder) : impl_(std::make_unique<Impl>()) {
  MOELORA_CHECK(fs::is_directory(folder), "expected the folder of a model, found ",
                fs::exists(folder) ? "the file " : "nothing at ", folder.string());
  const std::vector<std::string> found = forms(folder);
  MOELORA_CHECK(!found.empty(), "no weights in ", folder.string(),
                ": expected model.safetensors or pytorch_model.bin, or the .index.json of several of "
                "them; check the path or download the weights");
  impl_->folder = folder;
  impl_->form = found.front();
  impl_->open();
}

TensorFolder::TensorFolder(const fs::path& folder, const std::string& form) : impl_(std::make_unique<Impl>()) {
  impl_->folder = folder;
  impl_->form = form;
  impl_->open();
}

TensorFolder::~TensorFolder() = default;

std::vector<std::string> TensorFolder::forms(const fs::path& folder) {
  std::vector<std::string> found;
  for (const char* name :
       {"model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin"}) {
    if (fs::exists(folder / name)) {
      found.emplace_back(name);
    }
  }
  return found;
}

const std::string& TensorFolder::form() const { return impl_->form; }

bool TensorFolder::drop_prefix(const std::string& prefix) {
  std::vector<std::string>& names = impl_->names;
  if (!std::all_of(names.begin(), names.end(),
                   [&](const std::string& name) { return name.size() > prefix.size() && name.starts_with(prefix); })) {
    return false;
  }
  std::unordered_map<std::string, Impl::Place> places;
  for (std::string& name : names) {
    Impl::Place place = std::move(impl_->places.at(name));
    name.erase(0, prefix.size());
    places.emplace(name, std::move(place));
  }
  impl_->places = std::move(places);
  return true;
}

const std::vector<std::string>& TensorFolder::names() const { return impl_->names; }
bool TensorFolder::contains(const std::string& name) const { return impl_->places.contains(name); }
const fs::path& TensorFolder::folder() const { return impl_->folder; }

const TensorInfo& TensorFolder::info(const std::string& name) const { return impl_->place(name).info; }

at::Tensor TensorFolder::tensor(const std::string& name, std::optional<at::ScalarType> as) const {
  const Impl::Place& place = impl_->place(name);
  return std::visit([&](const auto& file) { return file.tensor(place.key, as); }, impl_->shards[place.shard]);
}

bool TensorFolder::same_bytes(const std::string& a, const std::string& b) const {
  if (info(a).dtype != info(b).dtype || info(a).shape != info(b).shape) {
    return false;
  }
  const auto of_a = impl_->bytes(a);
  const auto of_b = impl_->bytes(b);
  if (of_a && of_b) {
    return same_bytes_in_files(*of_a, *of_b);
  }
  const at::Tensor copy_of_a = tensor(a);
  const at::Tensor copy_of_b = tensor(b);
  return std::memcmp(copy_of_a.const_data_ptr(), copy_of_b.const_data_ptr(), copy_of_a.nbytes()) == 0;
}

at::Tensor TensorFolder::piece(const std::string& name, std::int64_t begin, std::int64_t count) const {
  const TensorInfo& about = info(name);
  std::int64_t length = 1;
  for (const std::int64_t size : about.shape) {
    length *= size;
  }
  begin = std::clamp<std::int64_t>(begin, 0, length);
  count = std::clamp<std::int64_t>(count, 0, length - begin);
  const std::optional<std::string_view> bytes = impl_->bytes(name);
  if (!bytes) {
    return tensor(name).flatten().narrow(0, begin, count);
  }
  at::Tensor values = at::empty({count}, at::TensorOptions().dtype(about.dtype));
  const std::size_t width = values.element_size();
  if (count > 0) {
    std::memcpy(values.mutable_data_ptr(), bytes->data() + static_cast<std::size_t>(begin) * width,
                static_cast<std::size_t>(count) * width);
  }
  return values;
}

}  // namespace moelora::io
