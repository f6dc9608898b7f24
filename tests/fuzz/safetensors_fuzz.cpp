// Input: an odd first byte: a whole file. Even: a header, a zero byte, the data; the length comes by itself.
#include "fuzz/support.h"
#include "io/torch_archive.h"
#include "moelora/io/safetensors.h"

int fuzz_safetensors(const std::uint8_t* data, std::size_t size) {
  using namespace moelora;
  static fuzz::MemoryFile file;
  if (size == 0) {
    return 0;
  }
  std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 0) {
    const std::size_t end = std::min(text.find('\0'), text.size());
    text = io::little_endian(end, 8) + text.substr(0, end) + text.substr(std::min(end + 1, text.size()));
  }
  const auto path = file.write(text);
  fuzz::accepted([&] {
    const io::SafetensorsFile opened(path);
    std::size_t total = 0;
    for (const auto& [name, info] : opened.entries()) {
      const at::Tensor tensor = opened.tensor(name);
      fuzz::require(tensor.sizes() == at::IntArrayRef(info.shape) && tensor.nbytes() == opened.bytes(name).size());
      fuzz::require(opened.view(name).nbytes() == tensor.nbytes());
      total += tensor.nbytes();
    }
    fuzz::require(total <= text.size());  // no byte belongs to two tensors
  });
  return 0;
}
