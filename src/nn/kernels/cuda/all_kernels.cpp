#include "nn/kernels/cuda/all_kernels.h"

#include "nn/kernels/cuda/dropout.h"
#include "nn/kernels/cuda/low_rank.h"

namespace moelora::nn::kernels {

std::vector<KernelInfo> all_kernels() {
  std::vector<KernelInfo> all;
  for (const auto& of_operation : {dropout_kernels(), low_rank_kernels()}) {
    all.insert(all.end(), of_operation.begin(), of_operation.end());
  }
  return all;
}

}  // namespace moelora::nn::kernels
