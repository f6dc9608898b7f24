#include "nn/kernels/cuda/all_kernels.h"

#include "nn/kernels/cuda/attention_gradients.h"
#include "nn/kernels/cuda/cross_entropy.h"
#include "nn/kernels/cuda/decode_attention.h"
#include "nn/kernels/cuda/dropout.h"
#include "nn/kernels/cuda/few_rows.h"
#include "nn/kernels/cuda/fold.h"
#include "nn/kernels/cuda/gelu.h"
#include "nn/kernels/cuda/layer_norm.h"
#include "nn/kernels/cuda/low_rank.h"
#include "nn/kernels/cuda/rms_norm.h"
#include "nn/kernels/cuda/rotary.h"
#include "nn/kernels/cuda/sampling.h"
#include "nn/kernels/cuda/unscale.h"

namespace moelora::nn::kernels {

std::vector<KernelInfo> all_kernels() {
  std::vector<KernelInfo> all;
  for (const auto& of_operation : {
           attention_gradient_kernels(),
           cross_entropy_kernels(),
           decode_attention_kernels(),
           dropout_kernels(),
           few_rows_kernels(),
           fold_kernels(),
           gelu_kernels(),
           layer_norm_kernels(),
           low_rank_kernels(),
           rms_norm_kernels(),
           rotary_kernels(),
           sampling_kernels(),
           unscale_kernels(),
       }) {
    all.insert(all.end(), of_operation.begin(), of_operation.end());
  }
  return all;
}

}  // namespace moelora::nn::kernels
