#include "nn/kernels/cuda/cubin_cache.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "nn/kernels/cuda/all_kernels.h"
#include "support/shared.h"

namespace moelora::nn::cuda {
namespace {

TEST(CubinCache, GivesBackWhatItKept) {
  const moelora::testing::TemporaryFolder folder;
  const CubinCache cache(folder.path() / "made" / "by it");
  const CompiledKernel kernel{"symbol", std::string("image\nwith\0any bytes", 19), "log"};
  EXPECT_FALSE(cache.find("key"));
  cache.keep("key", kernel);
  const auto found = cache.find("key");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->symbol, kernel.symbol);
  EXPECT_EQ(found->image, kernel.image);
  EXPECT_FALSE(cache.find("another key"));
}

TEST(CubinCache, ADamagedFileIsNotTaken) {
  const moelora::testing::TemporaryFolder folder;
  const CubinCache cache(folder.path());
  cache.keep("key", {"symbol", "a long enough image", ""});
  const std::filesystem::path file = folder.path() / "key.kernel";
  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 1);
  EXPECT_FALSE(cache.find("key"));
  std::ofstream(file).close();
  EXPECT_FALSE(cache.find("key"));
}

TEST(CubinCache, WithoutAFolderKeepsNothing) {
  CubinCache("").keep("key", {"symbol", "image", ""});
  EXPECT_FALSE(CubinCache("").find("key"));
  CubinCache("/dev/null").keep("key", {"symbol", "image", ""});  // no error
  EXPECT_FALSE(CubinCache("/dev/null").find("key"));
}

TEST(CubinCache, AKeyIsOfKernelTargetAndCompiler) {
  const auto kernels = kernels::all_kernels();
  const std::string key = CubinCache::key_of(kernels[0], {70, true}, "12.8");
  EXPECT_EQ(key, CubinCache::key_of(kernels[0], {70, true}, "12.8"));
  EXPECT_NE(key, CubinCache::key_of(kernels[1], {70, true}, "12.8"));
  EXPECT_NE(key, CubinCache::key_of(kernels[0], {80, true}, "12.8"));
  EXPECT_NE(key, CubinCache::key_of(kernels[0], {70, false}, "12.8"));
  EXPECT_NE(key, CubinCache::key_of(kernels[0], {70, true}, "12.6"));
}

TEST(CubinCache, LiesWhereCachesLie) {
  const char* const before = std::getenv("XDG_CACHE_HOME");
  const std::string kept = before != nullptr ? before : "";
  setenv("XDG_CACHE_HOME", "/caches", 1);
  EXPECT_EQ(CubinCache::default_folder(), "/caches/moelora");
  unsetenv("XDG_CACHE_HOME");
  if (const char* home = std::getenv("HOME")) {
    EXPECT_EQ(CubinCache::default_folder(), std::filesystem::path(home) / ".cache/moelora");
  }
  if (before != nullptr) {
    setenv("XDG_CACHE_HOME", kept.c_str(), 1);
  }
}

}  // namespace
}  // namespace moelora::nn::cuda
