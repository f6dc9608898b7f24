#include "nn/kernels/cuda/all_kernels.h"

#include "nn/kernels/cuda/decode_attention.h"
#include "nn/kernels/cuda/dropout.h"
#include "nn/kernels/cuda/few_rows.h"
#include "nn/kernels/cuda/sampling.h"

namespace moelora::nn::kernels {

std::vector<KernelInfo> all_kernels() {
  std::vector<KernelInfo> all;
  for (const auto& of_operation :
       {dropout_kernels(), few_rows_kernels(), decode_attention_kernels(), sampling_kernels()}) {
    all.insert(all.end(), of_operation.begin(), of_operation.end());
  }
  return all;
}

}  // namespace moelora::nn::kernels
