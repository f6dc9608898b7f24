#include "nn/kernels/cpu/cpu_kernels.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "moelora/io/error.h"
#include "nn/kernels/cpu/isa/tables.h"

namespace moelora::nn::kernels {
namespace {

constexpr std::array<std::string_view, 3> kNames{"plain", "avx2", "avx512"};

std::string listed_names() {
  std::string text;
  for (const CpuKernels* kernels : available_cpu_kernels()) {
    text += (text.empty() ? "" : ", ") + std::string(kernels->name);
  }
  return text;
}

#ifdef MOELORA_X86_KERNELS

// -march=x86-64-v3 allows a few instructions more, which every processor with these four has.
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2");
}

bool has_avx512() {  // -march=x86-64-v4
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

#endif

std::vector<const CpuKernels*> find_available() {
  std::vector<const CpuKernels*> found{&plain::table()};
#ifdef MOELORA_X86_KERNELS
  if (has_avx2()) {
    found.push_back(&avx2::table());
  }
  if (has_avx512()) {
    found.push_back(&avx512::table());
  }
#endif
  return found;
}

}  // namespace

const std::vector<const CpuKernels*>& available_cpu_kernels() {
  static const std::vector<const CpuKernels*> available = find_available();
  return available;
}

const CpuKernels& cpu_kernels_named(std::string_view name) {
  for (const CpuKernels* kernels : available_cpu_kernels()) {
    if (kernels->name == name) {
      return *kernels;
    }
  }
  const bool known = std::find(kNames.begin(), kNames.end(), name) != kNames.end();
  throw Error(detail::concat("MOELORA_CPU_ISA: expected an instruction set, found '", name, "', ",
                             known ? "which this processor lacks" : "which is unknown", "; choose one of ",
                             listed_names(), ", or unset it for the widest"));
}

const CpuKernels& cpu_kernels() {
  static const CpuKernels& chosen = []() -> const CpuKernels& {
    const char* name = std::getenv("MOELORA_CPU_ISA");
    return name == nullptr ? *available_cpu_kernels().back() : cpu_kernels_named(name);
  }();
  return chosen;
}

}  // namespace moelora::nn::kernels
