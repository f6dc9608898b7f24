#pragma once
// The table of each instruction set; those of another architecture are not linked in.

#include "nn/kernels/cpu/cpu_kernels.h"

namespace moelora::nn::kernels {

namespace plain {
const CpuKernels& table();
}
namespace avx2 {
const CpuKernels& table();
}
namespace avx512 {
const CpuKernels& table();
}

}  // namespace moelora::nn::kernels
