// Input: a whole GGUF file. What is accepted as an adapter goes on to its reader.
#include "adapter/tiny_base.h"
#include "fuzz/support.h"
#include "moelora/adapter/gguf_lora.h"
#include "moelora/io/gguf.h"

int fuzz_gguf(const std::uint8_t* data, std::size_t size) {
  using namespace moelora;
  static fuzz::MemoryFile file;
  static const auto base = [] {
    fuzz::be_quiet();
    return testing::tiny_base(1, 8);
  }();
  static const io::GgufLayout layout{
      "toy", {{"transformer.layers.0.attention.dense", {"blk.0.attn_output.weight", {0, 4, 1, 5, 2, 6, 3, 7}}}}};
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto path = file.write(text);
  fuzz::accepted([&] {
    const io::GgufFile opened(path);
    std::size_t total = 0;
    for (const auto& [name, info] : opened.entries()) {
      const at::Tensor tensor = opened.tensor(name);
      fuzz::require(tensor.sizes() == at::IntArrayRef(info.shape) && tensor.nbytes() == info.end - info.begin);
      total += tensor.nbytes();
    }
    fuzz::require(total <= text.size());  // no byte belongs to two tensors
  });
  fuzz::accepted([&] {
    Adapter adapter = load_gguf_lora(*base, path, layout);
    fuzz::require(adapter->linears().size() == 1);
    eject(adapter);
    unfreeze(*base);
  });
  return 0;
}
