#pragma once
// Every kernel in every form that operations start, for checks that compile them all.

#include <vector>

#include "nn/kernels/cuda/launcher.h"

namespace moelora::nn::kernels {

std::vector<KernelInfo> all_kernels();

}  // namespace moelora::nn::kernels
