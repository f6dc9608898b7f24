// Input: an odd first byte: a whole file of torch.save. Even: its pickle alone, beside storages "0" and "1".
#include "fuzz/support.h"
#include "io/torch_archive.h"
#include "moelora/io/torch_checkpoint.h"

int fuzz_checkpoint(const std::uint8_t* data, std::size_t size) {
  using namespace moelora;
  static fuzz::MemoryFile file;
  if (size == 0) {
    return 0;
  }
  std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 0) {
    text = io::checkpoint_bytes(text, {std::string(48, '\1'), std::string(6, '\2')});
  }
  const auto path = file.write(text);
  fuzz::accepted([&] {
    std::size_t total = 0;
    for (const auto& [name, tensor] : io::load_torch_checkpoint(path)) {
      fuzz::require(tensor.is_contiguous());
      total += tensor.nbytes();
    }
    fuzz::require(total / 8 <= text.size());
  });
  return 0;
}
