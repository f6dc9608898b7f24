// Input: first byte even: an adapter.json of ours, whose checksums are made right, beside the tensors of a small
// adapter; odd: an adapter_config.json of PEFT or MOELoRA-peft, beside tensors that fit one.
#include <fstream>
#include <nlohmann/json.hpp>

#include "adapter/tiny_base.h"
#include "fuzz/support.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/foreign.h"
#include "moelora/io/json_file.h"
#include "moelora/io/sha256.h"

namespace {

using namespace moelora;
namespace fs = std::filesystem;

struct Folders {
  Folders() {
    fuzz::be_quiet();
    base = testing::tiny_base(1, 8);
    MoeLoraConfig config;
    config.rank = 4;
    config.num_experts = 2;
    config.gate.task_embedding_dim = 6;
    Adapter adapter = inject(*base, config, TaskNames({"a", "b"}));
    save_adapter(*adapter, own.path() / "adapter", "", "", {});
    tensors_sha256 = io::sha256_of_file(own.path() / "adapter" / "adapter.safetensors");
    export_moelora_peft(*adapter, foreign.path() / "adapter");
    eject(adapter);
    unfreeze(*base);
  }
  testing::TemporaryFolder own;
  testing::TemporaryFolder foreign;
  std::shared_ptr<torch::nn::Module> base;
  std::string tensors_sha256;
};

void write(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

}  // namespace

int fuzz_adapter(const std::uint8_t* data, std::size_t size) {
  static Folders folders;
  static fuzz::MemoryFile file;
  if (size == 0) {
    return 0;
  }
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 0) {
    const bool written = fuzz::accepted([&] {
      auto json = io::read_json_file(file.write(text));
      if (json.is_object()) {
        json["tensors_sha256"] = folders.tensors_sha256;
        json.erase("checksum");
        json["checksum"] = io::sha256_of(json.dump());
      }
      write(folders.own.path() / "adapter" / "adapter.json", json.dump());
    });
    if (written) {
      fuzz::accepted([&] {
        Adapter adapter = load_adapter(*folders.base, folders.own.path() / "adapter", "", "");
        eject(adapter);
      });
    }
  } else {
    write(folders.foreign.path() / "adapter" / "adapter_config.json", text);
    fuzz::accepted([&] {
      Adapter adapter = load_foreign_adapter(*folders.base, folders.foreign.path() / "adapter", {});
      eject(adapter);
    });
  }
  return 0;
}
