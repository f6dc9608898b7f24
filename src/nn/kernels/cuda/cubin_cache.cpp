#include "nn/kernels/cuda/cubin_cache.h"

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "moelora/io/atomic_file.h"
#include "moelora/io/error.h"
#include "moelora/io/sha256.h"
#include "moelora/log/log.h"
#include "nn/kernels/cuda/device_sources.h"

namespace moelora::nn::cuda {
namespace {

// A file is its content's hash, the symbol and the image, the first two each on a line.
constexpr std::size_t kHashLength = 64;

}  // namespace

std::filesystem::path CubinCache::default_folder() {
  for (const auto& [variable, below] : {std::pair{"XDG_CACHE_HOME", "moelora"}, {"HOME", ".cache/moelora"}}) {
    const char* folder = std::getenv(variable);
    if (folder != nullptr && *folder != '\0') {
      return std::filesystem::path(folder) / below;
    }
  }
  return {};
}

std::string CubinCache::key_of(const kernels::KernelInfo& kernel, const Target& target, const std::string& compiler) {
  io::Sha256 hash;
  for (const auto& [name, text] : kernels::device_sources()) {
    hash.update(name).update("\n", 1).update(text).update("\n", 1);
  }
  hash.update(detail::concat(kernel.file, '\n', kernel.expression(), '\n', target.name(), "\nNVRTC ", compiler));
  return hash.hex();
}

std::optional<CompiledKernel> CubinCache::find(const std::string& key) const {
  if (folder_.empty()) {
    return std::nullopt;
  }
  std::ifstream file(folder_ / (key + ".kernel"), std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const std::size_t symbol = kHashLength + 1;
  const std::size_t end = bytes.size() > symbol ? bytes.find('\n', symbol) : std::string::npos;
  if (end == std::string::npos ||
      bytes.substr(0, kHashLength) != io::sha256_of(std::string_view(bytes).substr(symbol))) {
    return std::nullopt;
  }
  return CompiledKernel{bytes.substr(symbol, end - symbol), bytes.substr(end + 1), ""};
}

void CubinCache::keep(const std::string& key, const CompiledKernel& kernel) const {
  if (folder_.empty()) {
    return;
  }
  const std::string content = kernel.symbol + '\n' + kernel.image;
  try {
    io::write_file_atomically(folder_ / (key + ".kernel"), io::sha256_of(content) + '\n' + content);
  } catch (const std::exception& error) {
    static const bool said = (log::info(detail::concat("compiled kernels are not kept: ", error.what())), true);
    static_cast<void>(said);
  }
}

}  // namespace moelora::nn::cuda
