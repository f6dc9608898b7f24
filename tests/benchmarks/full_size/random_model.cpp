// Writes a model folder of ChatGLM-6B's full shape as it is distributed: fp16, PyTorch shards with their index,
// lm_head.weight as a copy of the embedding, the rotary tables that the reference saves. Weights are random, so that
// the size can be worked with on a machine that has no copy of the model. Memory stays below 200 MB.

#include <c10/util/Half.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>

#include "io/torch_archive.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/splitmix64.h"
#include "moelora/model/chatglm/chatglm.h"

namespace {

namespace fs = std::filesystem;
using moelora::model::ChatGlmConfig;

struct StoredTensor {
  std::string name;
  std::vector<std::int64_t> shape;

  std::int64_t numel() const {
    std::int64_t product = 1;
    for (const std::int64_t size : shape) {
      product *= size;
    }
    return product;
  }
  std::uint64_t bytes() const { return static_cast<std::uint64_t>(numel()) * sizeof(c10::Half); }
};

/// fp16 values N(0, 0.02²), drawn from a table of 2^16 of them: as fast as a disk writes.
class RandomHalves {
 public:
  RandomHalves() : table_(1 << 16) {
    std::mt19937 random(20);
    std::normal_distribution<float> normal(0.0f, 0.02f);
    for (auto& value : table_) {
      value = static_cast<c10::Half>(normal(random)).x;
    }
  }
  /// The same values for the same seed.
  void fill(std::uint16_t* out, std::int64_t count, std::uint64_t seed) const {
    for (std::int64_t i = 0; i < count; i += 4) {
      std::uint64_t x = moelora::io::splitmix_output(seed + static_cast<std::uint64_t>(i) * moelora::io::kSplitMixStep);
      for (std::int64_t j = i; j < std::min(i + 4, count); ++j, x >>= 16) {
        out[j] = table_[x & 0xffff];
      }
    }
  }

 private:
  std::vector<std::uint16_t> table_;
};

/// In the order of the published shards.
std::vector<StoredTensor> stored_tensors(const ChatGlmConfig& config) {
  std::vector<StoredTensor> tensors;
  for (const auto& [name, shape] : moelora::model::expected_tensors(config).tensors) {
    tensors.push_back({name, shape});
    if (name.ends_with("input_layernorm.bias")) {
      const std::string layer = name.substr(0, name.size() - std::string("input_layernorm.bias").size());
      tensors.push_back({layer + "attention.rotary_emb.inv_freq", {config.head_dim() / 4}});
    }
  }
  return tensors;
}

std::vector<std::vector<StoredTensor>> split(const std::vector<StoredTensor>& tensors, std::uint64_t shards) {
  std::uint64_t total = 0;
  for (const auto& tensor : tensors) {
    total += tensor.bytes();
  }
  const std::uint64_t most = total / shards + total / shards / 8;  // as uneven as whole tensors make it
  std::vector<std::vector<StoredTensor>> parts(1);
  std::uint64_t held = 0;
  for (const auto& tensor : tensors) {
    if (held > 0 && held + tensor.bytes() > most && parts.size() < shards) {
      parts.emplace_back();
      held = 0;
    }
    parts.back().push_back(tensor);
    held += tensor.bytes();
  }
  return parts;
}

std::vector<std::int64_t> strides_of(const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> strides(shape.size(), 1);
  for (std::size_t d = shape.size(); d-- > 1;) {
    strides[d - 1] = strides[d] * shape[d];
  }
  return strides;
}

/// A zip archive as torch.save writes it: stored members whose data start at multiples of 64 bytes. The checksums are
/// left 0, which torch.load does not mind.
class ArchiveWriter {
 public:
  explicit ArchiveWriter(const fs::path& path) : path_(path), stream_(path, std::ios::binary) {}

  void begin(const std::string& name, std::uint64_t size) {
    using moelora::io::little_endian;
    const std::uint64_t header = offset_;
    const std::uint64_t padding = (64 - (header + 30 + name.size() + 4) % 64) % 64;
    const std::string extra = "FB" + little_endian(padding, 2) + std::string(padding, 'Z');
    const std::string common = little_endian(0, 2) + little_endian(0, 4) + little_endian(0, 4) +
                               little_endian(size, 4) + little_endian(size, 4) + little_endian(name.size(), 2);
    write("PK\x03\x04" + little_endian(20, 2) + little_endian(0, 2) + common + little_endian(extra.size(), 2) + name +
          extra);
    directory_ += "PK\x01\x02" + little_endian(20, 2) + little_endian(20, 2) + little_endian(0, 2) + common +
                  little_endian(0, 2) + little_endian(0, 2) + little_endian(0, 2) + little_endian(0, 2) +
                  little_endian(0, 4) + little_endian(header, 4) + name;
    ++members_;
  }
  void write(const void* bytes, std::uint64_t size) {
    stream_.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(size));
    MOELORA_CHECK(stream_.good(), "cannot write ", path_.string(), ": is the disk full?");
    offset_ += size;
  }
  void write(const std::string& text) { write(text.data(), text.size()); }
  void finish() {
    using moelora::io::little_endian;
    const std::uint64_t start = offset_;
    MOELORA_CHECK(start < 0xffffffff, path_.string(), " would exceed 4 GiB; write more shards");
    write(directory_ + "PK\x05\x06" + little_endian(0, 4) + little_endian(members_, 2) + little_endian(members_, 2) +
          little_endian(directory_.size(), 4) + little_endian(start, 4) + little_endian(0, 2));
    stream_.close();
    MOELORA_CHECK(!stream_.fail(), "cannot write ", path_.string(), ": is the disk full?");
  }

