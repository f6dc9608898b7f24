#include "moelora/io/tensor_folder.h"

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

/// Name → dtype and shape, sorted by name.
std::map<std::string, TensorInfo> infos_in_shard(const Shard& shard) {
  return std::visit(
      [](const auto& file) {
        std::map<std::string, TensorInfo> infos;
        for (const auto& [name, entry] : file.entries()) {
          infos[name] = {entry.dtype, entry.shape};
        }
        return infos;
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
    shards[shard].push_back(name);
  }
  MOELORA_CHECK(!shards.empty(), label, ": its \"weight_map\" is empty");
  return shards;
}

}  // namespace

struct TensorFolder::Impl {
  fs::path folder;
  std::vector<std::string> names;
  std::vector<Shard> shards;  // mapped, so an open one costs no memory
  struct Place {
    std::size_t shard;
    TensorInfo info;
  };
  std::unordered_map<std::string, Place> places;

  const Place& place(const std::string& name) const {
    const auto found = places.find(name);
    MOELORA_CHECK(found != places.end(), folder.string(), " holds no tensor \"", name, "\"");
    return found->second;
  }

  void add_shard(const fs::path& path, const std::vector<std::string>* promised, const std::string& index) {
    MOELORA_CHECK(fs::exists(path), index, " names the file ", path.filename().string(), ", which is missing in ",
                  folder.string(), "; download the whole folder");
    const Shard& shard = shards.emplace_back(open_shard(path));
    std::map<std::string, TensorInfo> present = infos_in_shard(shard);
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
    for (auto& [name, info] : present) {
      names.push_back(name);
      places.emplace(name, Place{shards.size() - 1, std::move(info)});
    }
  }
};

TensorFolder::TensorFolder(const fs::path& folder) : impl_(std::make_unique<Impl>()) {
  MOELORA_CHECK(fs::is_directory(folder), "expected the folder of a model, found ",
                fs::exists(folder) ? "the file " : "nothing at ", folder.string());
  impl_->folder = folder;
  for (const char* name :
       {"model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin"}) {
    const fs::path path = folder / name;
    if (!fs::exists(path)) {
      continue;
    }
    if (path.extension() != ".json") {
      impl_->add_shard(path, nullptr, "");
      return;
    }
    for (const auto& [shard, promised] : read_index(path)) {
      impl_->add_shard(folder / shard, &promised, name);
    }
    return;
  }
  throw Error(detail::concat("no weights in ", folder.string(),
                             ": expected model.safetensors or pytorch_model.bin, or the .index.json of several of "
                             "them; check the path or download the weights"));
}

TensorFolder::~TensorFolder() = default;

const std::vector<std::string>& TensorFolder::names() const { return impl_->names; }
bool TensorFolder::contains(const std::string& name) const { return impl_->places.contains(name); }
const fs::path& TensorFolder::folder() const { return impl_->folder; }

const TensorInfo& TensorFolder::info(const std::string& name) const { return impl_->place(name).info; }

at::Tensor TensorFolder::tensor(const std::string& name, std::optional<at::ScalarType> as) const {
  return std::visit([&](const auto& file) { return file.tensor(name, as); }, impl_->shards[impl_->place(name).shard]);
}

bool TensorFolder::same_bytes(const std::string& a, const std::string& b) const {
  if (info(a).dtype != info(b).dtype || info(a).shape != info(b).shape) {
    return false;
  }
  const auto bytes_of = [&](const std::string& name) -> std::optional<std::string_view> {
    return std::visit([&](const auto& file) -> std::optional<std::string_view> { return file.bytes(name); },
                      impl_->shards[impl_->place(name).shard]);
  };
  const auto of_a = bytes_of(a);
  const auto of_b = bytes_of(b);
  if (of_a && of_b) {
    return same_bytes_in_files(*of_a, *of_b);
  }
  const at::Tensor copy_of_a = tensor(a);
  const at::Tensor copy_of_b = tensor(b);
  return std::memcmp(copy_of_a.const_data_ptr(), copy_of_b.const_data_ptr(), copy_of_a.nbytes()) == 0;
}

}  // namespace moelora::io
