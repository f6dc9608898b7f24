#include "nn/kernels/cpu/cpu_kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "moelora/io/error.h"

namespace moelora::nn::kernels {
namespace {

std::string error_of(const char* name) {
  try {
    cpu_kernels_named(name);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(CpuKernels, AreTheWidestUnlessTheEnvironmentNamesOthers) {
  const char* wanted = std::getenv("MOELORA_CPU_ISA");
  EXPECT_STREQ(cpu_kernels().name, wanted != nullptr ? wanted : available_cpu_kernels().back()->name);
}

TEST(CpuKernels, AreFoundByName) {
  EXPECT_STREQ(available_cpu_kernels().front()->name, "plain");
  for (const CpuKernels* kernels : available_cpu_kernels()) {
    EXPECT_EQ(&cpu_kernels_named(kernels->name), kernels);
  }
}

TEST(CpuKernels, OfAnUnknownNameAreAnErrorWithTheChoices) {
  const std::string text = error_of("sse9");
  EXPECT_NE(text.find("MOELORA_CPU_ISA"), std::string::npos) << text;
  EXPECT_NE(text.find("'sse9', which is unknown"), std::string::npos) << text;
  for (const CpuKernels* kernels : available_cpu_kernels()) {
    EXPECT_NE(text.find(kernels->name), std::string::npos) << text;
  }
  EXPECT_NE(error_of(""), "");
}

TEST(CpuKernels, AProcessorThatLacksASetIsToldSo) {
  for (const char* name : {"avx2", "avx512"}) {
    const auto& all = available_cpu_kernels();
    const bool has =
        std::any_of(all.begin(), all.end(), [&](const auto* set) { return std::strcmp(set->name, name) == 0; });
    EXPECT_EQ(error_of(name).find("which this processor lacks") != std::string::npos, !has) << name;
  }
}

// An operation that a file forgot to enter would crash only where it is called.
TEST(CpuKernels, TablesAreComplete) {
  constexpr std::size_t kEntries = sizeof(CpuKernels) / sizeof(void*);
  static_assert(sizeof(void*) == sizeof(std::int64_t) && sizeof(CpuKernels) % sizeof(void*) == 0);
  for (const CpuKernels* kernels : available_cpu_kernels()) {
    void* entries[kEntries];
    std::memcpy(entries, kernels, sizeof entries);
    for (std::size_t i = 0; i < kEntries; ++i) {
      EXPECT_NE(entries[i], nullptr) << kernels->name << ", entry " << i;
    }
  }
}

}  // namespace
}  // namespace moelora::nn::kernels