 private:
  fs::path path_;
  std::ofstream stream_;
  std::string directory_;
  std::uint64_t offset_ = 0;
  std::uint64_t members_ = 0;
};

void write_values(ArchiveWriter& archive, const StoredTensor& tensor, const RandomHalves& random,
                  const ChatGlmConfig& config) {
  constexpr std::int64_t kPiece = std::int64_t{1} << 22;
  // The head repeats the embedding's values.
  const std::string& seeded = tensor.name == "lm_head.weight" ? "transformer.word_embeddings.weight" : tensor.name;
  const std::uint64_t seed = std::hash<std::string>()(seeded);
  std::vector<std::uint16_t> values(static_cast<std::size_t>(std::min(kPiece, tensor.numel())));
  for (std::int64_t first = 0; first < tensor.numel(); first += kPiece) {
    const std::int64_t count = std::min(kPiece, tensor.numel() - first);
    if (tensor.name.ends_with("inv_freq")) {
      const double width = static_cast<double>(config.head_dim() / 2);
      for (std::int64_t i = 0; i < count; ++i) {
        values[i] = static_cast<c10::Half>(std::pow(10000.0, -2.0 * static_cast<double>(i) / width)).x;
      }
    } else if (tensor.shape.size() == 1) {
      const c10::Half value = tensor.name.ends_with(".bias") ? 0.0f : 1.0f;
      std::fill_n(values.begin(), count, value.x);
    } else {
      random.fill(values.data(), count, seed + static_cast<std::uint64_t>(first));
    }
    archive.write(values.data(), static_cast<std::uint64_t>(count) * sizeof(std::uint16_t));
  }
}

void write_shard(const fs::path& path, const std::vector<StoredTensor>& tensors, const RandomHalves& random,
                 const ChatGlmConfig& config) {
  using namespace moelora::io;
  std::vector<std::pair<std::string, std::string>> entries;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto& shape = tensors[i].shape;
    entries.emplace_back(tensors[i].name, p_tensor(p_storage("HalfStorage", std::to_string(i), tensors[i].numel()), 0,
                                                   shape, strides_of(shape)));
  }
  const std::string pickle = p_state_dict(entries);
  ArchiveWriter archive(path);
  archive.begin("archive/data.pkl", pickle.size());
  archive.write(pickle);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    archive.begin("archive/data/" + std::to_string(i), tensors[i].bytes());
    write_values(archive, tensors[i], random, config);
  }
  archive.begin("archive/version", 2);
  archive.write("3\n");
  archive.finish();
}

void write_model(const fs::path& folder, const fs::path& tokenizer, ChatGlmConfig config, std::uint64_t shard_count) {
  fs::create_directories(folder);
  MOELORA_CHECK(fs::is_empty(folder), folder.string(), " is not empty; choose another folder");
  const auto small = ChatGlmConfig::from_json(moelora::io::read_json_file(tokenizer / "config.json"));
  config.bos_token_id = small.bos_token_id;
  config.eos_token_id = small.eos_token_id;
  config.mask_token_id = small.mask_token_id;
  config.gmask_token_id = small.gmask_token_id;
  config.pad_token_id = small.pad_token_id;
  config.torch_dtype = "float16";
  for (const char* name : {"ice_text.model", "tokenizer_config.json"}) {
    fs::copy_file(tokenizer / name, folder / name);
  }
  const RandomHalves random;
  const auto shards = split(stored_tensors(config), shard_count);
  nlohmann::ordered_json index;
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    char name[64];
    std::snprintf(name, sizeof name, "pytorch_model-%05zu-of-%05zu.bin", i + 1, shards.size());
    std::cerr << name << std::endl;
    write_shard(folder / name, shards[i], random, config);
    for (const auto& tensor : shards[i]) {
      index["weight_map"][tensor.name] = name;
      total += tensor.bytes();
    }
  }
  index["metadata"]["total_size"] = total;
  moelora::io::write_json_file(folder / "pytorch_model.bin.index.json", index);
  // Last: without it the folder is no model.
  moelora::io::write_json_file(folder / "config.json", config.to_json());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Writes a model folder of ChatGLM-6B's shape with random weights (13.4 GB)."};
  fs::path output, tokenizer;
  ChatGlmConfig config;
  std::uint64_t shards = 8;
  app.add_option("--output", output, "new folder")->required();
  app.add_option("--tokenizer", tokenizer, "a small model's folder, whose tokenizer and special ids are taken")
      ->required();
  app.add_option("--hidden", config.hidden_size)->capture_default_str();
  app.add_option("--inner", config.inner_hidden_size)->capture_default_str();
  app.add_option("--heads", config.num_attention_heads)->capture_default_str();
  app.add_option("--layers", config.num_layers)->capture_default_str();
  app.add_option("--vocab", config.vocab_size)->capture_default_str();
  app.add_option("--shards", shards)->capture_default_str();
  app.footer("Example:\n  moelora_random_model --tokenizer examples/tiny_base/model --output /tmp/chatglm-6b-random");
  CLI11_PARSE(app, argc, argv);
  try {
    write_model(output, tokenizer, config, shards);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 2;
  }
  return 0;
}
