#include "nn/kernels/cuda/sampling.h"

#include "nn/kernels/cuda/alignment.h"

namespace moelora::nn::kernels {

void choose_tokens(const at::Tensor& logits, const TokenChoice& choice, const DecodingRows& rows) {
  const auto count = logits.size(0);
  const at::Tensor numbers = logits.contiguous();
  for (const at::Tensor* tensor : {&rows.ids, &rows.positions, &rows.steps, &rows.chosen}) {
    TORCH_INTERNAL_ASSERT(tensor->is_contiguous() && tensor->scalar_type() == at::kLong);
  }
  TORCH_INTERNAL_ASSERT(rows.ids.numel() == count && rows.chosen.numel() == 2 * count &&
                        rows.positions.size(1) == count && rows.steps.sizes() == rows.positions.sizes());
  TORCH_INTERNAL_ASSERT(!choice.sample || (rows.states.is_contiguous() && rows.states.scalar_type() == at::kLong &&
                                           rows.states.numel() == count));
  with_element(logits.scalar_type(), [&]<typename T>(T) {
    device::ChooseTokens<T> choose{};
    choose.logits = elements<T>(numbers);
    choose.vocab = logits.size(1);
    choose.packed = is_packed<device::ChooseTokens<T>::kPack>(numbers);
    choose.sample = choice.sample;
    choose.temperature = choice.temperature;
    choose.top_k = choice.top_k;
    choose.top_p = choice.top_p;
    choose.rows = count;
    choose.axes = rows.positions.size(0);
    choose.states = choice.sample ? mutable_elements<std::uint64_t>(rows.states) : nullptr;
    choose.ids = mutable_elements<std::int64_t>(rows.ids);
    choose.positions = mutable_elements<std::int64_t>(rows.positions);
    choose.steps = elements<std::int64_t>(rows.steps);
    choose.chosen_or_flag = mutable_elements<std::int64_t>(rows.chosen);
    launch(logits.device(), choose, {static_cast<std::uint32_t>(count)});
  });
}

std::vector<KernelInfo> sampling_kernels() {
  return {kernel_info<device::ChooseTokens<float>>(), kernel_info<device::ChooseTokens<device::Half>>(),
          kernel_info<device::ChooseTokens<device::BFloat16>>()};
}

}  // namespace moelora::nn::kernels
